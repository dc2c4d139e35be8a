"""``controller.gripper``: one suite for both links, on a hand without an arm."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from franka_sim.gripper.backend import GripperStateData
from hands import GRASP, HOMING, MOVE, STOP, Counting
from test_gripper import GripperProcess, Unruly
from test_hand import served

from aiofranka_ros import RobotInterface
from aiofranka_ros.api.gripper import Gripper
from aiofranka_ros.api.robot_gripper import RobotGripper
from aiofranka_ros.api.ros_client import RosClient, unique_name
from aiofranka_ros.api.ros_gripper import RosGripper
from aiofranka_ros.errors import ConfigurationError, GripperFailed, InvalidTarget, NotStarted
from aiofranka_ros.testing import PATIENCE

pytestmark = pytest.mark.light

#: Addresses of the hands of this module's links, and of those that tests start and end.
HOSTS, BARE = {"robot": "127.0.0.55", "ros": "127.0.0.56"}, {"robot": "127.0.0.53", "ros": "127.0.0.54"}
OBJECT = 0.03


class Connected:
    """A gripper through one link.

    :param kind: ``robot`` or ``ros``.
    :param host: address of the hand.
    :param log: of the gripper's node.
    """

    def __init__(self, kind: str, host: str, log: Path, **parameters: Any) -> None:
        self.kind, self.host = kind, host
        self.node = GripperProcess(log, robot_ip=host, **parameters) if kind == "ros" else None
        self.link: Any = RosGripper(f"/{self.node.namespace}/aiofranka") if self.node else RobotGripper()
        self.gripper = Gripper(self.link)
        self.client: RosClient | None = None

    async def open(self) -> None:
        """As a link does when its controller starts."""
        if self.node is None:
            self.link.open(self.host)
            return
        self.client = RosClient(unique_name("gripper_client"))
        self.link.open(self.client)
        self.client.node.create_subscription(
            DiagnosticArray, "/diagnostics", self.client.in_loop(self.link.diagnose), 10
        )
        self.client.start()

    async def close(self) -> None:
        """As a link does when its controller stops."""
        self.link.close()
        if self.client is not None:
            await self.client.close()

    def end(self) -> None:
        if self.node is not None:
            self.node.close()


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@contextmanager
def connected(loop: asyncio.AbstractEventLoop, connection: Connected) -> Iterator[Connected]:
    loop.run_until_complete(connection.open())
    try:
        yield connection
    finally:
        loop.run_until_complete(connection.close())
        connection.end()


@pytest.fixture(scope="module", params=["robot", "ros"])
def setup(
    request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Counting, Connected]]:
    """A hand that remembers its commands, with an object between its fingers, and a link to it."""
    host, log = HOSTS[request.param], tmp_path_factory.mktemp("gripper") / "log"
    with served(OBJECT, host, Counting) as server, connected(loop, Connected(request.param, host, log)) as connection:
        assert isinstance(server, Counting)
        loop.run_until_complete(asyncio.wait_for(connection.gripper.next_state(), PATIENCE))
        yield server, connection


@pytest.fixture
def server(loop: asyncio.AbstractEventLoop, setup: tuple[Counting, Connected]) -> Counting:
    """The hand, whose fingers are open; its commands from now on."""
    server, connection = setup
    server.backend._object_width = OBJECT

    async def prepare() -> None:
        await connection.gripper.move(0.075)
        await connection.gripper.move(0.08)

    loop.run_until_complete(asyncio.wait_for(prepare(), PATIENCE))
    server.commands.clear()
    return server


@pytest.fixture
def gripper(server: Counting, setup: tuple[Counting, Connected]) -> Gripper:
    return setup[1].gripper


@pytest.fixture(params=["robot", "ros"])
def alone(request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop, tmp_path: Path) -> Iterator[Connected]:
    """A link to a hand that is not there, unless the test starts one."""
    with connected(loop, Connected(request.param, BARE[request.param], tmp_path / "log")) as connection:
        yield connection


async def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        await asyncio.sleep(0.005)


async def eventually(call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Await ``call`` again and again until it does not fail any more."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await call()
        except GripperFailed:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


def readable(gripper: Gripper) -> bool:
    try:
        return bool(gripper.state)
    except GripperFailed:
        return False


# Commands.


async def test_a_move_arrives_and_the_state_says_so(loop, gripper, server):
    await gripper.move(0.05, speed=0.08)
    assert gripper.width == pytest.approx(0.05) and not gripper.is_grasped
    assert gripper.max_width == pytest.approx(0.08)
    state = await gripper.next_state()
    assert set(state) == {"width", "max_width", "is_grasped", "temperature", "stamp"}
    assert (state["is_grasped"], state["temperature"]) == (False, 30)
    assert abs(time.time_ns() - state["stamp"]) < 5e9
    assert server.commands == [MOVE]


async def test_a_grasp_holds_an_object_and_stop_lets_go_of_it(loop, gripper, server):
    await gripper.grasp(OBJECT + 0.003, speed=0.1, force=30.0)
    assert gripper.is_grasped and gripper.width == pytest.approx(OBJECT)
    await gripper.stop()
    await until(lambda: not gripper.is_grasped)
    assert server.commands == [GRASP, STOP]


async def test_a_grasp_of_another_width_fails_with_the_width_found(loop, gripper):
    with pytest.raises(GripperFailed, match=r"ended at 0.0300 m, which is not between 0.0400 and 0.0700 m"):
        await gripper.grasp(0.05, epsilon_inner=0.01, epsilon_outer=0.02)


async def test_homing_fails_if_an_object_is_in_the_way_and_else_finds_the_largest_width(loop, gripper, server):
    with pytest.raises(GripperFailed, match="is something between the fingers"):
        await gripper.homing()
    server.backend._object_width = None
    await gripper.homing()
    assert gripper.width == pytest.approx(gripper.max_width) == pytest.approx(0.08)
    assert server.commands == [HOMING, HOMING]


async def test_a_move_against_an_object_fails_although_the_hand_keeps_trying(loop, gripper):
    with pytest.raises(GripperFailed, match="the fingers are blocked at 0.0300 m"):
        await gripper.move(0.01)


async def test_a_cancelled_call_stops_the_fingers(loop, gripper, server):
    moving = asyncio.ensure_future(gripper.move(0.035, speed=0.01))
    await until(lambda: server.backend.get_state().width < 0.079)
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving
    stopped = server.backend.get_state().width
    assert server.commands == [MOVE, STOP] and 0.04 < stopped < 0.08
    await gripper.next_state()
    assert gripper.width == stopped == server.backend.get_state().width


async def test_a_cancelled_call_does_not_stop_what_another_call_wants_too(loop, gripper, server):
    first, second = (asyncio.ensure_future(gripper.move(0.05, speed=0.05)) for _ in range(2))
    await until(lambda: server.backend.get_state().width < 0.079)
    first.cancel()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first
    assert gripper.width == pytest.approx(0.05) and server.commands == [MOVE]


async def test_a_newer_command_replaces_the_one_that_runs(loop, gripper, server):
    slow = asyncio.ensure_future(gripper.move(0.035, speed=0.01))
    await until(lambda: server.backend.get_state().width < 0.079)
    await gripper.move(0.07)
    with pytest.raises(GripperFailed, match="replaced by a new"):
        await slow
    assert gripper.width == pytest.approx(0.07)


async def test_a_stop_ends_the_calls_that_wait(loop, gripper, server):
    moving = asyncio.ensure_future(gripper.move(0.035, speed=0.01))
    await until(lambda: server.backend.get_state().width < 0.079)
    await gripper.stop()
    with pytest.raises(GripperFailed, match="stopped by"):
        await moving


# The same again and again.


@pytest.mark.parametrize("while_it_runs", [True, False])
async def test_a_grasp_again_and_again_is_one_and_never_lets_go(loop, gripper, server, while_it_runs):
    if not while_it_runs:
        await gripper.grasp(OBJECT, force=25.0)
    for _ in range(5):
        await asyncio.gather(*(gripper.grasp(OBJECT, force=25.0) for _ in range(8)))
    assert gripper.is_grasped and server.commands == [GRASP]


async def test_a_width_again_and_again_is_one_command_and_never_lets_go(loop, gripper, server):
    await stream(gripper, [0.0] * 50)
    await until(lambda: gripper.is_grasped)
    held: list[bool] = []
    for width in 0.003 * np.sin(np.arange(50)) + 0.003:  # A policy is not exact.
        await stream(gripper, [width])
        held.append(server.backend.get_state().is_grasped)
    assert all(held) and server.commands == [GRASP]
    await gripper.grasp(OBJECT)  # With the same force; it is held already.
    assert server.commands == [GRASP]
    gripper.width = 0.06
    await until(lambda: gripper.width == pytest.approx(0.06))
    assert server.commands == [GRASP, MOVE] and not gripper.is_grasped


async def stream(gripper: Gripper, widths: Any) -> None:
    """Set widths at 50 Hz."""
    for width in widths:
        gripper.width = width
        await asyncio.sleep(0.02)


async def test_setting_a_width_never_waits_and_only_the_newest_counts(loop, gripper, server):
    begin = time.monotonic()
    for width in np.linspace(0.079, 0.05, 200):
        gripper.width = np.float32(width)
    assert time.monotonic() - begin < 1.0, "200 of them; moving takes 0.3 s each"
    await until(lambda: gripper.width == pytest.approx(0.05, abs=0.003))
    assert len(server.commands) < 20


# What cannot be done.


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda gripper: gripper.move(math.nan), "not finite"),
        (lambda gripper: gripper.move(0.09), "bad width"),
        (lambda gripper: gripper.move(-0.01), "bad width"),
        (lambda gripper: gripper.move(0.05, speed=-0.1), "bad speed"),
        (lambda gripper: gripper.move(0.05, speed=math.inf), "not finite"),
        (lambda gripper: gripper.grasp(0.03, force=200.0), "bad force"),
        (lambda gripper: gripper.grasp(0.03, epsilon_inner=-0.1), "bad tolerance"),
        (lambda gripper: gripper.grasp("wide"), "wrong type"),
        (lambda gripper: gripper.move([0.03, 0.04]), "wrong type"),
        (lambda gripper: gripper.move(None), "wrong type"),
    ],
)
async def test_what_the_gripper_cannot_do_is_refused_with_a_reason(loop, gripper, server, call, reason):
    with pytest.raises(InvalidTarget) as refused:
        await call(gripper)
    assert refused.value.reason == reason
    assert server.commands == []


@pytest.mark.parametrize(("width", "reason"), [(math.nan, "not finite"), (0.2, "bad width"), ("0.04", "wrong type")])
async def test_a_width_that_cannot_be_is_refused_by_the_assignment(loop, gripper, server, width, reason):
    with pytest.raises(InvalidTarget) as refused:
        gripper.width = width
    assert refused.value.reason == reason
    assert server.commands == []


async def test_a_mistyped_attribute_is_refused(loop, gripper):
    with pytest.raises(AttributeError):
        gripper.widht = 0.04
    with pytest.raises(AttributeError):
        gripper.is_grasped = True


async def test_without_a_gripper_every_use_says_so_and_it_is_used_once_it_is_there(loop, alone):
    gripper = alone.gripper
    for call in (lambda: gripper.move(0.04), gripper.homing, gripper.stop, gripper.next_state):
        with pytest.raises(GripperFailed, match="port 1338 is closed: is a gripper mounted"):
            await asyncio.wait_for(call(), PATIENCE)
    for read in (lambda: gripper.state, lambda: gripper.width, lambda: gripper.is_grasped):
        with pytest.raises(GripperFailed, match="port 1338 is closed"):
            read()
    with pytest.raises(GripperFailed, match="port 1338 is closed"):
        gripper.width = 0.04
    with served(host=alone.host):
        await eventually(lambda: gripper.move(0.06))
        assert gripper.width == pytest.approx(0.06)


async def test_a_gripper_that_is_lost_in_the_middle_ends_the_call_and_is_used_again_when_it_is_back(loop, alone):
    gripper = alone.gripper
    with served(host=alone.host) as server:
        await eventually(lambda: gripper.move(0.08))
        moving = asyncio.ensure_future(gripper.move(0.0, speed=0.005))
        await until(lambda: server.backend.get_state().width < 0.079)
    with pytest.raises(GripperFailed, match=f"lost the gripper at {alone.host}"):
        await asyncio.wait_for(moving, PATIENCE)
    await until(lambda: not readable(gripper))
    with pytest.raises(GripperFailed):
        gripper.width = 0.04
    with served(host=alone.host):
        await eventually(lambda: gripper.move(0.05))
        gripper.width = 0.06
        await until(lambda: gripper.width == pytest.approx(0.06))


async def test_a_gripper_that_was_not_homed_says_so(loop, alone):
    gripper = alone.gripper
    with served(host=alone.host) as server:
        homed = server.backend.get_state
        server.backend.get_state = lambda: GripperStateData(0.0, 0.0, False, 30)  # type: ignore[method-assign]
        await eventually(gripper.next_state)
        assert gripper.max_width == 0.0
        for call in (lambda: gripper.move(0.04), lambda: gripper.grasp(0.04)):
            with pytest.raises(GripperFailed, match="does not know its largest width yet: call homing first"):
                await call()
        with pytest.raises(GripperFailed, match="call homing first"):
            gripper.width = 0.04
        server.backend.get_state = homed  # type: ignore[method-assign]
        await gripper.homing()
        await gripper.move(0.04)


async def test_a_width_that_is_set_before_the_gripper_is_connected_is_sent_then(loop, tmp_path):
    for kind in ("robot", "ros"):
        with served(host=BARE[kind]):
            connection = Connected(kind, BARE[kind], tmp_path / f"{kind}.log")
            await connection.open()
            try:
                connection.gripper.width = 0.03
                connection.gripper.width = 0.05
                await eventually(connection.gripper.next_state)
                await until(lambda: connection.gripper.width == pytest.approx(0.05))  # noqa: B023
            finally:
                await connection.close()
                connection.end()


async def test_a_width_that_is_set_before_it_is_known_that_the_gripper_is_missing_is_logged(loop, alone, caplog):
    with caplog.at_level(logging.WARNING):
        alone.gripper.width = 0.03
        await until(lambda: "a width of the gripper was not reached" in caplog.text)
    assert "port 1338 is closed" in caplog.text


async def test_a_gripper_that_does_not_answer_a_stop_delays_a_cancelled_call_by_a_second(loop, alone):
    with served(host=alone.host, kind=Unruly):
        gripper = alone.gripper
        await eventually(gripper.next_state)
        homing = asyncio.ensure_future(gripper.homing())
        await asyncio.sleep(0.2)  # It is on its way, or begun: both must end.
        homing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(homing, PATIENCE)
        with pytest.raises(GripperFailed, match="did not confirm that it stopped"):
            await gripper.stop()
        with pytest.raises(GripperFailed, match="has it been homed"):
            await gripper.move(0.04)


async def test_before_the_start_and_after_the_stop_nothing_is_done(loop, alone):
    await alone.close()
    for call in (lambda: alone.gripper.move(0.04), alone.gripper.stop, alone.gripper.next_state):
        with pytest.raises(NotStarted, match="start"):
            await call()
    with pytest.raises(NotStarted):
        alone.gripper.width = 0.04
    with pytest.raises(NotStarted):
        _ = alone.gripper.state
    assert "does not run" in repr(alone.gripper)
    await alone.open()


async def test_stopping_ends_calls_and_fingers_but_holds_what_is_held(loop, alone):
    with served(OBJECT, alone.host, Counting) as server:
        gripper = alone.gripper
        await eventually(lambda: gripper.move(0.08))
        moving = asyncio.ensure_future(gripper.move(0.035, speed=0.005))
        await until(lambda: server.backend.get_state().width < 0.079)
        await alone.close()
        with pytest.raises(NotStarted, match="was stopped"):
            await asyncio.wait_for(moving, PATIENCE)
        await until(lambda: server.commands[-1] == STOP)
        width = server.backend.get_state().width
        assert 0.035 < width < 0.08
        await alone.open()
        await eventually(lambda: gripper.grasp(OBJECT))
        await alone.close()
        await alone.open()
        await eventually(gripper.next_state)
        assert gripper.is_grasped and server.commands[-1] == GRASP


# What it must not disturb, or be disturbed by.


async def test_a_blocked_event_loop_delays_neither_the_state_nor_a_command(loop, gripper, server):
    moving = asyncio.ensure_future(gripper.move(0.05, speed=0.1))
    await until(lambda: server.backend.get_state().width < 0.079)
    time.sleep(0.7)
    assert gripper.width == pytest.approx(0.05), "it was not read while the loop was blocked"
    await moving
    assert server.commands == [MOVE]


async def test_a_program_that_never_uses_its_gripper_does_not_connect_to_it(loop):
    """Another one may: a hand has one client at a time."""
    with served(host=BARE["robot"]) as server:
        link = RobotGripper()
        link.open(BARE["robot"])
        other = RobotGripper()
        other.open(BARE["robot"])
        try:
            await Gripper(other).move(0.05)
            assert server.backend.get_state().width == pytest.approx(0.05)
        finally:
            other.close()
            link.close()


async def test_the_settings_of_a_gripper_without_a_node_are_in_force(loop):
    with served(host=BARE["robot"]) as server:
        link = RobotGripper({"default_speed": 0.02})
        link.open(BARE["robot"])
        try:
            await Gripper(link).next_state()
            width, begin = server.backend.get_state().width, time.monotonic()
            await Gripper(link).move(width - 0.02)
            assert time.monotonic() - begin > 0.5  # At the usual speed, it takes 0.2 s.
        finally:
            link.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"default_sped": 0.05}, "did you mean 'default_speed'"),
        ({"robot_ip": "127.0.0.1"}, "there is no setting of the gripper called 'robot_ip'"),
        ({"default_speed": 5.0}, "default_speed is 5"),
    ],
)
def test_settings_of_the_gripper_that_cannot_be_used_are_refused_at_once(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        RobotInterface(gripper=settings)
