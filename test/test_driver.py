"""The driver without an arm: how often it sends its settings to the control process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from aiofranka_ros.arm.driver import Driver
from aiofranka_ros.arm.settings import ArmSettings
from aiofranka_ros.control import client as client_module
from aiofranka_ros.control.records import COMMANDS, STATE, Mode, new
from aiofranka_ros.control.robot_records import RobotSetting
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.kernels import Record
from aiofranka_ros.model.kinematics import pose_matrix

pytestmark = pytest.mark.unit

TOOL = pose_matrix(np.array([0.0, 0.0, 0.1, 0.0, 0.0, 0.0, 1.0]))


class FakeProcess:
    """A control process that agrees to everything.

    :ivar tool: the end effector in the flange that is configured in the robot from the next activation on (4, 4).
    """

    missing: tuple[str, ...] = ()

    def __init__(self, shared: SharedMemory, priority: int) -> None:
        self._shared = shared
        self.requests: list[str] = []
        self.tool = np.eye(4)
        self._report()

    def request(self, name: str, timeout: float, *stop: Any, **arguments: Any) -> dict[str, Any]:
        self.requests.append(name)
        self._report()
        return {"recovered": False, "cpu": None, "library_version": "0", "protocol_version": 0}

    def wait(self, *arguments: Any) -> dict[str, Any]:
        return {"event": "ready"}

    def poll(self, wanted: Any) -> None:
        return None

    def close(self, patience: float) -> bool:
        return True

    def _report(self) -> None:
        state = new(STATE)
        state["robot_tcp"] = self.tool
        self._shared.state.write(state.view(np.uint8).data)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    monkeypatch.setattr(client_module, "ProcessHandle", FakeProcess)
    driver = Driver(ArmSettings(robot_ip="172.16.0.2"))
    driver.configure()
    yield driver
    driver.release()


def sends(driver: Driver) -> int:
    """How often the commands were sent so far."""
    assert driver.client is not None
    return driver.client.shared.commands.version // 2  # It counts the beginning and the end of each.


def commands(driver: Driver) -> Record:
    """The commands as the control process has them."""
    assert driver.client is not None
    record = new(COMMANDS)
    assert driver.client.shared.commands.read(record.view(np.uint8).data)
    return record[0]


def process(driver: Driver) -> FakeProcess:
    assert driver.client is not None and isinstance(driver.client._process, FakeProcess)
    return driver.client._process


def test_an_activation_sends_the_commands_once(driver: Driver) -> None:
    for _ in range(2):
        before = sends(driver)
        driver.activate()
        assert sends(driver) == before + 1
        driver.deactivate()


def test_settings_that_changed_since_are_sent_with_the_activation(driver: Driver) -> None:
    driver._settings.update({"mode": "impedance", "max_linear_step": 0.2})
    driver.activate()
    assert commands(driver)["mode"] == Mode.IMPEDANCE and commands(driver)["max_linear_step"] == 0.2


def test_an_end_effector_that_was_changed_in_the_robot_is_used(driver: Driver) -> None:
    process(driver).tool = TOOL
    before, law = sends(driver), int(commands(driver)["law_id"])
    driver.activate()
    assert sends(driver) == before + 2
    np.testing.assert_array_equal(commands(driver)["flange_to_tcp"], TOOL)
    assert commands(driver)["law_id"] == law + 1, "the change is blended in"


def test_an_end_effector_that_is_set_in_the_robot_is_used(driver: Driver) -> None:
    process(driver).tool = TOOL
    driver.set_robot(RobotSetting.END_EFFECTOR, TOOL.T.ravel())
    np.testing.assert_array_equal(commands(driver)["flange_to_tcp"], TOOL)


def test_a_hold_that_is_asked_for_again_is_not_sent_again(driver: Driver) -> None:
    assert driver.client is not None
    driver.client.hold()
    before = sends(driver)
    driver.client.hold()
    assert sends(driver) == before and commands(driver)["hold"] == 1
