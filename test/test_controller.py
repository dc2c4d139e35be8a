"""One suite for both links: an arm that this process owns, and an arm behind a running node."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import random
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from action_msgs.srv import CancelGoal
from common import lose_packets
from lifecycle_msgs.srv import GetState
from std_srvs.srv import Trigger
from test_gripper import GripperProcess

from aiofranka_ros import FrankaController, RobotInterface, RosInterface
from aiofranka_ros.api.ros_client import RosClient, unique_name
from aiofranka_ros.errors import (
    ConfigurationError,
    ConnectionFailed,
    ControlProcessDied,
    ControlStopped,
    FrankaError,
    GripperFailed,
    InvalidTarget,
    MoveFailed,
    NotStarted,
    Overridden,
    PolicyFailed,
)
from aiofranka_ros.model.fr3 import HOME, TORQUE_LIMIT
from aiofranka_ros.model.kinematics import control_frame
from aiofranka_ros.recording.folder import recordings
from aiofranka_ros.recording.reader import read
from aiofranka_ros.simulation import remote
from aiofranka_ros.testing import NodeProcess, descendant

#: Longest that these tests wait for anything [s].
PATIENCE = 40.0
#: A position one second away from HOME.
ELSEWHERE = HOME + np.array([0.4, -0.3, 0.2, -0.4, 0.3, 0.3, -0.5])
#: How long a policy misbehaves [s]; `make bench` has each of these for longer, and more of them.
MISBEHAVIOR = float(os.environ.get("MISBEHAVIOR_SECONDS", "5"))
#: A joint slower than this counts as stopped [rad/s].
REST = 0.02


class Setup:
    """An arm, and the link to it.

    :param kind: ``robot`` or ``ros``.
    :param path: for the node's log.
    """

    def __init__(self, kind: str, path: Path) -> None:
        self.kind = kind
        # A long timeout, because a busy machine may delay the node, and these tests are not about that.
        settings = {"diagnostics_rate": 10.0, "heartbeat_timeout": 1.0, "discovery_time": 0.0}
        self.node = NodeProcess(path / "node.log", **settings) if kind == "ros" else None
        self.link: Any = RosInterface(self.node.name) if self.node else RobotInterface("sim")

    def process(self, name: str) -> int:
        """Process id of a process that the arm's owner started, found by a word of its command line."""
        owner = self.node.process.pid if self.node else os.getpid()
        return descendant(owner, name)

    def push(self, force: list[float], duration: float) -> None:
        """Push the hand of the simulated arm [N] (3,), for so long [s]."""
        words = Path(f"/proc/{self.process('aiofranka_ros.simulation')}/cmdline").read_text().split("\0")
        remote.ask(words[words.index("--host") + 1], "push", force=force, torque=[0.0] * 7, duration=duration)

    def close(self) -> None:
        if self.node is not None:
            self.node.close()


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    # Collecting what other tests left in memory may take seconds.
    gc.collect()
    gc.freeze()
    yield loop
    gc.unfreeze()
    asyncio.set_event_loop(None)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture(scope="module", params=["robot", "ros"])
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    setup = Setup(request.param, tmp_path_factory.mktemp("controller"))
    yield setup
    setup.close()


@pytest.fixture(scope="module")
def running(loop: asyncio.AbstractEventLoop, setup: Setup) -> Iterator[FrankaController]:
    controller = FrankaController(setup.link)
    loop.run_until_complete(controller.start())
    yield controller
    loop.run_until_complete(controller.stop())


@pytest.fixture
def controller(loop: asyncio.AbstractEventLoop, running: FrankaController) -> Iterator[FrankaController]:
    """The module's controller, running at HOME in mode osc with the default settings."""

    async def prepare() -> None:
        await running.start()
        if np.abs(running.state["qpos"] - HOME).max() > 0.02:
            await running.move()
        running.switch("osc")

    loop.run_until_complete(prepare())
    running.error_callback = None
    yield running
    loop.run_until_complete(asyncio.sleep(0))
    left = asyncio.all_tasks(loop)
    for task in left:  # So that only this test fails.
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    assert not left


async def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        await asyncio.sleep(0.01)


def compute_until(stop: threading.Event) -> None:
    while not stop.is_set():
        sum(range(1000))


def speed(controller: FrankaController) -> float:
    return float(np.abs(controller.state["qvel"]).max())


@contextlib.asynccontextmanager
async def other_client(service: Any, name: str) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    """Calls a service of the node as a client that is independent of the controller."""
    other = RosClient(unique_name("other_client"))
    client = other.node.create_client(service, name)
    other.start()
    try:
        assert await other.ready(client.service_is_ready, timeout=PATIENCE)
        yield lambda: other.answer(lambda: client.call_async(service.Request()), PATIENCE)
    finally:
        await other.close()


async def set_again_and_again(controller: FrankaController) -> None:
    while True:
        await controller.set("ee_desired", controller.initial_ee)


async def lifecycle_state(setup: Setup) -> str:
    async with other_client(GetState, f"{setup.node.name}/get_state") as ask:
        return str((await ask()).current_state.label)


async def cycles_lost(controller: FrankaController, during: Any) -> int:
    """Robot cycles lost while ``during`` is awaited."""
    watching = asyncio.ensure_future(controller.test_connection(1.0))
    lost = 0
    work = asyncio.ensure_future(during)
    while not work.done():
        report = await watching
        lost += report.cycles_lost
        watching = asyncio.ensure_future(controller.test_connection(1.0))
    return lost + (await watching).cycles_lost


# Starting and stopping.


