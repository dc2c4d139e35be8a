"""libfranka's robot state, field by field from libfranka to the message, and the topic of a node."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from franka_msgs.msg import Errors, FrankaRobotState
from rclpy.serialization import deserialize_message
from scipy.spatial.transform import Rotation

from aiofranka_ros.control.libfranka import MeasuredViews, RobotConnection, RobotStateCopy, report_to
from aiofranka_ros.control.records import MEASURED, STATE, new
from aiofranka_ros.control.robot_records import ERROR_NAMES
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.model.names import FR3
from aiofranka_ros.node.robot_state import TOPICS, RobotStateMessage
from aiofranka_ros.simulation.simulated_arm import SimulatedArm
from aiofranka_ros.testing import Client, NodeProcess, started, wait_until

#: When the states of the tests were measured [ns].
STAMP = 1_700_000_000_123_456_789
#: Fields that are frames and stamps, see :func:`leaves`.
HEADERS = {
    "": FR3.base,
    **dict.fromkeys(("measured_joint_state", "desired_joint_state", "measured_joint_motor_state"), FR3.base),
    **dict.fromkeys(("tau_ext_hat_filtered", "o_f_ext_hat_k", "o_t_ee", "o_t_ee_d", "o_t_ee_c"), FR3.base),
    **dict.fromkeys(("o_dp_ee_d", "o_dp_ee_c", "o_ddp_ee_c"), FR3.base),
    **dict.fromkeys(("f_t_ee", "inertia_load"), "fr3_link8"),
    **dict.fromkeys(("k_f_ext_hat_k", "ee_t_k", "inertia_ee", "inertia_total"), "fr3_hand_tcp"),
}


def leaves(message: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of a message that is not a message itself; poses are matrices (4, 4)."""
    for field in message.get_fields_and_field_types():
        value, name = getattr(message, field), f"{path}.{field}".lstrip(".")
        if type(value).__name__ == "Pose":
            p, o = value.position, value.orientation
            matrix = np.eye(4)
            matrix[:3, :3] = Rotation.from_quat([o.x, o.y, o.z, o.w]).as_matrix()
            matrix[:3, 3] = p.x, p.y, p.z
            yield name, matrix
        elif hasattr(value, "get_fields_and_field_types"):
            yield from leaves(value, name)
        else:
            yield name, value


