"""The control laws, compared with textbook formulas in numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from aiofranka_ros.control.law import laws
from aiofranka_ros.control.law.cholesky import factorize
from aiofranka_ros.control.law.memory import MEMORY, SCRATCH
from aiofranka_ros.control.records import COMMANDS, new
from aiofranka_ros.model import fr3, kinematics

pytestmark = pytest.mark.unit

seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def inertia(rng: np.random.Generator) -> np.ndarray:
    """A symmetric positive definite matrix with the eigenvalues of an arm's inertia [kg m²]."""
    basis, _ = np.linalg.qr(rng.normal(size=(7, 7)))
    return basis @ np.diag(np.geomspace(0.05, 4.0, 7)) @ basis.T


def somewhere(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0.7 * fr3.POSITION_LOWER + 0.3 * fr3.HOME, 0.7 * fr3.POSITION_UPPER + 0.3 * fr3.HOME)


@given(seeds)
def test_impedance_is_spring_damper_and_feed_forward(rng):
    q, dq, ref_q, ref_dq, ref_ddq = rng.normal(size=(5, 7))
    kp, kd = rng.uniform(0, 500, (2, 7))
    mass, tau = inertia(rng), np.empty(7)
    laws.impedance(q, dq, ref_q, ref_dq, ref_ddq, mass, kp, kd, tau)
    expected = np.diag(kp) @ (ref_q - q) + np.diag(kd) @ (ref_dq - dq) + mass @ ref_ddq
    np.testing.assert_allclose(tau, expected, rtol=1e-9, atol=1e-9)


class OperationalSpace:
    """The law with random state, and its textbook form."""

    def __init__(self, rng: np.random.Generator, *, regular: bool = False) -> None:
        self.q, self.dq, self.mass = somewhere(rng), rng.normal(size=7), inertia(rng)
        if regular:  # Bent, and with the inertia of an arm.
            self.q = fr3.HOME + rng.uniform(-0.3, 0.3, 7)
            self.mass = np.diag([0.3, 0.3, 0.3, 0.2, 0.1, 0.1, 0.1])
        self.commands, self.memory, self.scratch = new(COMMANDS), new(MEMORY), new(SCRATCH)
        c, m = self.commands, self.memory
        for name, scale in (("ee_kp", 400.0), ("ee_kd", 40.0), ("null_kp", 10.0), ("null_kd", 6.0)):
            c[name] = rng.uniform(0.1, 1.0, c[name].shape) * scale
        tcp = np.empty((4, 4))
        kinematics.forward(self.q, np.eye(4), np.empty((4, 4)), tcp, m["jacobian"][0])
        m["twist"][0] = m["jacobian"][0] @ self.dq
        m["position"][0] = tcp[:3, 3]
        self.rotation = Rotation.from_matrix(tcp[:3, :3])
        m["orientation"][0] = self.rotation.as_quat()
        self.ref_rotation = Rotation.from_rotvec(rng.uniform(-0.5, 0.5, 3)) * self.rotation
        m["ref_orientation"][0] = self.ref_rotation.as_quat()
        m["ref_position"][0] = tcp[:3, 3] + rng.uniform(-0.1, 0.1, 3)
        for name in ("ref_linear", "ref_angular", "ref_linear_acceleration", "ref_angular_acceleration"):
            m[name][0] = rng.normal(size=3)
        m["null_q"][0] = somewhere(rng)
        self.limit_joints(np.full(7, np.inf))

    def limit_joints(self, highest: np.ndarray) -> None:
        """Let the joints stop at upper limits from where they may still be accelerated this much [rad/s²] (7,)."""
        end = self.q + (highest / laws._STOP_GAIN + 2.0 * self.dq) / laws._STOP_GAIN
        end = np.where(np.isfinite(end), end, 100.0)
        self.memory["joint_upper"] = self.memory["spring_upper"] = end
        self.memory["joint_lower"] = self.memory["spring_lower"] = -100.0

    @property
    def wanted(self) -> np.ndarray:
        """Acceleration of the hand [m/s²], [rad/s²] (6,)."""
        c, m = self.commands[0], self.memory[0]
        turn = (self.ref_rotation * self.rotation.inv()).as_rotvec()
        error = np.concatenate([m["ref_position"] - m["position"], turn])
        velocity = np.concatenate([m["ref_linear"], m["ref_angular"]])
        acceleration = np.concatenate([m["ref_linear_acceleration"], m["ref_angular_acceleration"]])
        return np.asarray(c["ee_kp"] * error + c["ee_kd"] * (velocity - m["twist"]) + acceleration)

    @property
    def acceleration(self) -> np.ndarray:
        """What the torque makes of the joints [rad/s²] (7,)."""
        return np.linalg.solve(self.mass, self.computed())

    def computed(self) -> np.ndarray:
        tau = np.empty(7)
        factorize(self.mass, 7, self.scratch["factor"][0])
        laws.operational_space(self.q, self.dq, self.mass, self.commands[0], self.memory[0], self.scratch[0], tau)
        return tau

    @property
    def singularity(self) -> float:
        return self.singularity_with(np.zeros(7))

    def singularity_with(self, weight: np.ndarray) -> float:
        jacobian = self.memory["jacobian"][0]
        pivots = np.diag(np.linalg.cholesky(jacobian @ np.linalg.inv(self.mass + np.diag(weight)) @ jacobian.T)) ** 2
        regular = np.repeat([laws._REGULAR_TRANSLATION, laws._REGULAR_ROTATION], 3)
        return (1.0 - min(1.0, (pivots / regular).min())) ** 2

    def textbook(self, posture: bool = True) -> np.ndarray:
        c, m, jacobian = self.commands[0], self.memory[0], self.memory["jacobian"][0]
        inverse = np.linalg.inv(self.mass)
        damping = self.singularity * np.repeat([laws._SINGULAR_TRANSLATION, laws._SINGULAR_ROTATION], 3)
        task = np.linalg.inv(jacobian @ inverse @ jacobian.T + np.diag(damping))
        force = task @ self.wanted
        null_kd = c["null_kd"] + self.singularity * laws._SINGULAR_DAMPING
        pull = self.mass @ (c["null_kp"] * (m["null_q"] - self.q) - null_kd * self.dq) * posture
        return jacobian.T @ force + (np.eye(7) - jacobian.T @ task @ jacobian @ inverse) @ pull


