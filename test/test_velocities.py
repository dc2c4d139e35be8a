"""Velocities and streams of joint targets for every mode: followed within all limits, and stopped when they end."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_control_cycle import Bench
from test_velocity_limits import Arm

from aiofranka_ros.control.law import report as cycle_report
from aiofranka_ros.control.records import STATE, Hold, Law, Limit, Mode, TargetKind, new
from aiofranka_ros.model import fr3

pytestmark = pytest.mark.unit

#: The reference's velocity overshoots by less than this share of a step.
OVERSHOOT = 0.02
#: Most that an acceleration may change in a cycle: it is smoothed over four cycles [m/s²], [rad/s²].
JOLT = 16.0 / 5.0


class Watched(Bench):
    """A bench that keeps its reference in each cycle."""

    def __init__(self, mode: Mode, **settings: object) -> None:
        super().__init__(mode, **settings)
        self.rows: list[dict[str, np.ndarray]] = []
        self.run(10)
        self.start = {name: self.memory[name][0].copy() for name in ("ref_q", "ref_position", "ref_orientation")}

    def run(self, cycles: int = 1, **how: object) -> np.ndarray:
        names = "ref_q ref_dq ref_ddq ref_position ref_linear ref_linear_acceleration ref_angular".split()
        for _ in range(cycles):
            super().run(1, **how)
            self.rows.append({name: self.memory[name][0].copy() for name in names})
        return np.array(self.sent[-cycles:])

    def seen(self, name: str) -> np.ndarray:
        return np.array([row[name] for row in self.rows])

    def moved(self, name: str) -> np.ndarray:
        """How far the reference is from where it began."""
        return self.memory[name][0] - self.start[name]

    def twist(self, *twist: float, in_tool: bool = False) -> None:
        self.target(target_kind=TargetKind.VELOCITY, target_twist=twist, target_in_tool=in_tool)

    def velocities(self, *dq: float) -> None:
        self.target(target_kind=TargetKind.VELOCITY, target_dq=dq)

    def pose(self, *offset: float) -> None:
        position = self.start["ref_position"] + offset
        self.target(
            target_kind=TargetKind.POSITION, target_position=position, target_orientation=self.start["ref_orientation"]
        )

    def servo(self, q: np.ndarray, stamp: int = 0) -> None:
        self.target(target_kind=TargetKind.SERVO, target_q=q, target_stamp=stamp)

    @property
    def limited(self) -> set[Limit]:
        return {limit for limit in Limit if self.memory["limited_targets"][0, limit]}

    def state(self) -> np.ndarray:
        state = new(STATE)
        cycle_report.report(self.commands, self.measured, self.memory, state, 0, 0.0, 1.0)
        return state[0]


def joint(index: int, value: float) -> np.ndarray:
    row = np.zeros(7)
    row[index] = value
    return row


def test_a_twist_moves_the_reference_at_its_velocity_until_it_times_out_and_the_arm_stays_where_that_ends():
    bench = Watched(Mode.OSC)
    for _ in range(50):
        bench.twist(0.1, 0.0, -0.05, 0.0, 0.2, 0.0)
        bench.run(20)
    np.testing.assert_allclose(bench.memory["ref_linear"][0], [0.1, 0.0, -0.05], atol=1e-6)
    np.testing.assert_allclose(bench.memory["ref_angular"][0], [0.0, 0.2, 0.0], atol=1e-6)
    # As far as the velocity says, but for the time in which it is reached.
    np.testing.assert_allclose(bench.moved("ref_position"), [0.1, 0.0, -0.05], atol=3e-3)
    assert bench.state()["velocity_left"] > 0.2 and bench.state()["velocity_timeouts"] == 0
    bench.run(229)  # The last one came 20 cycles ago.
    np.testing.assert_allclose(bench.memory["ref_linear"][0], [0.1, 0.0, -0.05], atol=1e-6)
    bench.run(1000)
    assert bench.state()["velocity_left"] == 0.0 and bench.state()["velocity_timeouts"] == 1
    way = bench.seen("ref_position")[-1000:] @ [0.1, 0.0, -0.05]
    assert way.max() - way[-1] < 1e-5, "it does not return"
    assert np.abs(bench.seen("ref_linear")[-800:]).max() < 1e-5, "it stops at once"
    assert np.linalg.norm(bench.seen("ref_linear_acceleration"), axis=1).max() <= 8.0 + 1e-9
    assert np.abs(np.diff(bench.seen("ref_linear_acceleration"), axis=0)).max() <= JOLT


def test_joint_velocities_move_the_joints_until_they_time_out():
    bench = Watched(Mode.IMPEDANCE)
    dq = np.linspace(-0.3, 0.3, 7)
    for _ in range(50):
        bench.velocities(*dq)
        bench.run(20)
    np.testing.assert_allclose(bench.memory["ref_dq"][0], dq, atol=1e-6)
    np.testing.assert_allclose(bench.moved("ref_q"), dq, atol=8e-3)
    bench.run(1200)
    assert bench.state()["velocity_timeouts"] == 1
    assert np.abs(bench.seen("ref_dq")[-800:]).max() < 1e-5
    ends = bench.seen("ref_q")[-800:]
    np.testing.assert_allclose(ends, ends[:1].repeat(800, 0), atol=1e-5)
    assert np.abs(bench.seen("ref_ddq")).max() <= 8.0 + 1e-9
    np.testing.assert_allclose(bench.measured["q"][0], ends[-1], atol=2e-3)


def test_a_twist_along_the_axes_of_the_hand_turns_with_it():
    bench = Watched(Mode.OSC)
    turned = Rotation.from_quat(bench.start["ref_orientation"]).as_matrix()
    for _ in range(25):
        bench.twist(0.1, 0.0, 0.0, 0.0, 0.0, 1.0, in_tool=True)
        bench.run(20)
    # A circle with a radius of 0.1 m about the hand's axis z, for half a second.
    expected = turned @ [0.1 * np.sin(0.5), 0.1 * (1.0 - np.cos(0.5)), 0.0]
    np.testing.assert_allclose(bench.moved("ref_position"), expected, atol=3e-3)
    np.testing.assert_allclose(bench.memory["ref_angular"][0], turned[:, 2], atol=1e-6)


def test_velocities_that_are_too_fast_are_limited_and_counted():
    bench = Watched(Mode.OSC, max_linear_velocity=0.2, max_angular_velocity=0.5)
    bench.twist(3.0, 4.0, 0.0, 0.0, 0.0, 9.0)
    bench.run(200)
    np.testing.assert_allclose(bench.memory["ref_linear"][0], [0.12, 0.16, 0.0], atol=1e-4)
    np.testing.assert_allclose(bench.memory["ref_angular"][0], [0.0, 0.0, 0.5], atol=1e-4)
    assert bench.limited == {Limit.MAX_LINEAR_VELOCITY, Limit.MAX_ANGULAR_VELOCITY}
    bench = Watched(Mode.PID)
    bench.commands["max_joint_velocity"] = 0.5
    bench.velocities(1.0, -0.5, *np.zeros(5))
    bench.run(200)
    np.testing.assert_allclose(bench.memory["ref_dq"][0, :2], [0.5, -0.25], atol=1e-4)
    assert bench.limited == {Limit.MAX_JOINT_VELOCITY}


@pytest.mark.parametrize("speed", [0.05, 0.3, 1.0])
def test_a_twist_slows_down_before_a_wall_and_slides_along_it(speed):
    bench = Watched(Mode.OSC)
    wall = bench.start["ref_position"][0] + 0.1
    bench.commands["workspace_upper"] = [wall, 2.0, 2.0]
    sideways = 1.0
    for k in range(200):
        if k % 10 == 0:
            sideways = -sideways  # Takes all of the acceleration that the wall leaves.
        bench.twist(speed, sideways, 0.0, 0.0, 0.0, 0.0)
        bench.run(20)
    assert bench.seen("ref_position")[:, 0].max() < wall + 1e-4
    assert bench.memory["ref_position"][0, 0] == pytest.approx(wall, abs=2e-3)
    assert np.abs(bench.seen("ref_linear")[-400:, 1]).max() > 0.5
    assert np.linalg.norm(bench.seen("ref_linear_acceleration"), axis=1).max() <= 8.0 + 1e-9
    assert Limit.WORKSPACE_UPPER in bench.limited


@pytest.mark.parametrize("speed", [0.1, 2.0])
def test_joint_velocities_stop_at_the_limit_of_a_joint_while_the_others_continue(speed):
    bench = Watched(Mode.IMPEDANCE)
    for _ in range(300):
        bench.velocities(*(joint(5, 2.0) + joint(4, 0.1)))
        bench.run(20)
    end = fr3.POSITION_UPPER[5] - fr3.JOINT_MARGIN
    assert bench.seen("ref_q")[:, 5].max() < end + 1e-4
    assert bench.memory["ref_q"][0, 5] == pytest.approx(end, abs=1e-3)
    assert bench.memory["ref_dq"][0, 4] == pytest.approx(0.1, abs=1e-3)
    assert Limit.JOINT_UPPER in bench.limited and Limit.JOINT_LOWER not in bench.limited


@pytest.mark.parametrize("speed", [0.1, 1.0])
def test_joint_velocities_stop_before_the_hand_leaves_the_workspace(speed):
    bench = Watched(Mode.IMPEDANCE)
    wall = bench.memory["position"][0, 1] + 0.1
    bench.commands["workspace_upper"] = [2.0, wall, 2.0]
    furthest = -2.0
    for _ in range(200):
        bench.velocities(*joint(0, speed))
        bench.run(20)
        furthest = max(furthest, float(bench.memory["position"][0, 1]))
    assert wall - 0.01 < furthest < wall + 1e-3
    assert np.abs(bench.memory["ref_dq"][0]).max() < 1e-3
    assert bench.limited >= {Limit.WORKSPACE_UPPER}
    for _ in range(20):
        bench.velocities(*joint(0, -speed))
        bench.run(20)
    assert bench.memory["position"][0, 1] < wall - 0.01, "it can leave the wall"


@pytest.mark.parametrize("mode", [Mode.OSC, Mode.IMPEDANCE])
@pytest.mark.parametrize("direction", range(12))
def test_velocities_that_never_end_stop_at_what_is_in_the_way(mode, direction):
    """Six directions of the hand, or joints, and both ways: whatever limit that meets, the robot sees no violation."""
    arm = Arm(q=fr3.READY)
    arm.commands["mode"], arm.commands["target_kind"] = mode, TargetKind.VELOCITY
    arm.run(10)
    side = 1.0 if direction % 2 else -1.0
    twist, dq = np.zeros(6), joint(direction // 2, 0.8 * side)
    twist[direction // 2] = side * (0.3 if direction < 6 else 0.8)
    for _ in range(80):
        arm.target(target_twist=twist, target_dq=dq)
        assert arm.run(50) < 1.0, "as fast as the robot allows"
        q = arm.measured["q"][0]
        assert np.all(q > fr3.POSITION_LOWER) and np.all(q < fr3.POSITION_UPPER)
    # A hand that a joint's limit keeps from its reference is not drawn there any more.
    assert arm.run(1500) < 1.0
    assert np.abs(arm.measured["dq"][0]).max() < 0.02


def test_pose_targets_and_twists_alternate_without_a_step():
    bench = Watched(Mode.OSC)
    for k in range(50):
        bench.pose(2e-3 * k, 0.0, 0.0)
        bench.run(20)
    for _ in range(25):
        bench.twist(0.0, 0.1, 0.0, 0.0, 0.0, 0.0)
        bench.run(20)
    place = bench.moved("ref_position")
    for k in range(50):
        bench.pose(*(place - [0.0, 0.0, 2e-3 * k]))
        bench.run(20)
    assert np.abs(np.diff(bench.seen("ref_linear"), axis=0)).max() <= 8e-3 + 1e-9
    assert np.abs(np.diff(bench.seen("ref_linear_acceleration"), axis=0)).max() <= JOLT
    np.testing.assert_allclose(bench.moved("ref_position"), place - [0.0, 0.0, 0.1], atol=3e-3)


def test_a_pose_stream_that_is_far_from_where_a_velocity_ended_is_approached_slowly():
    bench = Watched(Mode.OSC)
    bench.pose(0.0, 0.0, 0.0)
    for _ in range(25):
        bench.twist(0.3, 0.0, 0.0, 0.0, 0.0, 0.0)
        bench.run(20)
    begin = len(bench.rows)
    for _ in range(50):
        bench.pose(0.0, 0.0, 0.0)
        bench.run(20)
    back = bench.seen("ref_linear")[begin + 100 :, 0]
    assert -0.1 * (1 + OVERSHOOT) <= back.min() < -0.09


@pytest.mark.parametrize("mode", [Mode.OSC, Mode.IMPEDANCE])
def test_a_velocity_from_before_a_hold_or_a_switch_does_not_move_the_arm_afterwards(mode):
    bench = Watched(mode)

    def move() -> None:
        bench.target(target_kind=TargetKind.VELOCITY, target_twist=[0.1, 0, 0, 0, 0, 0], target_dq=joint(0, 0.2))
        bench.run(100)

    def speed() -> float:
        return float(np.abs(bench.memory["ref_linear" if mode is Mode.OSC else "ref_dq"][0]).max())

    move()
    assert speed() > 0.09
    bench.run(50, stop=Hold.ASKED)
    bench.run(200)
    assert speed() < 1e-3
    move()
    assert speed() > 0.09
    bench.switch(mode)
    bench.run(300)
    assert speed() < 1e-3
    here = bench.measured["q"][0].copy()
    move()
    assert speed() > 0.09
    assert np.abs(bench.measured["q"][0] - here).max() < 0.1


@pytest.mark.parametrize("mode", [Mode.OSC, Mode.IMPEDANCE, Mode.TORQUE])
@pytest.mark.parametrize(("rate", "velocity"), [(30, 0.2), (100, 0.2), (30, 0.5)])
def test_a_servo_stream_moves_the_joints_in_every_mode_at_its_speed_and_not_beyond_its_end(mode, rate, velocity):
    bench = Watched(mode)
    period = round(1000 / rate)
    last = fr3.HOME.copy()
    for k in range(2 * rate):
        last = fr3.HOME + joint(0, velocity * (k + 1) * period / 1000)
        bench.servo(last)
        bench.run(period)
        if k == rate // 2:
            assert bench.law is (Law.IMPEDANCE if mode is Mode.IMPEDANCE else Law.HOLD)
    speed = bench.seen("ref_dq")[1000:, 0]
    assert 0.95 * velocity <= speed.min() <= speed.max() <= 1.05 * velocity
    bench.run(400)
    # The reference follows a slowing target a little late: half a millimetre at the hand at 0.5 rad/s.
    assert bench.seen("ref_q")[:, 0].max() <= last[0] + 3e-3 * velocity
    assert bench.memory["ref_q"][0, 0] == pytest.approx(last[0], abs=1e-4)
    before = bench.run(1)[0]
    after = bench.run(400)
    assert bench.law == (Law.HOLD if mode is Mode.TORQUE else mode), "the mode controls the arm again"
    assert np.abs(np.diff(np.vstack([before, after]), axis=0)).max() < 0.1, "no step in the torque"
    np.testing.assert_allclose(bench.measured["q"][0], last, atol=2e-3)


def test_after_a_servo_stream_the_mode_continues_from_where_the_arm_is():
    bench = Watched(Mode.OSC)
    for k in range(30):
        bench.servo(fr3.HOME + joint(0, 0.2 * k / 30))
        bench.run(33)
    bench.run(1000)
    place = bench.memory["position"][0].copy()
    np.testing.assert_allclose(bench.memory["ref_position"][0], place, atol=1e-3)
    bench.twist(0.0, 0.0, 0.1, 0.0, 0.0, 0.0)
    bench.run(250)
    np.testing.assert_allclose(bench.memory["ref_position"][0] - place, [0.0, 0.0, 0.025], atol=2e-3)
    bench.servo(bench.measured["q"][0].copy())
    bench.run(10)
    assert bench.law is Law.HOLD
    bench.twist(0.0, 0.0, 0.1, 0.0, 0.0, 0.0)
    torques = bench.run(100)
    assert bench.law is Law.OSC
    assert np.abs(np.diff(torques, axis=0)).max() < 0.99 + 1e-9


def test_a_servo_stream_stops_at_the_limit_of_a_joint():
    bench = Watched(Mode.OSC)
    for k in range(200):
        bench.servo(fr3.HOME + joint(5, 0.5 * k / 30))
        bench.run(33)
    assert bench.memory["ref_q"][0, 5] == pytest.approx(fr3.POSITION_UPPER[5] - fr3.JOINT_MARGIN, abs=1e-3)
    assert Limit.JOINT_UPPER in bench.limited


def test_whatever_kind_of_target_comes_the_robot_sees_no_violation():
    rng = np.random.default_rng(7)
    arm = Arm(q=fr3.READY)
    arm.run(50)
    for _ in range(400):
        if rng.random() < 0.03:
            arm.switch(rng.choice([Mode.OSC, Mode.OSC, Mode.IMPEDANCE, Mode.PID, Mode.TORQUE]))
        arm.target(
            target_kind=rng.choice([TargetKind.POSITION, TargetKind.VELOCITY, TargetKind.VELOCITY, TargetKind.SERVO]),
            target_twist=rng.normal(0.0, 0.5, 6),
            target_in_tool=rng.integers(2),
            target_dq=rng.normal(0.0, 1.0, 7),
            target_position=arm.memory["position"][0] + rng.normal(0.0, 0.02, 3),
            target_orientation=arm.memory["orientation"][0],
            target_q=arm.measured["q"][0] + rng.normal(0.0, 0.05, 7),
            target_torque=np.zeros(7),
        )
        assert arm.run(int(rng.choice([1, 5, 20, 100]))) < 1.0
        assert np.isfinite(arm.memory["tau"][0]).all()
