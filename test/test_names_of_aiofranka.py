"""Names of aiofranka's controllers and robots that scripts use: they mean the same here, or do nothing. No arm."""

from __future__ import annotations

import asyncio
import logging
import re

import numpy as np
import pytest
from test_controller_clock import Recorder

import aiofranka_ros
from aiofranka_ros import FrankaController, RobotInterface
from aiofranka_ros.api import attributes

pytestmark = pytest.mark.unit


def test_names_that_do_nothing_here_are_accepted_and_reported_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attributes, "_reported", set())
    for _ in range(2):
        controller = FrankaController(RobotInterface(None, read_tool=False))
        assert controller.verbose is False
        controller.verbose = True
        controller.track = True
        assert controller.verbose is True
        with pytest.raises(AttributeError, match="no attribute to assign called 'verbos'"):
            controller.verbos = True  # type: ignore[attr-defined]
    messages = [record.getMessage() for record in caplog.records if "does nothing here" in record.message]
    assert sorted(message.partition(" ")[0] for message in messages) == ["read_tool", "track", "verbose"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert all(re.match(r"\w+ does nothing here: .", message) for message in messages)


def test_names_with_a_counterpart_here_mean_the_same() -> None:
    controller = FrankaController(Recorder())  # type: ignore[arg-type]
    assert controller.task is None and controller.error is None

    async def main() -> None:
        controller.arrival_tolerance = 0.05
        assert controller.arrival_tolerance == controller.robot.settings["move_tolerance"] == 0.05
        await controller.start()
        assert controller.task is not None and not controller.task.done()
        np.testing.assert_array_equal(controller.last_command, controller.state["last_torque"])
        np.testing.assert_array_equal(controller.initial_qvel, np.zeros(7))
        pose = np.eye(4)
        pose[:3, 3] = 0.0, 0.0, 0.1034
        controller.control_transform = pose
        np.testing.assert_allclose(controller.control_transform, pose)
        waiting = controller.task
        await controller.stop()
        assert await waiting is None and controller.task.done()

    asyncio.run(main())


def test_a_robot_knows_its_address_and_whether_it_is_simulated() -> None:
    robot, simulated = RobotInterface(ip="172.16.0.2"), RobotInterface(ip=None)
    assert (robot.ip, robot.real, simulated.ip, simulated.real) == ("172.16.0.2", True, None, False)


def test_the_classes_have_aiofrankas_names_too() -> None:
    from aiofranka_ros import Controller, NativeFrankaController, Robot, sync

    assert (Controller, NativeFrankaController, Robot) == (sync.FrankaController, FrankaController, RobotInterface)
    assert aiofranka_ros.sync is sync
