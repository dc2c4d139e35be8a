"""Chunks in the control cycle: followed without lag, within every limit, and ended by whatever else wants the arm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.interpolate import CubicSpline, PPoly
from scipy.spatial.transform import Rotation

from aiofranka_ros.control.defaults import default_commands
from aiofranka_ros.control.law import cycle as control_cycle
from aiofranka_ros.control.law.memory import MEMORY, SCRATCH
from aiofranka_ros.control.law.report import report as control_cycle_report
from aiofranka_ros.control.records import (
    CHUNK,
    MEASURED,
    MOTION,
    STATE,
    Approach,
    ChunkEnd,
    Hold,
    Limit,
    Mode,
    TargetKind,
    new,
)
from aiofranka_ros.control.shared_memory import fill_path
from aiofranka_ros.kernels import Array, Record, kernel
from aiofranka_ros.model import fr3
from aiofranka_ros.model.kinematics import control_frame, rotation_between

pytestmark = pytest.mark.unit

CYCLE = 1e-3
HOME_POSE = control_frame(fr3.HOME)
HOME_TURN = Rotation.from_matrix(HOME_POSE[:3, :3])
#: Columns of what the rig records: of the reference.
Q, DQ, DDQ = slice(0, 7), slice(7, 14), slice(14, 21)
POSITION, TURN = slice(21, 24), slice(24, 28)
LINEAR, ANGULAR, LINEAR_CHANGE, ANGULAR_CHANGE = (slice(28 + 3 * k, 31 + 3 * k) for k in range(4))


@kernel
def _run(
    commands: Record, motion: Record, chunk: Record, measured: Record, memory: Record, scratch: Record, stop: int,
    elapsed: Array, rows: Array,
) -> None:  # fmt: skip
    """Cycles of an arm that follows its reference within a millisecond; the seven joints move as little as they can."""
    error, damping = np.zeros(6), 1e-4 * np.eye(6)
    for k, row in enumerate(rows):
        m, r = measured[0], memory[0]
        m.elapsed = elapsed[k]
        m.time += elapsed[k]
        m.tau_last[:] = r.tau
        if r.started != 0 and commands[0].mode == Mode.OSC:
            rotation_between(r.ref_orientation, r.orientation, error[3:])
            error[:3] = r.ref_position - r.position
            jacobian = r.jacobian.copy()
            way = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + damping, error)
            m.q[:] = m.q + way
            m.dq[:] = way / elapsed[k]
        elif r.started != 0:
            m.q[:], m.dq[:] = r.ref_q, r.ref_dq
        control_cycle.step(commands, motion, chunk, measured, memory, scratch, stop)
        row[0:7], row[7:14], row[14:21] = r.ref_q, r.ref_dq, r.ref_ddq
        row[21:24], row[24:28] = r.ref_position, r.ref_orientation
        row[28:31], row[31:34] = r.ref_linear, r.ref_angular
        row[34:37], row[37:40] = r.ref_linear_acceleration, r.ref_angular_acceleration


class Rig:
    """The cycle with an arm that follows perfectly; poses are relative to where the hand is at first."""

    def __init__(self, mode: Mode = Mode.IMPEDANCE, **settings: object) -> None:
        self.commands = default_commands()
        self.measured, self.motion, self.chunk = new(MEASURED), new(MOTION), new(CHUNK)
        self.memory, self.scratch, self.state = new(MEMORY), new(SCRATCH), new(STATE)
        self.commands["mode"], self.commands["mode_id"] = mode, 1
        for name, value in settings.items():
            self.commands[name] = value
        self.measured["q"], self.measured["time"] = fr3.HOME, 100.0
        self.measured["mass"] = np.diag([0.3, 0.3, 0.3, 0.2, 0.1, 0.1, 0.1])  # Not singular, as of an arm.
        self.rows = np.empty((0, 40))
        self.run(5)

    def run(self, cycles: int, *, stop: Hold = Hold.NONE, elapsed: Array | None = None) -> Array:
        rows = np.empty((cycles, 40))
        steps = np.full(cycles, CYCLE) if elapsed is None else elapsed
        _run(
            self.commands, self.motion, self.chunk, self.measured, self.memory, self.scratch, int(stop), steps, rows
        )  # fmt: skip
        self.rows = np.vstack([self.rows, rows])
        return rows

    def send(self, path: PPoly, *, start: float = 0.0, number: int | None = None) -> int:
        """A chunk, as the client and the loop bring it into force."""
        number = int(self.commands["chunk_id"][0]) + 1 if number is None else number
        degree = len(path.c) - 1
        coefficients = np.zeros((len(path.x) - 1, 7, 6))
        coefficients[:, :, : degree + 1] = np.moveaxis(path.c[::-1], 0, 2)
        fill_path(self.chunk, number, start, path.x - path.x[0], coefficients)
        self.chunk["mode_id"], self.chunk["target_id"] = self.commands["mode_id"], self.commands["target_id"]
        self.commands["chunk_id"] = number
        return number

    def target(self, **fields: object) -> None:
        for name, value in fields.items():
            self.commands[name] = value
        self.commands["target_mode_id"] = self.commands["mode_id"]
        self.commands["target_id"] += 1

    @property
    def time(self) -> float:
        return float(self.measured["time"][0])

    @property
    def in_force(self) -> int:
        return int(self.memory["chunk_id"][0])

    @property
    def end(self) -> ChunkEnd:
        return ChunkEnd(int(self.memory["chunk_end"][0]))

    @property
    def approach(self) -> Approach:
        return Approach(int(self.memory["approach"][0]))

    @property
    def limited(self) -> dict[Limit, int]:
        counts = self.memory["limited_targets"][0]
        return {limit: int(counts[limit]) for limit in Limit if counts[limit]}


def spline(points: Callable[[Array], Array], seconds: float) -> CubicSpline:
    """Through points at 15 Hz, from rest; its end may be in motion."""
    times = np.linspace(0.0, seconds, round(15 * seconds) + 1)
    return CubicSpline(times, points(times), bc_type=((1, np.zeros(7)), (2, np.zeros(7))))


def joints(times: Array, *, scale: float = 0.3) -> Array:
    """A swing of all joints, from rest at home."""
    rates = 1.0 + np.arange(7) / 7
    return fr3.HOME + scale * (1.0 - np.cos(np.outer(times, rates)))


def poses(times: Array, *, radius: float = 0.05, turn: Array | None = None) -> Array:
    """A circle from rest at the hand's place, on which the hand turns; the numbers keep their signs."""
    angle = 2.0 * times
    place = HOME_POSE[:3, 3] + radius * np.column_stack([np.cos(angle) - 1, np.sin(angle) - angle, 0 * angle])
    axis = np.array([0.0, 0.0, 0.0]) if turn is None else turn
    numbers = (Rotation.from_rotvec(np.outer(1.0 - np.cos(times), axis)) * HOME_TURN).as_quat()
    flips = np.sign(np.einsum("ij,ij->i", numbers[1:], numbers[:-1]))
    numbers[1:] *= np.cumprod(flips)[:, None]
    return np.hstack([place, numbers])