@given(seeds)
def test_operational_space_control_is_khatib_s_law(rng):
    law = OperationalSpace(rng)
    expected = law.textbook()
    np.testing.assert_allclose(law.computed(), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@given(seeds)
def test_the_posture_does_not_accelerate_the_hand(rng):
    law = OperationalSpace(rng, regular=True)
    jacobian, inverse = law.memory["jacobian"][0], np.linalg.inv(law.mass)
    assert law.singularity == 0.0  # Near a singularity, task and posture are not fully decoupled.
    effect = jacobian @ inverse @ (law.computed() - law.textbook(posture=False))
    posture = inverse @ (law.computed() - law.textbook(posture=False))
    assert np.abs(effect).max() <= 1e-6 * np.abs(posture).max()


@given(seeds, st.integers(0, 6), st.floats(0.0, 30.0))
def test_a_joint_stops_at_its_limit_and_the_others_do_the_task(rng, joint, less):
    law = OperationalSpace(rng, regular=True)
    highest = np.full(7, np.inf)
    highest[joint] = law.acceleration[joint] - less
    law.limit_joints(highest)
    found = law.acceleration
    assume(law.singularity_with(laws._STOP_WEIGHT * np.eye(7)[joint]) == 0.0)  # The others can do it.
    assert found[joint] == pytest.approx(highest[joint], abs=1e-3 * (1.0 + np.abs(found).max()))
    np.testing.assert_allclose(law.memory["jacobian"][0] @ found, law.wanted, atol=1e-6 * np.abs(found).max())


@given(seeds, st.integers(0, 6))
def test_that_a_joint_begins_to_stop_is_not_felt(rng, joint):
    law = OperationalSpace(rng, regular=True)
    free, highest = law.acceleration, np.full(7, np.inf)
    highest[joint] = free[joint] - 1e-6
    law.limit_joints(highest)
    np.testing.assert_allclose(law.acceleration, free, atol=1e-4)


@given(seeds)
def test_whatever_limits_the_joints_have_the_torque_is_finite(rng):
    law = OperationalSpace(rng)
    law.limit_joints(rng.normal(size=7) * 10.0)
    assert np.all(np.isfinite(law.computed()))


@given(seeds)
def test_an_arm_that_approaches_is_not_pulled_beyond_its_pace_and_held_in_full(rng):
    error, reference = rng.normal(0.0, 0.1, 3), np.zeros(3)
    kp, kd, pace = np.full(3, 400.0), np.full(3, 40.0), 0.1

    def pull(speed: float, fastest: float) -> np.ndarray:
        found, velocity = error.copy(), speed * error / np.linalg.norm(error)
        laws._pull(found, reference, velocity, kp, kd, fastest)
        return found

    for speed in (0.0, -0.2):
        np.testing.assert_allclose(pull(speed, pace), pull(speed, np.inf))
    if np.linalg.norm(error) > 0.02:
        assert pull(pace, pace) @ error == pytest.approx(0.0, abs=1e-9)
        assert pull(1.1 * pace, pace) @ error < 0.0 < pull(0.9 * pace, pace) @ error


def test_at_a_singularity_the_torque_stays_bounded():
    law = OperationalSpace(np.random.default_rng(1))
    law.q = np.zeros(7)  # Stretched out.
    law.dq[:] = 0.0
    kinematics.forward(law.q, np.eye(4), np.empty((4, 4)), np.empty((4, 4)), law.memory["jacobian"][0])
    law.memory["twist"][0] = 0.0
    law.memory["ref_position"][0] = law.memory["position"][0] + [0.0, 0.0, 0.05]
    tau = law.computed()
    assert np.all(np.isfinite(tau)) and np.abs(tau).max() < 1000.0


def test_the_integral_grows_with_the_error_up_to_its_limit():
    integral, limit = np.zeros(7), np.full(7, 2.0)
    q, ref_q, ki = np.zeros(7), np.full(7, 0.1), np.full(7, 50.0)
    for _ in range(100):
        laws.integrate(q, ref_q, ki, limit, np.zeros(7), integral, 1e-3)
    np.testing.assert_allclose(integral, 0.1 * 50.0 * 0.1, rtol=1e-9)
    for _ in range(1000):
        laws.integrate(q, ref_q, ki, limit, np.zeros(7), integral, 1e-3)
    np.testing.assert_array_equal(integral, 2.0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_integral_does_not_wind_up_while_the_torque_is_limited(sign):
    integral, limit, ki = np.zeros(7), np.full(7, 2.0), np.full(7, 50.0)
    cut = np.full(7, sign)  # The law asked for more, in this direction, than was sent.
    laws.integrate(np.zeros(7), sign * np.full(7, 0.1), ki, limit, cut, integral, 1e-3)
    np.testing.assert_array_equal(integral, 0.0)
    laws.integrate(np.zeros(7), -sign * np.full(7, 0.1), ki, limit, cut, integral, 1e-3)
    assert np.all(sign * integral < 0.0), "it must be able to move back"
