"""The robot as libfranka sees it: the only module that imports ``pylibfranka``.

Used by the control process alone, in its one thread. Everything that libfranka raises is turned into this package's
exceptions here, with the robot's own names of errors; nothing matches the text of a message.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

import numpy as np
import pylibfranka
from pylibfranka import RealtimeConfig, Torques

from aiofranka_ros.errors import (
    ArmInUse,
    CommandRefused,
    ConnectionFailed,
    ControlStopped,
    FrankaError,
    IncompatibleRobot,
)
from aiofranka_ros.records import Record

#: TCP port of the FCI: ``kCommandPort``, libfranka ``research_interface/robot/service_types.h``.
FCI_PORT = 1337
#: Version of the FCI protocol that the installed libfranka speaks (0.18 and later): ``kVersion``, same file.
FCI_VERSION = 10
#: Releases of libfranka for each version of the protocol: ``compatibility_matrix.rst`` of libfranka 0.21.
_LIBFRANKA_FOR_PROTOCOL = {
    3: "0.7.1",
    4: "0.8",
    5: "0.9",
    6: "0.10 to 0.13.2",
    7: "0.13.3 to 0.14.0",
    8: "0.14.1",
    9: "0.15 to 0.17",
    10: "0.18 or later",
}
#: How long a question to the robot outside of libfranka may take [s].
_PROBE_TIMEOUT = 2.0

#: All that libfranka raises: most of its exceptions are RuntimeErrors in the bindings, without a base class of their
#: own, and what its network library throws arrives as a bare RuntimeError.
LIBFRANKA_ERRORS = (pylibfranka.FrankaException, RuntimeError)

_ERROR_NAMES = tuple(name for name, member in vars(pylibfranka.Errors).items() if isinstance(member, property))


def library_version() -> str:
    """Version of the installed libfranka bindings."""
    return str(getattr(pylibfranka, "__version__", "unknown"))


def error_names(errors: Any) -> tuple[str, ...]:
    """The names of what is set in libfranka's ``Errors``."""
    return tuple(name for name in _ERROR_NAMES if getattr(errors, name))


class Arm:
    """A connected robot.

    :param address: IP address or host name of the robot's FCI.
    :raises ArmInUse: a process on this machine already drives the arm at this address.
    :raises IncompatibleRobot: the robot speaks another version of the FCI protocol.
    :raises ConnectionFailed: no robot answers, or its FCI is not active.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._lock = _claim(address)
        try:
            # Real-time scheduling is this package's own business: libfranka would refuse to run without it.
            self._robot = pylibfranka.Robot(address, RealtimeConfig.kIgnore)
            self._model = self._robot.load_model()
        except LIBFRANKA_ERRORS as error:
            self._lock.close()
            raise _explain(address, error) from error
        except BaseException:
            self._lock.close()
            raise

    def read(self) -> Any:
        """The robot's next state, while no motion runs; waits for it up to libfranka's timeout.

        :raises ConnectionFailed: the connection was lost.
        """
        try:
            return self._robot.read_once()
        except LIBFRANKA_ERRORS as error:
            raise ConnectionFailed(f"lost the robot at {self.address}: {error}") from error

    def recover(self) -> bool:
        """Clear a reflex, if there is one; return whether there was.

        :raises CommandRefused: the robot did not recover, e.g. because the user stop is pressed.
        """
        state = self.read()
        mode = state.robot_mode
        if mode == pylibfranka.RobotMode.UserStopped:
            raise CommandRefused("the user stop is pressed: release it, then activate again")
        if mode == pylibfranka.RobotMode.Guiding:
            raise CommandRefused("the arm is guided by hand: let go of its buttons, then activate again")
        if mode != pylibfranka.RobotMode.Reflex and not error_names(state.current_errors):
            return False
        try:
            self._robot.automatic_error_recovery()
        except LIBFRANKA_ERRORS as error:
            raise CommandRefused(f"the robot did not recover: {error}") from error
        return True

    def set_collision_behavior(self, torque_thresholds: list[float], force_thresholds: list[float]) -> None:
        """Set the thresholds of contact and collision, [Nm] (7,) and [N, Nm] (6,).

        :raises CommandRefused: the robot does not accept them.
        """
        try:
            self._robot.set_collision_behavior(torque_thresholds, torque_thresholds, force_thresholds, force_thresholds)
        except LIBFRANKA_ERRORS as error:
            raise CommandRefused(f"the robot refused the collision thresholds: {error}") from error

    def start_torque_control(self) -> TorqueControl:
        """Take torque control; from now on a torque is due every millisecond.

        :raises CommandRefused: the robot is in a state that does not allow it.
        """
        try:
            return TorqueControl(self._robot.start_torque_control(), self._model)
        except LIBFRANKA_ERRORS as error:
            raise CommandRefused(f"the robot refused torque control: {error}") from error

    def stopped(self, error: BaseException) -> ControlStopped:
        """What stopped the control loop, asked of the robot itself."""
        try:
            state = self._robot.read_once()
        except LIBFRANKA_ERRORS:
            return ControlStopped(f"lost the robot at {self.address}: {error}")
        names = error_names(state.last_motion_errors) or error_names(state.current_errors)
        if state.robot_mode == pylibfranka.RobotMode.UserStopped:
            return ControlStopped("the user stop was pressed", errors=names)
        if state.robot_mode == pylibfranka.RobotMode.Guiding:
            return ControlStopped("somebody began to guide the arm by hand", errors=names)
        if not names:
            return ControlStopped(f"the robot ended the motion: {error}")
        return ControlStopped(f"the robot stopped: {', '.join(names)}", errors=names)

    def close(self) -> None:
        """Disconnect; idempotent."""
        self._robot = self._model = None
        self._lock.close()


class TorqueControl:
    """Torque control of a robot, cycle by cycle; see :meth:`Arm.start_torque_control`."""

    #: What :meth:`read` and :meth:`write` raise when the robot ends the motion.
    Ended = LIBFRANKA_ERRORS

    def __init__(self, control: Any, model: Any) -> None:
        self._control = control
        self._model = model
        self.read = control.readOnce

    def measure(self, state: Any, duration: Any, views: MeasuredViews) -> None:
        """Copy what the control cycle needs of a robot state into a measured record, through its ``views``."""
        views.q[:] = state.q
        views.dq[:] = state.dq
        views.tau_last[:] = state.tau_J_d
        elapsed = duration.to_sec()
        views.elapsed[0] = elapsed
        views.time[0] += elapsed

    def model(self, state: Any, views: MeasuredViews) -> None:
        """Compute mass matrix and coriolis torques at a robot state into a measured record, through its ``views``."""
        views.mass[:] = self._model.mass(state)
        views.coriolis[:] = self._model.coriolis(state)

    def write(self, tau: Any) -> None:
        """Send torques [Nm] (7,)."""
        self._control.writeOnce(Torques(tau))

    def finish(self, tau: Any) -> None:
        """Send torques [Nm] (7,) as the last ones: the robot takes over and holds."""
        command = Torques(tau)
        command.motion_finished = True
        self._control.writeOnce(command)


class MeasuredViews:
    """Flat views into one measured record, made once: looking fields up by name every cycle would cost time."""

    def __init__(self, measured: Record) -> None:
        self.time = measured["time"]
        self.elapsed = measured["elapsed"]
        self.q = measured["q"][0]
        self.dq = measured["dq"][0]
        self.tau_last = measured["tau_last"][0]
        self.mass = measured["mass"][0].reshape(49)
        self.coriolis = measured["coriolis"][0]


def matrix(column_major: Any) -> np.ndarray:
    """A (4, 4) pose from libfranka's sixteen column-major numbers."""
    return np.asarray(column_major, dtype=float).reshape(4, 4).T