@pytest.mark.parametrize("mode", [Mode.IMPEDANCE, Mode.PID])
def test_a_path_of_joints_is_followed_without_lag(mode):
    rig, path = Rig(mode), spline(joints, 4.0)
    rig.send(path)
    begin = rig.time
    rows = rig.run(4000)
    times = CYCLE * np.arange(4000)
    assert rig.in_force == 1 and rig.approach is Approach.FOLLOWING and begin > 0
    # At 0.6 rad/s, a lag of one cycle would be 0.6 mrad.
    np.testing.assert_allclose(rows[:, Q], path(times), atol=0.5e-3)
    np.testing.assert_allclose(rows[:, DQ], path(times, 1), atol=5e-3)
    # The torque needs the acceleration at its time.
    np.testing.assert_allclose(rows[500:-500, DDQ], path(times[500:-500], 2), atol=0.05)
    assert rig.limited == {}


def test_a_path_of_poses_is_followed_without_lag_while_the_hand_turns():
    rig, path = Rig(Mode.OSC), spline(lambda t: poses(t, turn=np.array([0.3, -0.2, 0.4])), 4.0)
    rig.send(path)
    rows = rig.run(4000)
    times = CYCLE * np.arange(4000)
    numbers = path(times)
    np.testing.assert_allclose(rows[:, POSITION], numbers[:, :3], atol=0.3e-3)
    np.testing.assert_allclose(rows[:, LINEAR], path(times, 1)[:, :3], atol=1e-3)
    between = Rotation.from_quat(rows[:, TURN]) * Rotation.from_quat(numbers[:, 3:]).inv()
    assert between.magnitude().max() < 1e-3


