"""A simulated arm under torque control agrees with libfranka's model, with ours, and with itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np
import pylibfranka
import pytest
from test_simulation import in_time

from aiofranka_ros.control import libfranka
from aiofranka_ros.control.realtime import scheduled_as_before
from aiofranka_ros.control.records import MEASURED, new
from aiofranka_ros.model import dynamics
from aiofranka_ros.model.kinematics import forward
from aiofranka_ros.simulation.simulated_arm import SimulatedArm

ARM = "127.0.0.23"


@pytest.fixture(scope="module")
def arm() -> Iterator[SimulatedArm]:
    with SimulatedArm(ARM) as arm:
        yield arm


def test_the_errors_of_a_motion_do_not_include_those_of_earlier_motions(arm: SimulatedArm) -> None:
    with in_time(arm.host) as robot:
        control = robot.start_torque_control()
        with pytest.raises((pylibfranka.FrankaException, RuntimeError)):
            for tick in range(100):
                control.readOnce()
                control.writeOnce(pylibfranka.Torques([0.0] * 6 + [5.0 * (tick == 50)]))
        assert robot.read_once().last_motion_errors.controller_torque_discontinuity
        del control  # libfranka allows one at a time.
        robot.automatic_error_recovery()
        control = robot.start_torque_control()
        control.readOnce()
        control.writeOnce(pylibfranka.Torques([0.0] * 7))
        time.sleep(0.1)  # The robot waits for twenty torques; there is nothing else to wait for.
        with pytest.raises((pylibfranka.FrankaException, RuntimeError)):
            control.readOnce()
        errors = robot.read_once().last_motion_errors
        assert errors.communication_constraints_violation and not errors.controller_torque_discontinuity
        del control
        robot.automatic_error_recovery()


def states_of_a_swing(robot: pylibfranka.Robot) -> list[pylibfranka.RobotState]:
    """The states of each cycle of half a second in which torques swing all joints."""
    control, states = robot.start_torque_control(), []
    for cycle in range(500):
        state, _ = control.readOnce()
        states.append(state)
        torques = pylibfranka.Torques((np.sin(0.03 * cycle) * np.array([8, 8, -8, 8, 2, -2, 2.0])).tolist())
        torques.motion_finished = cycle == 499
        control.writeOnce(torques)
    return states


def test_the_compiled_kinematics_agree_with_libfrankas_model_everywhere(arm: SimulatedArm) -> None:
    with in_time(arm.host) as robot:
        model, seen = robot.load_model(), states_of_a_swing(robot)[::50]
    flange, tcp, jacobian = np.empty((4, 4)), np.empty((4, 4)), np.empty((6, 7))
    for state in seen:
        tool, stiffness_frame = (np.reshape(pose, (4, 4)).T for pose in (state.F_T_EE, state.EE_T_K))
        assert (stiffness_frame == np.eye(4)).all()
        forward(np.array(state.q), np.ascontiguousarray(tool), flange, tcp, jacobian)
        theirs = np.reshape(model.zero_jacobian(state), (7, 6)).T
        np.testing.assert_allclose(jacobian, theirs, atol=1e-9, rtol=0.0)
    assert np.ptp([state.q for state in seen], axis=0).min() > 0.01


@contextlib.contextmanager
def load(robot: pylibfranka.Robot, mass: float) -> Iterator[None]:
    robot.set_load(mass, [0.01, -0.02, 0.05], np.diag([0.001, 0.002, 0.003]).ravel().tolist())
    try:
        yield
    finally:
        robot.set_load(0.0, [0.0] * 3, [0.0] * 9)


@pytest.mark.parametrize("known", [True, False])
def test_an_arm_agrees_with_libfrankas_model_whether_or_not_its_links_can_be_identified(
    arm: SimulatedArm, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    if not known:
        identify = dynamics.identify
        monkeypatch.setattr(dynamics, "identify", lambda mass_matrix: 1.001 * identify(mass_matrix))
    views = libfranka.MeasuredViews(new(MEASURED))
    with (
        scheduled_as_before(),
        contextlib.closing(libfranka.RobotConnection(arm.host)) as connected,
        load(connected._robot, 0.8),
    ):
        assert (connected.links is not None) == known
        control = connected.start_torque_control(connected.read(), views)
        state, duration = control.read()
        control.measure(state, duration)
        control.model(state)
        control.finish([0.0] * 7)
        assert state.m_total == pytest.approx(0.8)
        np.testing.assert_allclose(views.mass, connected._model.mass(state), atol=1e-9, rtol=0.0)
        np.testing.assert_allclose(views.coriolis, connected._model.coriolis(state), atol=1e-9, rtol=0.0)


def test_the_arm_moves_for_one_millisecond_between_two_states(arm: SimulatedArm) -> None:
    with in_time(arm.host) as robot:
        states = states_of_a_swing(robot)
    times = [state.time.to_sec() for state in states]
    q, dq = (np.array([getattr(state, name) for state in states]) for name in ("q", "dq"))
    neighbours = np.rint(np.diff(times) / 1e-3) == 1
    assert neighbours.sum() > 400 and np.abs(dq).max() > 0.1
    # MuJoCo's integrator: the step's new velocity for the whole step. The wire carries single precision.
    np.testing.assert_allclose(np.diff(q, axis=0)[neighbours], 1e-3 * dq[1:][neighbours], atol=1e-6)