def _claim(address: str) -> socket.socket:
    """Make sure that no other process on this machine drives the arm at ``address``.

    An abstract socket is a lock that cannot be left behind: it is gone with its process.
    """
    try:
        resolved = socket.gethostbyname(address)
    except (OSError, ValueError) as error:  # The latter where it cannot even be a host name.
        raise ConnectionFailed(f"no robot at {address!r}: {getattr(error, 'strerror', None) or error}") from error
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        lock.bind(f"\0aiofranka_ros/arm/{resolved}")
    except OSError as error:
        lock.close()
        raise ArmInUse(
            f"another process on this machine already drives the arm at {address}: "
            "stop that node, or give this one another robot_ip"
        ) from error
    return lock


def _explain(address: str, error: BaseException) -> FrankaError:
    """Why libfranka could not connect, found out by asking the robot directly."""
    try:
        version = _protocol_version(address)
    except ConnectionRefusedError:
        return ConnectionFailed(
            f"{address} is there, but its port {FCI_PORT} is closed: unlock the joints and activate the FCI in Desk"
        )
    except TimeoutError:
        return ConnectionFailed(
            f"no answer from {address}:{FCI_PORT}: is the robot on, is this its address, is this computer's network "
            "set up for it, and is no other program connected to it?"
        )
    except OSError as reason:
        return ConnectionFailed(f"no robot at {address}: {reason.strerror or reason}")
    if version != FCI_VERSION:
        needed = _LIBFRANKA_FOR_PROTOCOL.get(version, "another release")
        return IncompatibleRobot(
            f"the robot at {address} speaks FCI protocol version {version}, but libfranka {library_version()} speaks "
            f"{FCI_VERSION}: install libfranka {needed} (pylibfranka), or update the robot's system image",
            robot_version=version,
            library_version=FCI_VERSION,
        )
    return ConnectionFailed(f"could not connect to the robot at {address}: {error}")


def _protocol_version(address: str) -> int:
    """Ask the robot for its FCI protocol version.

    The ``Connect`` request and its reply as in libfranka's ``research_interface/robot/service_types.h``: a header of
    command, command number and size (three ``uint32``), then version and UDP port (``uint16`` each); the reply carries
    a status (``uint8``) and the robot's version (``uint16``).
    """
    with socket.create_connection((address, FCI_PORT), timeout=_PROBE_TIMEOUT) as connection:
        connection.sendall(struct.pack("<IIIHH", 0, 0, 16, FCI_VERSION, 0))
        reply = b""
        while len(reply) < 15:
            part = connection.recv(15 - len(reply))
            if not part:
                raise OSError("the robot closed the connection: is another program connected to it?")
            reply += part
    _, version = struct.unpack_from("<BH", reply, 12)
    return int(version)
