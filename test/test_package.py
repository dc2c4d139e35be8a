"""The package as a whole: what it declares, contains and installs, and the tools that set it up.

No arm, no ROS graph. The tests read sources rather than run them if that is enough.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from conftest import marks_in, place

import aiofranka_ros

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "aiofranka_ros"
#: Paths of all modules inside the package, without their endings: ``control/loop``.
MODULES = sorted(str(path.relative_to(PACKAGE).with_suffix("")) for path in PACKAGE.rglob("*.py"))

#: The package of a module, if its name differs.
PACKAGES = {"tf2_ros": "tf2_ros_py", "yaml": "pyyaml"}
ROS_MODULE = re.compile(r"rclpy|launch(_ros)?|tf2_ros|ament_index_python|\w+_(msgs|srvs|interfaces)")


def tree_of(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text())


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Every module that a source imports, inside functions too; `from package import x` as package.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "aiofranka_ros":
                yield from (f"aiofranka_ros.{alias.name}" for alias in node.names)
            else:
                yield str(node.module)


def requirements() -> set[str]:
    """Names of the distributions in setup.py's requirements, with underscores."""
    names = (re.match(r"[\w.-]+", requirement) for requirement in load_set_up().package_requirements())
    return {name[0].lower().replace("-", "_") for name in names if name}


def manifest() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


