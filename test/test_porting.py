"""What docs/from_aiofranka.md says about this package is true, as far as a simulated arm can show it."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import aiofranka_ros
from aiofranka_ros import CudaInferenceThread, FrankaController, RobotInterface, asyncify, errors, mpify


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture(scope="module")
def started(loop: asyncio.AbstractEventLoop) -> Iterator[tuple[FrankaController, np.ndarray]]:
    """A controller of a simulated arm in mode impedance, as a script for aiofranka expects it, and where it started."""
    controller = FrankaController(RobotInterface(None, mode="impedance"))
    loop.run_until_complete(controller.start())
    yield controller, controller.initial_qpos
    loop.run_until_complete(controller.stop())


@pytest.fixture
def controller(loop: asyncio.AbstractEventLoop, started: tuple[FrankaController, np.ndarray]) -> FrankaController:
    """The module's controller, where it started and as it was then."""
    controller, origin = started
    loop.run_until_complete(controller.move(origin))
    controller.set_freq(50)
    controller.switch("impedance")
    return controller


def speed(controller: FrankaController) -> float:
    """Speed of the fastest joint [rad/s]."""
    return float(np.abs(controller.state["qvel"]).max())


async def test_before_the_start_nothing_is_known_but_the_defaults(loop: Any) -> None:
    controller = FrankaController(RobotInterface(None, mode="impedance"))
    assert controller.type == "impedance" and FrankaController(RobotInterface(None)).type == "osc"
    with pytest.raises(errors.NotStarted):
        _ = controller.state
    with pytest.raises(errors.NotStarted):
        await controller.set("q_desired", np.zeros(7))
    with pytest.raises(errors.NotStarted):
        await CudaInferenceThread().run(speed, controller)
    assert [(gain.max(), gain.min()) for gain in (controller.kp, controller.kd, controller.ki)] == [
        (600, 150),
        (50, 10),
        (50, 5),
    ]
    assert set(controller.ee_kp) == {400.0, 1000.0} and (controller.null_kp == 10.0).all()
    np.testing.assert_allclose(controller.ee_kd, 2.0 * np.sqrt(controller.ee_kp), atol=0.1)
    assert max(controller.robot.settings["collision_torque_thresholds"]) == 20.0


async def test_attributes_are_read_only_copies_and_wrong_ones_raise(loop: Any, controller: FrankaController) -> None:
    assert await controller.start() is None
    assert controller.running
    state = controller.state
    more = {"limited_targets", "approach"}
    assert set(state) == {"qpos", "qvel", "ee", "jac", "mm", "last_torque", "stamp"} | more
    assert state is not controller.state
    for array in (controller.q_desired, controller.kp):
        with pytest.raises(ValueError, match="read-only"):
            array.fill(0.0)
    np.testing.assert_array_equal(controller.q_desired, controller.initial_qpos)
    assert not controller.torque.any() and not hasattr(controller.robot.data, "qacc")
    with pytest.raises(AttributeError):
        await controller.set("no_such_attribute", 1.0)
    with pytest.raises(AttributeError):
        controller.ee_kP = np.ones(6)
    with pytest.raises(AttributeError):
        controller.initial_qpos = np.zeros(7)
    with pytest.raises(errors.ConfigurationError):
        await controller.set("clip", False)
    with pytest.raises(errors.InvalidTarget):
        await controller.set("ee_desired", controller.initial_ee)


async def test_the_arm_overshoots_a_stream_that_ends_in_motion_and_comes_back_if_the_target_is_repeated(
    loop: Any, controller: FrankaController
) -> None:
    controller.set_freq(50)
    target = controller.initial_qpos.copy()
    for _ in range(50):
        target[0] += 0.002
        await controller.set("q_desired", target)
    await asyncio.sleep(0.6)
    assert controller.state["qpos"][0] > target[0] + 0.01
    for _ in range(50):
        await controller.set("q_desired", target)
    await asyncio.sleep(0.5)
    assert abs(controller.state["qpos"][0] - target[0]) < 0.005


async def test_a_move_keeps_the_mode_and_refuses_targets_while_it_runs(loop: Any, controller: FrankaController) -> None:
    controller.switch("osc")
    goal = controller.initial_qpos + 0.2
    moving = asyncio.ensure_future(controller.move(goal))
    while speed(controller) < 0.1:
        await controller.next_state()
    with pytest.raises(errors.InvalidTarget):
        await controller.set("ee_desired", controller.initial_ee)
    await moving
    assert controller.type == "osc"
    assert np.abs(controller.state["qpos"] - goal).max() < 0.015


async def test_an_identity_transform_selects_the_flange(loop: Any, controller: FrankaController) -> None:
    controller.switch("osc")
    controller.set_tcp([0.0, 0.0, 0.1])
    fingers = controller.initial_ee
    controller.set_tcp(np.eye(4))
    assert abs(np.linalg.norm(controller.initial_ee[:3, 3] - fingers[:3, 3]) - 0.1) < 0.002


async def test_mode_torque_holds_until_the_first_torque_and_when_torques_stop(
    loop: Any, controller: FrankaController
) -> None:
    controller.set_freq(50)
    controller.switch("torque")
    before = controller.state["qpos"]
    await asyncio.sleep(0.3)
    assert np.abs(controller.state["qpos"] - before).max() < 0.01
    for _ in range(20):
        await controller.set("torque", [2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert speed(controller) > 0.03
    await asyncio.sleep(1.0)
    assert speed(controller) < 0.02


async def test_a_loop_of_set_that_was_late_continues_without_a_burst(
    loop: asyncio.AbstractEventLoop, controller: FrankaController
) -> None:
    controller.set_freq(50)
    controller.switch("torque")
    await controller.set("torque", np.zeros(7))
    await asyncio.sleep(0.3)
    begin = loop.time()
    for _ in range(10):
        await controller.set("torque", np.zeros(7))
    assert loop.time() - begin > 8.5 / 50  # Ten periods, or nine.


async def test_a_process_that_keeps_the_gil_past_the_heartbeat_timeout_has_to_recover(
    loop: Any, controller: FrankaController
) -> None:
    ctypes.PyDLL(None).usleep(int(1.6e6))  # A C call that keeps the GIL.
    with pytest.raises(errors.ControlStopped):
        await controller.next_state()
    await controller.recover()
    assert controller.running


class Doubler:
    @asyncify
    def double(self, value: int) -> int:
        return 2 * value


async def test_sync_is_a_bound_method_and_a_proxy_raises_the_original_exception(loop: Any) -> None:
    assert Doubler().double.sync(2) == await Doubler().double(2) == 4
    async with await mpify.create(dict, answer=42) as proxy:
        assert await proxy.pop("answer") == 42
        with pytest.raises(KeyError):
            await proxy.pop("answer")
        with pytest.raises(AttributeError):
            proxy.answer = 42


def test_what_the_page_says_is_missing_is_missing() -> None:
    controller = FrankaController(RobotInterface(None))
    for name in (
        "NativeFrankaController", "Robot", "Controller", "control_law", "load_tool", "start", "GripperController",
        "create_gripper",
    ):  # fmt: skip
        assert not hasattr(aiofranka_ros, name)
    for name in ("task", "record", "activate", "last_command", "control_transform", "arrival_tolerance", "loop_stats"):
        assert not hasattr(controller, name)
