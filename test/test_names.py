"""A misspelt name in asyncio: the nearest one first, and whether it is a setting or an attribute."""

from __future__ import annotations

import re
from typing import Any

import pytest

from aiofranka_ros import FrankaController, RobotInterface
from aiofranka_ros.errors import ConfigurationError, nearest, unknown

pytestmark = pytest.mark.unit


def test_the_nearest_name_comes_first_then_all():
    assert unknown("setting", "kpp", ["kd", "kp"]) == "there is no setting 'kpp'; did you mean 'kp'? There are: kd, kp"
    assert unknown("setting", "colour", ["kd", "kp"]) == "there is no setting 'colour'; there are: kd, kp"
    assert nearest("colour", ["kd"]) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"move_velocty": [0.3] * 7}, "there is no setting 'move_velocty'; did you mean 'move_velocity'? There are: "),
        ({"ee_desired": [0.3] * 7}, "ee_desired is not a setting, but an attribute of FrankaController: "),
        ({"mode": "ocs"}, "mode is 'ocs' (did you mean 'osc'?); allowed: one of osc, "),
        ({"mode": 3}, "mode is 3; allowed: one of osc, "),
    ],
)
def test_a_setting_that_does_not_exist_is_refused_with_what_was_meant(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}"):
        RobotInterface("sim", **settings)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ee_desird", "there is no attribute to assign called 'ee_desird'; did you mean 'ee_desired'? There are: "),
        ("move_velocity", "move_velocity is a setting, not an attribute: give it to RobotInterface(move_velocity=...)"),
        ("mode", "mode is a setting, not an attribute: call controller.switch(mode)"),
    ],
)
def test_an_attribute_that_does_not_exist_is_refused_with_what_was_meant(name: str, message: str):
    controller = FrankaController(RobotInterface("sim"))
    with pytest.raises(AttributeError, match=f"^{re.escape(message)}"):
        setattr(controller, name, 1.0)
    controller._running = True  # Nothing is checked before.
    coroutine = controller.set(name, 1.0)
    with pytest.raises(AttributeError, match=f"^{re.escape(message)}"):
        coroutine.send(None)


def test_a_mode_that_does_not_exist_is_refused_with_the_nearest():
    with pytest.raises(ConfigurationError, match="did you mean 'osc'"):
        FrankaController(RobotInterface("sim")).switch("ocs")
