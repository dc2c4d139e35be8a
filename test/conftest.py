"""Shared fixtures and rules: an isolated ROS domain, a node with a client, and which tests run at the same time."""

from __future__ import annotations

import _thread
import ast
import functools
import inspect
import os
import re
import signal
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from action_msgs.msg import GoalStatus
from hypothesis import settings

from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.testing import Client, CycleRecorder, NodeProcess, isolate, started

isolate()

# Recordings and logs of the nodes under test are not those of the user.
os.environ["ROS_HOME"] = str(Path(__file__).resolve().parents[1] / "build" / "test" / "ros")

# Two participants in one process, as tests have them, can deadlock in Fast DDS when one delivers directly to the other
# (https://github.com/eProsima/Fast-DDS/issues/6193).
os.environ.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(Path(__file__).with_name("fastdds.xml")))

# In a background job of a shell, Python ignores Ctrl-C, and so does every process that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Under nohup, processes ignore the end of their terminal, and so do those that they start. This process still does: it
# has a handler that does nothing, which others do not inherit.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

# The first call of a compiled kernel includes its compilation.
settings.register_profile("compiled", deadline=None)
settings.load_profile("compiled")


def place(marks: Collection[str]) -> str:
    """Where a test with these markers runs: ``arm``, ``light`` or ``unit``; see the markers in pyproject.toml.

    A test without any may drive an arm or measure time, so a forgotten marker costs time and nothing else.
    """
    return next((name for name in ("light", "unit") if name in marks and "timing" not in marks), "arm")


@functools.cache
def marks_in(module: Path) -> dict[str, list[str]]:
    """The markers of each test of a module, read from its source; those of the whole module as ``pytestmark``."""
    found: dict[str, list[str]] = {"pytestmark": []}
    for line in ast.parse(module.read_text()).body:
        if isinstance(line, ast.FunctionDef | ast.AsyncFunctionDef):
            found[line.name] = re.findall(r"pytest\.mark\.(\w+)", " ".join(map(ast.unparse, line.decorator_list)))
        elif isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "pytestmark":
            found["pytestmark"] = re.findall(r"pytest\.mark\.(\w+)", ast.unparse(line.value))
    return found


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With pytest-xdist, keep all tests that drive arms in one worker: an arm needs a core to itself.

    The light tests share a worker, too: the larger a scope, the earlier it is run, so they come before the unit tests.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ArmsInOneWorker(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path, _, test = nodeid.partition("::")
            marks = marks_in(config.rootpath / path)
            where = place([*marks["pytestmark"], *marks.get(test.partition("[")[0], [])])
            return path if where == "unit" else where

    return ArmsInOneWorker(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Lower the priority of a worker that runs other tests at the same time as an arm."""

    def place_of(item: pytest.Item) -> str:
        return place([mark.name for mark in item.iter_markers()])

    more = {"arm": 0, "light": 10, "unit": 19}[place_of(item)] - os.nice(0)
    if "PYTEST_XDIST_WORKER" in os.environ and more > 0 and "arm" in map(place_of, item.session.items):
        os.nice(more)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function in the event loop of its fixture ``loop``."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    loop = pyfuncitem.funcargs["loop"]
    loop.run_until_complete(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], None]]:
    """A function that interrupts the main thread as Ctrl-C does, also after tests of programs that only note it.

    Some front ends interrupt in this way, which does not wake a thread that waits.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield _thread.interrupt_main
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, Client]]:
    """An active node with a simulated arm, and its client; shared by the tests of a module."""
    with started(tmp_path_factory.mktemp("node"), autostart=True, diagnostics_rate=10.0) as (process, client):
        assert client.becomes("active"), process.log
        yield process, client


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, Client]]:
    """A node that is not configured, so that it has no arm, and its client; shared by the tests of a module."""
    with started(tmp_path_factory.mktemp("idle")) as (process, client):
        assert client.becomes("unconfigured"), process.log
        yield process, client


@pytest.fixture
def robot(running: tuple[NodeProcess, Client]) -> Client:
    """The client of the module's node, which is active and in its default mode."""
    process, client = running
    assert process.process.poll() is None, process.log
    assert client.state == "active", process.log
    assert client.set(mode="osc") == ""
    return client


@pytest.fixture
def cycles(robot: Client) -> Iterator[CycleRecorder]:
    """The record of every cycle of the module's arm, which is at home."""
    handle = robot.send_goal(HOME)
    assert robot.outcome(handle).status == GoalStatus.STATUS_SUCCEEDED
    recorder = CycleRecorder(robot.diagnostics("control loop")[1]["shared memory"])
    yield recorder
    recorder.close()


@pytest.fixture
def log(running: tuple[NodeProcess, Client]) -> Callable[[str], bool]:
    """Whether the module's node has logged a text since the test began."""
    process, _ = running
    after = len(process.log)
    return lambda text: text in process.log[after:]
