"""Messages quote what a client sent, but stay short. No arm, no ROS graph."""

from __future__ import annotations

from typing import Any

import pytest

from aiofranka_ros.errors import InvalidTarget, brief, listed
from aiofranka_ros.model.fr3 import JOINT_NAMES
from aiofranka_ros.ros.messages import joint_order
from aiofranka_ros.ros.warnings import LOG_PERIOD, Warnings

pytestmark = pytest.mark.unit


class Log(list[str]):
    """What was logged, and the time at which it is."""

    now = 0.0

    def warnings(self) -> Warnings:
        return Warnings(self.append, lambda: self.now)


def test_short_text_is_quoted_whole_and_long_text_with_its_length() -> None:
    assert brief("fr3_joint1") == "fr3_joint1"
    assert brief("x" * 1000, 10) == "x" * 10 + "... (1000 characters)"
    assert listed(["a", "b"]) == "a, b"
    assert listed(map(str, range(10_000)), 3) == "0, 1, 2 and 9997 more"


class Counted(str):
    """A name that counts how often it is compared or hashed."""

    uses = 0

    def __eq__(self, other: Any) -> bool:
        type(self).uses += 1
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        type(self).uses += 1
        return str.__hash__(self)


def test_ten_thousand_names_are_refused_in_a_short_sentence_and_in_linear_time() -> None:
    Counted.uses = 0
    names = [*JOINT_NAMES, *(Counted(f"joint_{number:05d}_" + "x" * 100) for number in range(10_000))]
    with pytest.raises(InvalidTarget, match="unknown joint joint_00000_.* and 9993 more$") as refused:
        joint_order(names, JOINT_NAMES)
    assert len(str(refused.value)) < 1000
    assert Counted.uses < 10 * len(names), "each name is looked up a few times"


def test_every_wrong_name_of_seven_is_quoted() -> None:
    with pytest.raises(InvalidTarget) as refused:
        joint_order([*JOINT_NAMES[:5], "elbow", "elbow"], JOINT_NAMES)
    assert str(refused.value) == "unknown joint elbow; named twice: elbow; missing joint fr3_joint6, fr3_joint7"
    assert joint_order([*JOINT_NAMES[1:], JOINT_NAMES[0]], JOINT_NAMES) == [6, 0, 1, 2, 3, 4, 5]


def test_a_warning_that_is_repeated_is_logged_rarely_with_a_count() -> None:
    log = Log()
    warnings = log.warnings()
    for step in range(100):
        log.now = 0.05 * step
        warnings.warn("move", f"rejected: it ended {0.01 * step:.3f} s ago")
    assert log == [
        "rejected: it ended 0.000 s ago",
        "rejected: it ended 0.400 s ago (39 more like this were not logged)",
        "rejected: it ended 0.800 s ago (39 more like this were not logged)",
    ]


def test_a_warning_does_not_hide_another_one() -> None:
    log = Log()
    warnings = log.warnings()
    said = [("move", "joint fr3_joint1 is missing"), ("move", "joint fr3_joint2 is missing"), ("home", "no")]
    for kind, message in said * 3:
        warnings.warn(kind, message)
    assert log == [message for _, message in said]


def test_warnings_that_all_differ_are_limited_and_short() -> None:
    log = Log()
    warnings = log.warnings()
    for step in range(1000):
        log.now = 0.01 * step
        warnings.warn("move", f"unknown joint {chr(0x4E00 + step)}" + "x" * 10_000)
    assert 10 <= len(log) <= 10 * (10.0 / LOG_PERIOD + 1.0)
    assert max(map(len, log)) < 1100
