"""Another project's environment, created once from PyPI under the build folder; and how a subject's process ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

REQUIREMENTS = ("aiofranka==0.9.0", "numpy<2")
#: Variables of this project's environment that the other one must not inherit.
_OWN = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")


def make(folder: Path, requirements: Sequence[str] = REQUIREMENTS, *, ros: bool = True) -> Path:
    """Create the environment unless it exists.

    :param ros: with ROS, for the load ``topics``: that of this project's environment, after everything else.
    :returns: its Python.
    :raises subprocess.CalledProcessError: something could not be installed.
    """
    python, done = folder / "bin" / "python", folder / "requirements.json"
    if done.exists() and json.loads(done.read_text()) == list(requirements):
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--quiet", *requirements]
    subprocess.run(install, check=True, env=variables())
    if ros:
        _add_ros(python)
    done.write_text(json.dumps(list(requirements)))
    return python


def _add_ros(python: Path) -> None:
    find = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    packages = Path(subprocess.run([python, "-c", find], check=True, capture_output=True, text=True).stdout.strip())
    ours = sysconfig.get_paths()["purelib"]
    (packages / "zz_ros.pth").write_text(f"import site; site.addsitedir({ours!r})\n")


def variables(own: bool = False, **more: str) -> dict[str, str]:
    """The environment variables of a subject's process.

    :param own: whether the subject belongs to this project.
    """
    kept = {name: value for name, value in os.environ.items() if own or name not in _OWN}
    return kept | more


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process; if that takes too long, kill its whole session."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