def test_stepping_through_lost_cycles_is_like_losing_none():
    rig, path = Rig(), spline(joints, 4.0)
    rig.send(path)
    rng = np.random.default_rng(5)
    lost = CYCLE * np.where(rng.uniform(size=3000) < 0.05, rng.integers(2, 7, 3000), 1)
    rows = rig.run(3000, elapsed=lost)
    times = np.cumsum(lost) - lost[0]
    inside = times < 4.0
    np.testing.assert_allclose(rows[inside, Q], path(times[inside]), atol=1e-3)


def shifted(path: CubicSpline, offset: Array) -> PPoly:
    """The same path somewhere else."""
    coefficients = path.c.copy()
    coefficients[-1] += offset
    return PPoly(coefficients, path.x)


def of(seconds: float, *rows: Array) -> PPoly:
    """A path through one segment with these coefficients, the constant first."""
    return PPoly(np.array(rows[::-1])[:, None, :], np.array([0.0, seconds]))


def pose_of(position: Array = HOME_POSE[:3, 3], turn: Rotation = HOME_TURN) -> Array:
    return np.concatenate([position, turn.as_quat()])


def moving(*position: float) -> Array:
    """Velocity of a pose [m/s]."""
    return np.array([*position, 0.0, 0.0, 0.0, 0.0])


def resting(*offset: float, seconds: float = 1.0) -> PPoly:
    """A chunk that stays somewhere near the hand's place [m]."""
    return of(seconds, pose_of(HOME_POSE[:3, 3] + offset))


#: Highest changes within a cycle that limits and filter allow [m/s], [m/s²].
LINEAR_STEP, CHANGE_STEP = 8.0 * CYCLE, 2 * 8.0 / 4e-3 * CYCLE


def smooth(rows: Array, linear: float = 8.0) -> bool:
    """Whether neither the velocity nor the acceleration of the hand's reference steps."""
    steps = np.linalg.norm(np.diff(rows[:, LINEAR], axis=0), axis=1)
    changes = np.linalg.norm(np.diff(rows[:, LINEAR_CHANGE], axis=0), axis=1)
    return bool(steps.max() <= 1.001 * linear * CYCLE and changes.max() <= CHANGE_STEP)


def speed(rows: Array) -> Array:
    return np.linalg.norm(rows[:, LINEAR], axis=1)


def test_a_chunk_that_replaces_another_somewhere_else_makes_no_step():
    rig = Rig(Mode.OSC)
    path = spline(poses, 4.0)
    rig.send(path)
    rig.run(1500)
    later = shifted(spline(poses, 4.0), np.array([0.03, 0.02, 0.0, 0.0, 0.0, 0.0, 0.0]))
    rig.send(later, start=rig.time - 1.2)  # 0.3 s behind, and 4 cm aside.
    rig.run(1500)
    assert rig.in_force == 2 and rig.memory["approaches"][0] == 0
    assert smooth(rig.rows)
    np.testing.assert_allclose(rig.rows[-1, POSITION], later(2.7)[:3], atol=0.5e-3)


def test_a_path_that_is_too_fast_is_followed_as_fast_as_the_limits_allow():
    limits = {"max_linear_velocity": 0.2, "max_linear_acceleration": 4.0, "max_linear_step": 0.04}
    rig = Rig(Mode.OSC, **limits)
    rig.send(of(0.5, pose_of(), moving(0.0, 0.4, 0.0)))
    rig.run(2500)
    # The reference's velocity overshoots by what its 4 ms filter takes to react.
    assert speed(rig.rows).max() <= 0.2 * 1.01
    assert np.linalg.norm(rig.rows[:, LINEAR_CHANGE], axis=1).max() <= 4.001
    assert rig.limited == {Limit.MAX_LINEAR_VELOCITY: 1, Limit.MAX_LINEAR_STEP: 1}, "once for each chunk"
    np.testing.assert_allclose(rig.rows[-1, POSITION] - HOME_POSE[:3, 3], [0.0, 0.2, 0.0], atol=1e-3)


