"""The topics on which targets arrive: check each message, pass it on, count and explain refusals.

Used by the node, in its process and its one thread. A refused message changes nothing: the arm keeps its last
target and holds it when no further one comes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState

from aiofranka_ros import conversions
from aiofranka_ros.control_client import ControlClient
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.records import Array, Mode, Record

#: Only the newest target matters, and a best-effort subscription matches reliable publishers as well.
TARGET_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)
#: Shortest time between two log messages about the same thing [s].
LOG_PERIOD = 2.0


class Owner(Protocol):
    """What targets need to know of the node."""

    @property
    def active_client(self) -> ControlClient | None:
        """The control process while the arm is active, else ``None``."""

    @property
    def why_held(self) -> str:
        """Why nobody may have the arm; empty where it may be had."""

    @property
    def moving(self) -> str:
        """Which move or trajectory has the arm; empty where none does."""

    def parameter(self, name: str) -> Any:
        """Value of a parameter."""


class TargetTopics:
    """Subscriptions of the node for the targets of every mode.

    They exist in every state of the node, so that a target for an inactive arm is answered by a message in
    the log instead of silence.

    :param node: where to subscribe and log.
    :param owner: what the node knows of the arm.
    """

    def __init__(self, node: LifecycleNode, owner: Owner) -> None:
        self._node = node
        self._owner = owner
        #: Refused messages by reason, since the node was started.
        self.refused: Counter[str] = Counter()
        #: Targets that were cut off at a limit, since the node was started.
        self.limited = 0
        #: Targets passed on, since the node was started.
        self.accepted = 0
        self._limited_before = 0
        self._target: dict[str, Array] = {}
        self._said: dict[tuple[str, str], float] = {}
        self._subscribe("ee_desired", PoseStamped, (Mode.OSC,), conversions.pose_target)
        self._subscribe("q_desired", JointState, (Mode.IMPEDANCE, Mode.PID), conversions.position_target)
        self._subscribe("torque_desired", JointState, (Mode.TORQUE,), conversions.torque_target)

    def check_limited(self, state: Record) -> None:
        """Say so where the control process had to cut a target off; called with every fresh ``state``."""
        count = int(state["limited_targets"])
        if count > self._limited_before:
            self.limited += count - self._limited_before
            self._say("limited", *self._describe_limited(state))
        self._limited_before = count

    def _subscribe(
        self, name: str, kind: type, modes: tuple[Mode, ...], convert: Callable[[Any], dict[str, Array]]
    ) -> None:
        def take(message: Any) -> None:
            try:
                client = self._client_for(modes)
                target = convert(message)
            except InvalidTarget as error:
                self.refused[error.reason] += 1
                self._say(name, error.reason, f"refused a target on ~/{name}: {error}")
                return
            client.set_target(conversions.nanoseconds(message.header.stamp), **target)
            self._target = target
            self.accepted += 1

        self._node.create_subscription(kind, f"~/{name}", take, TARGET_QOS)

    def _client_for(self, modes: tuple[Mode, ...]) -> ControlClient:
        """The control process, if it takes targets of ``modes`` now.

        :raises InvalidTarget: it does not, and why.
        """
        client = self._owner.active_client
        if client is None:
            raise InvalidTarget("the node is not active", reason="not active")
        mode = Mode.parse(self._owner.parameter("mode"))
        if mode not in modes:
            wanted = modes[0].name.lower()
            node = self._node.get_fully_qualified_name()
            raise InvalidTarget(
                f"the mode is {mode.name.lower()}; to use this topic: ros2 param set {node} mode {wanted}",
                reason="another mode",
            )
        if self._owner.why_held:
            raise InvalidTarget(self._owner.why_held, reason="held")
        if self._owner.moving:
            raise InvalidTarget(f"{self._owner.moving} has the arm", reason="during a move")
        return client

    def _describe_limited(self, state: Record) -> tuple[str, str]:
        """Which limits cut a target off, and the target, judged by the newest one."""
        target, distances = self._target, []
        if "target_position" in target:
            distance = float(np.linalg.norm(target["target_position"] - state["ref_position"]))
            turn = 2.0 * np.arccos(min(1.0, abs(float(target["target_orientation"] @ state["ref_orientation"]))))
            distances = [(distance, "m", "max_linear_step"), (turn, "rad", "max_angular_step")]
        elif "target_q" in target:
            distances = [(float(np.abs(target["target_q"] - state["ref_q"]).max()), "rad", "max_joint_step")]
        cut = {
            name: f"{distance:.2f} {unit} away was limited to {name} ({self._owner.parameter(name):g} {unit})"
            for distance, unit, name in distances
            if distance > self._owner.parameter(name)
        }
        if not cut:
            return "", "targets further away than allowed were limited"
        return " ".join(cut), "a target " + " and ".join(cut.values())

    def _say(self, topic: str, reason: str, message: str) -> None:
        """Warn, but seldom of the same; a throttle for all would let a flood of one kind hide another."""
        now = time.monotonic()
        if now - self._said.get((topic, reason), -LOG_PERIOD) >= LOG_PERIOD:
            self._said[topic, reason] = now
            self._node.get_logger().warning(message)
