"""What the node says about a target that was limited: the limit that it met, its value, and the target's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aiofranka_ros.arm.settings import ArmSettings
from aiofranka_ros.control.records import STATE, Limit, new
from aiofranka_ros.model.fr3 import HOME, JOINT_NAMES
from aiofranka_ros.model.kinematics import control_frame
from aiofranka_ros.node.limited import describe_blocked, describe_limited
from aiofranka_ros.ros.messages import PoseTarget

pytestmark = pytest.mark.unit

SETTINGS = ArmSettings(workspace_lower=[-2.0, -2.0, 0.15], joint_upper=[1.0, 1.7, 2.0, -0.2, 2.0, 4.0, 2.0])
POSE = PoseTarget(position=(0.4, 0.0, -0.5), orientation=(0.0, 0.0, 0.0, 1.0))


def describe(limit: Limit, topic: str, target: Any) -> str:
    state = new(STATE)[0]
    state["ref_position"], state["ref_orientation"], state["ref_q"] = [0.4, 0.0, 0.16], [0, 0, 0, 1], HOME
    client: Any = SimpleNamespace(flange_to_tcp=np.eye(4))
    return describe_limited(limit.name.lower(), topic, target, state, client, SETTINGS.__getitem__, JOINT_NAMES)


def test_a_pose_beyond_a_wall_names_axis_wall_and_both_values():
    assert describe(Limit.WORKSPACE_LOWER, "ee_desired", POSE) == (
        "a target with the control frame at z = -0.500 m was moved to workspace_lower (z = 0.150 m)"
    )


def test_joint_positions_that_lead_beyond_a_wall_name_where_they_lead():
    q = np.array([0.0, 1.5, 0.0, -0.8, 0.0, 2.0, 0.0])
    z = control_frame(q)[2, 3]
    assert z < 0.15
    assert describe(Limit.WORKSPACE_LOWER, "q_desired", tuple(q)) == (
        f"a target with the control frame at z = {z:.3f} m was ignored, because that is beyond workspace_lower "
        "(z = 0.150 m)"
    )


def test_a_joint_beyond_its_range_is_named_with_its_limit():
    q = HOME + [0, 0, 0, 3.0, 0, 0, 0]
    assert describe(Limit.JOINT_UPPER, "q_desired", tuple(q)) == (
        f"a target with fr3_joint4 at {q[3]:.3f} rad was moved to 0.02 rad inside joint_upper (-0.200 rad)"
    )


def test_a_jump_is_measured_from_the_inside_of_the_workspace():
    text = describe(Limit.MAX_LINEAR_STEP, "ee_desired", POSE._replace(position=(0.8, 0.0, -0.5)))
    assert text == "a target 0.40 m away was limited to max_linear_step (0.15 m)"


@pytest.mark.parametrize("limit", Limit)
@pytest.mark.parametrize(("topic", "target"), [("", None), ("ee_desired", POSE), ("q_desired", tuple(HOME))])
def test_the_limit_is_named_even_if_the_newest_target_is_another_one(limit: Limit, topic: str, target: Any):
    assert limit.name.lower() in describe(limit, topic, target) or "outside the workspace" in describe(
        limit, topic, target
    )


def test_a_hand_that_joint_limits_keep_from_its_target_names_them_and_the_distance():
    state = new(STATE)[0]
    assert describe_blocked(state, SETTINGS.__getitem__, JOINT_NAMES) == ""
    state["blocked"], state["behind_linear"], state["behind_angular"] = 1 << 5 | 1 << 10, 0.16, 0.4
    assert describe_blocked(state, SETTINGS.__getitem__, JOINT_NAMES) == (
        "the hand is 160 mm and 0.40 rad from its target: "
        "fr3_joint6 is at joint_lower (0.544 rad) and fr3_joint4 is at joint_upper (-0.200 rad)"
    )