def test_joints_that_are_too_fast_or_leave_their_limits_stay_within_them():
    fast = np.zeros(7)
    fast[0], fast[6] = 1.5, 1.0
    rig = Rig(max_joint_velocity=0.5, joint_upper=fr3.HOME + 0.5, max_joint_step=0.1)
    rig.send(of(1.0, fr3.HOME, fast))
    rows = rig.run(5000)
    assert np.abs(rows[:, DQ]).max() <= 0.5 * 1.01 and np.abs(rows[:, DDQ]).max() <= 8.001
    assert set(rig.limited) == {Limit.MAX_JOINT_VELOCITY, Limit.JOINT_UPPER, Limit.MAX_JOINT_STEP}
    assert set(rig.limited.values()) == {1}
    assert (rows[:, Q] <= fr3.HOME + 0.5).all() and rows[-1, 0] > fr3.HOME[0] + 0.4


def test_the_hand_stays_in_the_workspace():
    upper = HOME_POSE[:3, 3] + 0.05
    rig = Rig(Mode.OSC, workspace_upper=upper)
    rig.send(of(1.0, pose_of(), moving(0.1, 0.1, 0.0)))
    rows = rig.run(2000)
    assert (rows[:, POSITION] <= upper + 2e-3).all(), "it brakes at the wall, as with single targets"
    np.testing.assert_allclose(rows[-1, POSITION][:2], upper[:2], atol=1e-4)
    assert rig.limited == {Limit.WORKSPACE_UPPER: 1}


def test_joints_that_would_take_the_hand_out_of_the_workspace_wait():
    upper = HOME_POSE[:3, 3] + np.array([1.0, 0.05, 1.0])
    swing = np.zeros(7)
    swing[0] = 1.0
    rig = Rig(workspace_upper=upper)
    rig.send(PPoly(np.array([[swing, -swing], [fr3.HOME, fr3.HOME + 0.5 * swing]]), np.array([0.0, 0.5, 1.0])))
    rows = rig.run(3000)
    assert rows[:, Q][:, 0].max() < 0.2, "0.05 m at 0.55 m from the axis are 0.09 rad"
    assert rig.limited == {Limit.WORKSPACE_UPPER: 1}
    np.testing.assert_allclose(rows[-1, Q], fr3.HOME, atol=1e-3)
    assert rig.approach is Approach.FOLLOWING


@pytest.mark.parametrize("settings", [{}, {"smooth_targets": 0}])
def test_a_chunk_that_begins_far_away_is_approached_slowly_and_then_followed(settings):
    rig = Rig(Mode.OSC, **settings)
    turned = Rotation.from_rotvec([0.0, 0.0, 0.8]) * HOME_TURN
    far = pose_of(HOME_POSE[:3, 3] + [-0.05, 0.2, 0.05], turned)
    rig.send(of(6.0, far, moving(0.01, 0.0, 0.0)))
    rig.run(20)
    assert rig.approach is Approach.APPROACHING and rig.memory["approaches"][0] == 1
    rig.run(6500)
    # A fifth above the velocities of the settings is the most near a moving target.
    assert speed(rig.rows).max() <= 0.12
    assert np.linalg.norm(rig.rows[:, ANGULAR], axis=1).max() <= 0.36
    assert rig.approach is Approach.FOLLOWING and rig.in_force == 1
    np.testing.assert_allclose(rig.rows[-1, POSITION], far[:3] + [0.06, 0.0, 0.0], atol=1e-3)


def test_joints_that_begin_far_away_are_approached_slowly():
    rig = Rig()
    rig.send(of(1.0, fr3.HOME + 0.4))
    rows = rig.run(6000)
    assert np.abs(rows[:, DQ]).max() <= 0.36 and rig.approach is Approach.FOLLOWING
    np.testing.assert_allclose(rows[-1, Q], fr3.HOME + 0.4, atol=1e-3)


