"""A client of the arm's node, and the node with it.

Called by tests, benchmarks and the demo, in the caller's thread; :mod:`aiofranka_ros.ctl.client` has what a client of
any node needs.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from control_msgs.action import FollowJointTrajectory
from franka_msgs.action import PTPMotion
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState

from aiofranka_ros.ctl.client import NodeClient
from aiofranka_ros.kernels import Array
from aiofranka_ros.testing.process import NodeProcess

#: How many messages of each topic are kept.
_KEPT = 20_000
#: An arm slower than this has stopped [rad/s].
_STANDSTILL = 0.005


class Client(NodeClient):
    """A client of the arm's node.

    :param name: full name of the node.
    :param measurements: subscribe to the measured joint states and poses.
    """

    def __init__(
        self, name: str = "/aiofranka", *, measurements: bool = True, on_wait: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(name, on_wait=on_wait)
        #: Measured joint states and poses, and feedback of the last move or trajectory, in the order of their arrival.
        self.joint_states: deque[Any] = deque(maxlen=_KEPT)
        self.poses: deque[Any] = deque(maxlen=_KEPT)
        self.feedback: list[Any] = []
        namespace, _, _ = name.rpartition("/")
        if measurements:
            self.node.create_subscription(JointState, f"{namespace}/joint_states", self._on_joint_state, 10)
            self.node.create_subscription(
                PoseStamped, f"{name}/ee_pose", lambda message: self.poses.append(message), qos_profile_sensor_data
            )
        #: Publishers of targets, by topic.
        self.publishers = {
            topic: self.node.create_publisher(kind, f"{name}/{topic}", 1)
            for topic, kind in (
                ("ee_desired", PoseStamped),
                ("q_desired", JointState),
                ("torque_desired", JointState),
                ("twist_desired", TwistStamped),
                ("dq_desired", JointState),
            )
        }
        self._move = self.action(PTPMotion, f"{name}/move")
        self._follow = self.action(FollowJointTrajectory, f"{namespace}/fr3_arm_controller/follow_joint_trajectory")

    # Measured values.

    def _on_joint_state(self, message: Any) -> None:
        if len(message.name) == 7:  # A gripper publishes its joints there, too, in separate messages.
            self.joint_states.append(message)

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

    @property
    def address(self) -> str:
        """Address of the arm, also of a simulated one."""
        self.refresh("robot")
        return str(self.statuses["robot"].hardware_id.split()[0])

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

    def send_trajectory(self, trajectory: Any, **tolerances: Any) -> Any:
        """Send a trajectory, as MoveIt does, with ``tolerances`` of the goal; return the goal's handle."""
        self.wait(self._follow.server_is_ready, "no action follow_joint_trajectory")
        self.feedback.clear()
        request = FollowJointTrajectory.Goal(trajectory=trajectory, **tolerances)
        return self.result(
            self._follow.send_goal_async(request, feedback_callback=self.feedback.append),
            "a trajectory was not answered",
        )


@contextlib.contextmanager
def started(folder: Path, **parameters: Any) -> Iterator[tuple[NodeProcess, Client]]:
    """A node and its client.

    :param folder: for the node's log.
    :param parameters: parameters of the node.
    """
    # A busy computer delays heartbeats. Tests about that choose another timeout. Nodes of a test have different names.
    parameters = {"heartbeat_timeout": 2.0, "discovery_time": 0.0} | parameters
    with NodeProcess(folder / f"node{time.monotonic_ns()}.log", **parameters) as process:
        try:
            with Client(process.name) as client:
                yield process, client
        finally:
            if process.end() != 0:
                sys.stderr.write(process.log)
