"""The services that set something in the robot itself: what they accept, when, and what the robot then reports."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from franka_msgs import srv
from franka_msgs.msg import FrankaRobotState
from rclpy.lifecycle import TransitionCallbackReturn
from scipy.spatial.transform import Rotation

from aiofranka_ros.control.robot_records import RobotSetting
from aiofranka_ros.errors import CommandRefused, ConfigurationError
from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.model.kinematics import forward
from aiofranka_ros.node.robot_services import PREFIXES, SERVICES, RobotServices
from aiofranka_ros.ros.conditions import CTL
from aiofranka_ros.testing import Client, NodeProcess, descendant, started

#: A tool's frame: 12 cm in front of the flange and turned, (4, 4).
TOOL = np.eye(4)
TOOL[:3, :3] = Rotation.from_rotvec([0.1, -0.2, 0.7]).as_matrix()
TOOL[:3, 3] = 0.02, -0.03, 0.12
INERTIA = np.array([[0.010, 0.001, 0.002], [0.001, 0.020, 0.003], [0.002, 0.003, 0.025]])

TORQUES, FORCES = np.linspace(10.0, 22.0, 7), np.linspace(11.0, 21.0, 6)


def column_major(matrix: Any) -> list[float]:
    return [float(value) for value in np.asarray(matrix).T.ravel()]


def load(mass: float = 1.2, center: Any = (0.01, 0.02, 0.03), inertia: Any = INERTIA) -> srv.SetLoad.Request:
    return srv.SetLoad.Request(
        mass=float(mass), center_of_mass=[float(value) for value in center], load_inertia=column_major(inertia)
    )


def tool(matrix: Any = TOOL) -> srv.SetTCPFrame.Request:
    return srv.SetTCPFrame.Request(transformation=column_major(matrix))


def thresholds(**changes: Any) -> dict[str, list[float]]:
    fields = {
        "lower_torque_thresholds_nominal": TORQUES,
        "upper_torque_thresholds_nominal": TORQUES + 5.0,
        "lower_force_thresholds_nominal": FORCES,
        "upper_force_thresholds_nominal": FORCES + 6.0,
    } | changes
    return {name: [float(value) for value in values] for name, values in fields.items()}


def full_thresholds(**changes: Any) -> dict[str, list[float]]:
    nominal = thresholds()
    acceleration = {name.replace("nominal", "acceleration"): values for name, values in nominal.items()}
    return nominal | acceleration | changes


def changed(matrix: np.ndarray, index: tuple[int, int], value: float) -> np.ndarray:
    copy = np.array(matrix)
    copy[index] = value
    return copy


GOOD: dict[str, Any] = {
    "set_load": load(),
    "set_tcp_frame": tool(),
    "set_stiffness_frame": srv.SetStiffnessFrame.Request(transformation=column_major(TOOL)),
    "set_joint_stiffness": srv.SetJointStiffness.Request(joint_stiffness=[3000.0] * 4 + [2000.0] * 3),
    "set_cartesian_stiffness": srv.SetCartesianStiffness.Request(cartesian_stiffness=[2000.0] * 3 + [100.0] * 3),
    "set_force_torque_collision_behavior": srv.SetForceTorqueCollisionBehavior.Request(**thresholds()),
    "set_full_collision_behavior": srv.SetFullCollisionBehavior.Request(**full_thresholds()),
}

BAD: list[tuple[str, Any, str]] = [
    ("set_load", load(mass=-0.1), r"mass is -0.1 kg; allowed: in \[0, 3\] kg"),
    ("set_load", load(mass=3.5), "mass is 3.5 kg"),
    ("set_load", load(mass=math.nan), "mass is nan kg"),
    ("set_load", load(center=(0.0, math.inf, 0.0)), "center_of_mass is inf m at index 1"),
    ("set_load", load(center=(0.0, 0.0, 2.0)), "center_of_mass is 2 m at index 2"),
    ("set_load", load(inertia=changed(INERTIA, (0, 1), 0.002)), "load_inertia is not symmetric"),
    ("set_load", load(inertia=changed(INERTIA, (2, 2), -0.1)), "load_inertia is negative about an axis"),
    ("set_load", load(inertia=changed(INERTIA, (2, 2), math.nan)), "load_inertia is nan"),
    ("set_tcp_frame", tool(TOOL.T), "the last row of the transformation is .* column by column"),
    ("set_tcp_frame", tool(np.zeros((4, 4))), "the last row of the transformation"),
    ("set_tcp_frame", tool(np.diag([1.1, 1.1, 1.1, 1.0])), "is not a rotation"),
    ("set_tcp_frame", tool(np.diag([1.0, 1.0, -1.0, 1.0])), "is not a rotation"),
    ("set_tcp_frame", tool(changed(TOOL, (0, 3), 3.0)), "transformation is 3 m"),
    ("set_tcp_frame", tool(changed(TOOL, (0, 0), math.nan)), "transformation is nan"),
    (
        "set_joint_stiffness",
        srv.SetJointStiffness.Request(joint_stiffness=[3000.0] * 6 + [-1.0]),
        "joint_stiffness is -1 Nm/rad at index 6",
    ),
    (
        "set_cartesian_stiffness",
        srv.SetCartesianStiffness.Request(cartesian_stiffness=[2000.0] * 3 + [301.0] * 3),
        "cartesian_stiffness is 301 N/m and Nm/rad at index 3",
    ),
    (
        "set_force_torque_collision_behavior",
        srv.SetForceTorqueCollisionBehavior.Request(**thresholds(upper_torque_thresholds_nominal=[101.0] * 7)),
        r"upper_torque_thresholds_nominal is 101 Nm at index 0; allowed: 7 values, each in \[0.1, 100\] Nm",
    ),
    (
        "set_force_torque_collision_behavior",
        srv.SetForceTorqueCollisionBehavior.Request(**thresholds(lower_force_thresholds_nominal=[18.0] * 6)),
        "lower_force_thresholds_nominal is 18 at index 0, above the upper one, 17",
    ),
    (
        "set_full_collision_behavior",
        srv.SetFullCollisionBehavior.Request(**full_thresholds(upper_force_thresholds_acceleration=[50.0] * 6)),
        "upper_force_thresholds_acceleration differs from upper_force_thresholds_nominal",
    ),
]


@pytest.mark.parametrize(("name", "request_", "text"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_values_that_no_robot_accepts_are_refused_with_the_reason(name: str, request_: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        SERVICES[name][1](request_)


def test_a_transformation_that_is_rigid_except_for_rounding_is_corrected() -> None:
    change = SERVICES["set_tcp_frame"][1](tool(np.round(TOOL, 4)))
    assert change.setting is RobotSetting.END_EFFECTOR
    matrix = np.reshape(change.values[0], (4, 4)).T
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(matrix, TOOL, atol=1e-4)


def test_thresholds_reach_libfranka_in_its_order_of_arguments() -> None:
    for name in ("set_force_torque_collision_behavior", "set_full_collision_behavior"):
        change = SERVICES[name][1](GOOD[name])
        for values, wanted in zip(change.values, (TORQUES, TORQUES + 5.0, FORCES, FORCES + 6.0), strict=True):
            np.testing.assert_array_equal(values, wanted)


# Of a node.


class Robot:
    """The services of a node, and the state that the robot reports."""

    def __init__(self, process: NodeProcess, client: Client) -> None:
        self.process, self.client = process, client
        self._services: dict[str, Any] = {}
        self._states: list[FrankaRobotState] = []
        client.node.create_subscription(FrankaRobotState, f"{process.name}/robot_state", self._states.append, 1)

    def send(self, name: str, request: Any, prefix: str = "~/") -> Any:
        """Send a request; return the future of its answer."""
        path = self.process.name_of(f"{prefix}{name}")
        if path not in self._services:
            self._services[path] = self.client.node.create_client(SERVICES[name][0], path)
        service = self._services[path]
        assert self.client.spin_until(service.service_is_ready), path
        return service.call_async(request)

    def set(self, name: str, request: Any, prefix: str = "~/") -> str:
        """Why the request was refused; empty if it succeeded."""
        answer = self.client.result(self.send(name, request, prefix))
        assert answer.success == (not answer.error)
        return str(answer.error)

    @property
    def state(self) -> FrankaRobotState:
        """What the robot says after this call."""
        self._states.clear()
        # The first one may have been on its way already.
        assert self.client.spin_until(lambda: len(self._states) > 1)
        return self._states[-1]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    """An active node with its services; shared by the tests below."""
    with started(tmp_path_factory.mktemp("node"), autostart=True, diagnostics_rate=10.0) as (process, client):
        assert client.becomes("active"), process.log
        yield Robot(process, client)


@pytest.fixture
def active(node: Robot) -> Robot:
    if node.client.state != "active":
        assert node.client.change("activate")
    return node


@pytest.fixture
def inactive(node: Robot) -> Robot:
    if node.client.state != "inactive":
        assert node.client.change("deactivate")
    return node


@pytest.mark.parametrize("name", SERVICES)
def test_while_the_arm_is_active_a_service_says_what_to_do_instead(active: Robot, name: str) -> None:
    error = active.set(name, GOOD[name])
    assert "deactivate the node first" in error, active.process.log
    assert f"{CTL} set restart_if_needed true --node {active.process.name}" in error
    assert active.client.state == "active"


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", SERVICES)
def test_at_rest_every_service_is_served_under_both_names(inactive: Robot, name: str, prefix: str) -> None:
    assert inactive.set(name, GOOD[name], prefix) == ""
    assert inactive.client.state == "inactive"


def test_a_bad_request_is_answered_with_the_reason_and_changes_nothing(inactive: Robot) -> None:
    assert inactive.set("set_load", load(mass=0.5)) == ""
    assert "mass is -1 kg" in inactive.set("set_load", load(mass=-1.0))
    assert inactive.state.inertia_load.inertia.m == pytest.approx(0.5)


def test_a_load_is_what_the_robot_reports_from_then_on(inactive: Robot) -> None:
    assert inactive.set("set_load", load()) == ""
    state = inactive.state
    inertia = state.inertia_load.inertia
    # The robot reports in single precision.
    assert inertia.m == pytest.approx(1.2, abs=1e-6)
    assert (inertia.com.x, inertia.com.y, inertia.com.z) == pytest.approx((0.01, 0.02, 0.03), abs=1e-6)
    found = (inertia.ixx, inertia.ixy, inertia.ixz, inertia.iyy, inertia.iyz, inertia.izz)
    assert found == pytest.approx(INERTIA[np.triu_indices(3)].tolist(), abs=1e-6)
    assert state.inertia_total.inertia.m == pytest.approx(1.2, abs=1e-6)


def test_frames_are_what_the_robot_reports_from_then_on(inactive: Robot) -> None:
    assert inactive.set("set_tcp_frame", tool()) == ""
    assert inactive.set("set_stiffness_frame", GOOD["set_stiffness_frame"]) == ""
    state = inactive.state
    for pose in (state.f_t_ee.pose, state.ee_t_k.pose):
        p, o = pose.position, pose.orientation
        np.testing.assert_allclose([p.x, p.y, p.z], TOOL[:3, 3], atol=1e-6)
        np.testing.assert_allclose(
            Rotation.from_quat([o.x, o.y, o.z, o.w]).as_matrix(), TOOL[:3, :3], rtol=0.0, atol=1e-6
        )


def test_the_control_frame_follows_the_end_effector_before_and_after_activation(inactive: Robot) -> None:
    client = inactive.client

    def is_there(tool_frame: np.ndarray) -> bool:
        """Whether the published pose is that of this tool; the arm may move by 1 mm between q and the pose."""
        flange, tcp, jacobian = np.empty((4, 4)), np.empty((4, 4)), np.empty((6, 7))
        forward(client.q, tool_frame, flange, tcp, jacobian)
        return bool(np.abs(client.position - tcp[:3, 3]).max() < 1e-3)

    for frame in (np.eye(4), TOOL):
        assert inactive.set("set_tcp_frame", tool(frame)) == ""
        assert client.spin_until(lambda frame=frame: is_there(frame))
        assert client.change("activate")
        assert client.rests() and is_there(frame)
        assert client.change("deactivate")


def test_parameters_show_the_thresholds_at_which_the_robot_stops(inactive: Robot) -> None:
    client = inactive.client
    assert inactive.set("set_full_collision_behavior", GOOD["set_full_collision_behavior"]) == ""
    np.testing.assert_allclose(client.get("collision_torque_thresholds"), TORQUES + 5.0)
    np.testing.assert_allclose(client.get("collision_force_thresholds"), FORCES + 6.0)
    # A parameter that is set afterwards counts, and is not confused with the service's.
    assert client.set(collision_torque_thresholds=[25.0] * 7) == ""
    np.testing.assert_allclose(client.get("collision_torque_thresholds"), 25.0)
    np.testing.assert_allclose(client.get("collision_force_thresholds"), FORCES + 6.0)


@pytest.fixture
def restarting(active: Robot) -> Iterator[Robot]:
    """The active node, allowed to restart its arm."""
    assert active.client.set(restart_if_needed=True) == ""
    yield active
    assert active.client.set(restart_if_needed=False) == ""


def test_an_active_arm_is_restarted_if_that_is_allowed(restarting: Robot) -> None:
    client = restarting.client
    assert client.rests()
    q = client.q
    assert restarting.set("set_load", load(mass=0.7)) == ""
    assert client.state == "active"
    assert restarting.state.inertia_load.inertia.m == pytest.approx(0.7, abs=1e-6)
    assert restarting.state.robot_mode == FrankaRobotState.ROBOT_MODE_MOVE
    assert client.rests()
    # It holds where it was; friction and compliance explain the rest.
    np.testing.assert_allclose(client.q, q, atol=0.01)


def test_a_restart_aborts_a_move_and_its_result_says_why(restarting: Robot) -> None:
    client = restarting.client
    handle = client.send_goal(HOME + 0.3, velocities=[0.4] * 7)
    assert handle.accepted
    assert client.spin_until(lambda: client.speed() > 0.1)
    assert restarting.set("set_tcp_frame", tool()) == ""
    outcome = client.outcome(handle)
    assert outcome.status == GoalStatus.STATUS_ABORTED
    assert "set_tcp_frame is restarting the arm" in outcome.result.error_message
    assert client.state == "active"
    assert client.rests()
    assert np.abs(client.q - (HOME + 0.3)).max() > 0.05, "it continued"


def test_two_requests_at_once_are_both_carried_out(restarting: Robot) -> None:
    futures = [restarting.send("set_load", load(mass=0.9)), restarting.send("set_tcp_frame", tool(np.eye(4)))]
    for future in futures:
        assert restarting.client.result(future).error == ""
    assert restarting.client.state == "active"
    state = restarting.state
    assert state.inertia_load.inertia.m == pytest.approx(0.9, abs=1e-6)
    assert abs(state.f_t_ee.pose.position.z) < 1e-6


def test_a_wrong_request_is_refused_before_the_arm_is_stopped(restarting: Robot) -> None:
    before = int(restarting.client.diagnostics("control loop")[1]["cycles"])
    assert "mass is 99 kg" in restarting.set("set_load", load(mass=99.0))
    # Activating would count from 0 again.
    assert int(restarting.client.diagnostics("control loop")[1]["cycles"]) > before


def test_after_a_request_without_an_answer_the_arm_can_be_connected_again(inactive: Robot) -> None:
    # A late answer of the control process must not count as the answer to another request.
    arm = descendant(inactive.process.process.pid, "aiofranka_ros.simulation")
    os.kill(arm, signal.SIGSTOP)
    try:
        assert inactive.set("set_load", load())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(arm, signal.SIGCONT)
    assert "the arm is not connected" in inactive.set("set_load", load())
    assert inactive.client.change("activate")


def test_without_an_arm_a_service_says_to_configure_the_node(inactive: Robot) -> None:
    client = inactive.client
    assert client.change("cleanup")
    assert inactive.set("set_load", load()) == "the node is not configured: configure it first"
    assert client.change("configure")
    assert inactive.set("set_load", load()) == ""


class _Restarting:
    """The node of the services, whose robot refuses what it is set to."""

    configured, moving, trouble, why_inactive = True, False, None, ": the user stop is pressed"
    client: Any = object()
    active_client: Any = object()

    def __init__(self, activates: bool) -> None:
        self._activates = activates

    def trigger_deactivate(self) -> Any:
        self.active_client = None
        return TransitionCallbackReturn.SUCCESS

    def trigger_activate(self) -> Any:
        return TransitionCallbackReturn.SUCCESS if self._activates else TransitionCallbackReturn.FAILURE

    async def next_tick(self) -> None:
        pass

    def set_robot(self, *change: Any) -> None:
        raise CommandRefused("the robot refused the load: it is too heavy")


@pytest.mark.parametrize("activates", [True, False])
def test_the_robot_s_own_reason_is_told_also_if_the_arm_cannot_be_activated_again(activates: bool) -> None:
    services = object.__new__(RobotServices)
    services._node = _Restarting(activates)  # type: ignore[assignment]
    restart = services._restart(())  # type: ignore[arg-type]
    with pytest.raises(CommandRefused, match="too heavy") as caught:
        restart.send(None)
    assert ("could not be activated again: the user stop is pressed" in str(caught.value)) == (not activates)