def test_a_chunk_that_begins_far_away_is_refused_if_such_streams_are():
    rig = Rig(Mode.OSC, approach_far_streams=0)
    rig.send(resting(0.0, 0.1, 0.0))
    rows = rig.run(1000)
    assert rig.in_force == 0 and rig.end is ChunkEnd.FAR and rig.approach is Approach.REFUSED
    assert rig.memory["far_targets"][0] == 1
    np.testing.assert_allclose(rows[-1, POSITION], HOME_POSE[:3, 3], atol=1e-6)
    rig.send(resting(0.0, 0.01, 0.0))
    rig.run(500)
    assert rig.in_force == 2 and rig.approach is Approach.FOLLOWING


@pytest.mark.parametrize("why", ["sender", "pause", "hold"])
def test_after_another_sender_a_pause_or_a_hold_the_next_chunk_is_approached(why):
    rig = Rig(Mode.OSC)
    rig.send(resting(0.0, 0.0, 0.0, seconds=0.1))
    rig.run(200)
    if why == "sender":
        rig.commands["stream_id"] += 1
    elif why == "pause":
        rig.run(500)
    else:
        rig.run(5, stop=Hold.ASKED)
    rig.send(resting(0.0, 0.1, 0.0, seconds=2.0))
    rows = rig.run(1500)
    assert rig.memory["approaches"][0] == 1 and speed(rows).max() <= 0.12


@pytest.mark.parametrize("stop", [Hold.ASKED, Hold.PUSHED, Hold.NODE_SILENT, Hold.FINISHING])
def test_a_hold_in_the_middle_of_a_chunk_stops_within_the_limits_and_ends_it(stop):
    rig = Rig(Mode.OSC)
    rig.send(of(2.0, pose_of(), moving(0.0, 0.2, 0.0)))
    rig.run(500)
    assert speed(rig.rows)[-1] > 0.15
    rows = rig.run(1000, stop=stop)
    assert smooth(rig.rows) and speed(rows)[-1] < 1e-3
    assert rig.in_force == 0 and rig.end is ChunkEnd.HELD
    later = rig.run(500)
    np.testing.assert_allclose(later[:, POSITION], rows[-1, POSITION] + np.zeros((500, 1)), atol=1e-4)
    assert rig.in_force == 0, "it does not continue by itself"


@pytest.mark.parametrize("mode", [Mode.OSC, Mode.IMPEDANCE])
def test_a_chunk_that_is_stopped_slows_down_without_going_back(mode):
    rig = Rig(mode)
    move = of(2.0, pose_of(), moving(0.0, 0.2, 0.0)) if mode is Mode.OSC else of(2.0, fr3.HOME, np.full(7, 0.3))
    number = rig.send(move)
    rig.run(500)
    rig.commands["chunk_stop"] = number
    rows = rig.run(1000)
    assert rig.in_force == 0 and rig.end is ChunkEnd.STOPPED
    along = rows[:, POSITION][:, 1] if mode is Mode.OSC else rows[:, Q][:, 1]
    assert np.diff(along).min() > -1e-6 and abs(np.diff(along)[-1]) < 1e-6
    assert along[-1] - along[0] < 0.05


def test_a_hand_turns_through_half_a_turn_and_more():
    axis = np.array([0.6, 0.0, 0.8])

    def turning(times: Array) -> Array:
        angles = 3.5 * (1.0 - np.cos(np.pi * times / 5.0)) / 2.0
        numbers = (Rotation.from_rotvec(np.outer(angles, axis)) * HOME_TURN).as_quat()
        numbers[1:] *= np.cumprod(np.sign(np.einsum("ij,ij->i", numbers[1:], numbers[:-1])))[:, None]
        return np.hstack([np.tile(HOME_POSE[:3, 3], (len(times), 1)), 2.0 * numbers])  # of any length

    # The reference alone: the toy arm would meet its joint limits.
    rig, path = Rig(Mode.OSC), spline(turning, 5.0)
    rig.send(path)
    rates = 3.5 * np.pi / 10.0 * np.sin(np.pi * CYCLE * np.arange(1500) / 5.0)
    rows = rig.run(1500)
    np.testing.assert_allclose(rows[:, ANGULAR], np.outer(rates, axis), atol=0.02)