def expected(robot: Any) -> dict[str, Any]:
    """Every field of the message as franka_ros2 fills it from libfranka's state ``robot``."""
    fields: dict[str, Any] = {
        "collision_indicators.is_joint_collision": robot.joint_collision,
        "collision_indicators.is_joint_contact": robot.joint_contact,
        "measured_joint_state.position": robot.q,
        "measured_joint_state.velocity": robot.dq,
        "measured_joint_state.effort": robot.tau_J,
        "desired_joint_state.position": robot.q_d,
        "desired_joint_state.velocity": robot.dq_d,
        "desired_joint_state.effort": robot.tau_J_d,
        "measured_joint_motor_state.position": robot.theta,
        "measured_joint_motor_state.velocity": robot.dtheta,
        "measured_joint_motor_state.effort": np.zeros(7),
        "ddq_d": robot.ddq_d,
        "dtau_j": robot.dtau_J,
        "tau_ext_hat_filtered.position": np.zeros(7),
        "tau_ext_hat_filtered.velocity": np.zeros(7),
        "tau_ext_hat_filtered.effort": robot.tau_ext_hat_filtered,
        "elbow.position": robot.elbow,
        "elbow.desired_position": robot.elbow_d,
        "elbow.commanded_position": robot.elbow_c,
        "elbow.commanded_velocity": robot.delbow_c,
        "elbow.commanded_acceleration": robot.ddelbow_c,
        "time": robot.time.to_sec(),
        "control_command_success_rate": robot.control_command_success_rate,
        "robot_mode": robot.robot_mode.value,
    }
    for name in ("measured_joint_state", "desired_joint_state", "measured_joint_motor_state", "tau_ext_hat_filtered"):
        fields[f"{name}.name"] = list(FR3.joints)
    for name, frame in HEADERS.items():
        prefix = f"{name}.header".lstrip(".")
        fields |= {f"{prefix}.frame_id": frame, f"{prefix}.stamp.sec": STAMP // 10**9}
        fields[f"{prefix}.stamp.nanosec"] = STAMP % 10**9
    for name in ("O_T_EE", "O_T_EE_d", "O_T_EE_c", "F_T_EE", "EE_T_K"):
        fields[f"{name.lower()}.pose"] = np.reshape(getattr(robot, name), (4, 4)).T
    pairs = {
        "collision_indicators.is_cartesian_{}_collision": robot.cartesian_collision,
        "collision_indicators.is_cartesian_{}_contact": robot.cartesian_contact,
        "o_dp_ee_d.twist.{}": robot.O_dP_EE_d,
        "o_dp_ee_c.twist.{}": robot.O_dP_EE_c,
        "o_ddp_ee_c.accel.{}": robot.O_ddP_EE_c,
    }
    for name, values in pairs.items():
        parts = (name.format(part) for part in ("linear", "angular"))
        fields |= zip([f"{part}.{axis}" for part in parts for axis in "xyz"], values, strict=True)
    for name, values in (("k_f_ext_hat_k", robot.K_F_ext_hat_K), ("o_f_ext_hat_k", robot.O_F_ext_hat_K)):
        parts = (f"{name}.wrench.{part}" for part in ("force", "torque"))
        fields |= zip([f"{part}.{axis}" for part in parts for axis in "xyz"], values, strict=True)
    for name in ("ee", "load", "total"):
        part = f"inertia_{name}.inertia"
        fields[f"{part}.m"] = getattr(robot, f"m_{name}")
        fields |= zip([f"{part}.com.{axis}" for axis in "xyz"], getattr(robot, f"F_x_C{name}"), strict=True)
        inertia = np.reshape(getattr(robot, f"I_{name}"), (3, 3)).T
        for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
            fields[f"{part}.i{'xyz'[i]}{'xyz'[j]}"] = inertia[i, j]
    for name in ("current_errors", "last_motion_errors"):
        fields |= {f"{name}.{error}": getattr(getattr(robot, name), error) for error in ERROR_NAMES}
    return fields


def converted(robot: Any) -> FrankaRobotState:
    """The message that the node would publish of libfranka's state ``robot``."""
    copy = RobotStateCopy()
    copy.fill(robot, STAMP)
    return deserialize_message(RobotStateMessage().of(copy.record[0]), FrankaRobotState)


def check(message: FrankaRobotState, fields: dict[str, Any]) -> None:
    """Check every field of ``message``."""
    found = dict(leaves(message))
    assert found.keys() == fields.keys()
    for name, value in fields.items():
        if isinstance(value, (str, bool)) or (isinstance(value, list) and isinstance(value[0], str)):
            assert found[name] == value, name
        else:  # Quaternions of rotations that the robot gives in single precision are exact to 1e-6.
            np.testing.assert_allclose(found[name], value, rtol=0.0, atol=1e-6, err_msg=name)


class Flags(SimpleNamespace):
    """libfranka's ``Errors``, which only libfranka can set."""

    def __bool__(self) -> bool:
        return any(vars(self).values())


def made_up(real: Any) -> SimpleNamespace:
    """A state with the fields of a ``real`` one, and a different number in each place."""
    numbers = itertools.count(1.0)
    state = SimpleNamespace()
    for name in (name for name, member in vars(type(real)).items() if isinstance(member, property)):
        value = getattr(real, name)
        if isinstance(value, float):
            setattr(state, name, next(numbers))
        elif isinstance(value, list):
            array = np.array([next(numbers) for _ in value])
            if len(array) == 9:
                array = (array.reshape(3, 3) + array.reshape(3, 3).T).ravel()
            elif len(array) == 16:
                pose = np.eye(4)
                pose[:3, :3] = Rotation.from_rotvec(np.sin(array[:3])).as_matrix()
                pose[:3, 3] = array[3:6]
                array = pose.T.ravel()
            setattr(state, name, array.tolist())
    seconds = next(numbers)
    state.time = SimpleNamespace(to_sec=lambda: seconds)
    state.robot_mode = SimpleNamespace(value=4)
    state.current_errors = Flags(**{name: index % 2 == 0 for index, name in enumerate(ERROR_NAMES)})
    state.last_motion_errors = Flags(**{name: index % 3 == 0 for index, name in enumerate(ERROR_NAMES)})
    return state


@pytest.fixture(scope="module")
def read() -> Iterator[Callable[[], Any]]:
    """Reads libfranka's state of a simulated arm with a hand."""
    with SimulatedArm(options=["--hand"]) as simulated:
        arm = RobotConnection(simulated.host)
        yield arm.read
        arm.close()


def test_every_field_has_the_value_that_libfranka_read_in_that_cycle(read: Callable[[], Any]) -> None:
    robot = read()
    assert np.abs(robot.q).max() > 0.0 and robot.time.to_sec() > 0.0
    check(converted(robot), expected(robot))


def test_no_field_is_confused_with_another(read: Callable[[], Any]) -> None:
    robot = made_up(read())
    check(converted(robot), expected(robot))


def test_the_control_loop_does_not_confuse_fields_of_the_state_either(read: Callable[[], Any]) -> None:
    robot, state, measured = made_up(read()), new(STATE), new(MEASURED)
    report_to(state)(robot)
    for name, value in {
        "robot_mode": robot.robot_mode.value,
        "tau_measured": robot.tau_J,
        "tau_external": robot.tau_ext_hat_filtered,
        "external_wrench": robot.O_F_ext_hat_K,
    }.items():
        np.testing.assert_array_equal(state[name][0], value)
    views = MeasuredViews(measured)
    views.pack(1.0, 2.0, *robot.q, *robot.dq, *robot.tau_J_d)
    for name, value in {"time": 1.0, "elapsed": 2.0, "q": robot.q, "dq": robot.dq, "tau_last": robot.tau_J_d}.items():
        np.testing.assert_array_equal(measured[name][0], value)


@pytest.mark.parametrize("name", ERROR_NAMES)
def test_each_error_sets_its_own_flag_alone(read: Callable[[], Any], name: str) -> None:
    robot = made_up(read())
    robot.current_errors = Flags(**{error: error == name for error in ERROR_NAMES})
    robot.last_motion_errors = Flags(**dict.fromkeys(ERROR_NAMES, False))
    message = converted(robot)
    assert [error for error in ERROR_NAMES if getattr(message.current_errors, error)] == [name]
    assert not any(getattr(message.last_motion_errors, error) for error in ERROR_NAMES)


def test_errors_and_modes_are_those_of_libfranka_and_of_the_message(read: Callable[[], Any]) -> None:
    robot = read()
    assert tuple(Errors.get_fields_and_field_types()) == ERROR_NAMES
    assert all(hasattr(robot.current_errors, name) for name in ERROR_NAMES)
    for name, mode in type(robot.robot_mode).__members__.items():
        constant = "".join(f"_{letter}" if letter.isupper() else letter for letter in name).upper()
        assert getattr(FrankaRobotState, f"ROBOT_MODE{constant}") == mode.value


def test_nothing_of_the_last_state_remains_in_the_next_message(read: Callable[[], Any]) -> None:
    copy, message = RobotStateCopy(), RobotStateMessage()
    for robot in (made_up(read()), read()):
        copy.fill(robot, STAMP)
        data = message.of(copy.record[0])
    check(deserialize_message(data, FrankaRobotState), expected(robot))


def test_the_first_message_compiles_nothing() -> None:
    """Compiling takes seconds, during which the control process would get no heartbeat from the node."""
    script = """
from aiofranka_ros.control.records import new
from aiofranka_ros.control.robot_records import ROBOT_STATE
from aiofranka_ros.model.kinematics import quaternion_from_matrix
from aiofranka_ros.node.robot_state import RobotStateMessage
message = RobotStateMessage()
before = list(quaternion_from_matrix.signatures)
message.of(new(ROBOT_STATE)[0])
assert list(quaternion_from_matrix.signatures) == before
"""
    subprocess.run([sys.executable, "-c", script], check=True)  # Other tests may have compiled it in this process.


def test_without_a_hand_the_end_effector_is_the_flange(read: Callable[[], Any]) -> None:
    robot = made_up(read())
    robot.F_T_EE = np.eye(4).ravel().tolist()
    message = converted(robot)
    for part in (message.ee_t_k, message.k_f_ext_hat_k, message.inertia_ee, message.inertia_total):
        assert part.header.frame_id == "fr3_link8"


# Of a node.


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, Client]]:
    """An active node that publishes the robot's state at the highest rate; shared by the tests below."""
    with started(tmp_path_factory.mktemp("node"), autostart=True, robot_state_rate=200.0) as (process, client):
        assert client.becomes("active"), process.log
        yield process, client


