"""Compiled kernels always match the present sources, whatever the times of the files say."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from aiofranka_ros import kernels

pytestmark = pytest.mark.unit

PACKAGE = Path(kernels.__file__).parent
FILES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in PACKAGE.rglob("*.py")
}
WITH_KERNELS = [name for name, file in FILES.items() if "\n@kernel\n" in file.read_text()]
#: Every module whose content is in the control cycle.
IN_THE_CYCLE = sorted(kernels.sources("aiofranka_ros.control.law.cycle"))
#: Two modules, one with a constant and one with a kernel that uses it, which compile in a second.
CONSTANT = "from aiofranka_ros.kernels import kernel\n\nSCALE = 2.0\n"
KERNEL = """
from aiofranka_ros.kernels import kernel
from aiofranka_ros.model.scale import SCALE


@kernel
def scaled(value):
    return SCALE * value
"""
USE = "from aiofranka_ros.model import scaling; print(scaling.scaled(1.0), scaling.scaled.stats.cache_path)"


def keep_time(file: Path, text: str) -> None:
    """Write ``text``, but restore the time of modification."""
    before = file.stat()
    file.write_text(text)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def copy_package(folder: Path) -> Path:
    """A copy of the package in ``folder``, without anything compiled."""
    return shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))


def environment_of(package: Path) -> dict[str, str]:
    """Variables with which Python imports a copy of the package."""
    own = {"PYTHONPATH": str(package.parent), "XDG_CACHE_HOME": str(package.parent / "cache")}
    return {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"} | own


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package with the two modules."""
    package = copy_package(tmp_path)
    (package / "model" / "scale.py").write_text(CONSTANT)
    (package / "model" / "scaling.py").write_text(KERNEL)
    return package


@pytest.fixture
def environment(copy: Path) -> dict[str, str]:
    """Variables with which Python imports the copy."""
    return environment_of(copy)


def run(environment: dict[str, str], *arguments: str) -> str:
    """Run Python with these arguments and return its output."""
    command = [sys.executable, *arguments]
    folder = environment["PYTHONPATH"]
    return subprocess.run(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout


def use(environment: dict[str, str]) -> tuple[float, Path]:
    """What the kernel of the copy computes for 1, and where its compiled code is."""
    value, folder = run(environment, "-c", USE).split()
    return float(value), Path(folder)


def compiled_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*scaled*.nb[ic]"))


def test_the_imports_of_every_module_are_those_that_python_s_own_parser_finds() -> None:
    for name, file in FILES.items():
        expected = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith(PACKAGE.name) for alias in node.names), f"{name}: use from-imports"
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}: use absolute imports"
                assert node.module is not None
                if node.module.split(".")[0] == PACKAGE.name:
                    names = {f"{node.module}.{alias.name}" for alias in node.names}
                    expected |= {each if each in FILES else node.module for each in names}
        assert expected <= kernels._imports(file), name


