"""No torque makes a joint faster than the robot allows, whatever the law and the targets.

The compiled control cycle drives the arm's own dynamics, MuJoCo's, without network and clock: half a minute of robot
time takes a second.
"""

from __future__ import annotations

from collections import deque

import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from aiofranka_ros.control.defaults import default_commands
from aiofranka_ros.control.law import cycle as control_cycle
from aiofranka_ros.control.law import limits
from aiofranka_ros.control.law.cholesky import factorize
from aiofranka_ros.control.law.memory import MEMORY, SCRATCH
from aiofranka_ros.control.records import CHUNK, MEASURED, MOTION, Mode, new
from aiofranka_ros.kernels import Array
from aiofranka_ros.model import fr3
from aiofranka_ros.simulation.model import JOINT_ARMATURE, fr3_mjcf

pytestmark = pytest.mark.unit

RATE = 990.0
#: Half of the velocity that the robot tolerates at a position limit [rad/s].
SLACK = 0.05
INERTIA = np.diag([1.0, 1.0, 0.6, 0.6, 0.2, 0.2, 0.1]) + 0.05


class Arm:
    """An arm without gravity and friction, which the robot compensates, driven by the control cycle.

    :param payload: mass in its hand that the model does not know [kg].
    :param delay: cycles until its motors apply a command; the robot does not report it.
    :param q: where it begins [rad] (7,).
    """

    def __init__(self, payload: float = 0.0, delay: int = 0, q: Array = fr3.HOME) -> None:
        self._underway = deque([np.zeros(7)] * delay)
        self._model = mujoco.MjModel.from_xml_string(fr3_mjcf())
        self._model.dof_frictionloss[:] = self._model.dof_damping[:] = 0.0
        self._hand = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_BODY, "fr3_link7")
        self._own, self._payload = float(self._model.body_mass[self._hand]), payload
        #: Whether the arm is blocked.
        self.held = False
        self._model.opt.gravity[:] = 0.0
        self._model.opt.timestep = fr3.CYCLE
        self._model.geom_contype[:] = self._model.geom_conaffinity[:] = 0  # only limits of joints are tested
        self._data = mujoco.MjData(self._model)
        self._data.qpos[:7] = q
        self.commands = default_commands()
        self.commands["mode_id"] = self.commands["law_id"] = 1
        names = (MOTION, CHUNK, MEASURED, MEMORY, SCRATCH)
        self._motion, self._chunk, self.measured, self.memory, self._scratch = map(new, names)
        self._mass = np.empty((7, 7))
        self._measure(1)

    def run(self, cycles: int, lost: int = 0) -> float:
        """Run cycles, after ``lost`` cycles in which the robot keeps the torque of the last one.

        :returns: the largest share of the velocity that the robot allows that a joint had.
        """
        largest = self._step(lost)
        for cycle in range(cycles):
            self._measure(1 + lost if cycle == 0 else 1)
            control_cycle.step(self.commands, self._motion, self._chunk, self.measured, self.memory, self._scratch, 0)
            self._underway.append(self.memory["tau"][0].copy())
            self._data.qfrc_applied[:7] = self._underway.popleft()
            self.measured["tau_last"][0] = self.memory["tau"][0]
            largest = max(largest, self._step(1))
        return largest

    def _step(self, cycles: int) -> float:
        lower, upper, largest = np.empty(7), np.empty(7), 0.0
        self._model.body_mass[self._hand] = self._own + self._payload
        for _ in range(cycles):
            before = self._data.qpos.copy()
            mujoco.mj_step(self._model, self._data)
            if self.held:
                self._data.qpos[:], self._data.qvel[:] = before, 0.0
            fr3.velocity_envelope(self._data.qpos[:7], lower, upper)
            speed = self._data.qvel[:7]
            # At a position limit, where no velocity is allowed, the robot tolerates a little.
            share = np.maximum(speed / np.maximum(upper, SLACK), speed / np.minimum(lower, -SLACK))
            largest = max(largest, float(share.max()))
        return largest

    def _measure(self, elapsed: int) -> None:
        self._model.body_mass[self._hand] = self._own
        mujoco.mj_forward(self._model, self._data)
        mujoco.mj_fullM(self._model, self._mass, self._data.qM)
        m = self.measured
        m["q"], m["dq"] = self._data.qpos[:7], self._data.qvel[:7]
        m["mass"], m["coriolis"] = self._mass - np.diag(JOINT_ARMATURE), self._data.qfrc_bias[:7]
        m["time"], m["elapsed"] = 1.0 + self._data.time, elapsed * fr3.CYCLE

    def target(self, **fields: object) -> None:
        for name, value in fields.items():
            self.commands[name] = value
        self.commands["target_mode_id"] = self.commands["mode_id"]
        self.commands["target_stamp"] = int(1e9 * self.measured["time"][0])
        self.commands["target_id"] += 1

    def switch(self, mode: Mode) -> None:
        self.commands["mode"] = mode
        self.commands["mode_id"] += 1
        self.commands["law_id"] += 1


