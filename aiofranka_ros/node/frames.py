"""Targets in other frames than the base: find the pose of a frame at the time when a target was made.

Used by the node, in its process and its one thread; nothing here waits. A target in a frame that moves with the arm
refers to the pose of that frame at the target's time stamp, not at its arrival. For the arm's own links and its control
frame, that pose is known exactly, from the ring of control cycles. For all other frames there is TF, if the
distribution has ``tf2_ros``. The node listens to it only from the first target that needs it, because every message on
``/tf`` takes time from the targets.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from rclpy.time import Time

from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.errors import InvalidTarget, TransformMissing
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.model.kinematics import link_pose, pose_matrix, quaternion_from_matrix
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.node.transforms import TransformTopics
from aiofranka_ros.ros.clock import node_time
from aiofranka_ros.ros.messages import PoseTarget, TwistTarget

if TYPE_CHECKING:
    from aiofranka_ros.node.lifecycle import FrankaNode

#: The first cycle after the activation also counts for stamps that are this much older [s].
_SLACK = 0.01
#: The Franka Hand on the flange is turned by -45° about z (franka_description).
_HAND = np.sqrt(0.5) * np.array([[1.0, 1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, np.sqrt(2.0)]])


class Frames:
    """The frames of one arm."""

    def __init__(self, node: FrankaNode, names: ArmNames) -> None:
        self._node = node
        self._names = names
        self._now = node_time(node)
        try:
            # Not on PyPI, and needed only for targets in frames that are not the arm's. Imported now, because the
            # import would delay an active arm's heartbeat.
            import tf2_ros
        except ImportError:
            tf2_ros = None
        self._tf2: Any = tf2_ros
        self._buffer: Any = None
        quaternion_from_matrix(np.eye(4), np.empty(4))  # Compile it before a target has to wait for it.

    def to_base(self, target: PoseTarget, frame: str, stamp: int, client: ControlClient) -> PoseTarget:
        """Convert a pose in ``frame`` at ``stamp`` to a pose in the base.

        :param stamp: [ns, the node's clock]; 0: now.
        :raises InvalidTarget: the pose of the frame at that time is unknown.
        :raises TransformMissing: TF does not know it, or not yet.
        """
        there = self.pose_of(frame, stamp, client)
        if there is None:
            return target
        pose = there @ pose_matrix(np.concatenate(target))
        orientation = np.empty(4)
        quaternion_from_matrix(pose, orientation)
        return PoseTarget(pose[:3, 3].copy(), orientation)

    def twist_to_base(self, target: TwistTarget, frame: str, stamp: int, client: ControlClient) -> TwistTarget:
        """Turn a twist along the axes of ``frame`` at ``stamp`` to those of the base; its point remains the same.

        Arguments and exceptions as :meth:`to_base`. Along the axes of the control frame, it turns with the hand.
        """
        if frame == self._names.tcp:
            return TwistTarget(target.twist, in_tool=True)
        if frame == self._names.hand_tcp:  # Known without TF.
            there: Array | None = link_pose(self._cycle(stamp, client)["q"], len(self._names.links) - 1)[:3, :3] @ _HAND
        else:
            there = self.pose_of(frame, stamp, client)
        if there is None:
            return target
        turned = np.reshape(target.twist, (2, 3)) @ there[:3, :3].T
        return TwistTarget(tuple(turned.ravel().tolist()))

    def pose_of(self, frame: str, stamp: int, client: ControlClient) -> Array | None:
        """The pose of ``frame`` in the base at ``stamp`` (4, 4); ``None`` if it is the base.

        Arguments and exceptions as :meth:`to_base`.
        """
        # In franka_description, `base` is the root of all arms; only without a prefix is it this arm's base.
        if frame in ("", self._names.base) or (frame == "base" and not self._names.prefix):
            return None
        if frame == self._names.tcp:
            cycle = self._cycle(stamp, client)
            return pose_matrix(np.concatenate((cycle["position"], cycle["orientation"])))
        if frame in self._names.links:
            return link_pose(self._cycle(stamp, client)["q"], self._names.links.index(frame))
        return self._pose_in_tf(frame, stamp)

    def _cycle(self, stamp: int, client: ControlClient) -> Record:
        """The control cycle nearest to ``stamp``; the newest one if ``stamp`` is in the future.

        :raises InvalidTarget: the arm was not active then, so its pose was not recorded.
        """
        # By the age of the stamp: nothing can set the clock of the control process.
        age = self._now() - stamp if stamp else 0
        then = time.monotonic_ns() - age
        cycle = client.shared.cycles.at(then)
        if cycle is None or cycle["activation"] != client.activation or int(cycle["stamp"]) - then > 1e9 * _SLACK:
            raise InvalidTarget(
                f"the pose of the arm at its stamp, {1e-9 * age:.3f} s ago, is unknown: the arm was not active then",
                reason="frame not known at that time",
            )
        return cycle

    def _pose_in_tf(self, frame: str, stamp: int) -> Array:
        """Pose of ``frame`` in the base (4, 4) at ``stamp`` [ns, the node's clock]; 0: the newest.

        :raises InvalidTarget: TF is not installed.
        :raises TransformMissing: TF does not know it.
        """
        base = self._names.base
        if self._tf2 is None:
            raise InvalidTarget(
                f"its frame is {frame!r}, but tf2_ros is not installed: without it, only {base!r}, the arm's links and "
                "its control frame are known",
                reason="unknown frame",
            )
        if self._buffer is None:
            self._buffer = self._tf2.Buffer()
            TransformTopics(self._node, self._buffer)
            self._node.get_logger().info(f"now listening to TF, for targets in the frame {frame!r}")
        try:
            found = self._buffer.lookup_transform(base, frame, Time(nanoseconds=stamp))
        except self._tf2.ExtrapolationException as error:
            raise TransformMissing(
                f"TF does not know the pose of its frame {frame!r} at its stamp: {error}",
                reason="frame not known at that time",
            ) from error
        except self._tf2.InvalidArgumentException as error:  # Not a valid name; waiting would not help.
            raise InvalidTarget(f"its frame is {frame!r}: {error}", reason="unknown frame") from error
        except self._tf2.TransformException as error:
            raise TransformMissing(
                f"TF does not connect its frame {frame!r} with {base!r}: {error}", reason="unknown frame"
            ) from error
        p, o = found.transform.translation, found.transform.rotation
        return pose_matrix(np.array([p.x, p.y, p.z, o.x, o.y, o.z, o.w]))