def load_set_up() -> ModuleType:
    specification = importlib.util.spec_from_file_location("set_up", ROOT / "tools" / "set_up.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def entry_points() -> dict[str, tuple[str, str]]:
    """Console scripts of setup.py: name to (module, function)."""
    text = (ROOT / "setup.py").read_text()
    return {script: (module, name) for script, module, name in re.findall(r'"(\w+) = ([\w.]+):(\w+)"', text)}


# --- What it declares


def test_the_version_is_the_same_everywhere() -> None:
    setup_py = re.search(r'version="([^"]+)"', (ROOT / "setup.py").read_text())
    changelog = re.search(r"^(\d+\.\d+\.\d+) ", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE)
    assert setup_py is not None and changelog is not None
    assert manifest().findtext("version") == aiofranka_ros.__version__
    assert setup_py[1] == aiofranka_ros.__version__
    assert changelog[1] == aiofranka_ros.__version__


def test_package_xml_is_valid() -> None:
    package = pytest.importorskip("catkin_pkg.package", reason="catkin_pkg comes with colcon-ros")
    package.parse_package(str(ROOT)).validate()


def test_every_executable_is_an_existing_main_function() -> None:
    scripts = entry_points()
    assert set(scripts) == {
        "node",
        "gripper_node",
        "rviz_tools",
        "simulation",
        "demo",
        "doctor",
        "ctl",
        "streams",
        "explain",
        "identify_payload",
    }
    for module, function in scripts.values():
        spec = importlib.util.find_spec(module)
        assert spec is not None and module.endswith(".__main__")
        assert f"import {function}\n" in Path(str(spec.origin)).read_text() or function in [
            node.name
            for node in tree_of(module.partition(".")[2].replace(".", "/")).body
            if isinstance(node, ast.FunctionDef)
        ]


def test_every_imported_package_is_declared() -> None:
    """Packages of ROS in package.xml, packages that pip can install in setup.py."""
    manifest_names = {str(element.text) for element in manifest() if element.tag.endswith("depend")}
    undeclared = set()
    for module in MODULES:
        for name in {imported.split(".")[0] for imported in imports_of(tree_of(module))}:
            if ROS_MODULE.fullmatch(name):
                undeclared |= {PACKAGES.get(name, name)} - manifest_names
            elif name not in sys.stdlib_module_names:
                undeclared |= {PACKAGES.get(name, name)} - requirements() - {"aiofranka_ros"}
    assert not undeclared


def test_package_xml_names_every_python_requirement() -> None:
    """By its rosdep key, or in the comment about requirements without a key."""
    text = (ROOT / "package.xml").read_text()
    assert [name for name in requirements() if name.replace("_", "-") not in text] == []


# --- What it contains


def test_the_import_contracts_hold_and_one_that_is_broken_is_reported(tmp_path: Path) -> None:
    """The contracts of pyproject.toml; the test breaks each one, in a copy of the package."""
    contracts = re.findall(r'^name = "(.*)"\ntype', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert lint_imports(ROOT) == []
    shutil.copytree(PACKAGE, tmp_path / "aiofranka_ros", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for module, statement in (
        ("model/fr3", "from aiofranka_ros.control.loop import ControlLoop"),
        ("control/loop", "import rclpy"),
        ("node/lifecycle", "import pylibfranka"),
        ("offload/workers", "import torch"),
        ("offload/workers", "from aiofranka_ros.model import fr3"),
        ("simulation/model", "from aiofranka_ros.model import fr3"),
        ("rviz_tools/marker", "from aiofranka_ros.arm import driver"),
        ("testing/client", "from aiofranka_ros.node import lifecycle"),
    ):
        with (tmp_path / "aiofranka_ros" / f"{module}.py").open("a") as source:
            source.write(f"\n{statement}\n")
    assert sorted(lint_imports(tmp_path)) == sorted(contracts)


def lint_imports(folder: Path) -> list[str]:
    """Names of the import contracts that the package in ``folder`` breaks."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    broken = re.findall(r"^(.*) BROKEN", ran.stdout, re.MULTILINE)
    assert ran.returncode == (1 if broken else 0), ran.stdout + ran.stderr
    return broken


def test_what_drives_an_arm_is_imported_without_ros() -> None:
    """By importing it without rclpy, in addition to the contract."""
    below = "errors kernels processes model control simulation arm offload".split()
    names = [
        ".".join(["aiofranka_ros", *Path(module).parts]).removesuffix(".__init__")
        for module in MODULES
        if Path(module).parts[0] in below and not module.endswith("__main__")
    ]
    code = "import sys, importlib\nsys.modules['rclpy'] = None\n"  # importing it raises ImportError
    code += "".join(f"importlib.import_module({name!r})\n" for name in names)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_every_module_has_a_docstring_of_several_lines() -> None:
    """It says why the module exists, who calls it, and in which process and thread it runs."""
    assert not [m for m in MODULES if len((ast.get_docstring(tree_of(m)) or "").splitlines()) < 2]


def test_no_module_and_no_folder_is_too_long_to_read() -> None:
    assert not [m for m in MODULES if len((PACKAGE / f"{m}.py").read_text().splitlines()) > 450]
    assert len([path for path in PACKAGE.iterdir() if path.name != "__pycache__"]) <= 22


def test_library_code_neither_prints_nor_exits() -> None:
    """Only `main()` and its caller may; library code raises and logs."""
    calls = []
    for module in MODULES:
        for statement in tree_of(module).body:
            if isinstance(statement, ast.If) or getattr(statement, "name", None) == "main":
                continue
            names = [ast.unparse(node.func) for node in ast.walk(statement) if isinstance(node, ast.Call)]
            calls += [f"{module}: {name}" for name in names if name in ("print", "sys.exit", "exit", "quit")]
    assert not calls


def test_messages_name_no_command_that_only_a_distribution_has() -> None:
    """``ros2 run`` and ``ros2 launch`` start this package's programs; ``ctl`` does the rest everywhere."""
    found = []
    for module in MODULES:
        tree = tree_of(module)
        documented = [node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))]
        docstrings = {ast.get_docstring(node, clean=False) for node in documented}
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if text not in docstrings and re.search(
                r"\bros2 (param|lifecycle|service|action|topic|node|doctor)\b", text
            ):
                found.append(f"{module}: {text}")
    assert not found


# --- What it installs


@pytest.mark.slow
@pytest.mark.skipif("COLCON" in os.environ, reason="runs inside colcon already")
def test_colcon_installs_what_ros2_run_and_ros2_launch_look_for(tmp_path: Path) -> None:
    pytest.importorskip("colcon_core")
    command = [sys.executable, "-m", "colcon", "--log-base", str(tmp_path / "log")]
    bases = ["--build-base", str(tmp_path / "build"), "--install-base", str(tmp_path / "install")]
    subprocess.run([*command, "build", "--base-paths", str(ROOT), *bases], check=True, cwd=tmp_path, timeout=100)

    prefix = tmp_path / "install" / "aiofranka_ros"
    share = prefix / "share" / "aiofranka_ros"
    assert (prefix / "share" / "ament_index" / "resource_index" / "packages" / "aiofranka_ros").exists()
    assert (share / "package.xml").exists()
    for folder in ("launch", "config", "config/sros2"):
        sources = {path.name for path in (ROOT / folder).glob("*.*")}
        assert {path.name for path in (share / folder).glob("*.*")} == sources
    for script in entry_points():
        executable = prefix / "lib" / "aiofranka_ros" / script
        assert os.access(executable, os.X_OK)
        assert executable.read_text().startswith("#!/usr/bin/env python3\n")


def test_colcon_finds_only_this_package() -> None:
    """Neither the interface definitions, which a workspace may have from franka_ros2, nor anything in build/."""
    pytest.importorskip("colcon_core")
    command = [
        sys.executable,
        "-m",
        "colcon",
        "--log-base",
        os.devnull,
        "list",
        "--names-only",
        "--base-paths",
    ]
    paths = [str(ROOT), str(ROOT / "underlay"), str(ROOT / "build" / "venv")]
    listing = subprocess.run([*command, *paths], check=True, capture_output=True, text=True, timeout=60)
    assert listing.stdout.split() == ["aiofranka_ros"]


# --- The set-up


def test_make_without_a_target_lists_all_targets() -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    listing = subprocess.run([make], check=True, cwd=ROOT, capture_output=True, text=True, timeout=30).stdout
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    assert re.findall(r"make ([\w-]+)", listing) == targets[1].split()


def test_an_unsupported_python_is_refused_in_one_sentence(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\ncase \"$3\" in *print*) echo 'Python 3.9' ;; *) exit 1 ;; esac\n")
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python)}
    result = subprocess.run([ROOT / "tools" / "set_up"], env=environment, capture_output=True, text=True, timeout=30)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "Python 3.10, 3.11 or 3.12 is needed" in result.stderr and "is Python 3.9" in result.stderr


