"""A forked child of a program that drives an arm: it shares every descriptor, but the arm stays the parent's."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator

import pytest

from aiofranka_ros import FrankaController, RobotInterface
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.records import COMMANDS, new
from aiofranka_ros.errors import ControlProcessDied
from aiofranka_ros.testing import PATIENCE


def fork(child: Callable[[], object]) -> int:
    """Run ``child`` in a fork of this process; returns its process id. Its exit status is 0 if nothing was raised."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            child()
            status = 0
        finally:
            os._exit(status)
    return pid


def exit_status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def client() -> Iterator[ControlClient]:
    """A control process without real-time scheduling: no system has that priority."""
    with ControlClient(priority=100) as client:
        yield client


@pytest.fixture
def sleeper(client: ControlClient) -> Iterator[int]:
    """A fork that lives as long as the test, with copies of all descriptors."""
    pid = fork(lambda: time.sleep(600.0))
    yield pid
    os.kill(pid, 9)
    os.waitpid(pid, 0)


@pytest.mark.light
def test_the_control_process_ends_although_a_fork_lives(client: ControlClient, sleeper: int) -> None:
    assert client._running.close(PATIENCE), "it had to be killed"


@pytest.mark.light
def test_a_fork_of_the_os_alone_does_not_keep_the_control_process_either(client: ControlClient) -> None:
    """As a library forks, which runs none of Python's hooks."""
    copy = os.dup(client._running._channel.fileno())
    assert client._running.close(PATIENCE), "it had to be killed"
    os.close(copy)


@pytest.mark.light
def test_a_fork_that_closes_the_client_does_not_end_the_arm_of_its_parent(client: ControlClient) -> None:
    def close() -> None:
        client.close()
        with pytest.raises(ControlProcessDied, match="fork of that process"):
            client.set_joints([0.0] * 7)
        with pytest.raises(ControlProcessDied, match="fork of that process"):
            client.poll()

    client.update({"activation": 1})  # Closing would reset it.
    assert exit_status(fork(close)) == 0
    assert client.poll() is None, "it runs"
    commands = new(COMMANDS)
    assert client.shared.commands.read(commands) and commands["activation"] == 1


def test_a_fork_of_a_program_with_an_active_arm_neither_stops_it_nor_delays_its_stop() -> None:
    async def drive() -> None:
        async with FrankaController(RobotInterface()) as controller:
            link = controller.robot
            assert isinstance(link, RobotInterface)
            stopped = fork(lambda: asyncio.run(controller.stop()))
            asleep = fork(lambda: time.sleep(600.0))
            try:
                assert exit_status(stopped) == 0
                await controller.move(controller.state["qpos"] + 0.05)
                process = link._driver.client._running._process
                await controller.stop()
                assert process.returncode == 0, "it had to be killed"
            finally:
                os.kill(asleep, 9)
                os.waitpid(asleep, 0)

    asyncio.run(drive())
