"""The simulated arm, which nothing drives: its process, its address, and what the package relies on in its model."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator

import mujoco
import numpy as np
import pylibfranka
import pytest
from franka_sim.control_modes import ControlMode
from franka_sim.franka_sim_server import FrankaSimServer

from aiofranka_ros.control import fci, libfranka
from aiofranka_ros.control.realtime import scheduled_as_before
from aiofranka_ros.errors import SimulationError
from aiofranka_ros.model import dynamics, fr3
from aiofranka_ros.simulation import simulated_arm as simulation
from aiofranka_ros.simulation.__main__ import _parser
from aiofranka_ros.simulation.model import ArmPhysics
from aiofranka_ros.simulation.simulated_arm import SimulatedArm

pytestmark = pytest.mark.light

SHARED, OTHER, SPARE = "127.0.0.20", "127.0.0.21", "127.0.0.22"

READY_POSE = np.array([0.0, -np.pi / 4, 0.0, -3 * np.pi / 4, 0.0, np.pi / 2, np.pi / 4])
HOME_POSE = np.array([0.0, 0.0, 0.0, -np.pi / 2, 0.0, np.pi / 2, -np.pi / 4])
INITIAL_POSE = np.array([0.0, 0.0, 0.0, -1.57, 0.0, 1.57, 0.785])


def wait_until(condition: Callable[[], bool], timeout: float = 10.0) -> bool:
    """Whether ``condition`` came true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextlib.contextmanager
def in_time(address: str) -> Iterator[pylibfranka.Robot]:
    """libfranka's robot, with its priority while torques are due every millisecond."""
    with scheduled_as_before():
        yield pylibfranka.Robot(address, pylibfranka.RealtimeConfig.kIgnore)


def connect(address: str) -> pylibfranka.Robot:
    """libfranka's robot without that priority: other tests run at the same time."""
    with in_time(address) as robot:
        return robot


