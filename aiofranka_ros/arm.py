"""The robot as libfranka sees it: the only module that imports ``pylibfranka``.

Used by the control process alone, in its one thread. Everything that libfranka raises is turned into this package's
exceptions here, with the robot's own names of errors; nothing matches the text of a message.
"""

from __future__ import annotations

import struct
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
import pylibfranka
from pylibfranka import RealtimeConfig, Torques

from aiofranka_ros import fci
from aiofranka_ros.errors import (
    CommandRefused,
    ConnectionFailed,
    ControlStopped,
    FrankaError,
    IncompatibleRobot,
)
from aiofranka_ros.realtime import scheduled_as_before
from aiofranka_ros.records import ERROR_NAMES, MEASURED, ROBOT_STATE, Record, RobotSetting, new

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
        self._lock = fci.claim(address)
        try:
            # Real-time scheduling is this package's own business: libfranka would refuse to run without it, and where
            # it is to ignore it, it gives whoever connects the highest priority that there is, which the kernel's own
            # threads have. ``realtime_priority`` would mean nothing.
            with scheduled_as_before():
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

    def set(self, setting: RobotSetting, *values: Any) -> None:
        """Set something in the robot itself, while no motion runs.

        :param values: what libfranka's command takes: numbers and lists of numbers.
        :raises CommandRefused: the robot does not accept it.
        """
        try:
            getattr(self._robot, setting.value)(*values)
        except LIBFRANKA_ERRORS as error:
            what = setting.name.lower().replace("_", " ")
            raise CommandRefused(f"the robot refused the {what}: {error}") from error

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
        elapsed = duration.to_sec()
        views.pack(views.time[0] + elapsed, elapsed, *state.q, *state.dq, *state.tau_J_d)

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
    """Ways into one measured record, made once: looking fields up by name every cycle would cost time."""

    def __init__(self, measured: Record) -> None:
        self.time = measured["time"]
        self.mass = measured["mass"][0].reshape(49)
        self.coriolis = measured["coriolis"][0]
        # Numbers are packed all at once: field by field takes three times as long.
        fields = MEASURED.fields
        assert fields is not None
        packed = struct.Struct("23d")
        assert [fields[name][1] // 8 for name in ("time", "elapsed", "q", "dq", "tau_last")] == [0, 1, 2, 9, 16]
        #: Writes time, elapsed, q, dq and tau_last.
        self.pack = partial(packed.pack_into, measured.view("u1").data, 0)


class RobotStateCopy:
    """A record of :data:`~aiofranka_ros.records.ROBOT_STATE` that takes all that libfranka says of the robot."""

    #: Fields that are copied one by one: they are not numbers in libfranka's state, or not in it at all.
    _SINGLE = ("stamp", "robot_mode", "time", "current_errors", "last_motion_errors")

    def __init__(self) -> None:
        #: The copy, an array of one.
        self.record = new(ROBOT_STATE)
        # All numbers are packed at once: field by field takes twice as long.
        fields = ROBOT_STATE.fields
        assert fields is not None
        numbers = [name for name in fields if name not in self._SINGLE]
        self._scalars = attrgetter(*(name for name in numbers if not fields[name][0].shape))
        self._arrays = attrgetter(*(name for name in numbers if fields[name][0].shape))
        self._numbers = self.record.view("u1").data[fields[numbers[0]][1] :]
        self._packer = struct.Struct(f"{sum(fields[name][0].itemsize for name in numbers) // 8}d")
        self._flags = attrgetter(*ERROR_NAMES)

    def take(self, robot: Any, stamp: int) -> None:
        """Copy the state ``robot``, which was measured at ``stamp`` [ns, system clock]."""
        record = self.record
        record["stamp"], record["robot_mode"], record["time"] = stamp, robot.robot_mode.value, robot.time.to_sec()
        self._packer.pack_into(self._numbers, 0, *self._scalars(robot), *chain.from_iterable(self._arrays(robot)))
        for name in ("current_errors", "last_motion_errors"):
            errors = getattr(robot, name)
            record[name][0] = self._flags(errors) if errors else False  # Seldom set, and many.


def matrix(column_major: Any) -> np.ndarray:
    """A (4, 4) pose from libfranka's sixteen column-major numbers."""
    return np.asarray(column_major, dtype=float).reshape(4, 4).T


def _explain(address: str, error: BaseException) -> FrankaError:
    """Why libfranka could not connect, found out by asking the robot directly."""
    fault = fci.find_fault(address, library_version())
    if fault is None:
        return ConnectionFailed(f"could not connect to the robot at {address}: {error}")
    if fault.robot_version is None:
        return ConnectionFailed(str(fault))
    return IncompatibleRobot(str(fault), robot_version=fault.robot_version, library_version=fci.VERSION)
