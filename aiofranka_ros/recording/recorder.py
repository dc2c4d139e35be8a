"""Decides when a recording is written, and has it written by a process, one at a time.

Used in the process that owns the arm: by the node, in its one thread, and by ``RobotInterface``. Nothing here waits.
Each recording has a thread for the fraction of a second that passes before it (what follows a stop belongs to the
story), for copying the shared memory, and for waiting for the process that writes (:mod:`.writer`). The copy is made
by the kernel, without Python's lock: the thread that sends the heartbeats is not delayed.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.stamps import offset_to
from aiofranka_ros.errors import ControlProcessDied, ControlStopped, RecordingFailed
from aiofranka_ros.kernels import Record
from aiofranka_ros.processes import start_child
from aiofranka_ros.recording.folder import EXPLAIN, folder_of, name_of
from aiofranka_ros.recording.notes import Notes

#: What a request is answered if nothing may be recorded.
OFF = "recording is switched off: recording_folder is empty"
#: How much of what follows a stop, and a lost cycle, is waited for [s].
_AFTER_STOP, _AFTER_LOSS = 0.4, 2.0
#: Lost cycles cause at most one recording in this time [s]: where one is lost, others follow.
_LOSS_PERIOD = 60.0
#: How long a process may take to write [s]: the disk of a busy computer is slow.
_LONGEST = 120.0
#: How long :meth:`Recorder.close` waits for recordings to be handed over to their processes [s].
_HANDOVER = 1.0
#: Copied at once [bytes].
_PART = 1 << 20


@dataclass
class Trigger:
    """Why a recording is written."""

    kind: str  #: ``robot stopped``, ``control process died``, ``connection lost``, ``cycles lost`` or ``asked``
    message: str = ""  #: in the words of the error, or who asked
    error: str = ""  #: name of the exception's class
    names: tuple[str, ...] = ()  #: libfranka's names of errors
    exit_code: int | None = None  #: of a control process that died
    delay: float = 0.0  #: how much of what follows is waited for [s]
    stamp: int = field(default_factory=time.monotonic_ns)  #: when [ns, monotonic]

    @classmethod
    def of(cls, error: BaseException) -> Trigger:
        """For an arm that was stopped or lost."""
        if isinstance(error, ControlStopped):
            kind = "robot stopped"
        else:
            kind = "control process died" if isinstance(error, ControlProcessDied) else "connection lost"
        names, exit_code = tuple(getattr(error, "errors", ())), getattr(error, "exit_code", None)
        return cls(kind, str(error), type(error).__name__, names, exit_code, _AFTER_STOP)


class _Run(threading.Thread):
    """A recording on its way; ``result`` is where it is, or ``RecordingFailed``.

    :param write: called in this thread once it is time.
    """

    def __init__(self, trigger: Trigger, write: Callable[[_Run], Path]) -> None:
        super().__init__(name="aiofranka_ros-recording", daemon=True)
        self.trigger, self._write = trigger, write
        #: Set if there is no time to wait for what follows.
        self.hurry = threading.Event()
        #: Whether it is too late to join it.
        self.begun = False
        #: Set when the process has everything that it needs.
        self.handed_over = threading.Event()
        self.result: Future[Path] = Future()

    def run(self) -> None:
        """Wait, and write."""
        try:
            self.hurry.wait(self.trigger.delay)
            self.begun = True
            self.result.set_result(self._write(self))
        except BaseException as error:  # It is the caller's.
            self.result.set_exception(error if isinstance(error, RecordingFailed) else RecordingFailed(f"{error}"))
        finally:
            self.handed_over.set()


class Recorder:
    """Writes recordings of one arm.

    :param name: of the node or the robot, for the files.
    :param settings: values of parameters by name; asked in any thread.
    :param details: what else a summary should say of the arm and this computer; asked in any thread.
    :param log: logs a message at a level, ``info`` or ``warning``; called by :meth:`tick` and :meth:`report`.
    """

    def __init__(
        self,
        name: str,
        notes: Notes,
        settings: Callable[[], Mapping[str, Any]],
        details: Callable[[], Mapping[str, Any]],
        log: Callable[[str, str], object],
    ) -> None:
        self._name, self._notes, self._settings, self._details, self._log = name, notes, settings, details, log
        self._one_at_a_time = threading.Lock()
        self._runs: list[_Run] = []
        self._warned = ""
        self._lost = (0, 0)  # Activation, and cycles that were lost in it, at the last tick.
        self._loss_due = 0.0

    def tick(self, state: Record, client: ControlClient) -> None:
        """Note a tick, record if cycles were lost since the last one, and report what was written."""
        self._notes.tick(state, client.pid)
        activation, lost = int(state["activation"]), int(state["cycles_lost"])
        before = self._lost[1] if self._lost[0] == activation else 0
        self._lost = activation, lost
        if lost > before:
            now = time.monotonic()
            if now >= self._loss_due:
                self._loss_due = now + _LOSS_PERIOD
                self.save(Trigger("cycles lost", f"{lost - before} cycles were lost", delay=_AFTER_LOSS), client)
        if self._runs:
            self.report()

    def save(self, trigger: Trigger, client: ControlClient | None) -> Future[Path] | None:
        """Write a recording; returns at once. Joins one that has not been begun yet.

        :param client: the control process, which may be dead, or be closed after this call.
        :returns: where it is, once it is written, or ``RecordingFailed``; ``None``: the parameter says not to record.
        """
        folder = str(self._settings()["recording_folder"])
        if not folder.strip():
            return None
        waiting = next((run for run in self._runs if not run.begun), None)
        if waiting is not None:
            if trigger.delay == _AFTER_STOP:  # It explains more than lost cycles, or a request.
                waiting.trigger = trigger
            return waiting.result
        shared = -1
        with contextlib.suppress(ControlProcessDied, OSError):
            if client is not None:
                shared = os.dup(client.shared.descriptor)
        run = _Run(trigger, lambda run: self._write(run, folder_of(folder), shared))
        self._runs.append(run)
        run.start()
        return run.result

    def report(self) -> None:
        """Log what was written since the last call, or why it could not be, once for the same reason."""
        for run in [run for run in self._runs if run.result.done()]:
            self._runs.remove(run)
            error = run.result.exception()
            if error is None:
                self._warned = ""
                path = run.result.result()
                # A script without ROS shows warnings only.
                level = "info" if run.trigger.kind == "asked" else "warning"
                self._log(level, f"recorded ({run.trigger.kind}); what happened: {EXPLAIN} {path}")
            elif str(error) != self._warned:
                self._warned = str(error)
                self._log("warning", f"what happened was not recorded: {error}")

    def close(self) -> None:
        """Begin recordings that still wait, and give their processes what they need; they finish by themselves."""
        for run in self._runs:
            run.hurry.set()
        deadline = time.monotonic() + _HANDOVER
        for run in self._runs:
            run.handed_over.wait(max(0.0, deadline - time.monotonic()))

    # In the thread of a recording.

    def _write(self, run: _Run, folder: Path, shared: int) -> Path:
        with contextlib.ExitStack() as stack:
            if shared >= 0:
                stack.callback(os.close, shared)
            # At once, because they are overwritten; the process may have to wait for another one.
            copies = {"job": stack.enter_context(_memory(json.dumps(self._job(run.trigger, folder)).encode()))}
            for name, source in (("control", shared), ("notes", self._notes.descriptor)):
                if source >= 0:
                    copies[name] = stack.enter_context(_copied(source))
            with self._one_at_a_time:
                answer = _answer(copies, run.handed_over.set)
        if "path" not in answer:
            raise RecordingFailed(str(answer.get("error") or "the process that writes it died"))
        return Path(answer["path"])

    def _job(self, trigger: Trigger, folder: Path) -> dict[str, Any]:
        """Everything that is not in shared memory, as JSON has it; see :mod:`.writer`."""
        settings, notes, offset = self._settings(), self._notes, offset_to()
        stamp = trigger.stamp + offset
        return {
            "folder": str(folder),
            "name": name_of(stamp, self._name, trigger.kind),
            "most_files": settings["recording_files"],
            "most_bytes": 1e6 * settings["recording_megabytes"],
            "offset": offset,
            "summary": {
                "trigger": trigger.kind, "message": trigger.message, "error": trigger.error, "errors": trigger.names,
                "exit_code": trigger.exit_code, "stamp": stamp, "owner": self._name,
                "load": [round(load, 2) for load in os.getloadavg()], "processors": os.cpu_count(),
                **self._details(),
            },
            "parameters": {name: _plain(value) for name, value in settings.items()},
            "topics": list(notes.topics),
            "senders": list(notes.senders),
            "events": tuple(notes.events),
            "lines": tuple(notes.lines),
        }  # fmt: skip


def _answer(copies: Mapping[str, int], on_started: Callable[[], object]) -> dict[str, Any]:
    """What the writing process answers."""
    command = [sys.executable, "-m", "aiofranka_ros.recording.writer"]
    for name, descriptor in copies.items():
        command += [f"--{name}", str(descriptor)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    try:
        process = start_child(
            command, pass_fds=tuple(copies.values()), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=environment, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise RecordingFailed(f"the process that writes it could not be started: {error}") from error
    on_started()
    try:
        output, problems = process.communicate(timeout=_LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise RecordingFailed(f"it was not written within {_LONGEST:g} s") from None
    with contextlib.suppress(ValueError):
        return dict(json.loads(output))
    said: Sequence[str] = problems.decode(errors="replace").strip().splitlines()
    how = f"status {process.returncode}" + (f", {said[-1]}" if said else "")
    return {"error": f"the process that writes it failed ({how})"}


@contextlib.contextmanager
def _copied(source: int) -> Iterator[int]:
    """A copy of anonymous memory, in parts: other threads run while the kernel copies."""
    size = os.fstat(source).st_size
    with _memory(b"") as copy:
        for position in range(0, size, _PART):
            os.pwrite(copy, os.pread(source, _PART, position), position)
        yield copy


@contextlib.contextmanager
def _memory(content: bytes) -> Iterator[int]:
    """Anonymous memory with ``content``, read from its beginning by a process that inherits it."""
    descriptor = os.memfd_create("aiofranka_ros_recording")
    try:
        os.pwrite(descriptor, content, 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value
