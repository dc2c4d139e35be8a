"""The attributes of :class:`~aiofranka_ros.api.controller.FrankaController`, which policies use in any thread.

A value is checked when it is assigned, kept until the state lock is released, and then sent to the link together with
everything else that was assigned.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from aiofranka_ros.api.competition import Setters
from aiofranka_ros.api.gripper import Gripper
from aiofranka_ros.api.link import Link
from aiofranka_ros.control.records import Mode
from aiofranka_ros.control.setting import plain
from aiofranka_ros.control.snapshot import Snapshot
from aiofranka_ros.errors import ConfigurationError, InvalidTarget, NotStarted
from aiofranka_ros.kernels import Array
from aiofranka_ros.model.kinematics import control_frame, pose_matrix, quaternion_from_matrix

_log = logging.getLogger(__name__)

#: Largest deviation of a rotation matrix from an orthonormal one that counts as rounding.
_ROTATION_TOLERANCE, _IDENTITY = 0.01, np.eye(4)
#: What :func:`report_unused` has reported.
_reported: set[str] = set()


def array(name: str, value: Any, shape: tuple[int, ...] = (7,)) -> Array:
    """``value`` as a new array, in row order: for another order numba would compile kernels again, which takes seconds
    without a heartbeat.

    :param name: for messages.
    :raises InvalidTarget: it has another shape, or is not finite.
    """
    try:
        numbers = np.array(value if isinstance(value, np.ndarray) else plain(value), dtype=float, order="C")
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTarget(f"{name} is not an array of numbers: {error}", reason="wrong type") from error
    if numbers.shape != shape:
        raise InvalidTarget(f"{name} has the shape {numbers.shape}, but must have {shape}", reason="wrong size")
    if not np.isfinite(numbers).all():
        raise InvalidTarget(f"{name} is not finite: {numbers.tolist()}", reason="not finite")
    return numbers


def position_and_quaternion(name: str, pose: Array) -> Array:
    """Position [m] and unit quaternion x, y, z, w (7,) of a pose (4, 4).

    :param name: for messages.
    :raises InvalidTarget: the matrix is not a pose.
    """
    return positions_and_quaternions(name, pose[np.newaxis])[0]


def positions_and_quaternions(name: str, poses: Array) -> Array:
    """Positions [m] and unit quaternions x, y, z, w (n, 7) of poses (n, 4, 4).

    :param name: for messages, with ``{row}`` for the number of a pose.
    :raises InvalidTarget: a matrix is not a pose.
    """
    rotations = poses[:, :3, :3]
    proper = _near(rotations.transpose(0, 2, 1) @ rotations, _IDENTITY[:3, :3]).all(axis=(1, 2))
    proper &= (np.linalg.det(rotations) > 0.0) & _near(poses[:, 3], _IDENTITY[3]).all(axis=1)
    for row in np.flatnonzero(~proper)[:1]:
        raise InvalidTarget(
            f"{name.format(row=row)} is not a pose: its rotation must be orthonormal and right-handed, and its last "
            "row 0 0 0 1",
            reason="not a pose",
        )
    rows = np.empty((len(poses), 7))
    rows[:, :3] = poses[:, :3, 3]
    for row, pose in zip(rows, poses, strict=True):
        quaternion_from_matrix(pose, row[3:])
    rows[:, 3:] /= np.linalg.norm(rows[:, 3:], axis=1, keepdims=True)
    return rows


def _near(values: Array, wanted: Array) -> Array:
    """As :func:`numpy.isclose`, which would take longer than everything else that is done with a target."""
    return np.abs(values - wanted) <= _ROTATION_TOLERANCE + 1e-5 * wanted


def frozen(array: Array) -> Array:
    """A read-only copy: a change of one of its elements would not reach the arm."""
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def report_unused(name: str, instead: str) -> None:
    """Log, once in a process, that something which scripts for aiofranka set does nothing here."""
    if name not in _reported:
        _reported.add(name)
        _log.warning("%s does nothing here: %s", name, instead)


class StateLock:
    """A reentrant lock; calls ``send`` just before the outermost release."""

    def __init__(self, send: Callable[[], None]) -> None:
        self._lock = threading.RLock()
        self._send = send
        self._depth = self._holder = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """See :meth:`threading.Lock.acquire`."""
        acquired = self._lock.acquire(blocking, timeout)
        if acquired:
            self._depth, self._holder = self._depth + 1, threading.get_ident()
        return acquired

    def release(self) -> None:
        """See :meth:`threading.Lock.release`."""
        try:
            if self._depth == 1:
                self._send()
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._holder = 0
            self._lock.release()

    @property
    def held(self) -> bool:
        """Whether the calling thread holds it."""
        return self._holder == threading.get_ident()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


class SettingAttribute:
    """An attribute for a setting; ``config/fr3.yaml`` has its range.

    :param setting: its name; empty: that of the attribute.
    """

    def __init__(self, setting: str = "") -> None:
        self._name = setting

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = self._name or name

    def __get__(self, controller: Attributes | None, owner: type) -> Any:
        if controller is None:
            return self
        value = controller._setting(self._name)
        return frozen(value) if isinstance(value, np.ndarray) else value

    def __set__(self, controller: Attributes, value: Any) -> None:
        checked = controller.robot.settings.check(self._name, value)
        with controller.state_lock:
            controller._changes[self._name] = checked


class UnusedAttribute:
    """An attribute of aiofranka that scripts assign, and that does nothing here, which the log says once.

    :param default: its value until it is assigned.
    :param instead: what does that here.
    """

    def __init__(self, default: Any, instead: str) -> None:
        self._default = default
        self._instead = instead

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, controller: Attributes | None, owner: type) -> Any:
        return self if controller is None else vars(controller).get(self._name, self._default)

    def __set__(self, controller: Attributes, value: Any) -> None:
        vars(controller)[self._name] = value
        report_unused(self._name, self._instead)


class TargetAttribute:
    """An attribute for a target of ``modes``: an array of this ``shape``; (4, 4): a pose."""

    def __init__(self, *modes: Mode, shape: tuple[int, ...] = (7,)) -> None:
        self._modes = modes
        self._shape = shape

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, controller: Attributes | None, owner: type) -> Any:
        if controller is None:
            return self
        if self._name not in controller._targets:
            raise NotStarted(f"there is no {self._name} yet: call controller.start() first")
        return frozen(controller._targets[self._name])

    def __set__(self, controller: Attributes, value: Any) -> None:
        name = self._name
        target = array(name, value, self._shape)
        sent = position_and_quaternion(name, target) if self._shape == (4, 4) else target
        controller._check()
        if controller._moves:
            raise InvalidTarget(f"{name} is refused during a move: await or cancel the move", reason="during a move")
        if Mode[controller.type.upper()] not in self._modes:
            remedy = " or ".join(f"controller.switch({mode.name.lower()!r})" for mode in self._modes)
            message = f"{name} is not a target of mode {controller.type}: {remedy} first"
            raise InvalidTarget(message, reason="another mode")
        with controller.state_lock:
            controller._setters.check(name)
            controller._unsent.pop(name, None)  # The newest one is sent last: its kind drives the arm.
            controller._targets[name], controller._unsent[name] = target, sent


class Attributes:
    """The part of the controller that is attributes; they may be used from any thread."""

    #: The way to the arm.
    robot: Link
    #: Assignments made while it is held take effect together when it is released.
    state_lock: StateLock

    def __init__(self, robot: Link) -> None:
        self.robot = robot
        self.state_lock = StateLock(self._send)
        self._setters = Setters()
        self._running = False
        self._failure: Exception | None = None
        self._moves = 0
        self._initial: Snapshot | None = None
        # Targets as they were assigned; settings and targets that are sent when the lock is released.
        self._targets: dict[str, Array] = {}
        self._changes: dict[str, Any] = {}
        self._unsent: dict[str, Array] = {}

    @property
    def running(self) -> bool:
        """Whether the arm is under torque control."""
        return self._running

    @property
    def type(self) -> str:
        """The control law: ``impedance``, ``pid``, ``osc``, ``torque`` or ``free``."""
        return str(self.robot.settings["mode"])

    @property
    def gripper(self) -> Gripper:
        """The arm's Franka Hand: ``await gripper.grasp(0.03)``, ``gripper.width = 0.08``."""
        return Gripper(self.robot.gripper)

    @property
    def state(self) -> dict[str, Any]:
        """The newest measured state; arrays are copies.

        ``qpos`` [rad] (7,), ``qvel`` [rad/s] (7,), ``ee`` pose of the control frame in the base (4, 4), ``jac`` its
        Jacobian in the base, translation then rotation (6, 7), ``mm`` mass matrix [kg m²] (7, 7), ``last_torque`` the
        commanded torque, gravity excluded [Nm] (7,), ``stamp`` when it was measured [ns, as :func:`time.time_ns`, or by
        the node's clock],
        ``limited_targets`` how many targets were limited since the activation, by the setting that limited them,
        ``approach`` how far the targets are that the arm still approaches slowly [m], [rad] (2,).

        :raises NotStarted: nothing was measured yet.
        """
        return self.robot.snapshot().as_state()

    @property
    def error(self) -> Exception | None:
        """What ended the control loop, until the next :meth:`start`; ``None`` if nothing did."""
        return self._failure

    @property
    def last_command(self) -> Array:
        """The torque that was commanded last, gravity excluded [Nm] (7,)."""
        return frozen(self.robot.snapshot().tau)

    @property
    def initial_qpos(self) -> Array:
        """Joint positions when the mode began [rad] (7,)."""
        return frozen(self._begun().q)

    @property
    def initial_qvel(self) -> Array:
        """Joint velocities when the mode began [rad/s] (7,)."""
        return frozen(self._begun().dq)

    @property
    def initial_ee(self) -> Array:
        """Pose of the control frame in the base when the mode began (4, 4)."""
        return frozen(self._begun().ee)

    #: Target of the modes ``impedance`` and ``pid``: joint positions [rad] (7,).
    q_desired = TargetAttribute(Mode.IMPEDANCE, Mode.PID)
    #: Target of the mode ``osc``: pose of the control frame in the base (4, 4).
    ee_desired = TargetAttribute(Mode.OSC, shape=(4, 4))
    #: Velocities of the joints in the modes ``impedance`` and ``pid`` [rad/s] (7,). Refresh them within the setting
    #: ``velocity_timeout``; otherwise the arm stops.
    dq_desired = TargetAttribute(Mode.IMPEDANCE, Mode.PID)
    #: Velocity of the control frame in the mode ``osc``, along the axes of the base: linear [m/s], then angular [rad/s]
    #: (6,). Refresh it as ``dq_desired``.
    ee_velocity = TargetAttribute(Mode.OSC, shape=(6,))
    #: Target of the mode ``torque``, gravity excluded [Nm] (7,). Refresh it within the setting ``torque_timeout``;
    #: otherwise the arm holds.
    torque = TargetAttribute(Mode.TORQUE)

    #: Joint stiffness of the modes ``impedance`` and ``pid`` [Nm/rad] (7,).
    kp = SettingAttribute()
    #: Joint damping of these modes [Nm s/rad] (7,).
    kd = SettingAttribute()
    #: Integral gain of the mode ``pid`` [Nm/(rad s)] (7,).
    ki = SettingAttribute()
    #: Stiffness of the control frame in mode ``osc``, translation then rotation [1/s²] (6,).
    ee_kp = SettingAttribute()
    #: Its damping [1/s] (6,); critical at ``2 * sqrt(ee_kp)``.
    ee_kd = SettingAttribute()
    #: Stiffness of the posture that mode ``osc`` keeps in the null space of its task [1/s²] (7,).
    null_kp = SettingAttribute()
    #: Its damping [1/s] (7,).
    null_kd = SettingAttribute()
    #: Names of the axes along which the arm can be guided by hand in mode ``free``: of ``x``, ``y``, ``z``, ``roll``,
    #: ``pitch``, ``yaw`` of the control frame in the base, and ``elbow``. The others are locked where the arm is.
    free_axes = SettingAttribute()
    #: Joint damping of this mode [Nm s/rad] (7,).
    free_damping = SettingAttribute()
    #: Torque that helps a moving joint against its friction in this mode [Nm] (7,).
    free_friction = SettingAttribute()
    #: Largest torque, gravity excluded [Nm] (7,).
    torque_limit = SettingAttribute()
    #: Largest change of the torque [Nm/s].
    torque_diff_limit = SettingAttribute()
    #: How close every joint must come to the goal of a move [rad].
    arrival_tolerance = SettingAttribute("move_tolerance")

    verbose = UnusedAttribute(False, "what the controller does is logged, see the module logging")
    track = UnusedAttribute(False, "print(await controller.test_connection()) shows the figures of the control loop")

    @property
    def clip(self) -> bool:
        """Always true: torques and their rate are limited, see ``torque_limit`` and ``torque_diff_limit``."""
        return True

    @clip.setter
    def clip(self, value: bool) -> None:
        if not value:
            raise ConfigurationError("torques are always limited, because the robot would stop; see torque_diff_limit")

    @property
    def control_transform(self) -> Array:
        """Pose of the control frame in the flange (4, 4); assigning it is :meth:`set_tcp`."""
        if not self._setting("tcp_from_robot"):
            return frozen(pose_matrix(np.asarray(self._setting("tcp_in_flange"))))
        state = self.robot.snapshot()
        return frozen(np.linalg.solve(control_frame(state.q), state.ee))

    @control_transform.setter
    def control_transform(self, value: Any) -> None:
        self.set_tcp(value)

    def set_tcp(self, transform: Any) -> None:
        """Control another point of the tool from now on; in mode ``osc`` the arm holds where that point is.

        :param transform: pose of the control frame in the flange (4, 4), or only its position [m] (3,).
        :raises ConfigurationError: it is neither.
        """
        try:
            pose, transform = np.eye(4), plain(transform)
            if np.shape(transform) == (3,):
                pose[:3, 3] = array("the position", transform, (3,))
            else:
                pose = array("the transform", transform, (4, 4))
            tcp_in_flange = position_and_quaternion("the transform", pose)
        except InvalidTarget as error:
            raise ConfigurationError(str(error)) from error
        with self.state_lock:
            self._changes |= {"tcp_from_robot": False, "tcp_in_flange": tcp_in_flange.tolist()}
            self._unsent.pop("ee_desired", None)
            self._unsent.pop("ee_velocity", None)
            if self._running:
                state = self.robot.snapshot()
                self._initial = replace(state, ee=control_frame(state.q, pose))
                self._targets["ee_desired"] = self._initial.ee

    def _setting(self, name: str) -> Any:
        """The value of a setting, also if it is sent only when the state lock is released."""
        return self._changes.get(name, self.robot.settings[name])

    def _begin(self) -> None:
        """Set targets and initial values to the present measured state."""
        self._initial = self.robot.snapshot()
        self._reseed(self._initial)

    def _reseed(self, state: Snapshot) -> None:
        """Set the targets to ``state``."""
        self._unsent.clear()
        velocities = {"dq_desired": np.zeros(7), "ee_velocity": np.zeros(6)}
        self._targets = {"q_desired": state.q, "ee_desired": state.ee, "torque": np.zeros(7), **velocities}

    def _begun(self) -> Snapshot:
        if self._initial is None:
            raise NotStarted("nothing was measured yet: call controller.start() first")
        return self._initial

    def _send(self) -> None:
        """Send everything that was assigned; called with the lock held, just before its release."""
        changes, self._changes = self._changes, {}
        targets, self._unsent = self._unsent, {}
        if changes:
            self.robot.apply(changes)
        for name, values in targets.items():
            self.robot.set_target(name, values)

    def _check(self) -> None:
        """:raises Exception: the controller does not run; the cause."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        if not self._running:
            raise NotStarted("the controller does not run: call controller.start() first")


#: Names of the attributes that :meth:`.FrankaController.set` can assign.
ASSIGNABLE = tuple(
    name
    for name, member in vars(Attributes).items()
    if isinstance(member, (SettingAttribute, TargetAttribute)) or getattr(member, "fset", None) is not None
)
#: Those of them that are targets.
TARGETS = tuple(name for name, member in vars(Attributes).items() if isinstance(member, TargetAttribute))