@contextlib.contextmanager
def command_line(*options: str) -> Iterator[subprocess.Popen[str]]:
    """The simulator as a user starts it; killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "aiofranka_ros.simulation", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=simulation._child_environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def arm() -> Iterator[SimulatedArm]:
    with SimulatedArm(SHARED) as arm:
        yield arm


@pytest.fixture(scope="module")
def physics() -> ArmPhysics:
    physics = ArmPhysics()
    physics.initialize_simulation()
    return physics


def pose_at(physics: ArmPhysics, q: np.ndarray) -> None:
    """Put the arm at ``q`` [rad] (7,), at rest."""
    physics.data.qpos[physics.arm_qpos_adr] = q
    physics.data.qvel[:] = 0.0
    mujoco.mj_forward(physics.model, physics.data)


def contact_forces(physics: ArmPhysics) -> int:
    """How many contacts push; contacts only within the margin of the self-collision check do not."""
    return sum(contact.efc_address >= 0 for contact in physics.data.contact)


# The process


def test_a_simulated_arm_serves_libfranka(arm: SimulatedArm) -> None:
    robot = connect(arm.host)
    state = robot.read_once()
    assert state.robot_mode == pylibfranka.RobotMode.Idle
    # It settles against its own friction, so not exactly at its initial pose.
    np.testing.assert_allclose(state.q, INITIAL_POSE, atol=0.02)
    np.testing.assert_allclose(np.reshape(state.F_T_EE, (4, 4)), np.eye(4))


def test_the_gripper_is_served_once_the_arm_is_ready(arm: SimulatedArm) -> None:
    assert pylibfranka.Gripper(arm.host).read_once().max_width == pytest.approx(0.08, abs=0.001)


def test_two_arms_run_at_two_addresses(arm: SimulatedArm) -> None:
    with SimulatedArm(OTHER, ["--hand"]) as other:
        plain = connect(arm.host).read_once()
        hand = connect(other.host).read_once()
    # Both are at the same pose; the hand's fingertips are 0.1034 m in front of the flange, which points down.
    assert plain.O_T_EE[14] - hand.O_T_EE[14] == pytest.approx(0.1034, abs=0.001)
    assert hand.F_T_EE[14] == pytest.approx(0.1034)


def test_with_real_time_priority_the_arm_runs_on_the_cpu_that_cpu_for_returns(arm: SimulatedArm) -> None:
    assert arm.process is not None
    if os.sched_getscheduler(arm.process.pid) == os.SCHED_FIFO:
        assert os.sched_getaffinity(arm.process.pid) == {simulation.cpu_for(arm.host)}
    else:
        assert os.sched_getaffinity(arm.process.pid) == os.sched_getaffinity(0)


def test_two_arms_run_on_different_cpus_if_there_are_two() -> None:
    cpus = {simulation.cpu_for(f"127.0.0.{last}") for last in (1, 2)}
    assert len(cpus) == min(2, len(os.sched_getaffinity(0)))


def test_only_the_loopback_address_is_bound(arm: SimulatedArm) -> None:
    for port in simulation.PORTS:
        with socket.socket() as rival:
            rival.bind((SPARE, port))  # would fail if the arm listened everywhere


def test_an_address_in_use_ends_the_simulator_with_one_sentence_and_status_1(arm: SimulatedArm) -> None:
    with command_line("--host", arm.host) as process:
        output, log = process.communicate(timeout=20)
    assert process.returncode == 1
    assert output == ""
    assert arm.host in log and "1337" in log and "--host" in log
    assert len(log.splitlines()) == 1


def test_the_error_names_the_address_in_use(arm: SimulatedArm) -> None:
    second = SimulatedArm(arm.host)
    with pytest.raises(SimulationError, match=f"(?s){arm.host}.*already in use"):
        second.start()
    assert not second.alive
    assert arm.alive


def test_without_an_address_the_first_free_one_is_taken(arm: SimulatedArm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "_LOOPBACK_HOSTS", (arm.host, OTHER, SPARE))
    with SimulatedArm() as chosen:
        assert chosen.host == OTHER


def test_the_address_of_a_lost_arm_that_a_process_still_waits_for_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "_LOOPBACK_HOSTS", (SPARE, OTHER))
    with fci.claim(SPARE), SimulatedArm() as chosen:
        assert chosen.host == OTHER
    with SimulatedArm() as chosen:
        assert chosen.host == SPARE


def test_an_address_that_another_process_takes_during_the_start_is_skipped(
    arm: SimulatedArm, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = simulation.is_taken
    looks: list[str] = []

    def look_too_early(host: str) -> bool:
        looks.append(host)
        return len(looks) > 1 and look(host)  # the first look says "free", although the arm is there

    monkeypatch.setattr(simulation, "is_taken", look_too_early)
    monkeypatch.setattr(simulation, "_LOOPBACK_HOSTS", (arm.host, OTHER))
    with SimulatedArm() as chosen:
        assert chosen.host == OTHER
    assert looks[:2] == [arm.host, arm.host]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "localhost"])
def test_an_address_that_other_computers_can_reach_is_refused(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        _parser().parse_args(["--host", host])
    assert exit_.value.code == 2
    assert host in capsys.readouterr().err


@pytest.mark.parametrize("width", ["0", "0.08", "-0.01", "nan", "wide"])
def test_an_object_that_does_not_fit_between_the_fingers_is_refused(
    width: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        _parser().parse_args([f"--object-width={width}"])
    assert exit_.value.code == 2
    assert width in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_simulator_quietly_with_status_0(number: signal.Signals) -> None:
    with command_line("--host", SPARE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"{simulation.READY} {SPARE}")
        robot = connect(SPARE)  # A client must not delay it.
        process.send_signal(number)
        process.send_signal(number)  # A second signal changes nothing.
        output, log = process.communicate(timeout=10)
    del robot
    assert (process.returncode, output, log) == (0, "", "")
    assert not simulation.is_taken(SPARE)


@pytest.mark.parametrize("forks", [False, True])
def test_the_arm_never_outlives_its_parent(forks: bool) -> None:
    parent = textwrap.dedent(
        f"""
        import os, sys, time
        from aiofranka_ros.simulation.simulated_arm import SimulatedArm
        arm = SimulatedArm({SPARE!r})
        arm.start()
        fork = os.fork() if {forks} else 1
        if fork == 0:
            sys.stdin.read()  # survives, with every descriptor of its parent
            os._exit(0)
        print(arm.process.pid, flush=True)
        time.sleep(60)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=simulation._child_environment(),
    ) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) > 0
        assert simulation.is_taken(SPARE)
        process.kill()
        process.wait()
        assert wait_until(lambda: not simulation.is_taken(SPARE))