def subscribe(node: tuple[NodeProcess, Client], topic: str) -> tuple[list[bytes], Any]:
    """The messages on a topic of the node from now on, and the subscription.

    As it travels: making messages of it at once takes longer than a busy computer has before the next one comes.
    """
    process, client = node
    received: list[bytes] = []
    name = process.name_of(topic)
    return received, client.node.create_subscription(FrankaRobotState, name, received.append, 10, raw=True)


def messages_of(received: list[bytes]) -> list[FrankaRobotState]:
    return [deserialize_message(data, FrankaRobotState) for data in received]


@pytest.mark.parametrize("topic", TOPICS)
def test_an_active_arm_s_state_is_published_at_the_rate_of_robot_time(
    node: tuple[NodeProcess, Client], topic: str
) -> None:
    _, client = node
    received, subscription = subscribe(node, topic)
    messages: list[FrankaRobotState] = []

    def neighbours() -> int:
        """The longest sequence of messages without a gap, one every five cycles."""
        received.clear()
        assert client.spin_until(lambda: len(received) >= 100)
        messages[:] = messages_of(received)
        steps = np.diff([message.time for message in messages])
        # No state arrives twice, and none from between the five cycles.
        np.testing.assert_allclose(steps, 0.005 * np.rint(steps / 0.005), atol=0.0015)
        assert steps.min() > 0.003
        gaps = np.flatnonzero(np.abs(steps - 0.005) > 1e-6)
        return int(np.diff([-1, *gaps, len(steps)]).max()) - 1

    # On a busy machine, the node or the test may miss some.
    assert wait_until(lambda: neighbours() >= 30)
    client.node.destroy_subscription(subscription)
    message = messages[-1]
    assert message.robot_mode == FrankaRobotState.ROBOT_MODE_MOVE
    assert message.control_command_success_rate > 0.5
    np.testing.assert_allclose(message.measured_joint_state.position, client.q, atol=0.01)


def test_no_state_is_copied_without_a_subscriber(node: tuple[NodeProcess, Client]) -> None:
    _, client = node
    _, values = client.diagnostics("control loop")
    with SharedMemory.observe(values["shared memory"]) as memory:

        def copies() -> int:
            before = memory.robot_states.count
            client.spin_for(0.3)
            return memory.robot_states.count - before

        assert client.spin_until(lambda: copies() == 0)
        received, subscription = subscribe(node, TOPICS[0])
        assert client.spin_until(lambda: received)
        assert copies() > 0
        client.node.destroy_subscription(subscription)
        assert client.spin_until(lambda: copies() == 0)


def test_the_state_of_an_inactive_arm_is_published_too(node: tuple[NodeProcess, Client]) -> None:
    _, client = node
    assert client.change("deactivate")
    received, subscription = subscribe(node, TOPICS[0])
    assert client.spin_until(lambda: len(received) >= 20)
    client.node.destroy_subscription(subscription)
    messages = messages_of(received)
    assert messages[-1].robot_mode == FrankaRobotState.ROBOT_MODE_IDLE
    assert np.diff([message.time for message in messages]).min() > 0.0
    assert client.change("activate")