async def test_starting_again_changes_nothing(loop, controller):
    before = controller.initial_qpos
    await controller.start()
    assert controller.running
    np.testing.assert_array_equal(controller.initial_qpos, before)
    assert controller.type == "osc"


async def test_after_the_start_the_arm_holds_where_it_is(loop, controller):
    np.testing.assert_allclose(controller.q_desired, controller.state["qpos"], atol=0.01)
    np.testing.assert_allclose(controller.ee_desired, controller.state["ee"], atol=0.01)


# The state.


async def test_the_state_is_complete_and_consistent(loop, controller):
    state = await controller.next_state()
    shapes = {name: np.shape(value) for name, value in state.items()}
    assert shapes == {
        "qpos": (7,), "qvel": (7,), "ee": (4, 4), "jac": (6, 7), "mm": (7, 7), "last_torque": (7,), "stamp": (),
        "limited_targets": (), "approach": (2,),
    }  # fmt: skip
    np.testing.assert_allclose(state["ee"], control_frame(state["qpos"]), atol=1e-6)
    np.testing.assert_allclose(state["mm"], state["mm"].T, atol=1e-9)
    assert np.linalg.eigvalsh(state["mm"]).min() > 0.0
    nudge = np.array([1e-6, 0, 0, 0, 0, 0, 0])
    slope = (control_frame(state["qpos"] + nudge) - control_frame(state["qpos"] - nudge))[:3, 3] / 2e-6
    np.testing.assert_allclose(state["jac"][:3, 0], slope, atol=1e-5)
    assert abs(time.time_ns() - state["stamp"]) < 5e9


async def test_states_are_copies_and_each_one_is_newer_than_the_last(loop, controller):
    first = await controller.next_state()
    first["qpos"][:] = 99.0
    assert np.abs(controller.state["qpos"]).max() < 4.0
    stamps = [first["stamp"]]
    async for state in controller.states():
        stamps.append(state["stamp"])
        if len(stamps) == 6:
            break
    assert (np.diff(stamps) > 0).all()


async def test_robot_data_has_the_names_that_scripts_use(loop, controller):
    data, state = controller.robot.data, controller.robot.state
    np.testing.assert_allclose(data.qpos, state["qpos"], atol=1e-3)
    np.testing.assert_allclose(data.qvel, state["qvel"], atol=0.1)
    np.testing.assert_allclose(data.ctrl, state["last_torque"], atol=1.0)


async def test_the_connection_is_measured_without_printing_anything(loop, controller, capsys):
    report = await controller.test_connection(0.5)
    assert report.cycles > 100 and report.frequency > 100
    assert 0 < report.response_us["p50"] <= report.response_us["p99"] <= report.response_us["max"]
    assert 0.0 <= report.success_rate_min <= 1.0
    assert "control cycles" in str(report)
    assert capsys.readouterr().out == ""


# Moves.


async def test_a_move_arrives_and_reports_its_progress(loop, controller):
    shares: list[float] = []
    await controller.move(ELSEWHERE, progress=shares.append)
    np.testing.assert_allclose(controller.state["qpos"], ELSEWHERE, atol=0.012)
    assert len(shares) > 3 and shares == sorted(shares) and shares[0] < 0.5 and shares[-1] == 1.0
    assert controller.type == "osc", "the mode must not change"
    np.testing.assert_allclose(controller.q_desired, ELSEWHERE, atol=0.012)


async def test_a_move_without_a_goal_goes_home(loop, controller):
    await controller.move(ELSEWHERE)
    await controller.move()
    np.testing.assert_allclose(controller.state["qpos"], HOME, atol=0.012)


@pytest.mark.parametrize(
    ("goal", "reason"),
    [
        (HOME[:6], "shape"),
        ([math.nan] * 7, "not finite"),
        ([*HOME[:6], 3.5], "fr3_joint7"),
        (["a"] * 7, "not an array of numbers"),
    ],
    ids=["six joints", "not a number", "out of limits", "words"],
)
async def test_a_bad_goal_is_refused_and_nothing_moves(loop, controller, goal, reason):
    with pytest.raises(InvalidTarget, match=reason):
        await controller.move(goal)
    await controller.next_state()
    np.testing.assert_allclose(controller.state["qpos"], HOME, atol=0.02)


async def test_cancelling_a_move_stops_the_arm_smoothly_on_its_path(loop, controller):
    moving = asyncio.ensure_future(controller.move(ELSEWHERE))
    await until(lambda: speed(controller) > 0.3)
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving
    assert speed(controller) < REST
    stopped = controller.state["qpos"]
    assert np.abs(stopped - ELSEWHERE).max() > 0.05, "it continued to the goal"
    for _ in range(10):
        await controller.next_state()
    np.testing.assert_allclose(controller.state["qpos"], stopped, atol=0.01)
    await controller.move(ELSEWHERE)


async def test_a_second_move_replaces_the_first(loop, controller):
    first = asyncio.ensure_future(controller.move(ELSEWHERE))
    await until(lambda: speed(controller) > 0.3)
    await controller.move(HOME)
    with pytest.raises(MoveFailed, match="replaced"):
        await first
    np.testing.assert_allclose(controller.state["qpos"], HOME, atol=0.012)


async def test_a_move_that_another_client_cancels_fails(loop, controller, setup):
    if setup.node is None:
        pytest.skip("there are no other clients")
    async with other_client(CancelGoal, f"{setup.node.name}/move/_action/cancel_goal") as cancel:
        moving = asyncio.ensure_future(controller.move(ELSEWHERE))
        await until(lambda: speed(controller) > 0.3)
        await cancel()
        with pytest.raises(MoveFailed, match="cancelled"):
            await moving
    assert speed(controller) < REST


