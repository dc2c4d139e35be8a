"""What several tests share: the surroundings of ROS, and a node with a client."""

from __future__ import annotations

import inspect
import os
import signal

# Before rclpy is imported: a domain of this run's own, visible on this machine alone.
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
if os.environ.get("ROS_DISTRO") == "humble":
    os.environ["ROS_LOCALHOST_ONLY"] = "1"

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from node_harness import Client, NodeProcess, started

# A shell that runs this in the background has it ignore Ctrl-C, and all processes that are started here with it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The first call of a compiled kernel takes as long as its compilation.
settings.register_profile("compiled", deadline=None)
settings.load_profile("compiled")


#: Modules whose tests may run beside those of an arm: they start none themselves, which would keep the other one's node
#: waiting, and do not mind being kept waiting.
BESIDE = {
    f"test_{name}"
    for name in (
        "bench_loops child console control_cycle control_loop cdr messages dynamics interfaces "
        "inverse_kinematics isolation joint_trajectory kinematics laws limits marker_server offload package "
        "parameters reference shared_memory targets trajectory velocity_limits viewing"
    ).split()
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With pytest-xdist, keep the tests of arms together: an arm needs one of two processors to itself."""
    from xdist.scheduler import LoadScopeScheduling

    class ArmsTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = Path(nodeid.partition("::")[0]).stem
            return module if module in BESIDE else "arm"

    return ArmsTogether(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let what runs beside an arm give way to it."""
    if "PYTEST_XDIST_WORKER" in os.environ and item.path.stem in BESIDE and os.nice(0) == 0:
        os.nice(19)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function, in the event loop of its fixture ``loop``."""
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
    """The client of the module's node, which is active, at rest and in its default mode."""
    process, client = running
    assert process.process.poll() is None, process.log
    assert client.state == "active", process.log
    assert client.set(mode="osc") == ""
    return client


@pytest.fixture
def log(running: tuple[NodeProcess, Client]) -> Callable[[str], bool]:
    """Whether the module's node has said something since the test began."""
    process, _ = running
    after = len(process.log)
    return lambda text: text in process.log[after:]
