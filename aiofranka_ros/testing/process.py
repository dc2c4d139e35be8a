"""Child processes with a log, and what tests ask about processes.

Called by tests, benchmarks and the demo, from the one thread of their process.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from aiofranka_ros.ctl.client import PATIENCE, Failed
from aiofranka_ros.processes import LAUNCH

#: How many lines of a log an error message quotes.
_LOG_LINES = 12
#: The folder that contains the package, so that child processes find it.
_ROOT = Path(__file__).resolve().parents[2]

_Self = TypeVar("_Self", bound="Child")
_namespaces = (f"test{number}" for number in itertools.count(1))


def wait_until(condition: Callable[[], Any], timeout: float = PATIENCE) -> bool:
    """Whether ``condition`` came true within ``timeout`` [s]."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def isolate(domain: int | None = None) -> int:
    """Move this process and its children to a ROS domain that other computers do not see; return the domain.

    :param domain: the domain id; by default one that depends on the process id.
    """
    # Up to 101, none of a domain's ports is an ephemeral port of Linux.
    domain = 1 + os.getpid() % 100 if domain is None else domain
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    if os.environ.get("ROS_DISTRO") == "humble":
        os.environ["ROS_LOCALHOST_ONLY"] = "1"
    else:
        os.environ.pop("ROS_LOCALHOST_ONLY", None)  # If it is set, ROS ignores the newer variable.
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return domain


def environment(**changes: str) -> dict[str, str]:
    """The environment of this process for a child, which finds the same package and does not buffer its output."""
    path = os.pathsep.join(part for part in (str(_ROOT), os.environ.get("PYTHONPATH", "")) if part)
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": path, **changes}


def descendants(pid: int) -> set[int]:
    """Process ids of all living children of ``pid``, and of their children."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    new = [pid]
    while new:
        new = [child for parent in new for child in children.get(parent, [])]
        found.update(new)
    return found


def descendant(pid: int, name: str) -> int:
    """Process id of the only descendant of ``pid`` that has ``name`` in its command line.

    :raises Failed: there is none, or more than one.
    """
    found = [child for child in descendants(pid) if name in Path(f"/proc/{child}/cmdline").read_text()]
    if len(found) != 1:
        raise Failed(f"{len(found)} processes of {name}")
    return found[0]


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Child:
    """A Python program as a child process that writes all its output to a log file.

    A context manager: at its end, the process is gone. The child has its own session, because a terminal's Ctrl-C is
    for the caller, which then stops its children in order.

    :param arguments: of the interpreter, for example ``["-m", module, *options]``.
    :param log: the log file.
    :param label: the name of the process in error messages.
    :param append: keep the log of earlier processes.
    :param env: environment variables, in addition to :func:`environment`.
    :param popen: other options of :class:`subprocess.Popen`.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        log: Path,
        label: str = "process",
        append: bool = False,
        env: Mapping[str, str] | None = None,
        **popen: Any,
    ) -> None:
        self._log = log
        self._label = label
        with log.open("ab" if append else "wb") as output:
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output, "start_new_session": True}
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                [sys.executable, *arguments], env=environment(**env or {}), **{**streams, **popen}
            )

    @property
    def log(self) -> str:
        """All its output so far."""
        return self._log.read_text(errors="replace")

    @property
    def end_of_log(self) -> str:
        """The last lines of its log, indented."""
        return "\n".join(f"  {line}" for line in self.log.splitlines()[-_LOG_LINES:]) or "  (empty)"

    def says(self, text: str, *, after: int = 0) -> bool:
        """Whether it writes ``text`` before it ends, beyond the first ``after`` characters of its log."""
        wait_until(lambda: text in self.log[after:] or self.process.poll() is not None)
        return text in self.log[after:]

    def check(self) -> None:
        """Do nothing while the process runs.

        :raises Failed: it has ended; the message includes the end of its log.
        """
        code = self.process.poll()
        if code is not None:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise Failed(f"the {self._label} {how}; the end of its log:\n{self.end_of_log}")

    def end(self, number: signal.Signals = signal.SIGINT, *, timeout: float = PATIENCE) -> int:
        """Send a signal and wait until the process has ended; kill it if that takes longer than ``timeout`` [s].

        :returns: its exit code as :attr:`subprocess.Popen.returncode`.
        """
        self.process.send_signal(number)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """Kill it at once; return its exit code."""
        self.process.kill()
        return self.process.wait()

    def close(self) -> None:
        """End it if it still runs."""
        self.end()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def ros_arguments(*remappings: str, **parameters: Any) -> list[str]:
    """The part of a command line that starts with ``--ros-args``.

    :param remappings: for example ``__ns:=/left``.
    :param parameters: parameters of the node.
    """
    words = ["--ros-args", *(word for remapping in remappings for word in ("-r", remapping))]
    for name, value in parameters.items():
        words += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
    return words


class NodeProcess(Child):
    """The arm's node, started as a user starts it; a subclass names another node. It ends with this process.

    :param log: the log file.
    :param namespace: the node's namespace, without slashes; by default one that no other node has.
    :param module: another module to run.
    :param options: command line options before the ROS arguments.
    :param child: further arguments of :class:`Child`.
    :param parameters: parameters of the node.
    """

    MODULE: ClassVar[str] = "aiofranka_ros.node"
    NAME: ClassVar[str] = "aiofranka"

    def __init__(
        self,
        log: Path,
        namespace: str | None = None,
        *,
        module: str = "",
        options: Sequence[str] = (),
        child: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> None:
        self.namespace = next(_namespaces) if namespace is None else namespace
        self._prefix = f"/{self.namespace}" if self.namespace else ""
        #: The node's full name.
        self.name = f"{self._prefix}/{self.NAME}"
        remappings = [f"__ns:=/{self.namespace}"] if self.namespace else []
        arguments = ["-m", module or self.MODULE, *options, *ros_arguments(*remappings, **parameters)]
        given = dict(child or {})
        env = {LAUNCH: str(os.getpid()), **(given.pop("env", None) or {})}
        super().__init__(arguments, log=log, label="node", env=env, **given)

    def name_of(self, name: str) -> str:
        """The full name of a topic, service or action that the node calls ``name``."""
        return name.replace("~", self.name) if name.startswith("~") else f"{self._prefix}/{name}"
