"""The topic ``~/state`` of the gripper's node: all that a gripper measures, at one instant.

The gripper's node makes the messages, and ``RosInterface`` reads them, each in its process. Neither the common
interfaces nor ``franka_msgs`` have a type for it, so it is a message of numbers, as ``~/state`` of the arm's node: its
label names them, it has a stamp, and viewers can plot it. A ``JointState`` would make ``is_grasped`` the name of a
joint, and ``DiagnosticStatus`` has only text.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np
from std_msgs.msg import Float64MultiArray, MultiArrayDimension, MultiArrayLayout

from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.ros.cdr import NANOSECONDS, read_numbers

TOPIC = "state"
#: The content of the message.
FIELDS = "sec nanosec width max_width is_grasped temperature"


class Measured(NamedTuple):
    """Widths [m], temperature [°C], and when they were measured [ns, the clock of the gripper's node]."""

    width: float
    max_width: float
    is_grasped: bool
    temperature: int
    stamp: int


def gripper_state_message(state: tuple[float, float, bool, int], stamp: int) -> Float64MultiArray:
    """The message of a :class:`.HandState`, which was measured at ``stamp`` [ns]."""
    numbers = array("d", (*map(float, divmod(stamp, NANOSECONDS)), *map(float, state)))
    dimension = MultiArrayDimension(label=FIELDS, size=len(numbers), stride=len(numbers))
    return Float64MultiArray(layout=MultiArrayLayout(dim=[dimension]), data=numbers)


def read_gripper_state(data: bytes) -> Measured:
    """The content of a serialized :func:`gripper_state_message`.

    :raises InvalidTarget: the message is of another kind.
    """
    numbers = read_numbers(data, len(FIELDS.split()))
    if not np.isfinite(numbers).all():
        raise InvalidTarget(f"it is not finite: {numbers.tolist()}", reason="not finite")
    seconds, rest, width, max_width, is_grasped, temperature = numbers.tolist()
    stamp = int(seconds) * NANOSECONDS + int(rest)
    return Measured(width, max_width, bool(is_grasped), int(temperature), stamp)
