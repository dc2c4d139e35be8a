"""Control cycles without a robot: the torques during changes of modes, gains and targets, and without a node."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiofranka_ros.arm.planning import plan
from aiofranka_ros.arm.settings import ArmSettings
from aiofranka_ros.control.defaults import default_commands
from aiofranka_ros.control.law import cycle as control_cycle
from aiofranka_ros.control.law import report as cycle_report
from aiofranka_ros.control.law.memory import MEMORY, SCRATCH
from aiofranka_ros.control.law.motion import LONGEST_STOP
from aiofranka_ros.control.records import CHUNK, MEASURED, MOTION, STATE, Hold, Law, Mode, MotionStatus, new
from aiofranka_ros.control.shared_memory import fill_path
from aiofranka_ros.model import fr3
from aiofranka_ros.model.kinematics import pose_matrix

pytestmark = pytest.mark.unit

#: Rounding may add this share to the largest change of a torque in a cycle.
ROUNDING = 1e-9


class Bench:
    """The cycle with a toy arm of seven independent inertias, which is enough to test torques."""

    INERTIA = np.array([0.3, 0.3, 0.3, 0.2, 0.1, 0.1, 0.1])  # [kg m²]

    def __init__(self, mode: Mode = Mode.IMPEDANCE, **settings: object) -> None:
        self.commands = c = default_commands()
        self.measured = m = new(MEASURED)
        self.motion, self.chunk, self.memory, self.scratch = map(new, (MOTION, CHUNK, MEMORY, SCRATCH))
        c["mode"], c["mode_id"] = mode, 1
        # No motors, and gains that suit the toy arm.
        c["motor_inertia"], c["ki"], c["integral_limit"] = 0.0, 50.0, 5.0
        c["kp"] = c["motion_kp"] = 400.0
        c["kd"] = c["motion_kd"] = 40.0
        for name, value in settings.items():
            c[name] = value
        m["q"], m["mass"], m["elapsed"] = fr3.HOME, np.diag(self.INERTIA), fr3.CYCLE
        self.sent: list[np.ndarray] = []

    def run(self, cycles: int = 1, *, stop: Hold = Hold.NONE, moving: bool = True) -> np.ndarray:
        """Run cycles; return the torques sent in them (cycles, 7)."""
        m = self.measured
        for _ in range(cycles):
            control_cycle.step(self.commands, self.motion, self.chunk, m, self.memory, self.scratch, int(stop))
            tau = self.memory["tau"][0].copy()
            self.sent.append(tau)
            m["tau_last"], m["time"] = tau, m["time"] + fr3.CYCLE
            if moving:
                m["dq"] += tau / self.INERTIA * fr3.CYCLE
                m["q"] += m["dq"] * fr3.CYCLE
        return np.array(self.sent[-cycles:])

    def switch(self, mode: Mode) -> None:
        self.commands["mode"] = mode
        self.commands["mode_id"] += 1
        self.commands["law_id"] += 1

    def target(self, **fields: object) -> None:
        for name, value in fields.items():
            self.commands[name] = value
        self.commands["target_mode_id"] = self.commands["mode_id"]
        self.commands["target_id"] += 1

    def move(self, goal: np.ndarray, number: int = 1) -> float:
        motion = plan(self.measured["q"][0].copy(), goal, max_acceleration=np.full(7, 5.0), max_jerk=np.full(7, 100.0))
        fill_path(self.motion, number, 0.0, motion.times, motion.coefficients)
        self.commands["motion_id"] = number
        return motion.duration

    @property
    def law(self) -> Law:
        return Law(int(self.memory["law"][0]))

    @property
    def hold(self) -> Hold:
        return Hold(int(self.memory["hold"][0]))

    @property
    def status(self) -> MotionStatus:
        return MotionStatus(int(self.memory["motion_status"][0]))


@pytest.mark.parametrize("mode", Mode)
def test_the_arm_holds_where_it_is_until_a_target_comes(mode):
    bench = Bench(mode)
    tau = bench.run(500)
    np.testing.assert_allclose(tau, 0.0, atol=1e-6)
    np.testing.assert_allclose(bench.measured["q"][0], fr3.HOME, atol=1e-6)


@pytest.mark.parametrize("before", Mode)
@pytest.mark.parametrize("after", Mode)
def test_the_first_torque_of_a_new_law_continues_from_the_last_one_sent(before, after):
    bench = Bench(before)
    bench.measured["coriolis"] = [3.0, -2.0, 1.0, 0.5, -0.5, 0.2, 0.1]
    bench.run()
    offset = np.array([0.1, -0.05, 0.1, 0.05, 0.02, -0.1, 0.1])
    bench.measured["q"][0] += offset  # The arm is pushed aside: the law pushes back.
    if before is Mode.TORQUE:
        bench.target(target_torque=np.array([5.0, -4.0, 3.0, 2.0, 1.0, 0.5, -1.0]))
    last = bench.run(80, moving=False)[-1]
    assert np.abs(last).max() > 1.0, "nothing to be continuous with"
    bench.switch(after)
    first = bench.run(1, moving=False)[0]
    np.testing.assert_allclose(first, last, atol=0.05)
    later = bench.run(1000, moving=False)
    # The difference fades out by 1 % of itself in each cycle.
    allowed = 0.011 * np.abs(last - later[-1]).max()
    assert np.abs(np.diff(np.vstack([last, later]), axis=0)).max() < allowed, "it jumps instead of fading"


def test_new_gains_are_blended_in_too():
    bench = Bench(Mode.IMPEDANCE)
    bench.run()
    bench.measured["q"][0] += 0.02
    last = bench.run(200, moving=False)[-1]
    bench.commands["kp"] = 100.0
    bench.commands["law_id"] += 1
    torques = bench.run(1000, moving=False)
    np.testing.assert_allclose(torques[0], last, atol=1e-9)
    np.testing.assert_allclose(torques[-1], 0.25 * last, rtol=1e-3)


def test_targets_of_a_new_control_frame_start_from_where_it_is():
    bench = Bench(Mode.OSC)
    bench.run(10)
    tool = np.eye(4)
    tool[:3, 3] = [0.0, 0.05, 0.2]
    bench.commands["flange_to_tcp"], bench.commands["law_id"] = tool, 1
    np.testing.assert_allclose(bench.run(300), 0.0, atol=1e-6)
    np.testing.assert_allclose(bench.memory["ref_position"][0], bench.memory["position"][0], atol=1e-6)


def test_a_target_made_for_another_mode_is_dropped():
    bench = Bench(Mode.IMPEDANCE)
    bench.run()
    bench.target(target_q=fr3.HOME + 0.1)
    bench.switch(Mode.PID)
    np.testing.assert_allclose(bench.run(200), 0.0, atol=1e-9)


@pytest.mark.parametrize("mode", [Mode.IMPEDANCE, Mode.PID])
def test_joint_targets_are_reached(mode):
    bench = Bench(mode)
    bench.run()
    bench.target(target_q=fr3.HOME + 0.1)
    bench.run(3000)
    np.testing.assert_allclose(bench.measured["q"][0], fr3.HOME + 0.1, atol=2e-3)


def test_pid_removes_the_error_that_impedance_leaves():
    errors = {}
    for mode in (Mode.IMPEDANCE, Mode.PID):
        bench = Bench(mode)
        bench.run()
        push = np.full(7, -2.0)  # [Nm], on every joint, in every cycle.
        for _ in range(8000):
            bench.run(1)
            bench.measured["dq"] += push / bench.INERTIA * fr3.CYCLE
        errors[mode] = np.abs(bench.measured["q"][0] - fr3.HOME).max()
    # The toy arm is pushed between its cycles, which looks like some velocity and so adds some damping.
    assert errors[Mode.IMPEDANCE] == pytest.approx(2.0 / 400.0, rel=0.15)
    assert errors[Mode.PID] < 0.5 * errors[Mode.IMPEDANCE]


def test_poses_are_reached():
    bench = Bench(Mode.OSC)
    bench.run()
    goal = bench.memory["position"][0] + [0.05, -0.05, 0.05]
    bench.target(target_position=goal, target_orientation=bench.memory["orientation"][0].copy())
    bench.run(4000)
    np.testing.assert_allclose(bench.memory["position"][0], goal, atol=2e-3)


def test_torque_targets_are_sent_and_the_arm_holds_when_they_stop_coming():
    bench = Bench(Mode.TORQUE)
    bench.run(10)
    assert bench.law is Law.HOLD and bench.hold is Hold.NONE, "no torque came yet, which is no fault"
    wanted = np.array([0.5, 0.0, 0.0, -0.5, 0.0, 0.1, 0.0])
    for _ in range(40):
        bench.target(target_torque=wanted)
        bench.run(20, moving=False)
    np.testing.assert_allclose(bench.sent[-1], wanted, atol=1e-3)
    bench.target(target_torque=wanted)
    bench.measured["dq"][0] = [0.5, 0, 0, -0.5, 0, 0, 0]
    bench.run(95)
    assert bench.law is Law.TORQUE
    bench.run(10)
    assert bench.law is Law.HOLD and bench.hold is Hold.TORQUE_STALE
    bench.run(4000)
    np.testing.assert_allclose(bench.measured["dq"][0], 0.0, atol=1e-3)
    bench.target(target_torque=wanted)
    bench.run()
    assert bench.law is Law.TORQUE and bench.hold is Hold.NONE


def test_a_move_follows_its_plan_and_holds_its_end_until_it_is_released():
    bench = Bench(Mode.OSC)
    bench.run()
    cycles = int(bench.move(fr3.READY) * 1e3)
    bench.run(cycles - 10)
    assert bench.status is MotionStatus.EXECUTING and bench.law is Law.MOTION
    bench.run(500)
    assert bench.status is MotionStatus.DONE
    np.testing.assert_allclose(bench.measured["q"][0], fr3.READY, atol=1e-3)
    bench.commands["motion_release"] = 1
    bench.run(1000)
    assert bench.status is MotionStatus.NONE and bench.law is Law.OSC
    np.testing.assert_allclose(bench.measured["q"][0], fr3.READY, atol=2e-3)


def test_targets_that_come_during_a_move_are_dropped():
    bench = Bench(Mode.IMPEDANCE)
    bench.run()
    cycles = int(bench.move(fr3.READY) * 1e3)
    bench.run(100)
    bench.target(target_q=fr3.HOME)
    bench.run(cycles + 500)
    bench.commands["motion_release"] = 1
    bench.run(500)
    np.testing.assert_allclose(bench.measured["q"][0], fr3.READY, atol=2e-3)


def test_a_move_is_replaced_by_another_without_a_jump():
    bench = Bench(Mode.IMPEDANCE)
    bench.run()
    motion_time = 0.5 * bench.move(fr3.READY)
    bench.run(int(motion_time * 1e3))
    q, dq, ddq = (bench.memory[name][0].copy() for name in ("ref_q", "ref_dq", "ref_ddq"))
    motion = plan(q, fr3.HOME, dq=dq, ddq=ddq, max_acceleration=np.full(7, 5.0), max_jerk=np.full(7, 100.0))
    before = bench.sent[-1]
    fill_path(bench.motion, 2, 0.0, motion.times, motion.coefficients)
    bench.commands["motion_id"] = 2
    after = bench.run(int(motion.duration * 1e3) + 500)
    assert np.abs(np.diff(np.vstack([before, after]), axis=0)).max() < 0.5
    np.testing.assert_allclose(bench.measured["q"][0], fr3.HOME, atol=1e-3)


@pytest.mark.parametrize(
    ("reason", "status"), [(Hold.NODE_SILENT, MotionStatus.PAUSED), (Hold.FINISHING, MotionStatus.STOPPED)]
)
def test_a_move_stops_and_the_arm_holds_if_the_node_must_not_be_followed(reason, status):
    bench = Bench(Mode.OSC)
    bench.run()
    cycles = int(bench.move(fr3.READY) * 1e3)
    bench.run(cycles // 2)
    assert np.abs(bench.measured["dq"]).max() > 0.5
    bench.run(1500, stop=reason)
    assert bench.hold & reason and bench.status is status
    np.testing.assert_allclose(bench.measured["dq"][0], 0.0, atol=1e-3)


@pytest.mark.parametrize("silence", [20, 200, 1500])
def test_a_move_pauses_while_the_node_is_silent_and_then_continues(silence):
    bench = Bench(Mode.OSC)
    bench.run()
    cycles = int(bench.move(fr3.READY) * 1e3)
    bench.run(cycles // 2)
    bench.run(silence, stop=Hold.NODE_SILENT)
    bench.run(cycles + 1500)
    assert bench.hold is Hold.NONE and bench.status is MotionStatus.DONE
    np.testing.assert_allclose(bench.measured["q"][0], fr3.READY, atol=2e-3)
    # The limit would allow 0.99 Nm in a cycle, which is a jolt.
    assert np.abs(np.diff(bench.sent, axis=0)).max() < 0.5


def test_a_move_that_has_paused_can_be_stopped():
    bench = Bench(Mode.OSC)
    bench.run()
    bench.run(int(bench.move(fr3.READY) * 500))
    bench.run(600, stop=Hold.NODE_SILENT)
    bench.run(100)
    assert bench.status is MotionStatus.PAUSED, "it is still speeding up again"
    bench.commands["motion_stop"] = 1
    bench.run(1000)
    assert bench.status is MotionStatus.STOPPED
    np.testing.assert_allclose(bench.measured["dq"][0], 0.0, atol=1e-3)


def test_a_move_that_comes_while_the_loop_ends_is_stopped_too():
    bench = Bench(Mode.OSC)
    bench.run()
    bench.run(5, stop=Hold.FINISHING)
    bench.move(fr3.READY)
    bench.run(1500, stop=Hold.FINISHING)
    assert bench.status is MotionStatus.STOPPED
    np.testing.assert_allclose(bench.measured["dq"][0], 0.0, atol=1e-3)
    assert np.abs(bench.measured["q"][0] - fr3.HOME).max() < 0.3


def test_enormous_targets_make_the_arm_hold():
    bench = Bench(Mode.OSC)
    bench.run()
    for k in range(3):
        bench.target(target_position=np.full(3, 1e308 * (-1) ** k))
        bench.run(20)
    bench.run(3000)
    assert bench.hold is Hold.NONE and np.all(np.isfinite(bench.sent))
    np.testing.assert_allclose(bench.measured["dq"][0], 0.0, atol=1e-2)


@pytest.mark.parametrize("mode", Mode)
def test_targets_are_ignored_and_the_arm_stops_while_the_node_is_silent(mode):
    bench = Bench(mode)
    bench.run(10)
    bench.measured["dq"][0, 0] = 0.3
    bench.target(target_q=fr3.READY, target_position=[0.4, 0.2, 0.5], target_torque=np.full(7, 2.0))
    bench.run(3000, stop=Hold.NODE_SILENT)
    assert bench.hold & Hold.NODE_SILENT and bench.memory["silent_holds"][0] == 1
    np.testing.assert_allclose(bench.measured["dq"][0], 0.0, atol=2e-3)
    np.testing.assert_allclose(bench.measured["q"][0], fr3.HOME, atol=0.1)


@pytest.mark.parametrize("mode", sorted(set(Mode) - {Mode.FREE}))  # which has no targets
def test_a_held_arm_ignores_targets_until_it_is_released(mode):
    bench = Bench(mode)
    bench.run(10)
    bench.commands["hold"] = 1
    bench.target(target_q=fr3.READY, target_position=[0.4, 0.2, 0.5], target_torque=np.full(7, 2.0))
    bench.run(500)
    assert bench.hold is Hold.ASKED
    np.testing.assert_allclose(bench.measured["q"][0], fr3.HOME, atol=2e-3)
    bench.commands["hold"] = 0
    bench.run(500)
    assert bench.hold is Hold.NONE
    (
        np.testing.assert_allclose(bench.measured["q"][0], fr3.HOME, atol=2e-3),
        "targets that arrive during a hold are dropped",
    )
    bench.target(target_q=fr3.HOME + 0.1, target_position=[0.4, 0.1, 0.5], target_torque=np.full(7, 0.5))
    bench.run(100)
    assert np.abs(bench.measured["dq"]).max() > 0.01


def test_holding_ends_a_move():
    bench = Bench(Mode.OSC)
    bench.run()
    bench.run(int(bench.move(fr3.READY) * 500))
    bench.commands["hold"] = 1
    bench.run(1500)
    assert bench.status is MotionStatus.STOPPED
    bench.commands["hold"] = 0
    bench.run(500)
    assert bench.status is MotionStatus.STOPPED
    np.testing.assert_allclose(bench.measured["dq"][0], 0.0, atol=1e-3)


@pytest.mark.parametrize(
    ("wrench", "stops"),
    [
        ([29.9, 0.0, 0.0, 0.0, 0.0, 0.0], False),
        ([0.0, 18.0, 24.0, 0.0, 0.0, 0.0], False),
        ([0.0, 18.1, 24.0, 0.0, 0.0, 0.0], True),
        ([0.0, 0.0, 0.0, 0.0, 4.99, 0.0], False),
        ([0.0, 0.0, 0.0, 5.01, 0.0, 0.0], True),
    ],
)
def test_an_arm_that_is_pushed_too_hard_stops_and_holds_until_it_is_released(wrench, stops):
    bench = Bench(Mode.OSC, max_external_force=30.0, max_external_torque=5.0)
    bench.run()
    bench.run(int(bench.move(fr3.READY) * 500))
    bench.measured["external_wrench"] = wrench
    bench.run(1)
    bench.measured["external_wrench"] = 0.0
    bench.run(1500)
    assert bench.hold is (Hold.PUSHED if stops else Hold.NONE)
    if not stops:
        assert bench.status in (MotionStatus.EXECUTING, MotionStatus.DONE)
        return
    assert bench.status is MotionStatus.STOPPED
    bench.commands["release_id"] += 1
    bench.run(1)
    assert bench.hold is Hold.NONE


def test_without_a_limit_any_push_is_allowed():
    bench = Bench(Mode.OSC)
    bench.measured["external_wrench"] = 1e3
    bench.run(10)
    assert bench.hold is Hold.NONE


@pytest.mark.parametrize("field", ["q", "dq", "mass", "coriolis", "tau_last"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_torque_that_is_not_finite_is_never_sent(field, bad):
    bench = Bench(Mode.OSC)
    bench.measured["dq"][0] = 0.2
    bench.run(20, moving=False)
    last = bench.sent[-1]
    before = bench.measured[field].copy()
    bench.measured[field].reshape(-1)[3] = bad
    tau = bench.run(1, moving=False)[0]
    assert np.all(np.isfinite(tau))
    assert np.all(np.abs(tau - last) <= 0.99 + ROUNDING)
    assert bench.memory["not_finite"][0] == 1 and bench.hold & Hold.NOT_FINITE
    bench.measured[field] = before
    assert np.all(np.isfinite(bench.run(100, moving=False))), "part of it was kept"
    assert bench.hold is Hold.NONE


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_torque_and_its_rate_stay_within_the_limits_whatever_is_commanded(seed):
    """Random modes, gains, frames, targets and motions, on an arm whose state jumps at random."""
    rng = np.random.default_rng(seed)
    bench = Bench(Mode(int(rng.integers(4))))
    bench.run()
    number = 0
    for _ in range(30):
        action = rng.integers(6)
        if action == 0:
            bench.switch(Mode(int(rng.integers(4))))
        elif action == 1:
            for name in ("kp", "kd", "ee_kp", "ee_kd", "null_kp", "null_kd", "ki"):
                bench.commands[name] = rng.uniform(0.0, 2000.0, bench.commands[name].shape)
            bench.commands["law_id"] += 1
        elif action == 2:
            bench.commands["flange_to_tcp"][0, :3, 3] = rng.uniform(-0.3, 0.3, 3)
            bench.commands["law_id"] += 1
        elif action == 3:
            orientation = rng.normal(size=4)
            bench.target(
                target_q=rng.uniform(-10, 10, 7),
                target_position=rng.uniform(-2, 2, 3),
                target_orientation=orientation / np.linalg.norm(orientation),
                target_torque=rng.uniform(-1e6, 1e6, 7),
            )
        elif action == 4:
            number += 1
            fill_path(bench.motion, number, 0.0, np.array([0.0, 1.0]), rng.uniform(-3, 3, (1, 7, 6)))
            bench.commands["motion_id"] = number
        else:
            bench.commands["motion_release"] = bench.commands["motion_stop"] = number
        bench.measured["q"][0] = rng.uniform(fr3.POSITION_LOWER, fr3.POSITION_UPPER)
        bench.measured["dq"][0] = rng.uniform(-3, 3, 7)
        bench.measured["elapsed"] = rng.choice([1, 1, 1, 5, 19]) * fr3.CYCLE
        bench.run(3, moving=False)
    torques = np.array(bench.sent)
    assert np.all(np.isfinite(torques))
    assert np.all(np.abs(torques) <= fr3.TORQUE_LIMIT + ROUNDING)
    assert np.abs(np.diff(torques, axis=0)).max() <= 0.99 + ROUNDING


def test_a_reported_wrench_makes_the_next_cycle_hold():
    bench, state = Bench(max_external_force=10.0), new(STATE)
    bench.run(moving=False)
    state["external_wrench"][0] = 0.0, 0.0, 11.0, 0.0, 0.0, 0.0
    cycle_report.report(bench.commands, bench.measured, bench.memory, state, 0, 0.0, 1.0)
    assert not bench.memory["hold"][0] & Hold.PUSHED
    bench.run(moving=False)
    assert bench.memory["hold"][0] & Hold.PUSHED


def test_the_report_has_the_number_of_the_last_release():
    bench, state = Bench(), new(STATE)
    known = []
    for releases in (0, 1, 1):
        bench.run(moving=False)
        bench.commands["release_id"] = releases
        cycle_report.report(bench.commands, bench.measured, bench.memory, state, 0, 0.0, 1.0)
        known.append(int(state["release_id"][0]))
    assert known == [0, 0, 1]


def test_the_report_counts_lost_cycles_and_the_longest_gap():
    bench, state = Bench(), new(STATE)
    state["success_rate_min"] = 1.0
    for elapsed, rate in [(0, 0.0), (1, 0.0), (1, 0.01), (4, 0.5), (2, 0.9), (1, 0.9)] + [(1, 0.97)] * 200:
        bench.measured["elapsed"] = elapsed * fr3.CYCLE
        bench.run(moving=False)
        cycle_report.report(bench.commands, bench.measured, bench.memory, state, 123, 1e-4, rate)
    assert state["cycles"][0] == 206
    assert state["cycles_lost"][0] == 4 and state["longest_gap"][0] == 3
    assert state["success_rate_min"][0] == pytest.approx(0.97), "the first hundred do not count"
    assert state["stamp"][0] == 123 and state["response"][0] == 1e-4
    pose = np.concatenate((state["position"][0], state["orientation"][0]))
    np.testing.assert_allclose(state["tcp"][0], pose_matrix(pose), atol=1e-12)


def test_default_commands_are_the_default_settings_and_have_every_limit_and_gain():
    commands, fields = default_commands()[0], ArmSettings().commands(np.eye(4))
    for name, value in fields.items():
        np.testing.assert_array_equal(commands[name], value, err_msg=name)
    names = {
        name for name in commands.dtype.names if not name.startswith(("target_", "motion_", "chunk_")) or name in fields
    }
    assert names - set(fields) == {
        "activation",
        "law_id",
        "mode_id",
        "hold",
        "release_id",
        "stream_id",
        "robot_state_period",
    }


def test_a_motion_that_is_released_before_it_could_be_read_never_begins_and_ends_the_one_before():
    bench = Bench(Mode.OSC)
    bench.run(10)
    bench.move(fr3.HOME + 0.3)
    bench.run(100)
    assert bench.status is MotionStatus.EXECUTING
    bench.commands["motion_id"] = bench.commands["motion_release"] = 2
    bench.run(1)
    assert bench.status is MotionStatus.NONE and bench.law is Law.OSC
    bench.move(fr3.HOME - 0.3, number=2)  # Its writer was late.
    bench.run(100)
    assert bench.status is MotionStatus.NONE


@pytest.mark.parametrize("component", range(6))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("limit", ["max_external_force", "max_external_torque"])
def test_a_wrench_that_is_not_finite_counts_as_a_push_for_the_limit_that_uses_it(component, value, limit):
    bench = Bench(Mode.OSC, **{limit: 10.0})
    bench.run(10)
    assert bench.hold is Hold.NONE
    bench.measured["external_wrench"][0, component] = value
    bench.run(1)
    used = (component < 3) == (limit == "max_external_force")
    assert bench.hold is (Hold.PUSHED if used else Hold.NONE)


@pytest.mark.parametrize("acceleration", [0.0, 4.0, -4.0])
@pytest.mark.parametrize("joint", range(7))
def test_no_motion_takes_longer_to_stop_than_the_bound_that_the_loop_waits_for(joint, acceleration):
    bench = Bench(Mode.IMPEDANCE)
    bench.run(1)
    speed = np.zeros(7)
    speed[joint] = fr3.VELOCITY_LIMIT[joint]
    coefficients = np.zeros((1, 7, 6))
    coefficients[0, :, 0], coefficients[0, :, 1] = fr3.HOME, speed - 0.6 * acceleration * (speed > 0.0)
    coefficients[0, :, 2] = 0.5 * acceleration * (speed > 0.0)  # It has its speed after 0.6 s.
    fill_path(bench.motion, 1, 0.0, np.array([0.0, 100.0]), coefficients)
    bench.commands["motion_id"] = 1
    bench.run(600, moving=False)
    assert bench.status is MotionStatus.EXECUTING
    cycles = 0
    while bench.status is not MotionStatus.STOPPED and cycles < 5000:
        bench.run(1, stop=Hold.FINISHING, moving=False)
        cycles += 1
    assert cycles <= 1e3 * LONGEST_STOP + 2


def test_of_targets_that_come_within_a_cycle_the_last_is_as_much_later_as_they_are_many():
    bench, fastest = Bench(), 0.0
    for k in range(200):
        late = k in (100, 130, 131)  # These wait for the next one.
        bench.target(target_q=fr3.HOME + np.array([2e-3 * k, 0, 0, 0, 0, 0, 0]))
        for _ in range(0 if late else 10 * (1 + (k in (101,)) + 2 * (k in (132,)))):
            bench.run()
            if k > 50:
                fastest = max(fastest, abs(bench.memory["ref_dq"][0, 0]))
    assert fastest < 1.2 * 0.2
