"""Frames: where the control frame is, for TF, and where the frame of a target was when the target was made.

Used by the node, in its process and its one thread; nothing here waits. A target in a frame that moves with the arm
means where that frame was at the target's time stamp, not where it is when the target arrives. For the arm's own links
and its control frame that is known exactly, from the ring of control cycles. For everything else there is TF, where the
distribution has ``tf2_ros``. It is listened to from the first target on that needs it, because every message on
``/tf``, whoever it concerns, takes time from the targets.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.records import STATE
from aiofranka_ros.errors import InvalidTarget, TransformMissing
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.model.kinematics import link_pose, pose_matrix, quaternion_from_matrix
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.ros import messages
from aiofranka_ros.ros.cdr import SerializedMessage
from aiofranka_ros.ros.messages import PoseTarget

#: The control frame is published at most this often [s]: everybody who listens to TF pays for every message on it.
_TF_PERIOD = 0.01
#: How long before the first cycle after the activation a time may be that this cycle still tells of [s].
_SLACK = 0.01


class Frames:
    """The frames of one arm.

    :param node: where to publish, and to listen to TF.
    :param names: what they are called.
    """

    def __init__(self, node: LifecycleNode, names: ArmNames) -> None:
        self._node = node
        self._names = names
        # TF's own quality of service; a broadcaster of tf2_ros has the same.
        self._publisher = node.create_publisher(TFMessage, "/tf", QoSProfile(depth=100))
        self._published = 0
        self._message = SerializedMessage(
            lambda state: TFMessage(transforms=[messages.control_frame(state, names)]), STATE
        )
        self._graph = _Graph(node)
        quaternion_from_matrix(np.eye(4), np.empty(4))  # Compiling it later would keep a target waiting.

    def publish(self, state: Record) -> None:
        """Tell TF where the control frame was measured; called with every fresh ``state``."""
        stamp = int(state["stamp"])
        # The same state again would be a repetition, of which TF's listeners complain.
        due = abs(stamp - self._published) >= 0.9e9 * _TF_PERIOD
        if due and self._publisher.get_subscription_count() > 0:
            self._published = stamp
            self._publisher.publish(self._message.of(state))

    def to_base(self, target: PoseTarget, frame: str, stamp: int, client: ControlClient) -> PoseTarget:
        """A pose in ``frame`` as it was at ``stamp`` to one in the base.

        :param stamp: [ns, the node's clock]; 0: now.
        :raises InvalidTarget: it is not known where that frame was.
        :raises TransformMissing: TF does not know it, or not yet.
        """
        # In franka_description, `base` is the root of all arms, so it is the base of an arm only where there is one.
        if frame in ("", self._names.base) or (frame == "base" and not self._names.prefix):
            return target
        if frame == self._names.tcp:
            cycle = self._cycle(stamp, client)
            there = pose_matrix(np.concatenate((cycle["position"], cycle["orientation"])))
        elif frame in self._names.links:
            there = link_pose(self._cycle(stamp, client)["q"], self._names.links.index(frame))
        else:
            there = self._graph.pose(frame, self._names.base, stamp)
        pose = there @ pose_matrix(np.concatenate(target))
        orientation = np.empty(4)
        quaternion_from_matrix(pose, orientation)
        return PoseTarget(pose[:3, 3].copy(), orientation)

    def _cycle(self, stamp: int, client: ControlClient) -> Record:
        """The control cycle nearest to ``stamp``; the newest one where that is still to come.

        :raises InvalidTarget: the arm was not active then, so nobody recorded where it was.
        """
        # By its age, because the node's clock may be a simulated one, which the control process does not have.
        age = self._node.get_clock().now().nanoseconds - stamp if stamp else 0
        then = time.time_ns() - age
        cycle = client.shared.cycles.at(then)
        if cycle is None or cycle["activation"] != client.activation or int(cycle["written"]) - then > 1e9 * _SLACK:
            raise InvalidTarget(
                f"where the arm was at its stamp, {1e-9 * age:.3f} s ago, is not known: it was not active then",
                reason="frame not known at that time",
            )
        return cycle


class _Graph:
    """TF, as far as this machine has it."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        try:
            # Not on PyPI, and all but targets in foreign frames works without. Here and not where it is needed,
            # because importing takes long enough to be noticed by an active arm.
            import tf2_ros
        except ImportError:
            self._tf2: Any = None
        else:
            self._tf2 = tf2_ros
        self._buffer: Any = None
        self._listener: Any = None

    def pose(self, frame: str, base: str, stamp: int) -> Array:
        """Pose of ``frame`` in ``base`` (4, 4) at ``stamp`` [ns, the node's clock]; 0: the newest.

        :raises InvalidTarget: there is no TF here.
        :raises TransformMissing: it does not know.
        """
        if self._tf2 is None:
            raise InvalidTarget(
                f"its frame is {frame!r}: without tf2_ros, which is not installed, only {base!r}, the arm's links and "
                "its control frame are known",
                reason="unknown frame",
            )
        if self._buffer is None:
            self._buffer = self._tf2.Buffer()
            self._listener = self._tf2.TransformListener(self._buffer, self._node)
            self._node.get_logger().info(f"listening to TF from now on, for targets in the frame {frame!r}")
        try:
            found = self._buffer.lookup_transform(base, frame, Time(nanoseconds=stamp))
        except self._tf2.ExtrapolationException as error:
            raise TransformMissing(
                f"TF does not know where its frame {frame!r} was at its stamp: {error}",
                reason="frame not known at that time",
            ) from error
        except self._tf2.InvalidArgumentException as error:  # Not a name, so waiting would not help.
            raise InvalidTarget(f"its frame is {frame!r}: {error}", reason="unknown frame") from error
        except self._tf2.TransformException as error:
            raise TransformMissing(
                f"TF does not connect its frame {frame!r} with {base!r}: {error}", reason="unknown frame"
            ) from error
        p, o = found.transform.translation, found.transform.rotation
        return pose_matrix(np.array([p.x, p.y, p.z, o.x, o.y, o.z, o.w]))
