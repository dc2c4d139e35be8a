"""The objects that the tests of mpify use; small, because every child imports this module."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any


class Unportable(Exception):
    """Can be pickled, but not unpickled."""

    def __init__(self, joint: int, *, limit: float) -> None:
        super().__init__(f"joint {joint} beyond {limit}")


class Policy:
    _last_timing = 0.25

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain
        self.calls: list[Any] = []
        self.kept: list[Any] = []
        self.part = Part()

    def __call__(self, value: Any) -> Any:
        return ("called", value)

    def echo(self, value: Any, *, note: Any = None) -> Any:
        self.calls.append(note)
        return value

    def keep(self, value: Any) -> None:
        self.kept.append(value)

    def pid(self) -> int:
        return os.getpid()

    def fail(self, key: str) -> None:
        raise KeyError(key)

    def fail_in(self, way: str) -> Any:
        if way == "unportable":
            raise Unportable(3, limit=2.9)
        if way == "stop iteration":
            return next(iter(()))
        if way == "keyboard interrupt":
            raise KeyboardInterrupt
        if way == "local":

            class Local(Exception):
                pass

            raise Local("of a function")
        raise AssertionError(way)

    def unpicklable(self) -> Any:
        return threading.Lock()

    def wait_for(self, path: str, note: Any = None) -> Any:
        """Return when the file exists."""
        self.calls.append(note)
        Path(path + ".begun").touch()
        while not os.path.exists(path):
            time.sleep(0.002)
        return note

    def compute(self, path: str) -> None:
        """Never return or sleep."""
        Path(path).touch()
        while True:
            pass

    def ignore_sigterm(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def die(self, number: int) -> None:
        os.kill(os.getpid(), number)

    def leave(self, status: int) -> None:
        sys.exit(status)

    def log(self, level: int, text: str, *args: Any) -> None:
        logging.getLogger("policy.child").log(level, text, *args)

    def log_exception(self) -> None:
        try:
            self.fail("k")
        except KeyError:
            logging.getLogger("policy.child").exception("caught %s", threading.Lock())

    def speak(self) -> None:
        sys.stdout.write("said by the child\n")
        sys.stderr.write("complained by the child\n")

    def has_children(self) -> int | None:
        process = multiprocessing.get_context("spawn").Process(target=os.getpid)
        process.start()
        process.join()
        return process.exitcode

    def footprint(self) -> dict[str, int]:
        return footprint()


class Part:
    scale = 3

    def double(self, value: int) -> int:
        return 2 * value


def broken_factory(text: str) -> Policy:
    raise ValueError(text)


def slow_factory(path: str) -> Policy:
    policy = Policy()
    policy.wait_for(path)
    return policy


def dying_factory() -> Policy:
    os._exit(7)


def logging_factory() -> Policy:
    logging.getLogger("policy.child").warning("loading")
    return Policy()


def footprint() -> dict[str, int]:
    """Private memory [bytes], descriptors, and mapped pieces of shared memory of this process."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "memory": 1024 * int(status["RssAnon"].split()[0]),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "segments": Path("/proc/self/maps").read_text().count("memfd:aiofranka_ros"),
    }


class Planner:
    """A policy that plans in chunks to stay where the arm is.

    :param checkpoint: not needed.
    """

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def get_chunk(self, observation: dict[str, Any], prefix: Any, delay: int) -> list[Any]:
        return [observation["qpos"]] * 50

    def die(self, *_: object) -> None:
        os._exit(9)
