"""Values that callers of the asyncio API pass."""

from __future__ import annotations

import numpy as np
import pytest

from aiofranka_ros.api.attributes import array, position_and_quaternion
from aiofranka_ros.model.kinematics import quaternion_from_matrix

pytestmark = pytest.mark.unit


def test_a_pose_in_column_order_compiles_no_kernel_again() -> None:
    """libfranka's poses are in column order; compiling takes seconds, during which the arm gets no heartbeat."""
    position_and_quaternion("a pose", array("a pose", np.eye(4), (4, 4)))
    before = list(quaternion_from_matrix.signatures)
    pose = np.eye(4).ravel().reshape(4, 4).T
    assert not pose.flags.c_contiguous
    position_and_quaternion("a pose", array("a pose", pose, (4, 4)))
    assert list(quaternion_from_matrix.signatures) == before
