"""The connection to the robot through libfranka: the only module that imports ``pylibfranka``.

Used only by the control process, in its one thread. It turns everything that libfranka raises into this package's
exceptions, with the robot's own names of errors; nothing depends on the text of a message.
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
from aiofranka_ros.control.records import new
from aiofranka_ros.control.robot_records import ERROR_NAMES, ROBOT_STATE, RobotSetting
from aiofranka_ros.errors import CommandRefused, ConnectionFailed, ControlStopped, IncompatibleRobot, Problem
from aiofranka_ros.kernels import Array, Record, entry_point
from aiofranka_ros.model import dynamics, fr3

#: All that libfranka raises: most of its exceptions are RuntimeErrors in the bindings, without a common base class, and
#: exceptions of its network library are plain RuntimeErrors.
LIBFRANKA_ERRORS = (pylibfranka.FrankaException, RuntimeError)

#: The warning about a robot whose mass matrix :mod:`aiofranka_ros.model.dynamics` cannot compute.
OTHER_DYNAMICS = Problem(
    "this robot's mass matrix does not fit an FR3's geometry, so libfranka's model is used, which takes longer",
    "make sure that it is an FR3 before you activate it: the control laws use that geometry",
)
#: Our model may differ from libfranka's only by rounding [kg m², Nm].
_LARGEST_DIFFERENCE = 1e-9
#: Joint velocities [rad/s] and a load for the comparison: no number is zero, and no two are the same.
_VELOCITIES = np.array([0.9, -0.4, 0.7, -1.1, 1.3, 0.5, -0.8])
_LOAD = 1.7, [0.02, -0.03, 0.09], [0.02, 0.002, -0.003, 0.002, 0.03, 0.004, -0.003, 0.004, 0.015]
#: Modes in which people keep the robot from moving, and what to do.
_HELD = {
    pylibfranka.RobotMode.UserStopped: "the user stop is pressed: release it, then activate again",
    pylibfranka.RobotMode.Guiding: "the arm is guided by hand: let go of its buttons, then activate again",
}
_ERROR_NAMES = tuple(name for name, member in vars(pylibfranka.Errors).items() if isinstance(member, property))


def library_version() -> str:
    """Version of the installed libfranka bindings."""
    return str(getattr(pylibfranka, "__version__", "unknown"))


def error_names(errors: Any) -> tuple[str, ...]:
    """The names of the flags that are set in libfranka's ``Errors``."""
    return tuple(name for name in _ERROR_NAMES if getattr(errors, name))