async def test_a_move_that_the_node_refuses_fails_with_its_reason(loop, controller, setup):
    if setup.node is None:
        pytest.skip("nothing refuses a move")
    async with other_client(Trigger, f"{setup.node.name}/hold") as hold:
        await hold()
    try:
        with pytest.raises(MoveFailed, match="the arm is held: a client called ~/hold"):
            await controller.move(ELSEWHERE)
    finally:
        async with other_client(Trigger, f"{setup.node.name}/release") as release:
            await release()


async def test_a_second_client_that_sets_targets_is_told_who_controls_the_arm(loop, controller, setup):
    if setup.node is None:
        pytest.skip("there are no other clients")
    second = FrankaController(RosInterface(setup.node.name))
    await second.start()
    policy = asyncio.ensure_future(set_again_and_again(controller))
    try:
        await until(lambda: controller._paces)  # The policy has set its first target.
        with pytest.raises(
            InvalidTarget, match="aiofranka_client_.* controls the arm until it has been silent"
        ) as told:
            await asyncio.wait_for(set_again_and_again(second), PATIENCE)
        assert told.value.reason == "another publisher"
    finally:
        policy.cancel()
        await asyncio.gather(policy, return_exceptions=True)
        await second.stop()


async def test_a_policy_that_a_person_overrides_is_told_and_continues_when_it_is_handed_back(loop, controller, setup):
    if setup.node is None:
        pytest.skip("there are no other clients")
    await setup_priority(controller, ["/teleop"])
    teleop = FrankaController(RosInterface(setup.node.name, client="teleop"))
    await teleop.start()
    policy = asyncio.ensure_future(set_again_and_again(controller))
    try:
        await until(lambda: controller._paces)  # The policy has set its first target.
        person = asyncio.ensure_future(set_again_and_again(teleop))
        with pytest.raises(Overridden, match="is overridden: /teleop on .*ee_desired.*handed_back") as told:
            await asyncio.wait_for(policy, PATIENCE)
        assert (told.value.owner, told.value.reason) == ("/teleop", "overridden")
        for _ in range(3):
            with pytest.raises(Overridden):
                await controller.set("ee_desired", controller.ee_desired)
        with pytest.raises(Overridden, match="a chunk.*handed_back") as chunk:
            await controller.follow(np.tile(controller.state["ee"], (5, 1, 1)), dt=0.1, kind="ee")
        assert chunk.value.owner == "/teleop"
        back = asyncio.ensure_future(controller.handed_back())
        await asyncio.sleep(0.2)
        assert not back.done()
        person.cancel()
        await asyncio.gather(person, return_exceptions=True)
        await asyncio.wait_for(back, PATIENCE)
        np.testing.assert_allclose(controller.ee_desired, controller.state["ee"], atol=5e-3)
        for _ in range(50):
            assert await controller.set("ee_desired", controller.ee_desired) == ()
    finally:
        policy.cancel()
        await asyncio.gather(policy, return_exceptions=True)
        await teleop.stop()
        await setup_priority(controller, [])


async def test_a_policy_is_told_about_a_hold_and_continues_after_the_release(loop, controller, setup):
    if setup.node is None:
        pytest.skip("there are no other clients")
    async with other_client(Trigger, f"{setup.node.name}/hold") as hold:
        await hold()
    async with other_client(Trigger, f"{setup.node.name}/release") as release:
        try:
            with pytest.raises(Overridden) as told:
                await asyncio.wait_for(set_again_and_again(controller), PATIENCE)
            assert (told.value.owner, told.value.reason) == ("~/hold", "held")
        finally:
            await release()
    await asyncio.wait_for(controller.handed_back(), PATIENCE)
    for _ in range(20):
        await controller.set("ee_desired", controller.ee_desired)


async def setup_priority(controller: FrankaController, names: list[str]) -> None:
    """Set ``priority_clients`` of the node."""
    controller.robot.apply({"priority_clients": names})
    await controller.robot.settled()


async def test_a_target_says_which_limits_it_met(loop, controller):
    target = controller.ee_desired.copy()
    assert await controller.set("ee_desired", target) == ()
    target[:3, :3] = target[:3, :3] @ np.diag([-1.0, 1.0, -1.0])  # Turned by half a turn.
    met: set[str] = set()
    deadline = time.monotonic() + PATIENCE
    while not met and time.monotonic() < deadline:
        met.update(await controller.set("ee_desired", target))
    controller.switch("osc")
    assert met == {"max_angular_step"}


async def test_targets_that_begin_far_away_and_must_not_are_refused_by_the_call(loop, controller):
    target = controller.ee_desired.copy()
    target[1, 3] += 0.2
    controller.robot.apply({"approach_far_streams": False})
    try:
        deadline = time.monotonic() + PATIENCE
        with pytest.raises(InvalidTarget) as told:
            while time.monotonic() < deadline:
                await controller.set("ee_desired", target)
        assert told.value.reason == "begins far away"
        await controller.set("ee_desired", controller.state["ee"])
    finally:
        controller.robot.apply({"approach_far_streams": True})
        await controller.robot.settled()


async def test_a_move_is_not_disturbed_by_repeated_requests_for_its_result(loop, controller, monkeypatch):
    monkeypatch.setattr("aiofranka_ros.api.ros_goals._RESULT_PERIOD", 0.1)
    await controller.move(ELSEWHERE)
    np.testing.assert_allclose(controller.state["qpos"], ELSEWHERE, atol=0.012)