def test_a_forked_copy_of_the_handle_leaves_the_arm_alone(arm: SimulatedArm) -> None:
    child = os.fork()
    if child == 0:
        arm.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert arm.alive


def test_a_handle_can_be_started_once_and_closed_any_number_of_times() -> None:
    arm = SimulatedArm(OTHER)
    with pytest.raises(SimulationError, match="not started"):
        _ = arm.host
    arm.close()
    with arm:
        assert arm.alive and arm.host == OTHER
        with pytest.raises(SimulationError, match="only once"):
            arm.start()
    arm.close()
    assert arm.process is not None and arm.process.returncode == 0
    assert not simulation.is_taken(OTHER)


def test_an_arm_that_dies_while_it_starts_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(SimulationError, match="unrecognized.*--nonsense"):
        SimulatedArm(OTHER, ["--nonsense"]).start()
    # The exception says it; once is enough. The module's own arm may log that the machine is slow.
    assert not [record for record in caplog.records if OTHER in record.getMessage()]


def test_a_client_of_another_protocol_version_is_refused() -> None:
    with (
        SimulatedArm(OTHER, ["--protocol-version", "9"]) as arm,
        pytest.raises(pylibfranka.FrankaException, match="(?i)incompatible"),
    ):
        connect(arm.host)


# The model


def test_the_model_has_the_joints_and_limits_that_libfranka_is_told(physics: ArmPhysics) -> None:
    limits = {
        joint.attrib["name"]: joint.find("limit")
        for joint in ElementTree.parse(FrankaSimServer.DEFAULT_ARM_URDF).getroot().iter("joint")
        if joint.attrib.get("type") == "revolute"
    }
    model = physics.model
    assert model.njnt == len(limits) == 7
    for index in range(1, 8):
        limit = limits[f"joint{index}"]
        assert limit is not None
        expected = [float(limit.attrib["lower"]), float(limit.attrib["upper"])]
        # Written with six digits in between.
        np.testing.assert_allclose(model.joint(f"fr3_joint{index}").range, expected, rtol=1e-5)


def test_the_model_leaves_no_file_behind(physics: ArmPhysics) -> None:
    assert not os.path.exists(physics.model_path)


@pytest.mark.parametrize("pose", [READY_POSE, HOME_POSE, INITIAL_POSE], ids=["ready", "home", "initial"])
def test_there_is_no_contact_around_ordinary_poses(physics: ArmPhysics, pose: np.ndarray) -> None:
    random = np.random.default_rng(3)
    for offset in (np.zeros(7), *random.uniform(-0.4, 0.4, (200, 7))):
        pose_at(physics, pose + offset)
        assert physics.self_collision() is None, pose + offset
        assert contact_forces(physics) == 0


@pytest.mark.parametrize(
    ("pose", "links"),
    [
        ([0.0, 0.0, 0.0, -3.04, 0.0, 0.6, 0.0], {"link1", "link7"}),
        ([0.0, -1.7, 0.0, -3.04, 0.0, 0.6, 0.0], {"link2", "link7"}),
        ([0.0, 0.9, 0.0, -2.9, 0.0, 3.0, 0.0], {"link1", "link6"}),
    ],
)
def test_a_self_collision_is_detected(physics: ArmPhysics, pose: list[float], links: set[str]) -> None:
    pose_at(physics, np.array(pose))
    contact = physics.self_collision()
    assert contact is not None
    assert {contact.first, contact.second} == links


def test_an_arm_without_a_client_stops_without_chattering() -> None:
    physics = ArmPhysics()
    physics.initialize_simulation()
    pose_at(physics, READY_POSE)
    physics.data.qvel[physics.arm_dofs_idx] = [0.4, -0.3, 0.2, 0.5, -0.6, 0.4, 0.8]
    physics.update_joint_positions(READY_POSE)
    physics.set_control_mode(ControlMode.POSITION)
    physics.step(1500)
    # At one thousandth of a radian a second, friction alone explains what is left.
    speeds = []
    for _ in range(100):
        physics.step()
        speeds.append(np.abs(physics.data.qvel[physics.arm_dofs_idx]).max())
    assert max(speeds) < 1e-3


