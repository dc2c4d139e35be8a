"""The reference made from streamed targets: smooth, without lag, and stopped after the last one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from aiofranka_ros.control.defaults import default_commands
from aiofranka_ros.control.law import reference
from aiofranka_ros.control.law.memory import MEMORY, SCRATCH
from aiofranka_ros.control.records import Limit, new
from aiofranka_ros.kernels import Array, Record, kernel
from aiofranka_ros.model import fr3
from aiofranka_ros.model.kinematics import control_frame

pytestmark = pytest.mark.unit

CYCLE = 1e-3


@kernel
def _advance(memory: Record, commands: Record, held: bool, rows: Array) -> None:
    """As many cycles as there are ``rows``: position, velocity, acceleration and orientation of the reference."""
    for row in rows:
        if not held:  # The arm follows perfectly.
            memory.position[:], memory.orientation[:] = memory.ref_position, memory.ref_orientation
            memory.twist[:3], memory.twist[3:] = memory.ref_linear, memory.ref_angular
        reference.advance_pose(memory, commands, CYCLE)
        row[0:3], row[3:6] = memory.ref_position, memory.ref_linear
        row[6:9], row[9:13] = memory.ref_linear_acceleration, memory.ref_orientation


class Stream:
    """The reference of the control frame under targets that arrive at chosen cycles."""

    def __init__(self, **settings: float) -> None:
        self.commands, self.memory = default_commands(), new(MEMORY)
        for name, value in ({"max_joint_velocity": 2.0} | settings).items():
            self.commands[name] = value
        self.memory["orientation"][0] = self.memory["ref_orientation"][0] = [0, 0, 0, 1]
        self.memory["workspace_lower"], self.memory["workspace_upper"] = -10.0, 10.0
        self.memory["spring_lower"] = fr3.POSITION_LOWER + fr3.JOINT_MARGIN
        self.memory["spring_upper"] = fr3.POSITION_UPPER - fr3.JOINT_MARGIN
        self.scratch = new(SCRATCH)
        reference.seed(self.memory[0], self.commands[0], fr3.HOME, np.zeros(7))
        self.cycle = 0
        self.held = False
        self.rows: list[tuple[np.ndarray, ...]] = []

    def target(self, position, *, stamp: float | None = None, orientation=(0, 0, 0, 1)) -> None:
        self.commands["target_position"], self.commands["target_orientation"] = position, orientation
        self.commands["target_stamp"] = 0 if stamp is None else int(1e18 + stamp * 1e9)
        reference.accept_pose(self.memory[0], self.commands[0], self.cycle * CYCLE)

    def advance(self, cycles: int) -> None:
        rows = np.empty((cycles, 13))
        _advance(self.memory[0], self.commands[0], self.held, rows)
        self.cycle += cycles
        self.rows += [tuple(np.split(row, (3, 6, 9))) for row in rows]

    @property
    def positions(self) -> np.ndarray:
        return np.array([row[0] for row in self.rows])

    @property
    def velocities(self) -> np.ndarray:
        return np.array([row[1] for row in self.rows])

    @property
    def accelerations(self) -> np.ndarray:
        return np.array([row[2] for row in self.rows])


def limits_met(stream: Stream) -> dict[Limit, int]:
    """How many targets met each limit; without those that none has met."""
    counts = stream.memory["limited_targets"][0]
    return {limit: int(counts[limit]) for limit in Limit if counts[limit]}


def line(t: float) -> np.ndarray:
    return np.array([0.1 * t, 0.0, 0.0])


@pytest.mark.parametrize("jitter", [0, 5])
def test_a_steady_stream_is_followed_without_lag(jitter):
    stream, rng = Stream(), np.random.default_rng(3)
    due = 0
    for k in range(100):
        due = 20 * k + int(rng.integers(-jitter, jitter + 1)) if k else 0
        stream.advance(due - stream.cycle)
        stream.target(line(20e-3 * k), stamp=20e-3 * k)
    times = CYCLE * np.arange(1, stream.cycle + 1)
    lag = 0.1 * times - stream.positions[:, 0]
    # Arrivals 5 ms late or early look like targets 0.5 mm off at 0.1 m/s; a lag of one period would be 2 mm.
    assert np.abs(lag[-500:]).max() < 0.1e-3 + 0.1 * jitter * CYCLE


def test_between_targets_the_reference_moves_in_every_cycle_instead_of_in_steps():
    smooth, raw = Stream(), Stream(smooth_targets=0)
    for stream in (smooth, raw):
        for k in range(100):
            stream.target(line(20e-3 * k), stamp=20e-3 * k)
            stream.advance(20)
    steps = {name: np.abs(np.diff(s.positions[1000:, 0])) for name, s in (("smooth", smooth), ("raw", raw))}
    assert steps["raw"].max() == pytest.approx(2e-3), "without smoothing, it steps by 2 mm every 20 ms"
    assert steps["smooth"].max() < 0.15e-3, "with smoothing, it moves by 0.1 mm in each cycle"


def test_the_acceleration_of_the_reference_has_no_steps():
    """A step of acceleration would be a step of torque."""
    stream = Stream()
    for k in range(100):
        angle = 2 * np.pi * 0.25 * 20e-3 * k
        stream.target([0.05 * np.cos(angle) - 0.05, 0.05 * np.sin(angle), 0.0], stamp=20e-3 * k)
        stream.advance(20)
    change = np.abs(np.diff(stream.accelerations[1000:], axis=0)).max()
    assert change < 0.2  # 0.2 m/s² in one cycle: about 0.6 N with an effective mass of 3 kg at the hand.


def test_a_gap_is_bridged_by_the_velocity_of_the_targets_before_it():
    stream = Stream()
    for k in range(50):
        stream.target(line(20e-3 * k), stamp=20e-3 * k)
        stream.advance(20)
    begin = stream.positions[-1, 0]
    stream.advance(130)  # One period has passed already; extrapolation lasts 150 ms.
    assert stream.positions[-1, 0] - begin == pytest.approx(0.1 * 0.130, abs=0.2e-3)


def test_after_a_gap_the_reference_stops_and_then_returns_to_the_last_target():
    stream = Stream()
    for k in range(50):
        stream.target(line(20e-3 * k), stamp=20e-3 * k)
        stream.advance(20)
    last = line(20e-3 * 49)[0]
    stream.advance(700)
    assert np.abs(stream.velocities[-100:]).max() < 1e-3
    # The full velocity for the extrapolation time, then on average half of it for the same time again.
    assert stream.positions[-1, 0] == pytest.approx(last + 0.1 * 1.5 * 0.15, abs=0.2e-3)
    stream.advance(2500)
    assert np.abs(stream.velocities[-2500:]).max() < 0.26 * 0.1, "the return is a quarter as fast as the target was"
    assert np.abs(stream.velocities[-300:]).max() < 1e-4
    assert stream.positions[-1, 0] == pytest.approx(last, abs=0.1e-3)


def test_a_single_target_gives_no_velocity():
    stream = Stream()
    stream.target([0.1, 0.0, 0.0])
    stream.advance(2000)
    assert stream.positions[:, 0].max() < 0.1 + 0.5e-3
    assert stream.positions[-1, 0] == pytest.approx(0.1, abs=1e-4)


def test_an_outlier_gives_no_velocity():
    stream = Stream()
    for k in range(50):
        outlier = 0.05 if k == 40 else 0.0
        stream.target(line(20e-3 * k) + [0.0, outlier, 0.0], stamp=20e-3 * k)
        stream.advance(20)
    # The target is 50 mm off for 20 ms: at 8 m/s², the reference moves by a few millimetres.
    assert np.abs(stream.positions[:, 1]).max() < 8e-3
    assert np.abs(stream.positions[-1, 1]) < 1e-3


def test_velocity_and_acceleration_of_the_reference_stay_within_their_bounds():
    stream = Stream(max_linear_velocity=0.3, max_linear_acceleration=2.0, max_linear_step=1.0)
    stream.target([0.0, 0.0, 0.0])  # Only a stream that was met may be fast.
    stream.target([0.4, 0.3, 0.0])
    stream.advance(4000)
    assert np.linalg.norm(stream.velocities, axis=1).max() <= 0.3 * 1.02
    assert np.linalg.norm(stream.accelerations, axis=1).max() <= 2.0 + 1e-9
    np.testing.assert_allclose(stream.positions[-1], [0.4, 0.3, 0.0], atol=1e-4)
    overshoot = (stream.positions @ [0.8, 0.6, 0.0]).max() - 0.5
    assert overshoot < 1e-3


@pytest.mark.parametrize(("distance", "limited"), [(0.149, False), (0.151, True), (0.5, True)])
def test_a_target_further_away_than_a_step_is_limited_and_counted(distance, limited):
    stream = Stream()
    stream.target([0.0, distance, 0.0])
    assert limits_met(stream) == ({Limit.MAX_LINEAR_STEP: 1} if limited else {})
    np.testing.assert_allclose(stream.memory["target_position"][0], [0.0, min(distance, 0.15), 0.0], atol=1e-12)


def test_a_turn_larger_than_a_step_is_limited_about_its_own_axis():
    stream = Stream()
    axis = np.array([0.6, 0.0, 0.8])
    stream.target([0, 0, 0], orientation=Rotation.from_rotvec(1.0 * axis).as_quat())
    turned = Rotation.from_quat(stream.memory["target_orientation"][0]).as_rotvec()
    np.testing.assert_allclose(turned, 0.5 * axis, atol=1e-9)
    assert limits_met(stream) == {Limit.MAX_ANGULAR_STEP: 1}


def test_orientations_are_followed_without_lag_too():
    stream = Stream()
    for k in range(100):
        stream.target([0, 0, 0], stamp=20e-3 * k, orientation=Rotation.from_rotvec([0, 0.5 * 20e-3 * k, 0]).as_quat())
        stream.advance(20)
    reached = Rotation.from_quat(stream.rows[-1][3]).as_rotvec()
    np.testing.assert_allclose(reached, [0.0, 0.5 * stream.cycle * CYCLE, 0.0], atol=1e-3)


def test_a_stream_that_is_too_fast_is_followed_at_the_velocity_limit():
    stream = Stream(max_linear_velocity=0.1)
    for k in range(100):
        stream.target([0.3 * 20e-3 * k, 0.0, 0.0], stamp=20e-3 * k)
        stream.advance(20)
    assert np.linalg.norm(stream.velocities, axis=1).max() <= 0.1 * 1.02


def test_joint_targets_that_are_too_fast_are_followed_at_the_velocity_limit():
    stream = Stream(max_joint_velocity=0.2)
    fastest = 0.0
    for k in range(100):
        joints(stream, fr3.HOME + 0.6 * 20e-3 * k, 20e-3 * k)
        rows = advance_joints(stream, 20)
        fastest = max(fastest, np.abs(np.diff(rows, axis=0)).max() / CYCLE)
    assert fastest <= 0.2 * 1.02


def test_the_reference_stays_near_an_arm_that_is_blocked():
    stream = Stream()
    stream.held = True
    for k in range(200):
        stream.target(line(20e-3 * k), stamp=20e-3 * k)
        stream.advance(20)
    assert np.linalg.norm(stream.positions, axis=1).max() <= 0.05 + 1e-9
    np.testing.assert_allclose(stream.velocities[-1], 0.0, atol=1e-9)


def test_stamps_that_contradict_the_arrivals_are_ignored():
    stream = Stream()
    for k in range(50):  # They are 20 ms apart, but their stamps 1 ms.
        stream.target(line(20e-3 * k), stamp=1e-3 * k)
        stream.advance(20)
    assert np.linalg.norm(stream.memory["target_linear"][0]) == pytest.approx(0.1, rel=0.05)


def joints(stream: Stream, q: np.ndarray, stamp: float = 0.0) -> None:
    stream.commands["target_q"], stream.commands["target_stamp"] = q, int(1e18 + stamp * 1e9)
    reference.accept_joints(stream.memory[0], stream.commands[0], stream.scratch[0], stream.cycle * CYCLE)


def advance_joints(stream: Stream, cycles: int, *, smooth: bool = True) -> np.ndarray:
    rows = []
    for _ in range(cycles):
        stream.cycle += 1
        reference.advance_joints(stream.memory[0], stream.commands[0], smooth, CYCLE)
        rows.append(stream.memory["ref_q"][0].copy())
    return np.array(rows)


def test_joint_targets_are_followed_without_lag():
    stream = Stream()
    for k in range(100):
        joints(stream, fr3.HOME + 0.2 * 20e-3 * k, 20e-3 * k)
        rows = advance_joints(stream, 20)
    np.testing.assert_allclose(rows[-1], fr3.HOME + 0.2 * stream.cycle * CYCLE, atol=1e-3)


def test_joint_targets_end_inside_the_position_limits():
    stream = Stream(max_joint_step=10.0)
    joints(stream, fr3.HOME)
    joints(stream, fr3.POSITION_UPPER + 0.3)
    rows = advance_joints(stream, 5000)
    assert np.all(rows <= fr3.POSITION_UPPER - fr3.JOINT_MARGIN + 2e-3)
    np.testing.assert_allclose(rows[-1], fr3.POSITION_UPPER - fr3.JOINT_MARGIN, atol=1e-3)


def test_a_joint_target_further_away_than_a_step_is_limited_and_counted():
    stream = Stream()
    q = fr3.HOME.copy()
    q[0] += 1.0
    joints(stream, q)
    assert limits_met(stream) == {Limit.MAX_JOINT_STEP: 1}
    assert stream.memory["target_q"][0, 0] == pytest.approx(fr3.HOME[0] + 0.5)


@pytest.mark.parametrize("target", [[0.0, 0.0, -1.0], [-1.0, 0.0, 0.5]])
def test_a_pose_far_below_the_workspace_meets_its_wall_and_not_the_limit_of_a_step(target):
    stream = Stream()
    stream.memory["workspace_lower"] = -0.1
    stream.target(target)
    assert Limit.WORKSPACE_LOWER in limits_met(stream)
    assert (Limit.MAX_LINEAR_STEP in limits_met(stream)) == (target[2] == 0.5)


def test_a_stream_that_is_too_fast_is_counted_at_the_limit_of_its_velocity():
    stream = Stream(max_linear_velocity=0.1)
    for k in range(10):
        stream.target([4e-3 * k, 0.0, 0.0], stamp=20e-3 * k)  # 0.2 m/s
        stream.advance(20)
    assert set(limits_met(stream)) == {Limit.MAX_LINEAR_VELOCITY}
    stream = Stream()
    for k in range(10):
        joints(stream, fr3.HOME + [0.1 * k, 0, 0, 0, 0, 0, 0], stamp=20e-3 * k)  # 5 rad/s
        advance_joints(stream, 20)
    assert Limit.MAX_JOINT_VELOCITY in limits_met(stream)


@pytest.mark.parametrize(("joint", "value", "limit"), [(3, 0.0, Limit.JOINT_UPPER), (5, 0.0, Limit.JOINT_LOWER)])
def test_a_joint_target_beyond_a_position_limit_is_counted_there_however_far_it_is(joint, value, limit):
    stream = Stream(max_joint_step=10.0)
    q = fr3.HOME.copy()
    q[joint] = value
    joints(stream, q)
    assert limits_met(stream) == {limit: 1}


def test_freezing_stops_the_reference_within_its_braking_distance():
    stream = Stream()
    for k in range(50):
        stream.target(line(20e-3 * k), stamp=20e-3 * k)
        stream.advance(20)
    frozen = stream.memory["ref_position"][0, 0]
    reference.freeze(stream.memory[0])
    stream.advance(1000)
    assert abs(stream.positions[-1, 0] - frozen) < 2e-3
    assert np.abs(stream.velocities[-1]).max() < 1e-4


@pytest.mark.parametrize(("x", "limited"), [(0.0999, 0), (0.1, 0), (0.1001, 1)])
def test_a_pose_outside_the_workspace_is_moved_to_its_nearest_point_inside(x, limited):
    stream = Stream()
    stream.memory["workspace_upper"] = [0.1, 10.0, 10.0]
    for _ in range(5):
        stream.target([x, 0.05, 0.0])
        stream.advance(400)
    assert limits_met(stream) == ({Limit.WORKSPACE_UPPER: 5} if limited else {})
    np.testing.assert_allclose(stream.memory["ref_position"][0], [min(x, 0.1), 0.05, 0.0], atol=1e-4)


def test_a_stream_that_leaves_the_workspace_slides_along_its_wall():
    stream = Stream()
    stream.memory["workspace_upper"] = [0.05, 10.0, 10.0]
    for k in range(100):
        stream.target([2e-3 * k, 1e-3 * k, 0.0])
        stream.advance(20)
    position = np.array([row[0] for row in stream.rows])
    assert position[:, 0].max() < 0.05 + 2e-3, "it brakes before the wall"
    np.testing.assert_allclose(stream.memory["ref_position"][0], [0.05, 0.1, 0.0], atol=5e-3)


@pytest.mark.parametrize(("turn", "limited"), [(0.299, 0), (0.3, 0), (0.301, 1)])
def test_joint_targets_that_lead_out_of_the_workspace_are_ignored(turn, limited):
    stream = Stream()
    stream.commands["flange_to_tcp"] = np.eye(4)
    bound = fr3.HOME.copy()
    bound[0] += 0.3
    stream.memory["workspace_upper"] = [10.0, control_frame(bound)[1, 3], 10.0]
    goal = fr3.HOME.copy()
    goal[0] += turn
    joints(stream, goal)
    assert limits_met(stream) == ({Limit.WORKSPACE_UPPER: 1} if limited else {})
    expected = fr3.HOME if limited else goal
    np.testing.assert_allclose(advance_joints(stream, 3000)[-1], expected, atol=1e-3)