async def test_targets_are_refused_during_a_move(loop, controller):
    moving = asyncio.ensure_future(controller.move(ELSEWHERE))
    await until(lambda: speed(controller) > 0.1)
    with pytest.raises(InvalidTarget, match="during a move"):
        await controller.set("ee_desired", controller.initial_ee)
    await moving


# The gripper.


@contextlib.asynccontextmanager
async def gripper_of(controller: FrankaController, setup: Setup, path: Path) -> AsyncIterator[Any]:
    """The arm's gripper, connected; with its node, if the arm has one."""
    node = GripperProcess(path / "gripper.log", setup.node.namespace) if setup.node else None
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                await controller.gripper.next_state()
                break
            except GripperFailed:  # Its node does not run yet, or does not know the arm's address.
                assert time.monotonic() < deadline
        yield controller.gripper
    finally:
        if node is not None:
            node.close()


async def test_the_gripper_of_the_arm_is_driven_next_to_it(loop, controller, setup, tmp_path):
    async with gripper_of(controller, setup, tmp_path) as gripper:
        await asyncio.gather(controller.move(ELSEWHERE), gripper.move(0.05))
        assert gripper.width == pytest.approx(0.05)
        assert abs((await gripper.next_state())["stamp"] - controller.state["stamp"]) < 5e8
        await gripper.homing()

        async def set_widths() -> None:
            for width in np.linspace(0.08, 0.02, 100):
                gripper.width = width
                await asyncio.sleep(0.02)

        assert await cycles_lost(controller, set_widths()) == 0
        await until(lambda: gripper.width == pytest.approx(0.02, abs=0.003))


async def test_the_gripper_follows_the_widths_of_a_chunk(loop, controller, setup, tmp_path):
    async with gripper_of(controller, setup, tmp_path) as gripper:
        await gripper.move(0.08)
        controller.switch("impedance")
        rows = np.tile(controller.initial_qpos, (10, 1))
        with pytest.raises((InvalidTarget, GripperFailed)):
            await controller.follow(rows, dt=0.1, gripper=[math.nan] * 10)
        ticket = await controller.follow(rows, dt=0.1, gripper=[0.07] * 5 + [0.04] * 5)
        await asyncio.wait_for(ticket.done, PATIENCE)
        await until(lambda: gripper.width == pytest.approx(0.04))
        await controller.follow(rows, dt=0.1, gripper=[0.05] + [0.01] * 9)
        controller.stop_following()
        await gripper.move(0.06)
        for _ in range(40):  # For longer than until the next width would have been due.
            await controller.next_state()
        assert gripper.width == pytest.approx(0.06)


async def test_the_gripper_works_while_the_arm_does_not_run(loop, controller, setup, tmp_path):
    async with gripper_of(controller, setup, tmp_path) as gripper:
        await gripper.move(0.08)
        moving = asyncio.ensure_future(gripper.move(0.03, speed=0.03))
        lose_packets(setup.process("aiofranka_ros.control.process"))
        with pytest.raises(ControlStopped):
            async for _ in controller.states():
                pass
        await moving
        assert gripper.width == pytest.approx(0.03)
        await gripper.move(0.06)
    await controller.recover()


# Modes and targets.


async def test_switching_keeps_the_arm_where_it_is_and_resets_all_targets(loop, controller):
    target = controller.initial_ee.copy()
    target[1, 3] += 0.05
    controller.ee_desired = target
    await until(lambda: abs(controller.state["ee"][1, 3] - target[1, 3]) < 0.02 and speed(controller) < REST)
    for mode in ("impedance", "pid", "osc", "torque", "osc"):
        controller.switch(mode)
        assert controller.type == mode
        where = controller.initial_qpos
        np.testing.assert_allclose(controller.q_desired, where)
        np.testing.assert_allclose(controller.ee_desired, controller.initial_ee)
        for _ in range(20):
            await controller.next_state()
        np.testing.assert_allclose(controller.state["qpos"], where, atol=0.03)


@pytest.mark.parametrize(("mode", "name"), [("osc", "ee_velocity"), ("impedance", "dq_desired"), ("pid", "dq_desired")])
async def test_velocities_move_the_arm_until_they_time_out(loop, controller, mode, name):
    controller.switch(mode)
    where = controller.initial_ee
    controller.set_freq(50)
    velocity = np.array([0.0, 0.1, 0.0, 0.0, 0.0, 0.0]) if mode == "osc" else np.array([0.2, *np.zeros(6)])
    await set_for(controller, 1.0, name, velocity)
    assert speed(controller) > 0.05
    np.testing.assert_array_equal(getattr(controller, name), velocity)
    await until(lambda: speed(controller) < REST)
    assert controller.state["ee"][1, 3] > where[1, 3] + 0.03
    stopped = controller.state["qpos"]
    for _ in range(50):
        await controller.next_state()
    np.testing.assert_allclose(controller.state["qpos"], stopped, atol=5e-3)
    with pytest.raises(InvalidTarget, match="shape"):
        setattr(controller, name, np.zeros(5))
    with pytest.raises(InvalidTarget, match="not finite"):
        setattr(controller, name, np.full(len(velocity), np.nan))
    controller.switch("torque")
    with pytest.raises(InvalidTarget, match="not a target of mode torque"):
        await controller.set(name, velocity)


async def set_for(controller: FrankaController, seconds: float, name: str, value: np.ndarray) -> None:
    for _ in range(int(50 * seconds)):
        await controller.set(name, value)


