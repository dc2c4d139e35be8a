"""The path of the control frame during a motion, on ``~/planned_path``, for RViz.

Used by the node, in its process and its one thread. The path is made a tick after the motion has begun, so that nothing
waits for it, and only if there is a subscriber. The topic is latched: later subscribers get the path, too.
"""

from __future__ import annotations

import numpy as np
from nav_msgs.msg import Path
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile

from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.kernels import Array
from aiofranka_ros.model.kinematics import control_frame
from aiofranka_ros.ros.messages import pose_stamped

#: Poses along a motion, equally spaced in time. Making the message takes less than two milliseconds.
POSES = 50


class PlannedPath:
    """The publisher of ``~/planned_path``."""

    def __init__(self, node: LifecycleNode, frame: str) -> None:
        self._node = node
        self._frame = frame
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._publisher = node.create_publisher(Path, "~/planned_path", latched)
        self._begun: tuple[Motion, Array] | None = None

    def begin(self, motion: Motion, flange_to_tcp: Array) -> None:
        """Remember a motion that has begun, and the pose of the control frame in the flange (4, 4)."""
        self._begun = motion, flange_to_tcp.copy()

    def publish(self) -> None:
        """Publish the path of a new motion if there is a subscriber; called at every tick."""
        if self._begun is None or self._publisher.get_subscription_count() == 0:
            return
        (motion, flange_to_tcp), self._begun = self._begun, None
        stamp = self._node.get_clock().now().to_msg()
        path = (control_frame(motion.at(time)[0], flange_to_tcp) for time in np.linspace(0.0, motion.duration, POSES))
        poses = [pose_stamped(pose, stamp, self._frame) for pose in path]
        self._publisher.publish(Path(header=poses[0].header, poses=poses))
