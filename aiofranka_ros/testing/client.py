"""A client of one node, written as a user would write it.

Called by tests, benchmarks and the demo. It runs in the caller's thread: each method spins until it has its answer.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import rclpy
from control_msgs.action import FollowJointTrajectory
from diagnostic_msgs.msg import DiagnosticArray
from franka_msgs.action import PTPMotion
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from aiofranka_ros.kernels import Array
from aiofranka_ros.testing.process import PATIENCE, Failed, NodeProcess

#: How many messages of each topic are kept.
_KEPT = 20_000
#: How long a transition may take [s]: the first one may have to compile the kernels.
_TRANSITION = 120.0
#: An arm slower than this has stopped [rad/s].
_STANDSTILL = 0.005

_Self = TypeVar("_Self", bound="NodeClient")


class NodeClient:
    """A client of any lifecycle node or ordinary node. A context manager; at its end, the client has left the graph.

    :param name: full name of the node.
    :param on_wait: called after every message, and at least every tenth of a second, during any wait.
    """

    def __init__(self, name: str, *, on_wait: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self._on_wait = on_wait
        self._context = Context()
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("client", context=self._context, use_global_arguments=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._actions: list[ActionClient] = []
        #: The newest status of each name in the node's diagnostics.
        self.statuses: dict[str, Any] = {}
        self._asked = 0
        # On Humble, rclpy does not pass on when a message was sent.
        with_info = hasattr(Subscription, "CallbackType")
        on_diagnostics = self._on_diagnostics if with_info else lambda message: self._on_diagnostics(message, {})
        self.node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 20)
        self._change_state = self.node.create_client(ChangeState, f"{name}/change_state")
        self._get_state = self.node.create_client(GetState, f"{name}/get_state")
        self._set_parameters = self.node.create_client(SetParametersAtomically, f"{name}/set_parameters_atomically")
        self._get_parameters = self.node.create_client(GetParameters, f"{name}/get_parameters")

    def action(self, kind: Any, name: str) -> ActionClient:
        """A client of an action, which this client closes."""
        client = ActionClient(self.node, kind, name)
        self._actions.append(client)
        return client

    def close(self) -> None:
        """Leave the graph."""
        for action in self._actions:
            action.destroy()
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Waiting.

    def spin_until(self, condition: Callable[[], Any], timeout: float = PATIENCE, *, period: float = 0.05) -> bool:
        """Whether ``condition`` came true within ``timeout`` [s].

        :param period: how often to evaluate it if no message arrives [s].
        """
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                return False
            self._executor.spin_once(timeout_sec=period)
            self._on_wait()
        return True

    def spin_for(self, duration: float) -> None:
        """Receive messages for ``duration`` [s]."""
        self.spin_until(lambda: False, duration)

    def wait(
        self, condition: Callable[[], Any], failure: str, timeout: float = PATIENCE, *, period: float = 0.05
    ) -> None:
        """Wait for ``condition``.

        :raises Failed: it does not come true within ``timeout`` [s]; the message begins with ``failure``.
        """
        if not self.spin_until(condition, timeout, period=period):
            raise Failed(f"{failure} (waited for {timeout:.0f} s)")

    def result(self, future: Any, failure: str = "no answer", timeout: float = PATIENCE) -> Any:
        """The result of an rclpy future.

        :raises Failed: there is none within ``timeout`` [s].
        """
        self.wait(future.done, failure, timeout)
        return future.result()

    def call(self, client: Any, request: Any, timeout: float = PATIENCE) -> Any:
        """The response of a service.

        :raises Failed: there is none within ``timeout`` [s].
        """
        self.wait(client.service_is_ready, f"no service {client.srv_name}", timeout)
        return self.result(client.call_async(request), f"no answer from {client.srv_name}", timeout)

    def trigger(self, service: str) -> Any:
        """The response of one of the node's ``std_srvs/Trigger`` services.

        :raises Failed: the node does not have the service, or does not answer.
        """
        client = self.node.create_client(Trigger, f"{self.name}/{service}")
        try:
            return self.call(client, Trigger.Request())
        finally:
            self.node.destroy_client(client)

    # Lifecycle.

    def change(self, transition: str, number: int = 0) -> bool:
        """Request a transition by its label, or by its number if the label is empty; return whether it succeeded."""
        request = ChangeState.Request()
        request.transition.label, request.transition.id = transition, number
        return bool(self.call(self._change_state, request, _TRANSITION).success)

    def state_or_none(self, timeout: float = 1.0) -> str | None:
        """The node's lifecycle state, or ``None`` if it does not answer within ``timeout`` [s]."""
        if not self._get_state.service_is_ready():
            self.spin_for(0.05)
            return None
        answer = self._get_state.call_async(GetState.Request())
        if not self.spin_until(answer.done, timeout):
            self._get_state.remove_pending_request(answer)
            return None
        return str(answer.result().current_state.label)

    @property
    def state(self) -> str:
        """The node's lifecycle state."""
        return str(self.call(self._get_state, GetState.Request()).current_state.label)

    def becomes(self, state: str) -> bool:
        """Whether the node enters ``state`` in time."""
        return self.spin_until(lambda: self.state == state)

    # Parameters.

    def set(self, **values: Any) -> str:
        """Set parameters together; return why they were refused, or an empty string."""
        parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        result = self.call(self._set_parameters, SetParametersAtomically.Request(parameters=parameters)).result
        assert result.successful == (not result.reason)
        return str(result.reason)

    def get(self, name: str) -> Any:
        """The value of a parameter."""
        values = self.call(self._get_parameters, GetParameters.Request(names=[name])).values
        return parameter_value_to_python(values[0])

    # Actions.

    def outcome(self, handle: Any, timeout: float = PATIENCE) -> Any:
        """Status and result of an accepted goal, once it has ended."""
        return self.result(handle.get_result_async(), "a goal has no result", timeout)

    def cancel(self, handle: Any) -> Any:
        """Cancel a goal; return the response."""
        return self.result(handle.cancel_goal_async(), "a cancel request was not answered")

    # Diagnostics.

    def value(self, status: str, key: str) -> str:
        """A value of the newest diagnostics; empty if they do not contain it."""
        found = self.statuses.get(status)
        return next((item.value for item in found.values if item.key == key), "") if found else ""

    def diagnostics(self, status: str) -> tuple[Any, dict[str, str]]:
        """Level and values of a status that was published after this call."""
        self.refresh(status)
        found = self.statuses[status]
        return found.level, {value.key: value.value for value in found.values}

    def refresh(self, *names: str) -> None:
        """Forget all statuses and wait for those called ``names``, published after this call; by default, for all."""
        self.statuses.clear()
        self._asked = time.time_ns()
        wanted = names or ("robot", "control loop", "targets")
        self.wait(lambda: all(name in self.statuses for name in wanted), f"no diagnostics of {', '.join(wanted)}")

    def _on_diagnostics(self, message: Any, info: Mapping[str, Any]) -> None:
        if info.get("source_timestamp", self._asked) < self._asked:
            return  # It was sent before refresh() was called.
        for status in message.status:
            node, _, name = status.name.partition(": ")
            if node == self.name.lstrip("/"):
                self.statuses[name] = status


