"""The part of the control client that sets targets, as often as a policy sends them.

Used by the owner of an arm, from any thread.
"""

from __future__ import annotations

import abc
import struct
import threading

import numpy as np

from aiofranka_ros.control.defaults import default_commands
from aiofranka_ros.control.records import Mode, TargetKind, command_word
from aiofranka_ros.kernels import Numbers, Record

#: A target is packed straight into the bytes of the commands: numpy takes some microseconds to look a field up.
_POSITION, _ORIENTATION, _Q, _TORQUE, _TWIST, _DQ = (
    8 * command_word(f"target_{name}") for name in ("position", "orientation", "q", "torque", "twist", "dq")
)
_PACK_3, _PACK_4, _PACK_6, _PACK_7 = (struct.Struct(f"{size}d").pack_into for size in (3, 4, 6, 7))
#: Words of the fields that go with it.
_STAMP, _LEAD, _STREAM, _TARGET, _TARGET_MODE, _MODE, _KIND, _IN_TOOL = map(
    command_word,
    "target_stamp target_lead stream_id target_id target_mode_id mode_id target_kind target_in_tool".split(),
)


class TargetCommands(abc.ABC):
    """Holds the commands, and sets the targets in them."""

    def __init__(self) -> None:
        #: Held while commands are changed and sent; never for longer than a moment.
        self._lock = threading.RLock()
        commands = default_commands()
        self._commands: Record = commands[0]
        self._bytes, self._words = commands.view(np.uint8).data, commands.view(np.int64).data

    @property
    def mode(self) -> Mode:
        """The control law."""
        return Mode(int(self._commands["mode"]))

    @property
    def mode_id(self) -> int:
        """Counts switches of the mode and activations."""
        return self._words[_MODE]

    def set_pose(self, position: Numbers, orientation: Numbers, stamp: int = 0, lead: int = 0) -> int:
        """Set a new target for OSC: a pose of the control frame in the base, [m] (3,) and unit quaternion (x, y, z, w).

        :param stamp: when its sender made it [ns], for the time between targets; 0: unknown.
        :param lead: how long from now it is due [ns].
        :returns: the target's number.
        """
        with self._lock:
            _PACK_3(self._bytes, _POSITION, *position)
            _PACK_4(self._bytes, _ORIENTATION, *orientation)
            return self._send_target(stamp, lead)

    def set_joints(self, q: Numbers, stamp: int = 0, lead: int = 0) -> int:
        """Set a new target for impedance and PID: joint positions [rad] (7,); otherwise as :meth:`set_pose`."""
        with self._lock:
            _PACK_7(self._bytes, _Q, *q)
            return self._send_target(stamp, lead)

    def set_torque(self, tau: Numbers, stamp: int = 0) -> int:
        """Set a new target for torque mode: joint torques [Nm] (7,); otherwise as :meth:`set_pose`."""
        with self._lock:
            _PACK_7(self._bytes, _TORQUE, *tau)
            return self._send_target(stamp)

    def set_twist(self, twist: Numbers, stamp: int = 0, lead: int = 0, *, in_tool: bool = False) -> int:
        """Set a new velocity for OSC: a twist of the control frame's origin [m/s], [rad/s] (6,).

        It drives the reference at once, until another target comes or for ``velocity_timeout``; then the arm stops.

        :param stamp: as of :meth:`set_pose`; ``lead`` has no effect.
        :param in_tool: whether it is given along the axes of the control frame, and turns with it, not of the base.
        """
        with self._lock:
            _PACK_6(self._bytes, _TWIST, *twist)
            self._words[_IN_TOOL] = in_tool
            return self._send_target(stamp, lead, TargetKind.VELOCITY)

    def set_joint_velocities(self, dq: Numbers, stamp: int = 0, lead: int = 0) -> int:
        """Set new velocities for impedance and PID: of the joints [rad/s] (7,); otherwise as :meth:`set_twist`."""
        with self._lock:
            _PACK_7(self._bytes, _DQ, *dq)
            return self._send_target(stamp, lead, TargetKind.VELOCITY)

    def set_servo(self, q: Numbers, stamp: int = 0, lead: int = 0) -> int:
        """Set a new target for any mode: joint positions [rad] (7,); otherwise as :meth:`set_pose`.

        Modes that do not follow joints hold them like a motion, until such targets end; then the mode continues from
        where the arm is. The arm is never ahead of the newest one.
        """
        with self._lock:
            _PACK_7(self._bytes, _Q, *q)
            return self._send_target(stamp, lead, TargetKind.SERVO)

    def begin_stream(self) -> None:
        """The next target is another sender's: unless it is near, the arm approaches it slowly."""
        with self._lock:
            self._words[_STREAM] += 1

    def _send_target(self, stamp: int, lead: int = 0, kind: int = TargetKind.POSITION) -> int:
        words = self._words
        words[_KIND] = kind
        words[_STAMP] = stamp
        words[_LEAD] = lead
        words[_TARGET_MODE] = words[_MODE]
        words[_TARGET] += 1
        self._send()
        return words[_TARGET]

    @abc.abstractmethod
    def _send(self) -> None:
        """Publish the commands."""