def walk(seed: int, seconds: float, *, shake: float = 1.0, lossy: bool = False, **arm_options: float) -> float:
    """Half of the time poses, else joint positions or torques, with other gains and frames; returns as `Arm.run`."""
    rng = np.random.default_rng(seed)
    arm = Arm(**arm_options)
    largest = arm.run(100)
    memory, q = arm.memory[0], fr3.HOME.copy()
    position, turn = memory["position"].copy(), memory["orientation"].copy()
    for _ in range(int(50.0 * seconds)):
        draw = rng.random()
        if draw < 0.01:
            arm.switch(rng.choice([Mode.OSC, Mode.OSC, Mode.IMPEDANCE, Mode.PID, Mode.TORQUE]))
        elif draw < 0.03:
            stiffness = rng.uniform(0.33, 1.5)
            default = default_commands()[0]
            for spring, damper in (("kp", "kd"), ("ee_kp", "ee_kd"), ("null_kp", "null_kd")):
                arm.commands[spring] = stiffness * np.array(default[spring])
                arm.commands[damper] = stiffness**0.5 * np.array(default[damper])
            arm.commands["law_id"] += 1
        elif draw < 0.04:
            arm.commands["flange_to_tcp"][0, :3, :3] = Rotation.random(random_state=rng).as_matrix()
            arm.commands["flange_to_tcp"][0, :3, 3] = rng.uniform(-0.15, 0.15, 3)
            arm.commands["law_id"] += 1
        if draw < 0.06:
            position, turn, q = memory["position"].copy(), memory["orientation"].copy(), arm.measured["q"][0].copy()
        position += shake * rng.normal(0.0, 0.004, 3)
        turn += shake * rng.normal(0.0, 0.01, 4)
        turn /= np.linalg.norm(turn)
        q += shake * rng.normal(0.0, 0.012, 7)
        back = 20.0 * (fr3.HOME - arm.measured["q"][0])
        arm.target(
            target_position=position,
            target_orientation=turn,
            target_q=np.clip(q, fr3.POSITION_LOWER, fr3.POSITION_UPPER),
            target_torque=np.clip(back, -4.0, 4.0) + shake * rng.normal(0.0, 1.0, 7),
        )
        largest = max(largest, arm.run(20, int(rng.integers(1, 16)) if lossy and rng.random() < 0.05 else 0))
    return largest


@pytest.mark.parametrize("seed", range(4))
def test_random_modes_gains_and_targets_never_make_a_joint_too_fast(seed):
    assert walk(seed, 15.0) < 1.0


def test_targets_that_jump_at_random_never_make_a_joint_too_fast():
    assert walk(4, 15.0, shake=10.0) < 1.0


def test_an_unknown_payload_never_makes_a_joint_too_fast():
    assert walk(6, 15.0, payload=3.0) < 1.0


