"""The robot as libfranka sees it: the only module that imports ``pylibfranka``.

Used by the control process alone, in its one thread. Everything that libfranka raises is turned into this package's
exceptions here, with the robot's own names of errors; nothing matches the text of a message.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
import pylibfranka
from pylibfranka import RealtimeConfig, Torques

from aiofranka_ros.control import fci
from aiofranka_ros.control.realtime import scheduled_as_before
from aiofranka_ros.control.records import ERROR_NAMES, ROBOT_STATE, RobotSetting, new
from aiofranka_ros.errors import (
    CommandRefused,
    ConnectionFailed,
    ControlStopped,
    FrankaError,
    IncompatibleRobot,
    Problem,
)
from aiofranka_ros.kernels import Array, Record, entry_point
from aiofranka_ros.model import dynamics, fr3

#: All that libfranka raises: most of its exceptions are RuntimeErrors in the bindings, without a base class of their
#: own, and what its network library throws arrives as a bare RuntimeError.
LIBFRANKA_ERRORS = (pylibfranka.FrankaException, RuntimeError)

#: What is wrong with a robot whose mass matrix :mod:`aiofranka_ros.model.dynamics` cannot compute.
OTHER_DYNAMICS = Problem(
    "no links of an FR3's geometry move like this robot's, so its model is left to libfranka, which takes longer",
    "see that it is an FR3 before it is activated: the control laws go by that geometry",
)
#: Where our model may differ from libfranka's: by rounding, and no more [kg m², Nm].
_LARGEST_DIFFERENCE = 1e-9
#: Joint velocities and a load at which they are compared: nothing is zero, and no two numbers are the same.
_VELOCITIES = np.array([0.9, -0.4, 0.7, -1.1, 1.3, 0.5, -0.8])
_LOAD = 1.7, [0.02, -0.03, 0.09], [0.02, 0.002, -0.003, 0.002, 0.03, 0.004, -0.003, 0.004, 0.015]
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
            #: What its links weigh, bodies (7, 10); ``None`` where no links of an FR3's geometry move like them.
            self.links = links_of(self._model, self._robot.read_once())
        except LIBFRANKA_ERRORS as error:
            self._lock.close()
            self._robot = self._model = None  # The robot has one client at a time, and is to be asked once more.
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

    def start_torque_control(self, state: Any, views: MeasuredViews) -> TorqueControl:
        """Take torque control; from now on a torque is due every millisecond.

        :param state: the robot's.
        :param views: ways into the record that is to be filled with what is measured.
        :raises CommandRefused: the robot is in a state that does not allow it.
        """
        model = LibfrankasModel(self._model, views) if self.links is None else OwnModel(self.links, state, views)
        try:
            return TorqueControl(self._robot.start_torque_control(), model, state, views)
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


class OwnModel:
    """Mass matrix and coriolis torques of a robot by :mod:`aiofranka_ros.model.dynamics`.

    :param links: bodies (7, 10).
    :param state: of the robot: what the flange carries.
    :param views: ways into the measured record.
    """

    def __init__(self, links: Array, state: Any, views: MeasuredViews) -> None:
        self._total, self._bodies = state.m_total, np.vstack((links, load_of(state)))
        arguments = views.q, views.dq, self._bodies, dynamics.working_memory(), views.mass, views.coriolis
        self._compute = partial(entry_point(dynamics.mass_and_coriolis, *arguments), *arguments)

    def compute(self, state: Any) -> None:
        """Fill the measured record at ``state``, which was measured last."""
        # This process is too busy to change it, but robots have other interfaces.
        if state.m_total != self._total:
            self._total, self._bodies[7] = state.m_total, load_of(state)
        self._compute()


class LibfrankasModel:
    """The same by libfranka's ``model``."""

    def __init__(self, model: Any, views: MeasuredViews) -> None:
        self._model, self._views = model, views

    def compute(self, state: Any) -> None:
        """Fill the measured record at ``state``, which was measured last."""
        self._views.mass[:] = self._model.mass(state)
        self._views.coriolis[:] = self._model.coriolis(state)


class TorqueControl:
    """Torque control of a robot, cycle by cycle; see :meth:`Arm.start_torque_control`.

    :param model: whose ``compute`` fills the measured record with mass matrix and coriolis torques.
    :param state: the robot's before the first cycle.
    :param views: ways into the measured record.
    """

    #: What :meth:`read` and :meth:`write` raise when the robot ends the motion.
    Ended = LIBFRANKA_ERRORS

    def __init__(self, control: Any, model: OwnModel | LibfrankasModel, state: Any, views: MeasuredViews) -> None:
        self._views = views
        #: Computes mass matrix and coriolis torques at the state, its argument, that was measured last.
        self.model = model.compute
        #: The robot's time [s] in the state that was measured last.
        self.now = state.time.to_sec()
        #: Waits for the robot's next state: returns it, and the time since the one before.
        self.read = control.readOnce
        self._write = control.writeOnce

    def measure(self, state: Any, duration: Any) -> None:
        """Copy what the control cycle needs of a robot state into the measured record."""
        elapsed = duration.to_sec()
        self.now = now = self.now + elapsed
        self._views.pack(now, elapsed, *state.q, *state.dq, *state.tau_J_d)

    def write(self, tau: Any) -> None:
        """Send torques [Nm] (7,)."""
        self._write(Torques(tau))

    def finish(self, tau: Any) -> None:
        """Send torques [Nm] (7,) as the last ones: the robot takes over and holds."""
        command = Torques(tau)
        command.motion_finished = True
        self._write(command)