class RobotConnection:
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
            # This package handles real-time scheduling itself. By default, libfranka would refuse to run without it;
            # with kIgnore, it gives the connecting thread the highest priority, that of the kernel's own threads,
            # whatever ``realtime_priority`` is.
            with scheduled_as_before():
                self._robot = pylibfranka.Robot(address, RealtimeConfig.kIgnore)
            self._model = self._robot.load_model()
            #: Inertial parameters of the links, bodies (7, 10); ``None`` if they do not fit an FR3's geometry.
            self.links = links_of(self._model, self._robot.read_once())
        except LIBFRANKA_ERRORS as error:
            self._lock.close()
            self._robot = self._model = None  # The robot has one client at a time, and _explain connects again.
            raise _explain(address, error) from error
        except BaseException:
            self._lock.close()
            raise

    def read(self) -> Any:
        """The robot's next state, while no motion runs; ``ConnectionFailed`` if the connection was lost."""
        try:
            return self._robot.read_once()
        except LIBFRANKA_ERRORS as error:
            raise ConnectionFailed(f"lost the robot at {self.address}: {error}") from error

    def recover(self) -> bool:
        """Clear a reflex, if there is one; return whether there was.

        :raises CommandRefused: the robot did not recover, e.g. because the user stop is pressed.
        """
        state = self.read()
        if state.robot_mode in _HELD:
            raise CommandRefused(_HELD[state.robot_mode])
        if state.robot_mode != pylibfranka.RobotMode.Reflex and not error_names(state.current_errors):
            return False
        try:
            self._robot.automatic_error_recovery()
        except LIBFRANKA_ERRORS as error:
            raise self._refusal("the robot did not recover", error) from error
        return True

    def _refusal(self, what: str, error: BaseException) -> CommandRefused:
        """Why the robot refused a command: its mode, which may have changed since the last state, or its own words."""
        return CommandRefused(_HELD.get(self.read().robot_mode, f"{what}: {error}"))

    def set(self, setting: RobotSetting, *values: Any) -> None:
        """Set something in the robot itself, while no motion runs; ``CommandRefused`` if it does not accept it."""
        try:
            getattr(self._robot, setting.value)(*values)
        except LIBFRANKA_ERRORS as error:
            what = setting.name.lower().replace("_", " ")
            raise CommandRefused(f"the robot refused the {what}: {error}") from error

    def start_torque_control(self, state: Any, views: MeasuredViews) -> TorqueControl:
        """Take torque control; from then on a torque is due every millisecond.

        :raises CommandRefused: the robot is in a state that does not allow it.
        """
        model = _libfrankas_model(self._model, views) if self.links is None else _own_model(self.links, state, views)
        try:
            return TorqueControl(self._robot.start_torque_control(), model, state, views)
        except LIBFRANKA_ERRORS as error:
            raise self._refusal("the robot refused torque control", error) from error

    def stopped(self, error: BaseException) -> ControlStopped:
        """Ask the robot what stopped the control loop."""
        try:
            state = self._robot.read_once()
        except LIBFRANKA_ERRORS:
            return ControlStopped(f"lost the robot at {self.address}: {error}")
        names = error_names(state.last_motion_errors) or error_names(state.current_errors)
        if state.robot_mode == pylibfranka.RobotMode.UserStopped:
            return ControlStopped("the user stop was pressed", errors=names)
        if state.robot_mode == pylibfranka.RobotMode.Guiding:
            return ControlStopped("the arm was guided by hand", errors=names)
        if not names:
            return ControlStopped(f"the robot ended the motion: {error}")
        return ControlStopped(f"the robot stopped: {', '.join(names)}", errors=names)

    def close(self) -> None:
        """Disconnect; idempotent."""
        self._robot = self._model = None
        self._lock.close()


class TorqueControl:
    """Torque control of a robot, cycle by cycle; see :meth:`RobotConnection.start_torque_control`.

    When the robot ends the motion, its methods raise :data:`LIBFRANKA_ERRORS`.

    :param state: the robot's state before the first cycle.
    """

    def __init__(self, control: Any, model: Callable[[Any], None], state: Any, views: MeasuredViews) -> None:
        self._views = views
        #: Fills the measured record with mass matrix and coriolis torques at its argument, the newest state.
        self.model = model
        #: Robot time of the state that was measured last [s].
        self.now = state.time.to_sec()
        #: Waits for the robot's next state; returns it and the time since the last one.
        self.read = control.readOnce
        self._write = control.writeOnce

    def measure(self, state: Any, duration: Any) -> None:
        """Copy the parts of a robot state that the control cycle needs into the measured record."""
        elapsed = duration.to_sec()
        self.now = now = self.now + elapsed
        self._views.pack(now, elapsed, *state.q, *state.dq, *state.tau_J_d)

    def write(self, tau: Any) -> None:
        """Send torques [Nm] (7,)."""
        self._write(Torques(tau))

    def finish(self, tau: Any) -> None:
        """Send the last torques [Nm] (7,): the robot then holds by itself."""
        command = Torques(tau)
        command.motion_finished = True
        self._write(command)


class MeasuredViews:
    """Views of one measured record, made once: looking fields up by name in every cycle would take time."""

    def __init__(self, measured: Record) -> None:
        self.q, self.dq = measured["q"][0], measured["dq"][0]
        self.mass = measured["mass"][0].reshape(49)
        self.coriolis = measured["coriolis"][0]
        #: Writes time, elapsed, q, dq and tau_last.
        self.pack = _packer(measured, "time", "elapsed", "q", "dq", "tau_last")