def make_prefix(path: Path, *packages: str) -> Path:
    index = path / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    for package in packages:
        (index / package).touch()
    return path


def test_the_sourced_distribution_is_the_prefix_with_rclpy(tmp_path: Path) -> None:
    workspace, distribution = make_prefix(tmp_path / "ws", "my_robot"), make_prefix(tmp_path / "ros", "rclpy")
    find = load_set_up().find_distribution
    assert find({"AMENT_PREFIX_PATH": f"{workspace}:{distribution}"}) == distribution
    assert find({"AMENT_PREFIX_PATH": str(workspace)}) is None
    assert find({}) is None


def test_the_environment_of_this_project_is_not_a_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up = load_set_up()
    monkeypatch.setattr(set_up, "BUILD", tmp_path)
    own = make_prefix(tmp_path / "venv", "rclpy")
    assert set_up.find_distribution({"AMENT_PREFIX_PATH": str(own)}) is None


def test_interfaces_of_the_distribution_are_not_built_again(tmp_path: Path) -> None:
    set_up = load_set_up()
    packages = set_up.UNDERLAY_PACKAGES
    bare = make_prefix(tmp_path / "bare", "rclpy")
    assert set_up.missing_interfaces({"AMENT_PREFIX_PATH": str(bare)}, bare) == list(packages)

    full = make_prefix(tmp_path / "full", "rclpy", *packages)
    with pytest.raises(set_up.SetUpError, match="has no action/PTPMotion.action"):
        set_up.missing_interfaces({"AMENT_PREFIX_PATH": str(full)}, full)

    for package, definition in packages.items():
        path = full / "share" / package / definition
        path.parent.mkdir(parents=True)
        path.touch()
    assert set_up.missing_interfaces({"AMENT_PREFIX_PATH": str(full)}, full) == []


