"""What RViz shows of its tools: the marker on the gripper with its handles and its menu, and a line of text.

Used by the node of RViz's tools (:mod:`aiofranka_ros.rviz_tools`), in its process and its one thread. Nothing here
knows of an arm: these functions make messages.
"""

from __future__ import annotations

import enum
import math

from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Pose, Quaternion, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import InteractiveMarker, InteractiveMarkerControl, Marker, MenuEntry

NAME = "gripper"
#: Size of the handles, of the ball that they surround, and of the text's letters [m].
_SCALE, _BALL, _LETTERS = 0.25, 0.07, 0.04
#: How far above its place each line of text floats [m].
_LINES = {"progress": 0.2, "message": 0.25}
#: How long a text stays [s].
_TEXT_LIFETIME = 10

#: Half a turn's half: a quaternion of a quarter turn has it twice.
_HALF = math.sqrt(0.5)
#: Handles along and around their own x axis, turned to each of the marker's axes.
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
    """What the colour of ball and text says: red, green, blue, alpha."""

    AT_ARM = (0.7, 0.7, 0.7, 0.5)
    REACHABLE = (0.2, 0.9, 0.2, 0.8)
    MOVING = (1.0, 0.6, 0.0, 0.8)
    REFUSED = (1.0, 0.1, 0.1, 0.9)

    @property
    def color(self) -> ColorRGBA:
        """As a message."""
        red, green, blue, alpha = self.value
        return ColorRGBA(r=red, g=green, b=blue, a=alpha)


def gripper_marker(frame: str, pose: Pose, look: Look, follow: bool) -> InteractiveMarker:
    """The marker at ``pose`` in ``frame``.

    :param follow: whether the menu shows *Follow* as checked.
    """
    ball = Marker(
        type=Marker.SPHERE,
        scale=Vector3(x=_BALL, y=_BALL, z=_BALL),
        color=look.color,
        pose=Pose(orientation=Quaternion(w=1.0)),
    )
    controls = [
        # Dragged, it moves in the plane of the screen, with Shift towards it.
        InteractiveMarkerControl(
            name="ball",
            interaction_mode=InteractiveMarkerControl.MOVE_3D,
            orientation=Quaternion(w=1.0),
            always_visible=True,
            markers=[ball],
        )
    ]
    for mode, name in (
        (InteractiveMarkerControl.MOVE_AXIS, "move"),
        (InteractiveMarkerControl.ROTATE_AXIS, "rotate"),
    ):
        controls += [
            InteractiveMarkerControl(name=f"{name}_{axis}", interaction_mode=mode, orientation=orientation)
            for axis, orientation in _AXES.items()
        ]
    return InteractiveMarker(
        header=Header(frame_id=frame),  # Without a stamp: locked to the frame.
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
    return f"[{'x' if follow else ' '}] {title}"  # RViz makes a check box of the brackets.


def text_marker(frame: str, place: Pose, line: str, text: str, look: Look) -> Marker:
    """``text`` above ``place`` in ``frame``; an empty one takes the one before away.

    :param line: ``progress`` or ``message``; each replaces its own.
    """
    above = Pose(orientation=Quaternion(w=1.0))
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