@pytest.mark.parametrize("delay", [1, 2])
def test_slow_motors_never_make_a_joint_too_fast(delay):
    assert walk(7, 15.0, delay=delay) < 1.0


def test_up_to_15_lost_cycles_in_a_row_never_make_a_joint_too_fast():
    assert walk(5, 15.0, lossy=True) < 1.0


@pytest.mark.parametrize(("limit", "value"), [("torque_rate_limit", 1.0), ("torque_limit", 0.0)])
def test_a_sudden_lower_limit_never_makes_a_joint_too_fast(limit, value):
    rng = np.random.default_rng(0)
    arm = Arm()
    arm.switch(Mode.IMPEDANCE)
    largest, q = arm.run(100), fr3.HOME.copy()
    for _ in range(750):
        q = np.clip(q + rng.normal(0.0, 0.036, 7), fr3.POSITION_LOWER, fr3.POSITION_UPPER)
        if rng.random() < 0.05:
            q = arm.measured["q"][0].copy()
        arm.target(target_q=q)
        before = arm.commands[limit].copy()
        if rng.random() < 0.05:
            arm.commands[limit] = value
            largest = max(largest, arm.run(int(rng.integers(5, 60))))
            arm.commands[limit] = before
        largest = max(largest, arm.run(20))
    assert largest < 1.0


@pytest.mark.parametrize("seed", range(4))
def test_the_largest_torques_in_random_directions_never_make_a_joint_too_fast(seed):
    rng = np.random.default_rng(seed)
    arm = Arm()
    arm.switch(Mode.TORQUE)
    arm.commands["torque_timeout"] = 10.0
    arm.run(1)
    for _ in range(3):
        arm.target(target_torque=rng.uniform(-1.0, 1.0, 7) * fr3.TORQUE_LIMIT)
        assert arm.run(600) < 1.0


@pytest.mark.parametrize("joint", range(7))
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_a_constant_torque_on_one_joint_never_makes_it_too_fast(joint, side):
    arm = Arm()
    arm.switch(Mode.TORQUE)
    arm.commands["torque_timeout"] = 10.0
    arm.run(1)
    torque = np.zeros(7)
    torque[joint] = side * fr3.TORQUE_LIMIT[joint]
    arm.target(target_torque=torque)
    assert 0.5 < arm.run(1000) < 1.0


@pytest.mark.parametrize("motor_inertia", [0.05, 0.1])
def test_a_blocked_arm_pushes_with_the_whole_torque_of_its_target(motor_inertia):
    arm = Arm()
    arm.commands["motor_inertia"] = motor_inertia
    arm.switch(Mode.TORQUE)
    arm.commands["torque_timeout"] = 10.0
    arm.held = True
    arm.run(1)
    torque = 0.9 * fr3.TORQUE_LIMIT * [1, -1, 1, -1, 1, -1, 1]
    arm.target(target_torque=torque)
    arm.run(1000)
    np.testing.assert_allclose(arm.memory["tau"][0], torque, rtol=0.01)


def test_the_spring_at_a_position_limit_pushes_back_with_the_largest_torque():
    arm = Arm(q=np.array([fr3.POSITION_UPPER[0], *fr3.HOME[1:]]))
    arm.held = True
    arm.run(2500)  # It moves in slowly.
    assert arm.memory["tau"][0, 0] == pytest.approx(-fr3.TORQUE_LIMIT[0], rel=0.02)


def braked(
    asked: np.ndarray, dq: np.ndarray, sent: np.ndarray | None = None, mass: np.ndarray = INERTIA
) -> tuple[np.ndarray, np.ndarray]:
    """The torque after the limit, if it would accelerate by ``asked`` [rad/s²] (7,), and its acceleration."""
    tau, factor, envelope, low, high = mass @ asked, np.zeros((7, 7)), np.empty((2, 7)), np.empty(7), np.empty(7)
    factorize(mass, 7, factor)
    limits.allowed_velocities(fr3.HOME, dq, np.empty(7), envelope)
    before = tau if sent is None else sent
    limits.reachable(before, before, fr3.TORQUE_LIMIT, RATE, low, high)
    limits.limit_torque(low, high, tau)
    limits.limit_velocity(
        dq, np.zeros(7), np.zeros(7), mass, factor, envelope, RATE, low, high, np.empty(7), np.empty(7), tau
    )  # fmt: skip
    assert np.all(tau <= high) and np.all(tau >= low)
    return tau, np.linalg.solve(mass, tau)