class Client(NodeClient):
    """A client of the arm's node.

    :param name: full name of the node.
    :param measurements: subscribe to the measured joint states and poses.
    """

    def __init__(
        self, name: str = "/aiofranka", *, measurements: bool = True, on_wait: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(name, on_wait=on_wait)
        #: Measured joint states and poses, and feedback of the last move, in the order of their arrival.
        self.joint_states: deque[Any] = deque(maxlen=_KEPT)
        self.poses: deque[Any] = deque(maxlen=_KEPT)
        self.feedback: list[Any] = []
        namespace, _, _ = name.rpartition("/")
        if measurements:
            self.node.create_subscription(
                JointState, f"{namespace}/joint_states", lambda message: self.joint_states.append(message), 10
            )
            self.node.create_subscription(
                PoseStamped, f"{name}/ee_pose", lambda message: self.poses.append(message), qos_profile_sensor_data
            )
        #: Publishers of targets, by topic.
        self.publishers = {
            topic: self.node.create_publisher(kind, f"{name}/{topic}", 1)
            for topic, kind in (("ee_desired", PoseStamped), ("q_desired", JointState), ("torque_desired", JointState))
        }
        self._move = self.action(PTPMotion, f"{name}/move")
        self._follow = self.action(FollowJointTrajectory, f"{namespace}/fr3_arm_controller/follow_joint_trajectory")

    # Measured values.

    @property
    def joint_state(self) -> Any:
        """The joint state, received after this call."""
        self.joint_states.clear()
        self.wait(lambda: self.joint_states, "no joint states")
        return self.joint_states[-1]

    @property
    def pose(self) -> Any:
        """The pose of the control frame in the base frame, received after this call."""
        self.poses.clear()
        self.wait(lambda: self.poses, "no poses")
        return self.poses[-1]

    @property
    def q(self) -> Array:
        """Joint positions [rad] (7,), received after this call."""
        return np.array(self.joint_state.position)

    @property
    def position(self) -> Array:
        """Position of the control frame in the base frame [m] (3,), received after this call."""
        p = self.pose.pose.position
        return np.array([p.x, p.y, p.z])

    def speed(self) -> float:
        """Largest joint velocity [rad/s], received after this call."""
        return float(np.abs(self.joint_state.velocity).max())

    def rests(self) -> bool:
        """Whether the arm stops in time."""
        return self.spin_until(lambda: self.speed() < _STANDSTILL)

    # Targets and moves.

    def publish(self, topic: str, message: Any) -> None:
        """Publish a target once the node listens."""
        publisher = self.publishers[topic]
        self.wait(lambda: publisher.get_subscription_count() > 0, f"the node does not listen to ~/{topic}")
        publisher.publish(message)

    def send_goal(self, q: Any, *, velocities: Any = (), tolerance: float = 0.0) -> Any:
        """Send a goal of ``~/move``; return its handle, which says whether it was accepted.

        :param q: joint positions [rad] (7,).
        :param velocities: maximum joint velocities [rad/s] (7,); by default those of the node.
        :param tolerance: largest distance of a joint from the goal [rad]; 0: that of the node.
        """
        self.wait(self._move.server_is_ready, f"no action {self.name}/move")
        goal = PTPMotion.Goal(
            goal_joint_configuration=[float(value) for value in q],
            maximum_joint_velocities=[float(value) for value in velocities],
            goal_tolerance=float(tolerance),
        )
        self.feedback.clear()
        return self.result(
            self._move.send_goal_async(goal, feedback_callback=self.feedback.append), "a goal was not answered"
        )

    def send_trajectory(self, trajectory: Any) -> Any:
        """Send a trajectory, as MoveIt does; return the goal's handle."""
        self.wait(self._follow.server_is_ready, "no action follow_joint_trajectory")
        request = FollowJointTrajectory.Goal(trajectory=trajectory)
        return self.result(self._follow.send_goal_async(request), "a trajectory was not answered")


@contextlib.contextmanager
def started(folder: Path, **parameters: Any) -> Iterator[tuple[NodeProcess, Client]]:
    """A node and its client.

    :param folder: for the node's log.
    :param parameters: parameters of the node.
    """
    # A busy computer delays heartbeats. Tests about that choose another timeout.
    parameters = {"heartbeat_timeout": 2.0} | parameters
    with NodeProcess(folder / f"node{time.monotonic_ns()}.log", **parameters) as process:
        try:
            with Client(process.name) as client:
                yield process, client
        finally:
            if process.end() != 0:
                sys.stderr.write(process.log)