def test_with_a_distribution_no_ros_wheel_is_required(tmp_path: Path) -> None:
    set_up = load_set_up()
    names = set_up.list_requirements(make_prefix(tmp_path, "rclpy"), ["franka_msgs"])
    assert names and not [name for name in names if name.startswith("ros-")]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_sourcing_the_environment_twice_adds_its_paths_once(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    prefix = tmp_path / "with space"
    prefix.mkdir()
    load_set_up().write_local_setup(prefix, Path("/opt/ros/some"))
    source = f'. "{prefix}/local_setup.{shell}"'
    script = f'set -u; {source}; {source}; echo "$AMENT_PREFIX_PATH"'
    environment = {"PATH": os.environ["PATH"], "AMENT_PREFIX_PATH": "/opt/ros/some"}
    answer = subprocess.run([shell, "-c", script], env=environment, capture_output=True, text=True, timeout=30)
    assert answer.stdout == f"{prefix}:/opt/ros/some\n", answer.stderr


def test_a_step_runs_again_only_if_its_inputs_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up = load_set_up()
    monkeypatch.setattr(set_up, "STAMPS", tmp_path)
    done = []
    for key in ("a", "a", "b"):
        set_up.once("step", key, "some step", lambda: done.append(True))
    assert len(done) == 2

    def fail() -> None:
        raise set_up.SetUpError("no network")

    with pytest.raises(set_up.SetUpError):
        set_up.once("step", "c", "some step", fail)
    set_up.once("step", "b", "some step", lambda: done.append(True))
    assert len(done) == 3, "a failed step must not leave the stamp of the one before"


def test_a_failed_command_reports_the_cause_and_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up = load_set_up()
    monkeypatch.setattr(set_up, "ROOT", tmp_path)
    monkeypatch.setattr(set_up, "LOG", tmp_path / "set_up.log")
    with pytest.raises(set_up.SetUpError, match="index cannot be reached") as raised:
        set_up.run(["sh", "-c", "echo 'Temporary failure in name resolution'; exit 1"])
    assert "set_up.log" in str(raised.value)


@pytest.mark.parametrize("module", MODULES)
def test_no_module_waits_with_select_which_fails_from_descriptor_1024_on(module: str) -> None:
    names = {node.attr for node in ast.walk(tree_of(module)) if isinstance(node, ast.Attribute) and _is_select(node)}
    assert "select" not in names, "use processes.readable, select.poll or selectors"


def _is_select(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "select"


@pytest.mark.parametrize("module", MODULES)
def test_no_finally_raises_or_returns_and_so_hides_what_happened(module: str) -> None:
    kinds = (ast.Raise, ast.Return, ast.Break, ast.Continue)
    lines = [
        inner.lineno
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Try)
        for statement in node.finalbody
        for inner in ast.walk(statement)
        if isinstance(inner, kinds)
    ]
    assert lines == []


def test_no_two_modules_of_tests_serve_arms_at_the_same_address() -> None:
    """They may run at the same time, and what one leaves for a moment must not disturb the other."""
    users: dict[str, set[str]] = {}
    for path in (ROOT / "test").glob("*.py"):
        for address in re.findall(r"\b127\.0\.0\.\d+\b", path.read_text()):
            users.setdefault(address, set()).add(path.name)
    default = "127.0.0.1"
    assert not {address: names for address, names in users.items() if len(names) > 1 and address != default}


def test_the_markers_that_distribute_the_tests_are_those_that_pytest_sees(request: pytest.FixtureRequest) -> None:
    for item in request.session.items:
        marks = marks_in(item.path)
        read = place([*marks["pytestmark"], *marks[item.name.partition("[")[0]]])
        assert read == place([mark.name for mark in item.iter_markers()]), item.nodeid