def highest(room: float, joint: int) -> float:
    """The acceleration that the steepest allowed ramp of the torque reduces to 0 within ``room`` [rad/s]."""
    jerk = limits._BRAKING_SHARE * RATE / INERTIA[joint, joint]
    return float(np.sqrt(2.0 * jerk * (room - 0.5 * jerk / limits._VELOCITY_GAIN**2)))


@pytest.mark.parametrize("side", [-1.0, 1.0])
@pytest.mark.parametrize(("share", "kept"), [(0.99, True), (1.0, True), (1.01, False)])
def test_a_joint_may_accelerate_as_long_as_it_can_stop_accelerating_in_time(side, share, kept):
    dq, asked = np.zeros(7), np.zeros(7)
    dq[2] = side * 1.2
    room = limits._SAFE_VELOCITY * fr3.VELOCITY_LIMIT[2] - 1.2
    asked[2] = side * share * highest(room, 2)
    tau, acceleration = braked(asked, dq)
    if kept:
        np.testing.assert_array_equal(tau, INERTIA @ asked)
    else:
        assert side * acceleration[2] == pytest.approx(highest(room, 2))


@pytest.mark.parametrize("side", [-1.0, 1.0])
@pytest.mark.parametrize(("excess", "sign"), [(-1e-3, 1.0), (0.0, 0.0), (1e-3, -1.0)])
def test_no_joint_accelerates_at_its_velocity_limit_and_it_brakes_beyond_it(side, excess, sign):
    limit = side * limits._SAFE_VELOCITY * fr3.VELOCITY_LIMIT[6]
    dq = np.zeros(7)
    dq[6] = limit + side * excess
    asked = np.zeros(7)
    asked[6] = side * 5.0
    _, acceleration = braked(asked, dq)
    assert side * acceleration[6] == pytest.approx(sign * limits._VELOCITY_GAIN * 1e-3, abs=1e-6)


def test_the_other_torques_help_if_a_joint_s_own_torque_cannot_brake_it():
    dq, asked = np.zeros(7), np.zeros(7)
    dq[3] = 2.5
    asked[3] = 40.0
    before = INERTIA @ asked
    tau, acceleration = braked(asked, dq, before)
    assert tau[3] == pytest.approx(before[3] - 0.99), "its own torque changes by as much as one cycle allows"
    assert acceleration[3] < 40.0 - 0.99 * np.linalg.inv(INERTIA)[3, 3], "it is braked by more than that alone"


@given(st.integers(0, 2**32 - 1))
def test_torques_stay_within_their_limits_even_if_the_mass_matrix_is_not_positive_definite(seed):
    rng = np.random.default_rng(seed)
    mass = rng.normal(size=(7, 7)) * rng.choice([1e-9, 1.0, 1e9])
    braked(rng.normal(size=7), 3.0 * rng.normal(size=7), mass=mass + mass.T)


def test_an_external_push_is_estimated_and_taken_into_account():
    before, unmodelled, factor = np.zeros(7), np.zeros(7), np.zeros((7, 7))
    factorize(INERTIA, 7, factor)
    dq, push = np.zeros(7), np.array([0.0, 5.0, 0.0, 0.0, 0.0, 0.0, -20.0])
    for _ in range(100):
        dq += push * fr3.CYCLE
        limits.observe(dq, np.ones(7), np.ones(7), factor, fr3.CYCLE, before, unmodelled, np.empty(7))
    np.testing.assert_allclose(unmodelled, push, rtol=1e-3, atol=1e-9)
