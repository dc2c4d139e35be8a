"""Names of the joints and frames of one arm: as in franka_description, with a prefix if there are several arms.

Imported by everything that uses such a name, in every process; no other module builds them. It imports nothing that
takes long, because the gripper's node needs it too.

franka_description's ``fr3.urdf.xacro`` takes the prefix as its argument ``arm_prefix`` and puts an underscore after it:
``left`` makes ``left_fr3_joint1`` and ``left_fr3_link0``. Its root, ``base``, has no prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

#: Name of the control frame in TF, before a prefix. franka_description has ``fr3_hand_tcp``, where the fingers of a
#: Franka Hand meet; the control frame is where Desk or the parameters put it.
TCP_FRAME = "fr3_tcp"
#: Name of the ros2_control controller that this package replaces.
CONTROLLER = "fr3_arm_controller"


@dataclass(frozen=True)
class ArmNames:
    """The names of one arm."""

    prefix: str = ""  #: what all names begin with, without the underscore that follows it; empty: nothing
    tcp_frame: str = TCP_FRAME  #: name of the control frame, before the prefix

    @cached_property
    def joints(self) -> tuple[str, ...]:
        """The seven joints, joint 1 first."""
        return tuple(self._prefixed(f"fr3_joint{number}") for number in range(1, 8))

    @cached_property
    def fingers(self) -> tuple[str, ...]:
        """The two joints of the Franka Hand."""
        return tuple(self._prefixed(f"fr3_finger_joint{number}") for number in (1, 2))

    @cached_property
    def links(self) -> tuple[str, ...]:
        """The frames of the arm's links: the base, one after each of the seven joints, and the flange."""
        return tuple(self._prefixed(f"fr3_link{number}") for number in range(9))

    @property
    def base(self) -> str:
        """The frame in which every pose is given unless stated otherwise."""
        return self.links[0]

    @property
    def flange(self) -> str:
        """The frame of the flange."""
        return self.links[8]

    @cached_property
    def hand_tcp(self) -> str:
        """Where the fingers of a Franka Hand meet."""
        return self._prefixed("fr3_hand_tcp")

    @cached_property
    def tcp(self) -> str:
        """The control frame."""
        return self._prefixed(self.tcp_frame)

    def _prefixed(self, name: str) -> str:
        return f"{self.prefix}_{name}" if self.prefix else name


#: The names of an arm without a prefix.
FR3 = ArmNames()