def test_poses_and_jacobians_agree_with_libfrankas_model(arm: SimulatedArm, physics: ArmPhysics) -> None:
    robot = connect(arm.host)
    model = robot.load_model()
    state = robot.read_once()
    q = np.array(state.q)

    pose_at(physics, q)
    # The wire carries single precision.
    np.testing.assert_allclose(np.reshape(state.O_T_EE, (4, 4)).T, physics.ee_pose(), atol=1e-6)

    jacobian = np.reshape(model.zero_jacobian(state), (7, 6)).T
    np.testing.assert_allclose(jacobian, physics.ee_jacobian(), atol=1e-6)
    step = 1e-5
    for joint in range(7):
        ends = []
        for sign in (1, -1):
            pose_at(physics, q + sign * step * np.eye(7)[joint])
            ends.append(physics.ee_pose())
        derivative = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(jacobian[:3, joint], derivative[:3, 3], atol=1e-6)
        spin = derivative[:3, :3] @ physics.ee_pose()[:3, :3].T
        # The pose is one step off the middle, which shows in the rotation.
        np.testing.assert_allclose(jacobian[3:, joint], [spin[2, 1], spin[0, 2], spin[1, 0]], atol=1e-4)


def test_the_compiled_dynamics_agree_with_libfrankas_model_in_motion_and_under_load(arm: SimulatedArm) -> None:
    robot = connect(arm.host)
    model, state = robot.load_model(), robot.read_once()
    links = libfranka.links_of(model, state)
    assert links is not None
    random, work, mass, coriolis = np.random.default_rng(1), dynamics.working_memory(), np.empty(49), np.empty(7)
    for _ in range(100):
        q, dq = random.uniform(fr3.POSITION_LOWER, fr3.POSITION_UPPER), random.uniform(-1, 1, 7) * fr3.VELOCITY_LIMIT
        state.q, state.dq = q.tolist(), dq.tolist()
        state.m_total, state.F_x_Ctotal = random.uniform(0, 3), random.uniform(-0.1, 0.1, 3).tolist()
        shape = random.uniform(-0.1, 0.1, (3, 3))
        state.I_total = (shape @ shape.T).ravel().tolist()
        bodies = np.vstack((links, libfranka.load_of(state)))
        dynamics.mass_and_coriolis(q, dq, bodies, work, mass, coriolis)
        np.testing.assert_allclose(mass, model.mass(state), atol=1e-9, rtol=0.0)
        np.testing.assert_allclose(coriolis, model.coriolis(state), atol=1e-9, rtol=0.0)


def test_the_clock_steps_an_arm_without_a_client_and_the_states_step_one_with_a_client() -> None:
    physics = ArmPhysics()
    physics.initialize_simulation()
    thread = threading.Thread(target=physics.start)
    thread.start()
    try:
        assert wait_until(lambda: physics.data.time > 0.05)
        sent = [0]
        with physics.driven(lambda: sent[0]):
            begin = physics.data.time
            for _ in range(20):
                physics.get_robot_state()
                physics.get_robot_state()  # as at a reflex
                sent[0] += 1
            assert physics.data.time - begin == pytest.approx(20 * physics.dt)
        assert wait_until(lambda: physics.data.time - begin > 0.05)
    finally:
        physics.stop()
        thread.join()


def test_the_arm_is_stable_and_follows_under_torque_control() -> None:
    physics = ArmPhysics()
    physics.initialize_simulation()
    physics.set_control_mode(ControlMode.TORQUE)
    stiffness = np.array([400.0, 400.0, 400.0, 400.0, 200.0, 120.0, 60.0])
    damping = 1.5 * np.sqrt(stiffness)
    start = physics.get_robot_state()["q"]
    largest_error = largest_speed = 0.0
    for cycle in range(3000):
        state = physics.get_robot_state()
        target = start + 0.1 * (1.0 - np.cos(2 * np.pi * cycle / 2000)) * np.ones(7)
        physics.update_torques(stiffness * (target - state["q"]) - damping * state["dq"])
        physics.step()
        largest_error = max(largest_error, float(np.abs(target - state["q"]).max()))
        largest_speed = max(largest_speed, float(np.abs(state["dq"]).max()))
    # The target moves at 0.31 rad/s at most. The error is the lag of the damping (up to 0.19 s here) and friction.
    assert largest_speed < 0.5
    assert largest_error < 0.1
