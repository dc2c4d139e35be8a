"""Hand guiding, mode ``free``: the arm follows the hand that pushes it, and only along free axes."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest
from closed_loop import ClosedLoop
from scipy.spatial.transform import Rotation

from aiofranka_ros.control.records import Axis, Hold, Law, Mode
from aiofranka_ros.model import fr3

pytestmark = pytest.mark.unit

#: What a hand easily does [N].
PUSH = 15.0


def arm(free: Collection[Axis] = tuple(Axis), **settings: object) -> ClosedLoop:
    """An arm that can be guided along these axes."""
    return ClosedLoop(Mode.FREE, fr3.READY, free_axes=sum(1 << axis for axis in free), **settings)


def turned(loop: ClosedLoop, before: np.ndarray) -> np.ndarray:
    """How far the hand has turned since ``before``, a quaternion, about the axes of the base [rad] (3,)."""
    return (Rotation.from_quat(loop.orientation) * Rotation.from_quat(before).inv()).as_rotvec()


def switch(loop: ClosedLoop, mode: Mode) -> None:
    loop.commands["mode"] = mode
    loop.commands["mode_id"] += 1
    loop.commands["law_id"] += 1


def test_an_arm_at_rest_stays_where_it_is() -> None:
    loop = arm()
    before = loop.position
    loop.run(3.0)
    assert np.linalg.norm(loop.position - before) < 1e-3


def test_a_pushed_arm_follows_the_hand_and_stays_where_it_is_left() -> None:
    loop = arm()
    before = loop.position
    loop.push(PUSH, 0.0, 0.0)
    loop.run(1.0)
    assert loop.position[0] - before[0] > 0.05
    loop.push(0.0, 0.0, 0.0)
    loop.run(1.5)
    left = loop.position
    assert loop.run(1.0).max() < 0.01
    assert np.linalg.norm(loop.position - left) < 5e-3


def test_a_hand_whose_height_and_orientation_are_locked_slides_in_a_plane() -> None:
    loop = arm([Axis.X, Axis.Y, Axis.ELBOW])
    before, orientation = loop.position, loop.orientation
    loop.push(PUSH, PUSH, PUSH)
    loop.run(1.5)
    moved = loop.position - before
    assert np.linalg.norm(moved[:2]) > 0.05
    assert abs(moved[2]) < 0.02, "a spring, at the stiffness of mode osc"
    assert np.abs(turned(loop, orientation)).max() < 0.1
    loop.push(0.0, 0.0, 0.0)
    loop.run(2.0)
    assert abs(loop.position[2] - before[2]) < 5e-3


def test_a_hand_that_may_only_turn_about_the_vertical_stays_level_on_a_long_turn() -> None:
    loop = arm([Axis.YAW])
    before, orientation = loop.position, loop.orientation
    loop.push(0.0, 0.0, 0.0, 0.0, 0.0, 3.0)
    loop.run(2.5)
    assert abs(turned(loop, orientation)[2]) > 1.0
    tilt = Rotation.from_quat(loop.orientation).as_matrix()[2] - Rotation.from_quat(orientation).as_matrix()[2]
    assert np.abs(tilt).max() < 0.05
    assert np.linalg.norm(loop.position - before) < 0.02


@pytest.mark.parametrize("free", [True, False])
def test_only_a_free_elbow_moves_while_the_hand_is_locked(free: bool) -> None:
    loop = arm([Axis.ELBOW] if free else [])
    before, elbow = loop.position, loop.measured["q"][0, 2]
    loop.push(0.0, 2.0 * PUSH, 0.0, link=4)
    loop.run(1.5)
    assert np.linalg.norm(loop.position - before) < 0.02
    moved = abs(loop.measured["q"][0, 2] - elbow)
    assert moved > 0.1 if free else moved < 0.02


def test_an_axis_that_is_locked_later_is_locked_where_the_arm_is_now() -> None:
    loop = arm()
    loop.push(PUSH, 0.0, 0.0)
    loop.run(1.0)
    loop.push(0.0, 0.0, 0.0)
    loop.run(1.5)
    before = loop.position
    loop.commands["free_axes"] = 0
    loop.commands["law_id"] += 1
    loop.run(1.0)
    assert np.linalg.norm(loop.position - before) < 3e-3


@pytest.mark.parametrize("mode", [Mode.OSC, Mode.IMPEDANCE, Mode.PID, Mode.TORQUE])
def test_entering_and_leaving_moves_neither_the_arm_nor_its_torques(mode: Mode) -> None:
    loop = arm()
    switch(loop, mode)
    loop.run(1.0)
    for other in (Mode.FREE, mode):
        torque, position = loop.memory["tau"][0].copy(), loop.position
        switch(loop, other)
        loop.run(fr3.CYCLE)
        assert np.abs(loop.memory["tau"][0] - torque).max() < 0.05
        loop.run(1.0)
        assert np.linalg.norm(loop.position - position) < 1e-3


def test_an_arm_that_is_let_go_while_the_mode_changes_stops_without_a_lunge() -> None:
    loop = arm()
    loop.push(PUSH, 0.0, 0.0)
    fastest = loop.run(0.7).max()
    loop.push(0.0, 0.0, 0.0)
    switch(loop, Mode.OSC)
    assert loop.run(1.0).max() < 1.1 * fastest
    assert loop.run(0.5).max() < 0.01


def test_no_limit_is_passed_however_hard_the_arm_is_pushed() -> None:
    loop = arm(free_damping=[0.0] * 7)
    for direction in ([80.0, 0.0, 0.0], [-80.0, 0.0, 0.0], [0.0, 80.0, 0.0], [0.0, 0.0, 60.0]):
        loop.push(*direction)
        for _ in range(150):
            loop.run(0.01)
            q, dq = loop.measured["q"][0], loop.measured["dq"][0]
            assert (q > fr3.POSITION_LOWER).all() and (q < fr3.POSITION_UPPER).all()
            assert (np.abs(dq) < fr3.VELOCITY_LIMIT).all()


def test_an_arm_that_is_asked_to_hold_stops_and_resists_and_can_be_guided_afterwards() -> None:
    loop = arm()
    loop.push(PUSH, 0.0, 0.0)
    loop.run(0.7)
    loop.commands["hold"] = 1
    loop.run(1.0)
    assert loop.memory["law"] == Law.HOLD and loop.memory["hold"] & Hold.ASKED
    assert loop.run(0.5).max() < 0.01
    held = loop.position
    loop.commands["hold"] = 0
    loop.run(1.0)
    assert loop.position[0] - held[0] > 0.05


def test_targets_do_not_move_an_arm_that_is_guided() -> None:
    loop = arm()
    before = loop.position
    assert loop.stream(before + [0.1, 0.0, 0.0], loop.orientation, 1.0).max() < 0.01
    assert loop.memory["law"] == Law.FREE


def test_help_against_friction_makes_the_arm_lighter_and_leaves_it_at_rest() -> None:
    ways = []
    for share in (0.0, 0.8):
        loop = arm(free_friction=share * ClosedLoop().friction)
        before = loop.position
        loop.run(0.5)
        assert np.linalg.norm(loop.position - before) < 1e-3
        loop.push(8.0, 0.0, 0.0)
        loop.run(1.0)
        ways.append(loop.position[0] - before[0])
        loop.push(0.0, 0.0, 0.0)
        loop.run(4.0)
        assert loop.run(0.5).max() < 0.01
    assert ways[1] > 1.3 * ways[0]