async def test_a_target_that_waits_for_a_setting_is_not_sent_after_a_switch(loop, controller):
    controller.switch("impedance")
    await controller.robot.settled()
    before = controller.kp
    controller.kp = before * 0.9
    controller.q_desired = controller.initial_qpos + 0.2
    controller.switch("pid")
    await controller.set("kp", before)
    for _ in range(20):
        await controller.next_state()
    np.testing.assert_allclose(controller.state["qpos"], controller.initial_qpos, atol=0.03)


@pytest.mark.parametrize("mode", ["impedance", "pid"])
async def test_joint_targets_move_the_arm(loop, controller, mode):
    controller.switch(mode)
    target = controller.initial_qpos.copy()
    target[0] += 0.1
    await controller.set("q_desired", target)
    await until(lambda: abs(controller.state["qpos"][0] - target[0]) < 0.01)
    np.testing.assert_array_equal(controller.q_desired, target)


async def test_a_recording_has_every_cycle_once_while_the_event_loop_is_blocked_and_threads_compute(
    loop, controller, tmp_path
):
    """`make bench-recording` does so for a minute."""
    stop = threading.Event()
    threads = [threading.Thread(target=compute_until, args=(stop,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        with controller.record(path=tmp_path / "run.npz") as recording:
            begin = time.monotonic()
            while time.monotonic() < begin + 3.0:
                time.sleep(0.3)
                await asyncio.sleep(0.3)
            elapsed = time.monotonic() - begin
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    rows = recording.data()
    np.testing.assert_array_equal(np.diff(rows["cycle"]), 1)
    assert recording.dropped == 0
    assert len(rows["time"]) >= 0.95e3 * elapsed, "as many as the robot's cycles, which may be slower than the clock's"
    steps = np.round(1e3 * np.diff(rows["time"]))
    assert (steps >= 1).all() and abs(rows["wall_time"][0] - time.time()) < 60.0
    np.testing.assert_allclose(rows["tcp"][-1], controller.state["ee"], atol=1e-3)
    with np.load(tmp_path / "run.npz") as saved:
        np.testing.assert_array_equal(saved["tau"], rows["tau"])


async def test_a_recording_of_a_loop_that_ends_with_an_error_is_saved(loop, controller, setup, tmp_path):
    with pytest.raises(FrankaError):
        with controller.record(["time", "q"], tmp_path / "end.npz"):
            os.kill(setup.process("aiofranka_ros.control.process"), signal.SIGKILL)
            while True:
                await controller.next_state()
    with np.load(tmp_path / "end.npz") as saved:
        assert len(saved["time"]) > 0 and saved["q"].shape[1] == 7


async def test_figures_of_the_control_loop_count_from_the_activation(loop, controller):
    await until(lambda: controller.loop_stats()["count"] > 1000)
    before = controller.loop_stats()
    await until(lambda: controller.loop_stats()["count"] > before["count"])
    stats = controller.loop_stats()
    assert 0.0 < stats["busy_mean"] < stats["busy_max"]
    assert stats["lost"] >= stats["longest_gap"] >= 0 and 0.0 <= stats["success_min"] <= 1.0


async def test_in_mode_free_the_arm_yields_to_a_hand_along_free_axes_and_refuses_targets(loop, controller, setup):
    controller.switch("free")
    await controller.set("free_axes", ["x", "y", "z"])
    assert controller.free_axes == ("x", "y", "z")
    before = controller.state["ee"]
    with pytest.raises(InvalidTarget, match=r"not a target of mode free: controller.switch\('osc'\) first"):
        controller.ee_desired = before
    await asyncio.to_thread(setup.push, [0.0, 12.0, 0.0], 1.0)
    await until(lambda: abs(controller.state["ee"][1, 3] - before[1, 3]) > 0.03)
    await until(lambda: speed(controller) < REST)
    np.testing.assert_allclose(controller.state["ee"][:3, :3], before[:3, :3], atol=0.1)
    await controller.move()
    assert controller.type == "free" and np.abs(controller.state["qpos"] - HOME).max() < 0.02


async def test_pose_targets_move_the_arm(loop, controller):
    target = controller.initial_ee.copy()
    target[1, 3] += 0.05
    await controller.set("ee_desired", target)
    await until(lambda: np.abs(controller.state["ee"][:3, 3] - target[:3, 3]).max() < 0.005)


async def test_the_first_target_after_a_switch_is_approached_slowly_if_it_is_far_away(loop, controller, caplog):
    """Also after a switch to the present mode."""
    with caplog.at_level(logging.WARNING):
        for mode in ("osc", "osc"):
            controller.switch(mode)
            target = controller.initial_ee.copy()
            target[1, 3] += 0.08
            fastest, left = 0.0, []
            while np.abs(controller.state["ee"][:3, 3] - target[:3, 3]).max() > 0.005:
                await controller.set("ee_desired", target)
                state = await controller.next_state()
                fastest = max(fastest, float(np.linalg.norm((state["jac"] @ state["qvel"])[:3])))
                left.append(float(state["approach"][0]))
            assert fastest < 0.12
            assert max(left) == pytest.approx(0.08, abs=0.01)
            await until(lambda: controller.state["approach"].max() == 0.0)
    warnings = [record.getMessage() for record in caplog.records if "approaches it slowly" in record.getMessage()]
    assert len(warnings) == 2 and "0.08 m away" in warnings[0]


async def test_the_log_says_if_a_target_far_away_is_refused(loop, controller, caplog):
    settings = {"approach_far_streams": False}
    controller.robot.apply(settings)
    try:
        controller.switch("impedance")
        await controller.robot.settled()
        where = controller.initial_qpos
        with caplog.at_level(logging.WARNING):
            controller.q_desired = where + 0.2
            await until(lambda: "the target is 0.20 rad away and refused" in caplog.text)
        await controller.set("q_desired", where + 0.03)
        await until(lambda: np.abs(controller.state["qpos"] - where - 0.03).max() < 0.01)
    finally:
        controller.robot.apply({"approach_far_streams": True})
        await controller.robot.settled()


async def test_torques_move_the_arm_and_it_holds_when_they_end(loop, controller):
    controller.switch("torque")
    controller.set_freq(100)
    torque = np.array([4.0, 0, 0, 0, 0, 0, 0])
    before = controller.state["qpos"][0]
    deadline = time.monotonic() + PATIENCE
    while controller.state["qpos"][0] < before + 0.05:
        assert time.monotonic() < deadline
        await controller.set("torque", torque)
    np.testing.assert_array_equal(controller.torque, torque)
    await until(lambda: speed(controller) < REST)
    controller.set_freq(50)


@pytest.mark.parametrize(("mode", "target"), [("osc", "q_desired"), ("impedance", "ee_desired"), ("pid", "torque")])
async def test_a_target_of_another_mode_is_refused_with_a_remedy(loop, controller, mode, target):
    controller.switch(mode)
    value = np.eye(4) if target == "ee_desired" else np.zeros(7)
    with pytest.raises(InvalidTarget, match=r"controller\.switch\('"):
        await controller.set(target, value)


BAD_TARGETS = {
    "ee_desired": [
        (np.eye(3), "shape"),
        (np.full((4, 4), np.nan), "not finite"),
        (np.diag([1.0, 1.0, -1.0, 1.0]), "right-handed"),
        (np.zeros((4, 4)), "not a pose"),
        ("forward", "not an array of numbers"),
    ],
    "q_desired": [(np.zeros(6), "shape"), ([math.inf] * 7, "not finite")],
    "torque": [(1.0, "shape"), ([math.nan] * 7, "not finite")],
}


@pytest.mark.parametrize(("target", "mode"), [("ee_desired", "osc"), ("q_desired", "impedance"), ("torque", "torque")])
async def test_a_bad_target_is_refused_and_the_previous_one_stays(loop, controller, target, mode):
    controller.switch(mode)
    before = getattr(controller, target)
    for value, reason in BAD_TARGETS[target]:
        with pytest.raises(InvalidTarget, match=reason):
            await controller.set(target, value)
    np.testing.assert_array_equal(getattr(controller, target), before)


async def test_setting_an_unknown_attribute_names_the_known_ones(loop, controller):
    with pytest.raises(AttributeError, match="ee_desired"):
        await controller.set("ee_target", np.eye(4))
    with pytest.raises(AttributeError, match="ee_kp"):
        controller.ee_kP = np.ones(6)
    with pytest.raises(ConfigurationError, match="one of osc, impedance, pid, torque"):
        controller.switch("cartesian")
    with pytest.raises(ConfigurationError, match="positive"):
        controller.set_freq(0)


# Settings.


async def test_gains_change_while_the_arm_holds_and_are_assigned_as_a_whole(loop, controller):
    before = controller.state["qpos"]
    softer = controller.ee_kp * 0.5
    controller.ee_kp = softer
    await controller.set("ee_kd", 2.0 * np.sqrt(softer))
    with pytest.raises(ValueError, match="read-only"):
        controller.ee_kp[0] = 99.0
    np.testing.assert_array_equal(controller.ee_kp, softer)
    controller.null_kp = np.full(7, 5.0)
    controller.torque_diff_limit = 900.0
    await controller.robot.settled()
    await controller.next_state()
    np.testing.assert_allclose(controller.state["qpos"], before, atol=0.02)
    assert controller.torque_diff_limit == 900.0
    controller.ee_kp, controller.ee_kd, controller.torque_diff_limit = 2 * softer, np.sqrt(8.0 * softer), 990.0


async def test_of_many_changes_at_once_the_last_ones_take_effect(loop, controller, setup):
    before = controller.kp
    for harder in np.linspace(0.5, 1.0, 100):  # DDS keeps only ten requests for a busy node.
        controller.kp = harder * before
        controller.switch("impedance")
        controller.null_kp = np.full(7, 10.0 * harder)
        controller.switch("osc")
    await asyncio.wait_for(controller.robot.settled(), PATIENCE)
    seen = FrankaController(RosInterface(setup.node.name)) if setup.node else controller
    await seen.start()
    try:
        assert seen.type == "osc"
        np.testing.assert_array_equal(seen.kp, before)
        np.testing.assert_array_equal(seen.null_kp, np.full(7, 10.0))
    finally:
        if seen is not controller:
            await seen.stop()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("kp", np.zeros(6), "6 values"),
        ("kd", -np.ones(7), "is -1"),
        ("ee_kp", [math.nan] * 6, "nan"),
        ("torque_limit", 2.0 * TORQUE_LIMIT, "is 174"),
        ("torque_diff_limit", 2000.0, "is 2000"),
        ("clip", False, "always limited"),
    ],
)
async def test_a_bad_setting_is_refused_and_the_previous_one_stays(loop, controller, name, value, reason):
    before = getattr(controller, name)
    with pytest.raises(ConfigurationError, match=reason):
        setattr(controller, name, value)
    np.testing.assert_array_equal(getattr(controller, name), before)


async def test_a_new_control_frame_moves_the_target_but_not_the_arm(loop, controller):
    before = controller.state["qpos"]
    flange = controller.state["ee"]
    controller.set_tcp([0.0, 0.0, 0.1])
    tip = flange[:3, 3] + 0.1 * flange[:3, 2]
    np.testing.assert_allclose(controller.ee_desired[:3, 3], tip, atol=0.01)
    await until(lambda: np.abs(controller.state["ee"][:3, 3] - tip).max() < 0.01)
    np.testing.assert_allclose(controller.state["qpos"], before, atol=0.02)
    with pytest.raises(ConfigurationError, match="not a pose"):
        controller.set_tcp(np.zeros((4, 4)))
    controller.set_tcp(np.eye(4))


# Policies that misbehave.


async def blocking(seconds: float) -> None:
    """Block the event loop for 300 ms of every second."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.3)
        await asyncio.sleep(0.7)


async def spinning(seconds: float) -> None:
    """Keep four threads of this interpreter busy."""
    done = threading.Event()

    def spin() -> None:
        while not done.is_set():
            pass

    threads = [threading.Thread(target=spin) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        await asyncio.sleep(seconds)
    finally:
        done.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("misbehaving", [blocking, spinning])
async def test_no_cycle_is_lost_while_the_policy_blocks_its_interpreter(loop, controller, misbehaving):
    assert await cycles_lost(controller, misbehaving(MISBEHAVIOR)) == 0
    assert controller.running


async def test_a_blocked_event_loop_is_reported_with_the_line_that_blocks_it(loop, controller, caplog):
    # The guard starts with its first beat after the pause between two tests; it beats twice per threshold.
    await asyncio.sleep(controller.guard.threshold)
    with caplog.at_level(logging.WARNING):
        time.sleep(0.2)
        await controller.next_state()
        await until(lambda: "time.sleep(0.2)" in caplog.text)
    assert "blocked" in caplog.text


# Failures.


async def test_a_reflex_is_raised_in_every_call_until_recovery(loop, controller, setup):
    messages: list[str] = []
    controller.error_callback = messages.append
    controller.set_freq(0.01)
    control_process = setup.process("aiofranka_ros.control.process")
    waiting = [
        asyncio.ensure_future(call)
        for call in (controller.move(ELSEWHERE), controller.set("kp", controller.kp), controller.test_connection(60.0))
    ]
    await until(lambda: speed(controller) > 0.1)
    lose_packets(control_process)
    for call in waiting:
        with pytest.raises(ControlStopped) as caught:
            await call
        assert caught.value.errors == ("communication_constraints_violation",)
    assert not controller.running
    with pytest.raises(ControlStopped):
        await controller.next_state()
    with pytest.raises(ControlStopped):
        controller.ee_desired = np.eye(4)
    assert len(messages) == 1 and "communication_constraints_violation" in messages[0]

    await controller.recover()
    controller.set_freq(50)
    held = controller.initial_qpos
    for _ in range(20):
        await controller.next_state()
    np.testing.assert_allclose(controller.state["qpos"], held, atol=0.02)
    await controller.move()


async def test_what_happened_can_be_saved_at_any_time_and_a_stop_saves_it_by_itself(loop, controller, setup):
    await controller.move(ELSEWHERE)
    asked = await controller.save_recording()
    recording = read(asked)
    assert recording.summary["trigger"] == "asked" and len(recording.cycles) > 500
    assert any(event["kind"] == "request" and "move" in event["message"] for event in recording.events)
    controller.switch("impedance")
    for _ in range(5):
        await controller.set("q_desired", ELSEWHERE)
    lose_packets(setup.process("control.process"))
    with pytest.raises(ControlStopped):
        await asyncio.wait_for(forever(controller), PATIENCE)
    # Either the one that the stop has caused, or one that also has what it says.
    after = read(await controller.save_recording())
    assert "communication_constraints_violation" in errors_in(asked.parent, after.summary["stamp"])
    assert [target["topic"] for target in after.targets[-5:]] == ["q_desired"] * 5
    await controller.recover()


async def forever(controller: FrankaController) -> None:
    while True:
        await controller.next_state()


def errors_in(folder: Path, until: int) -> str:
    """The errors of all recordings up to a time [ns, system clock]."""
    found = [read(path).summary for path in recordings(folder)]
    return " ".join(name for summary in found if summary["stamp"] <= until for name in summary["errors"])


async def test_a_killed_control_process_is_an_error_and_starting_again_works(loop, controller, setup):
    waiting = asyncio.ensure_future(controller.test_connection(60.0))
    await asyncio.sleep(0)
    os.kill(setup.process("aiofranka_ros.control.process"), signal.SIGKILL)
    with pytest.raises(ControlProcessDied, match="signal 9"):
        await waiting
    await controller.start()
    assert controller.running


async def test_a_lost_arm_is_an_error_and_starting_again_works(loop, controller, setup):
    os.kill(setup.process("aiofranka_ros.simulation"), signal.SIGKILL)
    with pytest.raises(FrankaError):
        async for _ in controller.states():
            pass
    await controller.recover()
    assert controller.running


async def test_stopping_ends_waiting_calls_and_starting_again_works(loop, controller):
    waiting = [asyncio.ensure_future(controller.move(ELSEWHERE)), asyncio.ensure_future(controller.test_connection(60))]
    await until(lambda: speed(controller) > 0.1)
    await controller.stop()
    await controller.stop()
    for call in waiting:
        with pytest.raises((NotStarted, MoveFailed)):
            await call
    for call in (controller.next_state(), controller.move(), controller.set("kp", controller.kp)):
        with pytest.raises(NotStarted, match="start"):
            await call
    with pytest.raises(NotStarted, match="start"):
        controller.ee_desired = np.eye(4)
    async with controller as same:
        assert same.running
    assert not controller.running


async def test_calls_raise_what_ended_them_and_none_is_possible_after_the_end(loop, setup):
    if setup.node is None:
        pytest.skip("this link has no node")
    other = RosClient(unique_name("other_client"))
    client = other.node.create_client(GetState, f"{setup.node.name}/get_state")
    other.start()

    def ask() -> asyncio.Future[Any]:
        return asyncio.ensure_future(other.answer(lambda: client.call_async(GetState.Request()), PATIENCE))

    try:
        assert await other.ready(client.service_is_ready, timeout=PATIENCE)
        abandoned = ask()
        await asyncio.sleep(0)
        other.abandon(MoveFailed("only for waiting calls"))
        with pytest.raises(MoveFailed, match="only for waiting calls"):
            await abandoned
        assert (await ask()).current_state.label
        closed = ask()
        await asyncio.sleep(0)
    finally:
        await other.close()
    for call in (closed, ask()):
        with pytest.raises(NotStarted, match="was stopped"):
            await call


async def test_a_node_is_not_lost_because_this_program_has_no_time_to_hear_it(loop, controller, setup):
    if setup.node is None:
        pytest.skip("this link has no node")
    link, released = controller.robot, threading.Event()
    link._live._executor.create_task(lambda: released.wait(PATIENCE))  # As if others kept its thread waiting.
    while controller.running and time.monotonic() - link._heard < 2.0:
        await asyncio.sleep(0.05)
    released.set()
    while controller.running and time.monotonic() - link._heard > 0.5:
        await asyncio.sleep(0.05)
    assert controller.running


async def test_a_lost_node_that_is_back_is_deactivated_at_the_stop(loop, controller, setup, monkeypatch):
    if setup.node is None:
        pytest.skip("this link has no node")
    with monkeypatch.context() as patch:
        patch.setattr("aiofranka_ros.api.ros_interface._SILENCE_TIMEOUT", 0.0)
        with pytest.raises(ConnectionFailed, match="nothing was heard"):
            async for _ in controller.states():
                pass
    await controller.stop()
    assert await lifecycle_state(setup) == "inactive"


async def test_a_start_that_fails_late_leaves_no_arm_active(loop, controller, setup, monkeypatch):
    if setup.node is None:
        pytest.skip("this link reads no messages")
    await controller.stop()
    with monkeypatch.context() as patch:
        patch.setattr("aiofranka_ros.api.ros_interface._STATE_TIMEOUT", 0.5)
        patch.setattr("aiofranka_ros.ros.messages._SNAPSHOT_ENDS", (1,))  # As in another version.
        with pytest.raises(ConnectionFailed, match="does not publish its state"):
            await controller.start()
    assert await lifecycle_state(setup) == "inactive"


# Cancellation.


async def test_cancelling_a_start_undoes_it(loop, controller):
    await controller.stop()
    for delay in (0.0, 0.02, 0.5, 2.0):
        starting = asyncio.ensure_future(controller.start())
        await asyncio.sleep(delay)
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        assert controller.running == (not starting.cancelled())
        await controller.stop()
    await controller.start()


async def test_cancelling_any_call_at_any_moment_leaves_the_controller_usable(loop, controller):
    dice = random.Random(1)
    controller.set_freq(200)
    near = HOME + np.array([0.05, 0, 0, 0, 0, 0, 0.05])
    target = controller.initial_ee.copy()
    calls: list[tuple[int, Callable[[], Any]]] = [
        (250, lambda: controller.set("ee_desired", target)),
        (100, lambda: controller.set("ee_kp", controller.ee_kp)),
        (100, controller.next_state),
        (30, lambda: controller.test_connection(0.01)),
        (20, lambda: controller.move(dice.choice([HOME, near]))),
    ]
    order = [call for count, call in calls for _ in range(count)]
    dice.shuffle(order)
    assert len(order) == 500, "500 calls for each of the two links"
    cancelled = 0
    for call in order:
        task = asyncio.ensure_future(call())
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(dice.choice((0.0, 0.002)))
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            cancelled += 1
    assert cancelled > 250, "most calls ended before they could be cancelled"
    controller.set_freq(50)
    await controller.set("ee_desired", target)
    await controller.move()
    assert controller.running


async def test_a_policy_that_plans_in_chunks_drives_the_arm_which_holds_when_it_fails(loop, controller):
    begin, failed = controller.state["qpos"][0], []

    async def infer(observation: dict[str, Any], prefix: np.ndarray, delay: int) -> np.ndarray:
        if observation["qpos"][0] > begin + 0.05:
            failed.append(observation["qpos"][0])
            raise ZeroDivisionError("in the model")
        await asyncio.sleep(0.05)
        here = prefix[0] if len(prefix) else observation["qpos"]
        return here + 0.1 / 30.0 * np.arange(30)[:, None] * np.eye(7)[0]  # 0.1 rad/s for 1 s

    controller.switch("impedance")
    async with controller.policy(infer, dt=1 / 30, horizon=30, overlap=0.8) as run:
        with pytest.raises(PolicyFailed, match="infer raised ZeroDivisionError: in the model"):
            await asyncio.wait_for(run.until(), PATIENCE)
    await until(lambda: speed(controller) < REST)
    assert run.report().chunks > 1 and not run.report().refused
    # It stops at once, rather than at the end of its chunk, some 0.08 rad further.
    assert controller.state["qpos"][0] < failed[0] + 0.04