def load(package: Path) -> ModuleType:
    """The module ``kernels`` of another copy of the package."""
    specification = importlib.util.spec_from_file_location("kernels_of_the_copy", package / "kernels.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("changed", IN_THE_CYCLE)
def test_a_change_of_any_source_gives_all_kernels_that_contain_it_another_folder(copy: Path, changed: str) -> None:
    before = {name: load(copy)._folder(name) for name in WITH_KERNELS}
    file = copy.parent / FILES[changed].relative_to(PACKAGE.parent)
    keep_time(file, file.read_text() + "# changed\n")
    after = {name: load(copy)._folder(name) for name in WITH_KERNELS}
    moved = {name for name in WITH_KERNELS if before[name] != after[name]}
    assert moved == {name for name in WITH_KERNELS if changed in kernels.sources(name)}
    assert "aiofranka_ros.control.law.cycle" in moved


def test_a_module_s_compiled_code_does_not_depend_on_modules_that_it_does_not_import() -> None:
    assert "aiofranka_ros.control.client" not in IN_THE_CYCLE
    assert "aiofranka_ros.control.law.limits" not in kernels.sources("aiofranka_ros.model.dynamics")


def test_a_changed_constant_of_another_module_is_used_although_time_and_size_are_the_same(
    copy: Path, environment: dict[str, str]
) -> None:
    assert use(environment)[0] == 2.0
    keep_time(copy / "model" / "scale.py", CONSTANT.replace("2.0", "3.0"))
    assert use(environment)[0] == 3.0


@pytest.mark.slow
def test_kernels_are_not_compiled_from_bytecode_of_another_source(copy: Path, environment: dict[str, str]) -> None:
    run(environment, "-c", "import aiofranka_ros.model.scale")  # It has no kernel, so its bytecode is not checked yet.
    keep_time(copy / "model" / "scale.py", CONSTANT.replace("2.0", "3.0"))
    with pytest.raises(subprocess.CalledProcessError):
        use(environment)
    assert use(environment)[0] == 3.0


@pytest.mark.slow
def test_touching_a_source_compiles_nothing_again(copy: Path, environment: dict[str, str]) -> None:
    _, folder = use(environment)
    times = [file.stat().st_mtime_ns for file in compiled_in(folder)]
    for name in ("scale", "scaling"):
        (copy / "model" / f"{name}.py").touch()
    assert use(environment) == (2.0, folder)
    assert [file.stat().st_mtime_ns for file in compiled_in(folder)] == times and times


@pytest.mark.slow
def test_compiled_code_of_earlier_sources_is_removed(copy: Path, environment: dict[str, str]) -> None:
    _, first = use(environment)
    (copy / "model" / "scale.py").write_text(CONSTANT.replace("2.0", "3.0"))
    _, second = use(environment)
    assert not compiled_in(first) and compiled_in(second)
    for folder in (first, first.parent):
        os.utime(folder, (time.time() - 2e5,) * 2)
    use(environment)
    assert second.exists() and not first.parent.exists(), "an empty folder must not stay forever"


@pytest.mark.slow
def test_a_process_with_earlier_sources_can_still_compile_and_disturbs_no_other(
    copy: Path, environment: dict[str, str]
) -> None:
    script = f"from aiofranka_ros.model import scaling; print(flush=True); input(); {USE.partition(';')[2]}"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment,
        cwd=copy.parent,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as earlier:
        assert earlier.stdout is not None and earlier.stdout.readline()
        keep_time(copy / "model" / "scale.py", CONSTANT.replace("2.0", "3.0"))
        _, folder = use(environment)
        shutil.rmtree(_folder_of_others(folder))
        value, own = earlier.communicate("\n")[0].split()
    assert earlier.returncode == 0 and float(value) == 2.0 and Path(own) != folder
    assert use(environment) == (3.0, folder)


def _folder_of_others(newer: Path) -> Path:
    """The folder of a process that uses earlier sources than those of ``newer``."""
    return next(path for path in newer.parent.parent.glob("*.model.scaling-*") if path != newer.parent)


@pytest.mark.slow
def test_two_processes_may_compile_at_once(copy: Path, environment: dict[str, str]) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", USE], env=environment, cwd=copy.parent, text=True, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0] and outputs[0] == outputs[1]
    assert use(environment)[0] == 2.0


@pytest.mark.slow
def test_numba_s_own_variable_sets_the_folder_of_compiled_code(
    copy: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    chosen = tmp_path / "chosen"
    environment["NUMBA_CACHE_DIR"] = str(chosen)
    value, folder = use(environment)
    assert value == 2.0 and chosen in folder.parents and compiled_in(folder)
    keep_time(copy / "model" / "scale.py", CONSTANT.replace("2.0", "3.0"))
    assert use(environment)[0] == 3.0


@pytest.mark.slow
def test_a_package_in_a_read_only_folder_keeps_compiled_code_in_the_user_s_cache(
    copy: Path, environment: dict[str, str]
) -> None:
    (copy / "__pycache__").write_text("")  # Not even root can create a folder in it.
    value, folder = use(environment)
    assert value == 2.0 and Path(environment["XDG_CACHE_HOME"]) in folder.parents and compiled_in(folder)
    keep_time(copy / "model" / "scale.py", CONSTANT.replace("2.0", "3.0"))
    assert use(environment)[0] == 3.0


@pytest.mark.slow
def test_without_a_writable_folder_kernels_are_compiled_in_each_process(
    copy: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    (copy / "__pycache__").write_text("")
    (tmp_path / "cache").write_text("")
    assert run(environment, "-c", USE) == "2.0 None\n"


@pytest.mark.slow
def test_the_cache_of_a_user_s_own_kernels_does_not_change(environment: dict[str, str], tmp_path: Path) -> None:
    user = tmp_path / "user.py"
    user.write_text(
        "import numba\nimport aiofranka_ros.model.scaling\n"
        "@numba.njit(cache=True)\ndef twice(x):\n    return 2 * x\nprint(twice.stats.cache_path)\n"
    )
    assert run(environment, str(user)).strip() == str(tmp_path / "__pycache__")


@pytest.mark.slow
def test_the_check_finds_what_is_not_compiled(copy: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "aiofranka_ros.warm_up", "--check"]
    assert subprocess.run(command, env=environment, cwd=copy.parent).returncode == 1
    (copy / "__pycache__" / "kernels").rename(copy / "moved")
    (copy / "__pycache__" / "kernels").write_text("")
    (copy.parent / "cache").write_text("")
    assert subprocess.run(command, env=environment, cwd=copy.parent).returncode == 1, "no folder is writable"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_warming_up_compiles_the_kernels_of_every_module(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(PACKAGE.parent)}
    run(environment, "-m", "aiofranka_ros.warm_up")
    script = f"""if True:
        import importlib
        from aiofranka_ros import kernels
        for module in {WITH_KERNELS}:
            importlib.import_module(module)
        print([name for folder, name in kernels._cached_kernels() if not any(folder.glob(f"*.{{name}}-*.nbi"))])
    """
    assert run(environment, "-c", script) == "[]\n"