class MeasuredViews:
    """Ways into one measured record, made once: looking fields up by name every cycle would cost time."""

    def __init__(self, measured: Record) -> None:
        self.q, self.dq = measured["q"][0], measured["dq"][0]
        self.mass = measured["mass"][0].reshape(49)
        self.coriolis = measured["coriolis"][0]
        #: Writes time, elapsed, q, dq and tau_last.
        self.pack = _packer(measured, "time", "elapsed", "q", "dq", "tau_last")


class RobotReport:
    """Writes into a record of :data:`~aiofranka_ros.control.records.STATE` what is told of the robot as libfranka says
    it."""

    def __init__(self, state: Record) -> None:
        self._pack = _packer(state, "robot_mode", "tau_measured", "tau_external", "external_wrench")

    def take(self, robot: Any) -> None:
        """Copy it from libfranka's state ``robot``."""
        self._pack(robot.robot_mode.value, *robot.tau_J, *robot.tau_ext_hat_filtered, *robot.O_F_ext_hat_K)


def _packer(record: Record, *names: str) -> Callable[..., None]:
    """What writes the numbers of fields that follow one another, all at once: one by one takes three times as long."""
    fields = record.dtype.fields
    dtypes = [fields[name][0] for name in names]
    begin = end = fields[names[0]][1]
    for name, dtype in zip(names, dtypes, strict=True):
        assert fields[name][1] == end, f"{name} is elsewhere"
        end += dtype.itemsize
    packed = struct.Struct(
        "=" + "".join(f"{dtype.itemsize // 8}{'d' if dtype.base.kind == 'f' else 'q'}" for dtype in dtypes)
    )
    return partial(packed.pack_into, record.view("u1").data, begin)


class RobotStateCopy:
    """A record of :data:`~aiofranka_ros.control.records.ROBOT_STATE` that takes all that libfranka says of the
    robot."""

    #: Fields that are copied one by one: they are not numbers in libfranka's state, or not in it at all.
    _SINGLE = ("stamp", "robot_mode", "time", "current_errors", "last_motion_errors")

    def __init__(self) -> None:
        #: The copy, an array of one.
        self.record = new(ROBOT_STATE)
        self.bytes = self.record.view(np.uint8).data
        fields = ROBOT_STATE.fields
        assert fields is not None
        numbers = [name for name in fields if name not in self._SINGLE]
        self._scalars = attrgetter(*(name for name in numbers if not fields[name][0].shape))
        self._arrays = attrgetter(*(name for name in numbers if fields[name][0].shape))
        self._pack = _packer(self.record, *numbers)
        self._flags = attrgetter(*ERROR_NAMES)

    def take(self, robot: Any, stamp: int) -> None:
        """Copy the state ``robot``, which was measured at ``stamp`` [ns, system clock]."""
        record = self.record
        record["stamp"], record["robot_mode"], record["time"] = stamp, robot.robot_mode.value, robot.time.to_sec()
        self._pack(*self._scalars(robot), *chain.from_iterable(self._arrays(robot)))
        for name in ("current_errors", "last_motion_errors"):
            errors = getattr(robot, name)
            record[name][0] = self._flags(errors) if errors else False  # Seldom set, and many.


def load_of(state: Any) -> Array:
    """What the flange carries at a robot state: a body (10,), see :mod:`aiofranka_ros.model.dynamics`."""
    return dynamics.body(state.m_total, state.F_x_Ctotal, state.I_total)


def links_of(model: Any, state: Any) -> Array | None:
    """What the links weigh, by libfranka's ``model``: bodies (7, 10); ``None`` where ours cannot be made to agree.

    :param state: of the robot; it is used to ask ``model`` with, and changed.
    """
    state.m_total, state.F_x_Ctotal, state.I_total = 0.0, [0.0] * 3, [0.0] * 9

    def mass_matrix(q: Array) -> Array:
        state.q = q.tolist()
        return np.array(model.mass(state))

    try:
        links = dynamics.identify(mass_matrix)
    except np.linalg.LinAlgError:  # of what is not finite
        return None
    # Compared where nothing was asked before: at another pose, in motion, and with a load.
    q, mass, coriolis = 0.5 * fr3.READY + 0.1 * _VELOCITIES, np.empty(49), np.empty(7)
    state.q, state.dq = q.tolist(), _VELOCITIES.tolist()
    state.m_total, state.F_x_Ctotal, state.I_total = _LOAD
    bodies = np.vstack((links, load_of(state)))
    dynamics.mass_and_coriolis(q, _VELOCITIES, bodies, dynamics.working_memory(), mass, coriolis)
    differences = np.concatenate((mass - model.mass(state), coriolis - model.coriolis(state)))
    return links if np.abs(differences).max() < _LARGEST_DIFFERENCE else None


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
