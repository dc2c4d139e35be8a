"""The node of RViz's tools: it makes moves of what people click and drag in RViz.

``ros2 run aiofranka_ros rviz_tools``, or ``python -m aiofranka_ros.rviz_tools``. A process of its own, beside RViz,
with one thread: everything runs on one executor, nothing waits, and nothing needs a lock. It talks to the arm's node
through the graph alone, as everybody could (:mod:`aiofranka_ros.rviz_tools.arm`). What it offers in RViz:

- a marker on the gripper (``~/marker``), to be dragged anywhere, with a menu;
- *2D Goal Pose* (``goal_pose``): the control frame goes to the arrow's tail, at the height it has, and points along it;
- *Publish Point* (``clicked_point``): the control frame goes to that point, turned as it is.

Every pose is checked before anything moves: where the arm cannot get, RViz shows why (``~/status``).
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import rclpy
from geometry_msgs.msg import PointStamped, Pose, PoseStamped
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from visualization_msgs.msg import InteractiveMarkerFeedback, Marker

from aiofranka_ros.errors import FrankaError, InvalidTarget, Unreachable
from aiofranka_ros.kernels import Array
from aiofranka_ros.model import inverse_kinematics
from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.ros import messages
from aiofranka_ros.ros.executor import UrgentFirstExecutor
from aiofranka_ros.rviz_tools.arm import Arm
from aiofranka_ros.rviz_tools.marker import Choice, Look, gripper_marker, text_marker
from aiofranka_ros.rviz_tools.marker_server import MarkerServer

#: RViz sends what is clicked reliably.
_CLICKS = QoSProfile(depth=5)
#: Period of the targets that are streamed while the marker is followed [s], and of what the marker shows.
_PERIOD = 0.02
_SHOW_EVERY = 5
#: How long targets go on after the last sign of whoever drags the marker [s]: so long the arm gets to arrive.
_FOLLOW_ON = 0.5
#: Poses closer than this are the same for the eye [m] and [rad].
_SAME = 1e-3
#: An arm that has moved further than this since the marker was dragged away was moved by somebody else [m] and [rad].
_MOVED = 0.02


class RvizTools(Node):
    """The node ``rviz_tools``."""

    def __init__(self) -> None:
        super().__init__("rviz_tools")
        meaning = ParameterDescriptor(description="Name of the arm's node, in the same namespace.", read_only=True)
        name = self.declare_parameter("arm_node", "aiofranka", meaning).value
        self._arm = Arm(self, name, self._on_move_ended)
        # The marker's pose in the base (4, 4), what it looks like, and whether it is away from the gripper: because the
        # arm moves there, or because it was dragged; and where the arm was then.
        self._shown = np.eye(4)
        self._look: tuple[Look, bool] | None = None
        self._placed = self._dragged = False
        self._arm_then = np.eye(4)
        # Whether somebody has it in hand, and when a sign of that came last [s, monotonic].
        self._held = False
        self._felt = -math.inf
        self._follow = False
        # Why the arm cannot get where the marker is, ``None`` where nobody has looked yet; where it last could (4, 4).
        self._obstacle: str | None = ""
        self._reachable = np.eye(4)
        self._said: dict[str, str] = {}
        self._ticks = 0
        inverse_kinematics.warm_up()  # Compiling later would let somebody wait for their first click.
        # Deep enough for both lines of text, each of which may change at once.
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._status = self.create_publisher(Marker, "~/status", latched)
        self._server = MarkerServer(self, "~/marker", self._on_feedback)
        self._feedback_topic = f"{self.get_fully_qualified_name()}/marker/feedback"
        self._choices: dict[int, Callable[[], None]] = {
            Choice.MOVE_HERE: self._move_here,
            Choice.HOME: self._home,
            Choice.STOP: self._stop,
            Choice.RECOVER: self._recover,
            Choice.FOLLOW: self._toggle_follow,
        }
        self.create_subscription(PoseStamped, "goal_pose", self._on_goal_pose, _CLICKS)
        self.create_subscription(PointStamped, "clicked_point", self._on_clicked_point, _CLICKS)
        # Not the node's clock: simulated time may stand still, people don't.
        self.create_timer(_PERIOD, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def close(self) -> None:
        """Take the marker away, and leave the graph."""
        self._server.close()
        self._arm.destroy()
        self.destroy_node()

    # What people click.

    def _on_goal_pose(self, message: PoseStamped) -> None:
        def pose() -> Array:
            arrow = self._arm.in_base(message)
            pose = point_along(self._arm.destination, math.atan2(arrow[1, 0], arrow[0, 0]))
            pose[:2, 3] = arrow[:2, 3]
            return pose

        self._go("2D Goal Pose", pose)

    def _on_clicked_point(self, message: PointStamped) -> None:
        def pose() -> Array:
            point = PoseStamped(header=message.header, pose=Pose(position=message.point))
            pose = self._arm.destination.copy()
            pose[:3, 3] = self._arm.in_base(point)[:3, 3]
            return pose

        self._go("Publish Point", pose)

    def _move_here(self) -> None:
        self._go("Move here", lambda: self._shown)

    def _go(self, what: str, pose: Callable[[], Array]) -> None:
        """Move to a pose (4, 4), or say why not; a move that runs then goes on."""
        place = self._arm.destination
        try:
            self._require_arm()
            place = pose().copy()
            self._arm.move(inverse_kinematics.solve(place, self._arm.q, self._arm.flange_to_tcp))
        except FrankaError as error:
            self._refuse(what, error, place)
            return
        self._set_out(what)

    def _home(self) -> None:
        try:
            self._require_arm()
            self._arm.move(HOME)
        except FrankaError as error:
            self._refuse("Home", error, self._arm.pose)
            return
        self._set_out("Home")

    def _set_out(self, what: str) -> None:
        """The marker waits where the arm is going."""
        self.get_logger().info(f"{what}: moving to {np.round(self._arm.destination[:3, 3], 3).tolist()} m")
        self._place(self._arm.destination, dragged=False)
        self._obstacle = ""
        self._say("", Look.REFUSED)
        self._felt = -math.inf  # Nothing is streamed any more.

    def _on_move_ended(self, why: str) -> None:
        """The marker goes back to the gripper, unless somebody has dragged it away in the meantime."""
        self._placed, self._arm_then = self._dragged, self._arm.pose
        self._say("", Look.MOVING)
        if why:
            self.get_logger().warning(f"the move did not arrive: {why}")
            self._say(why, Look.REFUSED)

    def _stop(self) -> None:
        """Stop whatever moves the arm, and following."""
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
        """Follow the marker if the mode permits it."""
        self._follow = mode == "osc"
        if not self._follow:
            now = f"it is {mode}: ros2 param set {self._arm.name} mode osc" if mode else "no arm's node answers"
            self._refuse("Follow", InvalidTarget(f"mode osc is needed, but {now}"), self._arm.pose)

    # What people drag.

    def _on_feedback(self, feedback: InteractiveMarkerFeedback) -> None:
        """What RViz tells of the marker: a press is a pose and a MOUSE_DOWN, a release a pose and a MOUSE_UP."""
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
        """The marker is at ``pose`` (4, 4) now, not on the gripper."""
        if not self._placed:
            self._reachable = self._arm.pose
        self._shown, self._placed, self._dragged, self._arm_then = pose, True, dragged, self._arm.pose
        self._obstacle = None

    # What happens meanwhile.

    @property
    def _streaming(self) -> bool:
        """Whether the arm follows the marker at the moment."""
        return self._follow and not self._arm.moving and time.monotonic() - self._felt < _FOLLOW_ON

    def _tick(self) -> None:
        if not self._arm.frame:
            return
        if self._obstacle is None:
            self._look_for_obstacle()
        if self._streaming and self._placed:
            self._arm.stream(self._reachable)
        if self._ticks % _SHOW_EVERY == 0:
            self._arm.check()
            self._show()
        self._ticks += 1

    def _look_for_obstacle(self) -> None:
        """Find out whether the arm can get where the marker is, and say so where it cannot."""
        self._obstacle = ""
        try:
            inverse_kinematics.solve(self._shown, self._arm.q, self._arm.flange_to_tcp)
        except Unreachable as error:
            self._obstacle = str(error)
            self._say(f"unreachable: {error}", Look.REFUSED, self._shown)
        else:
            self._reachable = self._shown
            self._say("", Look.REFUSED)

    def _show(self) -> None:
        """Let the marker be where it belongs and look like what it means."""
        if self._held and self.count_publishers(self._feedback_topic) == 0:
            self._held = False  # RViz was closed in the middle of it.
        if self._arm.moving:
            self._say(f"moving: {self._arm.progress:.0%}", Look.MOVING)
        elif self._placed and not self._held and self._left_alone:
            self._placed = False
            self._say("", Look.REFUSED)
        moved = not (self._placed or self._held or _close(self._shown, self._arm.pose, _SAME))
        if moved:
            self._shown = self._arm.pose
        look = self._current_look, self._follow
        if look != self._look:
            # All of it, which closes its menu: only where something about it has changed.
            self._look = look
            pose = messages.pose_message(self._shown)
            self._server.show(gripper_marker(self._arm.frame, pose, *look))
        elif moved:
            self._server.move(messages.pose_message(self._shown))

    @property
    def _left_alone(self) -> bool:
        """Whether there is no reason any more for the marker to be away from the gripper."""
        if self._follow:
            return not self._streaming
        return not _close(self._arm.pose, self._arm_then, _MOVED)

    @property
    def _current_look(self) -> Look:
        if self._placed and self._obstacle:
            return Look.REFUSED
        if self._arm.moving:
            return Look.MOVING
        return Look.REACHABLE if self._placed else Look.AT_ARM

    # What it says.

    def _require_arm(self) -> None:
        """:raises InvalidTarget: nothing is known of the arm yet."""
        if not self._arm.frame:
            raise InvalidTarget(f"the arm's node {self._arm.name} does not run, or is not configured")

    def _refuse(self, what: str, error: FrankaError, place: Array) -> None:
        """Nothing moves: say why, in the log and where it was to be."""
        self.get_logger().warning(f"{what}: {error}")
        self._say(f"{what}: {error}", Look.REFUSED, place)

    def _say(self, text: str, look: Look, place: Array | None = None) -> None:
        """Show ``text`` above ``place`` (4, 4), or above the marker; an empty one takes it away."""
        line = "progress" if look is Look.MOVING else "message"
        if text or self._said.get(line):
            self._said[line] = text
            at = messages.pose_message(self._shown if place is None else place)
            self._status.publish(text_marker(self._arm.frame, at, line, text, look))


def point_along(pose: Array, heading: float) -> Array:
    """``pose`` (4, 4) turned about the vertical so that it points along ``heading`` [rad], counted from x of the base.

    A gripper that is closer to horizontal than to vertical points along its z axis, the way it reaches out; one that
    looks down or up, along its x axis.
    """
    x, z = pose[:3, 0], pose[:3, 2]
    axis = z if abs(z[2]) < math.sqrt(0.5) else x
    angle = heading - math.atan2(axis[1], axis[0])
    turned = pose.copy()
    turned[0, :3] = math.cos(angle) * pose[0, :3] - math.sin(angle) * pose[1, :3]
    turned[1, :3] = math.sin(angle) * pose[0, :3] + math.cos(angle) * pose[1, :3]
    return turned


def _close(first: Array, second: Array, tolerance: float) -> bool:
    """Whether two poses (4, 4) are closer than ``tolerance`` [m] and, about, [rad]."""
    return bool(np.abs(first - second).max() < tolerance)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until Ctrl-C or SIGTERM.

    :returns: exit status, 0.
    """
    # rclpy's own handlers would end the context before the marker is taken away.
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stop.set())
    node = RvizTools()
    executor = UrgentFirstExecutor(node)
    try:
        while not stop.is_set():
            executor.spin_turn()
    finally:
        executor.shutdown()
        node.close()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
