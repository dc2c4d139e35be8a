"""What RViz shows: messages for the marker on the gripper, with its handles and its menu, and for lines of text.

Used by the node of RViz's tools (:mod:`aiofranka_ros.rviz_tools.node`), in its process and its one thread. Nothing here
knows about an arm.
"""

from __future__ import annotations

import enum
import math

from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Pose, Quaternion, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import InteractiveMarker, InteractiveMarkerControl, Marker, MenuEntry

NAME = "gripper"
#: Size of the handles, of the ball between them, and of the letters of the text [m].
_SCALE, _BALL, _LETTERS = 0.25, 0.07, 0.04
#: Height of each line of text above its place [m].
_LINES = {"progress": 0.2, "message": 0.25}
#: How long a text stays [s].
_TEXT_LIFETIME = 10

#: Both components of the quaternion of a quarter turn.
_HALF = math.sqrt(0.5)
#: Orientations that turn a handle from its own x axis to each axis of the marker.
_AXES = {
    "x": Quaternion(x=_HALF, w=_HALF),
    "y": Quaternion(z=_HALF, w=_HALF),
    "z": Quaternion(y=_HALF, w=_HALF),
}


class Choice(enum.IntEnum):
    """The entries of the menu."""

    MOVE_HERE = 1
    HOME = 2
    STOP = 3
    RECOVER = 4
    FOLLOW = 5


class Look(enum.Enum):
    """The colours of ball and text, and what they mean: red, green, blue, alpha."""

    AT_ARM = (0.7, 0.7, 0.7, 0.5)
    REACHABLE = (0.2, 0.9, 0.2, 0.8)
    MOVING = (1.0, 0.6, 0.0, 0.8)
    REFUSED = (1.0, 0.1, 0.1, 0.9)

    @property
    def color(self) -> ColorRGBA:
        """The colour as a message."""
        red, green, blue, alpha = self.value
        return ColorRGBA(r=red, g=green, b=blue, a=alpha)


def gripper_marker(frame: str, pose: Pose, look: Look, follow: bool) -> InteractiveMarker:
    """The marker at ``pose`` in ``frame``.

    :param follow: whether the menu shows *Follow* as checked.
    """
    ball = Marker(type=Marker.SPHERE, scale=Vector3(x=_BALL, y=_BALL, z=_BALL), color=look.color)
    # Dragging moves it in the plane of the screen, with Shift towards or away from the viewer.
    mode = InteractiveMarkerControl.MOVE_3D
    controls = [InteractiveMarkerControl(name="ball", interaction_mode=mode, always_visible=True, markers=[ball])]
    for name, mode in (("move", InteractiveMarkerControl.MOVE_AXIS), ("rotate", InteractiveMarkerControl.ROTATE_AXIS)):
        controls += [
            InteractiveMarkerControl(name=f"{name}_{axis}", interaction_mode=mode, orientation=orientation)
            for axis, orientation in _AXES.items()
        ]
    return InteractiveMarker(
        header=Header(frame_id=frame),  # Without a stamp, it is locked to the frame.
        pose=pose,
        name=NAME,
        scale=_SCALE,
        controls=controls,
        menu_entries=[
            MenuEntry(id=int(choice), title=_title(choice, follow), command_type=MenuEntry.FEEDBACK)
            for choice in Choice
        ],
    )


def _title(choice: Choice, follow: bool) -> str:
    title = choice.name.replace("_", " ").capitalize()
    if choice is not Choice.FOLLOW:
        return title
    return f"[{'x' if follow else ' '}] {title}"  # RViz shows the brackets as a check box.


def text_marker(frame: str, place: Pose, line: str, text: str, look: Look) -> Marker:
    """``text`` above ``place`` in ``frame``; an empty one removes the line.

    :param line: ``progress`` or ``message``: the line that it replaces.
    """
    above = Pose()
    above.position.x, above.position.y = place.position.x, place.position.y
    above.position.z = place.position.z + _LINES[line]
    color = look.color
    color.a = 1.0
    return Marker(
        header=Header(frame_id=frame),
        ns=line,
        type=Marker.TEXT_VIEW_FACING,
        action=Marker.ADD if text else Marker.DELETE,
        pose=above,
        scale=Vector3(z=_LETTERS),
        color=color,
        lifetime=Duration(sec=_TEXT_LIFETIME),
        text=text,
    )