def test_a_chunk_stays_at_its_end_point():
    rig = Rig(Mode.OSC)
    rig.send(spline(poses, 1.0))
    rig.run(1000)
    rows = rig.run(5000)
    np.testing.assert_allclose(
        rows[500:, POSITION], poses(np.array([0.0, 1.0]))[1, :3] + np.zeros((4500, 1)), atol=1e-4
    )
    assert rig.in_force == 1


def test_a_single_target_a_motion_and_another_mode_end_a_chunk():
    for reason in (ChunkEnd.TARGET, ChunkEnd.MOTION, ChunkEnd.MODE):
        rig = Rig(Mode.OSC)
        rig.send(spline(poses, 4.0))
        rig.run(500)
        assert rig.in_force == 1 and rig.end is ChunkEnd.NONE
        if reason is ChunkEnd.TARGET:
            rig.target(target_position=HOME_POSE[:3, 3], target_orientation=HOME_TURN.as_quat())
        elif reason is ChunkEnd.MODE:
            rig.commands["mode"], rig.commands["mode_id"] = Mode.IMPEDANCE, 2
        else:
            q = rig.measured["q"][0].copy()
            coefficients = np.zeros((1, 7, 6))
            coefficients[0, :, 0] = q
            fill_path(rig.motion, 1, 0.0, np.array([0.0, 1.0]), coefficients)
            rig.commands["motion_id"] = 1
        rig.run(1500)
        assert rig.in_force == 0 and rig.end is reason
        if reason is ChunkEnd.TARGET:
            np.testing.assert_allclose(rig.rows[-1, POSITION], HOME_POSE[:3, 3], atol=1e-3)


@pytest.mark.parametrize("kind", [TargetKind.VELOCITY, TargetKind.SERVO])
def test_chunks_and_other_kinds_of_targets_replace_each_other(kind):
    rig = Rig(Mode.OSC)
    for _ in range(2):
        rig.send(shifted(spline(poses, 1.0), np.append(rig.rows[-1, POSITION] - HOME_POSE[:3, 3], np.zeros(4))))
        rig.run(500)
        assert rig.in_force > 0 and rig.memory["driving"][0] == TargetKind.POSITION
        rig.target(target_kind=kind, target_twist=np.array([0, 0.05, 0, 0, 0, 0]), target_q=rig.measured["q"][0].copy())
        rows = rig.run(300)
        assert rig.in_force == 0 and rig.end is ChunkEnd.TARGET and rig.memory["driving"][0] == kind
        if kind is TargetKind.VELOCITY:
            assert smooth(rows)
    rig.send(of(1.0, pose_of(rig.memory["position"][0], HOME_TURN)))
    rig.run(1000)
    assert rig.in_force == 3 and speed(rig.rows)[-1] < 1e-3


def test_a_chunk_made_before_a_later_target_or_for_another_mode_never_begins():
    for reason in (ChunkEnd.TARGET, ChunkEnd.MODE):
        rig = Rig(Mode.OSC)
        number = rig.send(resting(0.0, 0.01, 0.0))
        if reason is ChunkEnd.TARGET:
            rig.target(target_position=HOME_POSE[:3, 3], target_orientation=HOME_TURN.as_quat())
        else:
            rig.commands["mode"], rig.commands["mode_id"] = Mode.TORQUE, 2
        rig.run(10)
        assert rig.in_force == 0 and rig.end is reason and rig.memory["chunk_seen"][0] == number


@pytest.mark.parametrize("what", ["nan", "none", "many", "times", "start", "quaternion"])
def test_a_chunk_that_makes_no_sense_is_ended_and_the_arm_stops(what):
    rig = Rig(Mode.OSC)
    rig.send(of(2.0, pose_of(), moving(0.0, 0.1, 0.0)))
    rig.run(500)
    number = rig.send(of(2.0, pose_of(HOME_POSE[:3, 3] + [0.0, 0.05, 0.0]), moving(0.0, 0.1, 0.0)))
    if what == "nan":
        rig.chunk["coefficients"][0, 0, 2, 3] = np.nan
    elif what == "none":
        rig.chunk["segments"] = 0
    elif what == "many":
        rig.chunk["segments"] = 10**9
    elif what == "times":
        rig.chunk["times"][0, :2] = np.nan
    elif what == "start":
        rig.chunk["start"] = np.inf
    else:
        rig.chunk["coefficients"][0, 0, 3:] = 0.0
    rows = rig.run(1000)
    assert rig.in_force == 0 and rig.end is ChunkEnd.INVALID and rig.memory["chunk_seen"][0] == number
    assert np.isfinite(rig.rows).all() and smooth(rig.rows) and speed(rows)[-1] < 1e-3
    assert rig.memory["not_finite"][0] == 0


