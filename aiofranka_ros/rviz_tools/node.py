"""The node of RViz's tools: it turns what the user clicks and drags in RViz into moves of the arm.

Run by :mod:`aiofranka_ros.rviz_tools.__main__` in a separate process, with one thread: everything runs on one executor,
nothing waits, and nothing needs a lock. It reaches the arm's node only through the ROS graph, like any client
(:mod:`aiofranka_ros.rviz_tools.arm_client`). In RViz, it offers:

- a marker on the gripper (``~/marker``) that can be dragged anywhere, with a menu;
- *2D Goal Pose* (``goal_pose``): the control frame moves to the arrow's tail, at the same height, and points along it;
- *Publish Point* (``clicked_point``): the control frame moves to that point, with the same orientation.

Every pose is checked before anything moves: if the arm cannot reach it, RViz shows why (``~/status``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
from geometry_msgs.msg import PointStamped, Pose, PoseStamped
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from visualization_msgs.msg import InteractiveMarkerFeedback, Marker

from aiofranka_ros.control.setting import Setting, Stage
from aiofranka_ros.errors import FrankaError, InvalidTarget, Unreachable
from aiofranka_ros.kernels import Array
from aiofranka_ros.model import inverse_kinematics
from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.ros import messages
from aiofranka_ros.ros.conditions import CTL
from aiofranka_ros.ros.descriptors import ExplainedParameters, describe
from aiofranka_ros.ros.identity import Identity
from aiofranka_ros.rviz_tools.arm_client import ArmClient
from aiofranka_ros.rviz_tools.marker import Choice, Look, gripper_marker, text_marker
from aiofranka_ros.rviz_tools.marker_server import MarkerServer

#: RViz sends what is clicked reliably.
_CLICKS = QoSProfile(depth=5)
#: Period of the targets while the arm follows the marker [s], and after how many periods the marker is updated.
_PERIOD = 0.02
_SHOW_EVERY = 5
#: How long targets continue after the last feedback of RViz [s]: the time that the arm gets to arrive.
_FOLLOW_ON = 0.5
#: Poses closer than this look the same [m] and [rad].
_SAME = 1e-3
#: If the arm has moved further than this since the marker was dragged away, another client moves it [m] and [rad].
_MOVED = 0.02


#: The parameters.
RVIZ_SETTINGS = (
    Setting("arm_node", "aiofranka", "Name of the arm's node, in the same namespace.", locked_from=Stage.STARTED),
)


class RvizTools(ExplainedParameters, Node):
    """The node ``rviz_tools``."""

    def __init__(self) -> None:
        super().__init__("rviz_tools")
        for setting in RVIZ_SETTINGS:
            self.declare_parameter(setting.name, setting.default, describe(setting))
        self._arm = ArmClient(self, self.get_parameter("arm_node").value, self._on_move_ended)
        # The marker's pose in the base (4, 4) and look; whether it is away from the gripper, whether the user dragged
        # it there, and the pose of the arm (4, 4) at that time.
        self._shown = np.eye(4)
        self._look: tuple[Look, bool] | None = None
        self._placed = self._dragged = False
        self._arm_then = np.eye(4)
        # Whether the user holds the marker, and when the last feedback about that arrived [s, monotonic].
        self._held = False
        self._felt = -math.inf
        self._follow = False
        # Why the arm cannot reach the marker (empty: it can, ``None``: not checked yet), and the last one
        # that it could reach (4, 4).
        self._unreachable: str | None = ""
        self._reachable = np.eye(4)
        self._texts: dict[str, str] = {}
        self._ticks = 0
        inverse_kinematics.load_kernels()  # Compiling later would delay the first click.
        # Deep enough for both lines of text, which may change at the same time.
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._status = self.create_publisher(Marker, "~/status", latched)
        self._server = MarkerServer(self, "~/marker", self._on_feedback)
        self._choices: dict[int, Callable[[], None]] = {
            Choice.MOVE_HERE: lambda: self._move_to("Move here", lambda: self._shown),
            Choice.HOME: lambda: self._move_to("Home"),
            Choice.STOP: self._stop,
            Choice.RECOVER: self._recover,
            Choice.FOLLOW: self._toggle_follow,
        }
        self.create_subscription(PoseStamped, "goal_pose", self._on_goal_pose, _CLICKS)
        self.create_subscription(PointStamped, "clicked_point", self._on_clicked_point, _CLICKS)
        self._identity = Identity(self)
        # Not the node's clock: simulated time may stop, users do not.
        self.create_timer(_PERIOD, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def close(self) -> None:
        """Remove the marker, and leave the graph."""
        self._server.close()
        self._arm.destroy()
        self.destroy_node()

    # Clicks and menu.

    def _on_goal_pose(self, message: PoseStamped) -> None:
        def pose() -> Array:
            arrow = self._arm.in_base(message)
            pose = point_along(self._arm.destination, math.atan2(arrow[1, 0], arrow[0, 0]))
            pose[:2, 3] = arrow[:2, 3]
            return pose

        self._move_to("2D Goal Pose", pose)

    def _on_clicked_point(self, message: PointStamped) -> None:
        def pose() -> Array:
            point = PoseStamped(header=message.header, pose=Pose(position=message.point))
            pose = self._arm.destination.copy()
            pose[:3, 3] = self._arm.in_base(point)[:3, 3]
            return pose

        self._move_to("Publish Point", pose)

    def _move_to(self, what: str, pose: Callable[[], Array] | None = None) -> None:
        """Move to a pose (4, 4), by default to HOME, or show why not; in that case, a move that runs continues."""
        place = self._arm.destination
        try:
            if self._identity.conflict:  # Both would send every move.
                raise InvalidTarget(self._identity.conflict)
            if not self._arm.frame:
                raise InvalidTarget(f"the arm's node {self._arm.name} does not run, or is not configured")
            if pose is not None:
                place = pose().copy()
            q = HOME if pose is None else inverse_kinematics.solve(place, self._arm.q, self._arm.flange_to_tcp)
            self._arm.move(q)
        except FrankaError as error:
            self._refuse(what, error, place)
            return
        self.get_logger().info(f"{what}: moving to {np.round(self._arm.destination[:3, 3], 3).tolist()} m")
        self._place(self._arm.destination, dragged=False)  # The marker shows where the arm is going.
        self._unreachable = ""
        self._say("", Look.REFUSED)
        self._felt = -math.inf  # Nothing is streamed any more.

    def _on_move_ended(self, why: str) -> None:
        """Let the marker return to the gripper, unless the user has dragged it away during the move."""
        self._placed, self._arm_then = self._dragged, self._arm.pose
        self._say("", Look.MOVING)
        if why:
            self.get_logger().warning(f"the move did not arrive: {why}")
            self._say(why, Look.REFUSED)

    def _stop(self) -> None:
        """Stop the arm, whichever client moves it, and stop following."""
        self._arm.stop()
        if self._streaming:
            self._arm.stream(self._arm.pose)
        self._follow = self._placed = False
        self._felt = -math.inf
        self._say("", Look.REFUSED)

    def _recover(self) -> None:
        def ended(why: str) -> None:
            if why:
                self.get_logger().warning(f"Recover: {why}")
            self._say(why or "recovered", Look.REFUSED if why else Look.REACHABLE)

        self._placed = False
        self._arm.recover(ended)

    def _toggle_follow(self) -> None:
        if self._follow:
            self._follow = False
        else:
            self._arm.ask_mode(self._set_follow)

    def _set_follow(self, mode: str) -> None:
        """Follow the marker if the mode allows it."""
        self._follow = mode == "osc" and not self._identity.conflict
        if not self._follow:
            now = f"it is {mode}: {CTL} set mode osc --node {self._arm.name}" if mode else "no arm's node answers"
            why = self._identity.conflict or f"mode osc is needed, but {now}"
            self._refuse("Follow", InvalidTarget(why), self._arm.pose)

    # Dragging.

    def _on_feedback(self, feedback: InteractiveMarkerFeedback) -> None:
        """Feedback of RViz: a press is a pose and a MOUSE_DOWN, a release a pose and a MOUSE_UP."""
        kind = feedback.event_type
        if kind == InteractiveMarkerFeedback.MENU_SELECT:
            if feedback.menu_entry_id in self._choices:
                self._choices[feedback.menu_entry_id]()
            return
        self._felt = time.monotonic()
        if kind == InteractiveMarkerFeedback.MOUSE_DOWN:
            self._held = True
            if self._follow:
                self._arm.ask_mode(self._set_follow)
        elif kind == InteractiveMarkerFeedback.MOUSE_UP:
            self._held = False
        elif kind == InteractiveMarkerFeedback.POSE_UPDATE:
            try:
                pose = self._arm.in_base(PoseStamped(header=feedback.header, pose=feedback.pose))
            except InvalidTarget as error:
                self._refuse("the marker", error, self._arm.pose)
                return
            if not _close(pose, self._shown, _SAME):
                self._place(pose, dragged=True)

    def _place(self, pose: Array, *, dragged: bool) -> None:
        """Note that the marker is at ``pose`` (4, 4) now, not on the gripper."""
        if not self._placed:
            self._reachable = self._arm.pose
        self._shown, self._placed, self._dragged, self._arm_then = pose, True, dragged, self._arm.pose
        self._unreachable = None

    # Periodic work.

    @property
    def _streaming(self) -> bool:
        """Whether the arm follows the marker now."""
        return self._follow and not self._arm.moving and time.monotonic() - self._felt < _FOLLOW_ON

    def _tick(self) -> None:
        self._arm.check()
        if not self._arm.frame:
            return
        if self._unreachable is None:
            self._check_reach()
        if self._streaming and self._placed:
            self._arm.stream(self._reachable)
        if self._ticks % _SHOW_EVERY == 0:
            self._show()
        self._ticks += 1

    def _check_reach(self) -> None:
        """Check whether the arm can reach the marker, and show why if it cannot."""
        self._unreachable = ""
        try:
            inverse_kinematics.solve(self._shown, self._arm.q, self._arm.flange_to_tcp)
        except Unreachable as error:
            self._unreachable = str(error)
            self._say(f"unreachable: {error}", Look.REFUSED, self._shown)
        else:
            self._reachable = self._shown
            self._say("", Look.REFUSED)

    def _show(self) -> None:
        """Update the pose and the look of the marker."""
        if self._arm.moving:
            self._say(f"moving: {self._arm.progress:.0%}", Look.MOVING)
        elif self._placed and not self._held and self._left_alone:
            self._placed = False
            self._say("", Look.REFUSED)
        moved = not (self._placed or self._held or _close(self._shown, self._arm.pose, _SAME))
        if moved:
            self._shown = self._arm.pose
        look = Look.REACHABLE if self._placed else Look.AT_ARM
        if self._placed and self._unreachable:
            look = Look.REFUSED
        elif self._arm.moving:
            look = Look.MOVING
        if (look, self._follow) != self._look:
            # A new marker closes its menu in RViz: send one only if its look has changed.
            self._look = look, self._follow
            pose = messages.pose_message(self._shown)
            self._server.show(gripper_marker(self._arm.frame, pose, look, self._follow))
        elif moved:
            self._server.move(messages.pose_message(self._shown))

    @property
    def _left_alone(self) -> bool:
        """Whether the marker has no reason to be away from the gripper any more."""
        if self._follow:
            return not self._streaming
        return not _close(self._arm.pose, self._arm_then, _MOVED)

    # Messages.

    def _refuse(self, what: str, error: FrankaError, place: Array) -> None:
        """Report in the log and at ``place`` (4, 4) why nothing moves."""
        self.get_logger().warning(f"{what}: {error}")
        self._say(f"{what}: {error}", Look.REFUSED, place)

    def _say(self, text: str, look: Look, place: Array | None = None) -> None:
        """Show ``text`` above ``place`` (4, 4), by default above the marker; an empty one removes the text."""
        line = "progress" if look is Look.MOVING else "message"
        if text or self._texts.get(line):
            self._texts[line] = text
            at = messages.pose_message(self._shown if place is None else place)
            self._status.publish(text_marker(self._arm.frame, at, line, text, look))


def point_along(pose: Array, heading: float) -> Array:
    """``pose`` (4, 4) turned about the vertical so that it points along ``heading`` [rad], measured from x of the base.

    A gripper that is closer to horizontal than to vertical points along its z axis, the direction in which it reaches;
    one that points down or up, along its x axis.
    """
    x, z = pose[:3, 0], pose[:3, 2]
    axis = z if abs(z[2]) < math.sqrt(0.5) else x
    angle = heading - math.atan2(axis[1], axis[0])
    turned = pose.copy()
    turned[0, :3] = math.cos(angle) * pose[0, :3] - math.sin(angle) * pose[1, :3]
    turned[1, :3] = math.sin(angle) * pose[0, :3] + math.cos(angle) * pose[1, :3]
    return turned


def _close(first: Array, second: Array, tolerance: float) -> bool:
    """Whether two poses (4, 4) are closer than ``tolerance`` [m] and, roughly, [rad]."""
    return bool(np.abs(first - second).max() < tolerance)