def report_to(state: Record) -> Callable[[Any], None]:
    """A function that copies the fields that are libfranka's from its state to ``state``, a record of
    :data:`~aiofranka_ros.control.records.STATE`."""
    pack = _packer(state, "robot_mode", "tau_measured", "tau_external", "external_wrench")
    return lambda robot: pack(robot.robot_mode.value, *robot.tau_J, *robot.tau_ext_hat_filtered, *robot.O_F_ext_hat_K)


def _own_model(links: Array, state: Any, views: MeasuredViews) -> Callable[[Any], None]:
    """A function that fills the measured record at the newest state, by :mod:`aiofranka_ros.model.dynamics`."""
    total, bodies = state.m_total, np.vstack((links, load_of(state)))
    arguments = views.q, views.dq, bodies, dynamics.working_memory(), views.mass, views.coriolis
    kernel = entry_point(dynamics.mass_and_coriolis, *arguments)

    def compute(state: Any) -> None:
        nonlocal total
        # While the arm is active this process does not change the load, but robots have other interfaces.
        if state.m_total != total:
            total, bodies[7] = state.m_total, load_of(state)
        kernel(*arguments)

    return compute


def _libfrankas_model(model: Any, views: MeasuredViews) -> Callable[[Any], None]:
    """The same, by libfranka's ``model``."""

    def compute(state: Any) -> None:
        views.mass[:], views.coriolis[:] = model.mass(state), model.coriolis(state)

    return compute


def _packer(record: Record, *names: str) -> Callable[..., None]:
    """A function that writes adjacent fields all at once, which takes a third of the time of one by one."""
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
    """A :data:`~aiofranka_ros.control.robot_records.ROBOT_STATE`, to be filled with libfranka's whole state."""

    def __init__(self) -> None:
        #: The copy, an array of one, and its bytes.
        self.record = new(ROBOT_STATE)
        self.bytes = self.record.view(np.uint8).data
        # The first three fields and the last two are copied one by one: libfranka does not have them as numbers.
        numbers = (ROBOT_STATE.names or ())[3:-2]
        self._scalars = attrgetter(*(name for name in numbers if not ROBOT_STATE[name].shape))
        self._arrays = attrgetter(*(name for name in numbers if ROBOT_STATE[name].shape))
        self._pack = _packer(self.record, *numbers)
        self._flags = attrgetter(*ERROR_NAMES)

    def fill(self, robot: Any, stamp: int) -> None:
        """Copy libfranka's state ``robot``, which was measured at ``stamp`` [ns, monotonic]."""
        record = self.record
        record["stamp"], record["robot_mode"], record["time"] = stamp, robot.robot_mode.value, robot.time.to_sec()
        self._pack(*self._scalars(robot), *chain.from_iterable(self._arrays(robot)))
        for name in ("current_errors", "last_motion_errors"):
            errors = getattr(robot, name)
            record[name][0] = self._flags(errors) if errors else False  # There are many, and they are rarely set.


def load_of(state: Any) -> Array:
    """The load on the flange in a robot state: a body (10,), see :mod:`aiofranka_ros.model.dynamics`."""
    return dynamics.body(state.m_total, state.F_x_Ctotal, state.I_total)


def links_of(model: Any, state: Any) -> Array | None:
    """Inertial parameters of the links from libfranka's ``model``: bodies (7, 10); ``None`` if they do not fit ours.

    :param state: a robot state for calls of ``model``; it is changed.
    """
    state.m_total, state.F_x_Ctotal, state.I_total = 0.0, [0.0] * 3, [0.0] * 9

    def mass_matrix(q: Array) -> Array:
        state.q = q.tolist()
        return np.array(model.mass(state))

    try:
        links = dynamics.identify(mass_matrix)
    except np.linalg.LinAlgError:  # its numbers are not finite
        return None
    # Compare the two at a new pose, in motion, and with a load.
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


def _explain(address: str, error: BaseException) -> ConnectionFailed:
    """Ask the robot directly why libfranka could not connect."""
    fault = fci.find_fault(address, library_version())
    if fault is None:
        return ConnectionFailed(f"could not connect to the robot at {address}: {error}")
    if fault.robot_version is None:
        return ConnectionFailed(str(fault))
    return IncompatibleRobot(str(fault), robot_version=fault.robot_version, library_version=fci.VERSION)