@pytest.mark.parametrize("mode", [Mode.OSC, Mode.IMPEDANCE])
def test_whatever_is_in_a_chunk_the_reference_stays_within_its_limits(mode):
    rig, rng = Rig(mode), np.random.default_rng(11)
    for _ in range(60):
        n = int(rng.integers(1, 6))
        coefficients = rng.normal(size=(6, n, 7)) * 10.0 ** rng.uniform(-2, 4, (6, n, 1))
        coefficients[-1] += pose_of() if mode is Mode.OSC else fr3.HOME
        if rng.uniform() < 0.3:
            coefficients.flat[rng.integers(coefficients.size)] = rng.choice([np.nan, np.inf, -1e300])
        rig.send(PPoly(coefficients, np.arange(n + 1.0)), start=rig.time - rng.uniform(-0.01, 2.0))
        rig.chunk["times"][0, : n + 1] = rng.normal(size=n + 1) if rng.uniform() < 0.3 else 0.05 * np.arange(n + 1)
        rig.run(50)
    rows = rig.rows
    assert np.isfinite(rows).all() and np.isfinite(rig.memory["tau"]).all()
    if mode is Mode.OSC:
        assert np.linalg.norm(rows[:, LINEAR_CHANGE], axis=1).max() <= 8.001
        assert np.linalg.norm(rows[:, ANGULAR_CHANGE], axis=1).max() <= 16.001
        assert speed(rows).max() <= 1.01
    else:
        assert np.abs(rows[:, DDQ]).max() <= 8.001
        assert (rows[:, Q] >= fr3.POSITION_LOWER).all() and (rows[:, Q] <= fr3.POSITION_UPPER).all()


@pytest.mark.parametrize("late", [0.5, 100.0])
def test_a_chunk_that_should_have_begun_earlier_is_joined_where_it_should_be_now(late):
    rig = Rig(Mode.OSC)
    rig.send(of(1.0, pose_of() - 0.005 * moving(0, 1, 0), moving(0.0, 0.01, 0.0)), start=rig.time - late)
    rig.run(500)
    y = rig.rows[-1, POSITION][1] - HOME_POSE[1, 3]
    assert y == pytest.approx(0.005, abs=2e-4)
    assert smooth(rig.rows)


def test_the_state_says_which_chunk_is_in_force_and_when_its_first_torque_was():
    rig = Rig(Mode.OSC)

    def report(stamp: int) -> None:
        control_cycle_report(rig.commands, rig.measured, rig.memory, rig.state, stamp, 0.0, 1.0)

    report(1)
    number = rig.send(spline(poses, 4.0))
    for stamp in (2, 3, 4):
        rig.run(1)
        report(stamp)
    state = rig.state[0]
    assert (state["chunk_id"], state["chunk_first"], state["chunk_end"]) == (number, 2, ChunkEnd.NONE)
    assert state["chunk_time"] == pytest.approx(2 * CYCLE)
    np.testing.assert_array_equal(state["ref_linear"], rig.rows[-1, LINEAR])
    rig.run(1, stop=Hold.ASKED)
    rig.run(1)
    report(5)
    assert (state["chunk_id"], state["chunk_seen"], state["chunk_first"]) == (0, number, 2)
    assert state["chunk_end"] == ChunkEnd.HELD


def test_a_chunk_of_an_earlier_activation_is_not_followed():
    rig = Rig(Mode.OSC)
    rig.send(spline(poses, 4.0))
    rig.memory[:] = np.zeros(1, MEMORY)
    rows = rig.run(500)
    assert rig.in_force == 0 and speed(rows).max() < 1e-6
