"""Messages whose numbers are replaced where they stand in their bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, String

from aiofranka_ros.control.records import STATE, new
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.ros import conversions
from aiofranka_ros.ros.serialized import SerializedMessage


def random_state(seed: int) -> Any:
    random, state = np.random.default_rng(seed), new(STATE)
    state["stamp"] = random.integers(0, 2**31 * 10**9)
    for name in ("q", "dq", "tau_measured", "position", "orientation", "external_wrench"):
        state[name] = random.normal(size=state[name].shape)
    return state[0]


@pytest.mark.parametrize("prefix", ["", "left"])
@pytest.mark.parametrize(
    "message_of",
    [conversions.joint_state, conversions.measured_pose, conversions.external_wrench, conversions.control_frame],
)
@given(st.integers(0, 2**32 - 1))
def test_the_bytes_are_those_of_the_message(message_of: Callable[..., Any], prefix: str, seed: int) -> None:
    names, state = ArmNames(prefix), random_state(seed)
    serialized = SerializedMessage(lambda state: message_of(state, names), STATE)
    expected = message_of(state, names)
    assert deserialize_message(serialized.of(state), type(expected)) == expected


def test_what_is_no_number_travels_too() -> None:
    serialized, state = SerializedMessage(conversions.joint_state, STATE), random_state(1)
    state["q"][:3] = np.nan, np.inf, -0.0
    positions = deserialize_message(serialized.of(state), JointState).position
    assert np.isnan(positions[0]) and np.isinf(positions[1]) and np.signbit(positions[2])


def test_nothing_of_one_record_is_left_in_the_next_message() -> None:
    serialized = SerializedMessage(conversions.measured_pose, STATE)
    serialized.of(random_state(1))
    after = random_state(2)
    assert deserialize_message(serialized.of(after), PoseStamped) == conversions.measured_pose(after)


@pytest.mark.parametrize(
    "message_of",
    [
        lambda state: Float64MultiArray(data=(2.0 * state["q"]).tolist()),
        lambda state: Float64MultiArray(data=state["q"][: 1 + int(1e3 * state["q"][0]) % 7].tolist()),
        lambda state: String(data=f"{state['q'][0]:.3f}"),
    ],
    ids=["computed", "of another length", "text"],
)
def test_a_message_that_is_more_than_copies_is_refused(message_of: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match="more than copies"):
        SerializedMessage(message_of, STATE)
