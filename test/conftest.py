"""Shared fixtures and rules: an isolated ROS domain, a node with a client, and which tests run at the same time."""

from __future__ import annotations

import functools
import inspect
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from aiofranka_ros.testing import Client, NodeProcess, isolate, started

isolate()

# In a background job of a shell, Python ignores Ctrl-C, and so does every process that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The first call of a compiled kernel includes its compilation.
settings.register_profile("compiled", deadline=None)
settings.load_profile("compiled")


@functools.cache
def runs_next_to_an_arm(module: Path) -> bool:
    """Whether all tests of a module may run at the same time as an arm: it says so with ``pytestmark``.

    A module that says nothing may start an arm or measure time, so a forgotten marker costs time and nothing else.
    """
    return "\npytestmark = pytest.mark.unit\n" in module.read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With pytest-xdist, keep all other modules in one worker: an arm needs a core to itself."""
    from xdist.scheduler import LoadScopeScheduling

    class ArmsInOneWorker(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = config.rootpath / nodeid.partition("::")[0]
            return module.stem if runs_next_to_an_arm(module) else "arm"

    return ArmsInOneWorker(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Lower the priority of a worker that runs at the same time as an arm."""
    if "PYTEST_XDIST_WORKER" in os.environ and runs_next_to_an_arm(item.path):
        if os.nice(0) < 19 and not all(other.get_closest_marker("unit") for other in item.session.items):
            os.nice(19)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function in the event loop of its fixture ``loop``."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    loop = pyfuncitem.funcargs["loop"]
    loop.run_until_complete(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, Client]]:
    """An active node with a simulated arm, and its client; shared by the tests of a module."""
    with started(tmp_path_factory.mktemp("node"), autostart=True, diagnostics_rate=10.0) as (process, client):
        assert client.becomes("active"), process.log
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
def log(running: tuple[NodeProcess, Client]) -> Callable[[str], bool]:
    """Whether the module's node has logged a text since the test began."""
    process, _ = running
    after = len(process.log)
    return lambda text: text in process.log[after:]
