"""The awaitable API: a policy's way to drive an arm, through either link, in the policy's process and event loop.

Nothing here must be fast: the control process (:mod:`aiofranka_ros.control.process`) computes the torques, so a blocked
event loop delays targets, but endangers nothing. Names and semantics are those of aiofranka's async mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from aiofranka_ros.api.arguments import positive
from aiofranka_ros.api.attributes import ASSIGNABLE, TARGETS, Attributes, array, position_and_quaternion
from aiofranka_ros.api.competition import PAUSE
from aiofranka_ros.api.following import Following
from aiofranka_ros.api.link import ConnectionReport, Link, uninterrupted
from aiofranka_ros.api.pace import Lateness, Pace
from aiofranka_ros.api.policy import PolicyRun
from aiofranka_ros.api.progress import reported_progress
from aiofranka_ros.arm.settings import SETTING_NAMES
from aiofranka_ros.control.compilation import report_compiling
from aiofranka_ros.control.records import Approach
from aiofranka_ros.control.snapshot import distance_text
from aiofranka_ros.errors import FrankaError, NotStarted, unknown
from aiofranka_ros.kernels import compiled
from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.model.kinematics import control_frame
from aiofranka_ros.offload.guard import Guard

_log = logging.getLogger(__name__)

#: Rate of :meth:`FrankaController.set` before :meth:`FrankaController.set_freq` is called [Hz].
_DEFAULT_FREQUENCY = 50.0
#: How often to check whether targets were limited [s].
_LIMITS_PERIOD = 0.2


class FrankaController(Following):
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

    Attributes are checked when they are assigned, and take effect at the beginning of a control cycle. Arrays that you
    read are read-only copies: ``copy()`` them, and assign the whole array. Assignments inside
    ``with controller.state_lock:`` take effect together.

    If the control loop ends although you did not stop it (a reflex, a lost arm, a dead process), every waiting call
    raises the cause, e.g. :class:`~aiofranka_ros.errors.ControlStopped` with libfranka's error names, and so does every
    later call until :meth:`recover` or :meth:`start`.

    Coroutines belong to the event loop that called :meth:`start`; attributes may be used from any thread.

    :param robot: the way to the arm: :class:`~aiofranka_ros.api.robot_interface.RobotInterface` or
        :class:`~aiofranka_ros.api.ros_interface.RosInterface`.
    """

    #: Called with the message if the control loop ends although you did not stop it.
    error_callback: Callable[[str], object] | None = None
    #: Watches the event loop for blocking code while the controller runs; ``None``: no watch.
    guard: Guard | None = None

    def __init__(self, robot: Link) -> None:
        super().__init__(robot)
        self.guard = Guard()
        self._approach = Approach.FOLLOWING
        self._frequency = _DEFAULT_FREQUENCY
        #: The clocks of :meth:`set`, and the attribute that it set last.
        self._paces: dict[str, Pace] = {}
        self._last_set = ""
        self._lifecycle = asyncio.Lock()
        # Targets that were limited, by the setting that did it, and of which settings the log has said so.
        self._limited: dict[str, int] = {}
        self._counted: dict[str, int] = {}  # The same at the last call of set().
        self._reported: set[str] = set()
        self._limits_due = 0.0
        # Made by start(), like _ended: set at every new state.
        self._measured: asyncio.Event

    def __setattr__(self, name: str, value: Any) -> None:
        # Without this, assigning to a mistyped gain would do nothing. Subclasses may have more attributes.
        known = name.startswith("_") or hasattr(type(self), name) or name in Attributes.__annotations__
        if not known and type(self) is FrankaController:
            raise AttributeError(_no_attribute(name))
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.robot.name}, {'running' if self._running else 'not running'}>"

    async def start(self) -> None:
        """Take torque control and hold where the arm is; does nothing if the controller runs.

        The log says once what this computer lacks for real time (scheduling, locked memory, a processor that does not
        save power). If it fails or is cancelled, everything that it took is released when the exception reaches the
        caller, which takes at most several seconds; a connection from an earlier start stays until :meth:`stop`.

        :raises ConnectionFailed: no arm or node answers.
        :raises ArmInUse: another process on this machine already drives the arm.
        :raises CommandRefused: the robot does not allow it in its present state.
        :raises FrankaError: anything else that prevents it; the arm is released.
        """
        async with self._lifecycle:
            if self._running:
                return
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, _warm_up)
            await self.robot.start(self._on_state, self._on_end)
            try:
                self._failure = None
                self._ended, self._measured = loop.create_future(), asyncio.Event()
                self._running = True
                self._paces.clear()
                self._begin()
                self._limited = self._counted = self.robot.snapshot().limited_targets
                self._reported = set()
                if self.guard is not None:
                    self.guard.start()
            except BaseException:
                self._halt()
                await uninterrupted(self.robot.stop())
                raise

    async def stop(self) -> None:
        """Stop smoothly and release the arm; idempotent. If cancelled, it finishes first.

        After a failure it cleans up and raises nothing. Through a node, it leaves the arm active if it was already
        active before :meth:`start`.
        """
        async with self._lifecycle:
            self._failure = None
            self._halt()
            await uninterrupted(self.robot.stop())

    async def recover(self) -> None:
        """Clear what stopped the robot and hold where the arm is now; does nothing if the controller runs.

        Old targets are forgotten. A lost connection or a dead process is started again. Cancellation and errors are
        those of :meth:`start`.
        """
        await self.start()

    async def __aenter__(self) -> FrankaController:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    def switch(self, controller_type: str) -> None:
        """Change the control law, without a step in the torque; may be called from any thread.

        ``initial_qpos``, ``initial_ee`` and the targets become the present measured values, and the clocks of
        :meth:`set` restart.

        :param controller_type: ``impedance``, ``pid``, ``osc`` or ``torque``.
        :raises ConfigurationError: there is no such control law.
        """
        self.robot.settings.check("mode", controller_type)
        with self.state_lock:
            self._send()
            self.robot.switch(controller_type)
            self._restart_clocks()
            if self._running:
                self._begin()

    def set_freq(self, freq: float) -> None:
        """Set the rate of loops that call :meth:`set`.

        :param freq: [Hz].
        :raises ConfigurationError: it is not a positive number.
        """
        self._frequency = positive("the frequency", freq, "Hz")
        self._setters.pause = max(PAUSE, 2.0 / self._frequency)
        self._paces.clear()

    async def set(self, attr: str, value: Any) -> tuple[str, ...]:
        """Assign an attribute at once, then wait so that a loop of this call runs at the rate of :meth:`set_freq`.

        Each attribute has its own clock. A caller who is late by at most a period catches up; after a longer delay the
        clock restarts, without a burst. A loop that does not keep the rate is logged, and :meth:`lateness` has the
        figures. If cancelled, the value is in force all the same.

        :param attr: ``q_desired``, ``dq_desired``, ``ee_desired``, ``ee_velocity``, ``torque``, or any other attribute
            that can be assigned.
        :returns: for a target, the settings that have limited targets since the one before, e.g.
            ``("max_linear_step",)``; empty: the arm does what they say. Limits that are met only later count for a
            later call.
        :raises AttributeError: there is no such attribute.
        :raises Overridden: something that takes precedence controls the arm, e.g. a person who teleoperates; raised
            after the wait, at each call, until it is over: see :meth:`handed_back`.
        :raises InvalidTarget, ConfigurationError: the value cannot be used, or targets have been refused for a while:
            another task sets them (``error.reason`` is ``another task``), or another client of the node
            (``another publisher``), or for any other reason of the node; the arm keeps the previous one.
        :raises FrankaError: what ended the control loop.
        """
        self._check()
        if attr not in ASSIGNABLE:
            raise AttributeError(_no_attribute(attr))
        setattr(self, attr, value)
        await self._unless_ended(self.robot.settled())
        if attr not in self._paces:
            self._paces[attr] = Pace(attr, self._frequency, _log.warning)
        now, self._last_set = asyncio.get_running_loop().time(), attr
        await self._wait(self._paces[attr].wait_until(now) - now)
        return self._check_targets() if attr in TARGETS else ()

    async def handed_back(self) -> None:
        """Wait until nothing else controls the arm; targets then start where the arm is.

        Something else is another client of the node whose targets are followed, ``~/hold``, or a move of another
        client. Returns at once if there is nothing. Without a node, there is no other client.

        :raises FrankaError: what ended the control loop.
        """
        self._check()
        await self._unless_ended(self.robot.handed_back())
        self._reseed(self.robot.snapshot())
        self._restart_clocks()

    def lateness(self, attr: str | None = None) -> Lateness:
        """How well a loop of :meth:`set` keeps the rate, since the start or the last :meth:`set_freq`.

        :param attr: the attribute that the loop sets; ``None``: the one that was set last.
        :raises NotStarted: it was not set yet.
        """
        pace = self._paces.get(attr or self._last_set)
        if pace is None:
            raise NotStarted(f"there are no figures yet: no loop has awaited controller.set({attr or 'name'!r}, ...)")
        return pace.lateness()

    async def move(
        self,
        qpos: Iterable[float] = tuple(HOME.tolist()),
        *,
        progress: Callable[[float], object] | bool | None = None,
    ) -> None:
        """Move to joint positions, time-optimal and jerk-limited; returns when every joint has arrived, and holds.

        The current mode then continues from there. The settings ``move_...`` are its velocities, accelerations and
        tolerance. A second move replaces a running one. If cancelled, the arm slows down on its path and holds before
        the cancellation is raised; that takes up to half a second.

        :param qpos: goal [rad] (7,); default: home.
        :param progress: called several times a second with the covered share of the way, 0 to 1; ``None``: a progress
            bar if standard error is a terminal; ``True``: the bar in any case; ``False``: nothing.
        :raises InvalidTarget: the goal has the wrong size, is not finite, or is outside the joint limits.
        :raises MoveFailed: the arm did not arrive; the message says why.
        :raises FrankaError: what ended the control loop.
        """
        self._check()
        goal = array("the goal", qpos)
        self._moves += 1
        try:
            async with reported_progress(self.robot, goal, progress):
                await self._unless_ended(self.robot.move(goal))
        finally:
            self._moves -= 1
            self._restart_clocks()
            if self._running:
                with contextlib.suppress(FrankaError):  # What ended the move explains it better.
                    self._reseed(self.robot.snapshot())

    def policy(
        self,
        infer: Callable[..., Any],
        *,
        dt: float,
        horizon: int = 50,
        overlap: float = 0.3,
        kind: str | None = None,
        observe: Callable[[], Any] | None = None,
        timeout: float = 10.0,
    ) -> PolicyRun:
        """Let a policy that plans in chunks drive the arm while an ``async with`` block runs.

        See :class:`.PolicyRun`, also for the arguments.

        :raises ConfigurationError: an argument cannot be used.
        """
        return PolicyRun(
            self,
            infer,
            dt=dt,
            horizon=horizon,
            overlap=overlap,
            kind=kind,
            observe=observe,
            timeout=timeout,
        )

    async def next_state(self) -> dict[str, Any]:
        """The first state that arrives after this call; states come at the rate of the setting ``state_rate``.

        :raises FrankaError: what ended the control loop.
        """
        self._check()
        await self._measured.wait()
        self._check()
        return self.state

    async def states(self) -> AsyncIterator[dict[str, Any]]:
        """Each newest state; those that arrive while the loop's body runs are skipped.

        :raises FrankaError: what ended the control loop.
        """
        while True:
            yield await self.next_state()

    async def test_connection(self, duration: float = 5.0) -> ConnectionReport:
        """Measure how well the control loop answers the robot; ``print`` the report, or read its figures.

        :param duration: [s].
        :raises ConfigurationError: it is not a positive number.
        :raises FrankaError: what ended the control loop.
        """
        self._check()
        seconds = positive("the duration", duration, "s")
        return await self._unless_ended(self.robot.measure_connection(seconds))

    async def save_recording(self) -> Path:
        """Write what happened in the last 16 s into a file, cycle by cycle, and return where it is.

        The same is written whenever the robot stops by itself; ``python -m aiofranka_ros.explain FILE`` says what
        stopped it. Also possible after that, until :meth:`stop`. If cancelled, the file is written all the same.
        Through a node, the file is on the node's computer.

        :raises RecordingFailed: it could not be written, and why: the arm is not affected.
        :raises NotStarted: the controller was not started.
        :raises ConnectionFailed: the node does not answer.
        """
        return await self.robot.save_recording()

    def _on_state(self) -> None:
        if self._running:  # Wakes the calls that wait now; later ones wait for the next state.
            self._warn_of_approach()
            self._measured.set()
            self._measured.clear()
            now = asyncio.get_running_loop().time()
            if now >= self._limits_due:
                self._limits_due = now + _LIMITS_PERIOD
                self._report_limits()

    def _check_targets(self) -> tuple[str, ...]:
        """The settings that have limited targets since the last call; raises as :meth:`.Link.check_targets`."""
        self.robot.check_targets()
        before, self._counted = self._counted, self.robot.snapshot().limited_targets
        return tuple(sorted(name for name, count in self._counted.items() if count > before.get(name, 0)))

    def _report_limits(self) -> None:
        """Warn once of each setting that limits targets."""
        limited = self.robot.snapshot().limited_targets
        new = {name for name, count in limited.items() if count > self._limited.get(name, 0)} - self._reported
        self._limited, self._reported = limited, self._reported | new
        if new:
            _log.warning(
                "targets are limited by %s, so the arm does not do what they say; state['limited_targets'] counts them",
                ", ".join(sorted(new)),
            )

    def _warn_of_approach(self) -> None:
        """Log once if the arm begins to approach a target that is far away, or refuses it."""
        state = self.robot.snapshot()
        before, self._approach = self._approach, state.approach
        if state.approach == before:
            return
        left = distance_text(state.approach_left)
        if state.approach == Approach.APPROACHING:
            _log.warning("the target is %s away: the arm approaches it slowly, see approach_linear_velocity", left)
        elif state.approach == Approach.REFUSED:
            _log.warning("the target is %s away and refused: begin where the arm is, see approach_far_streams", left)

    def _on_end(self, error: Exception) -> None:
        if not self._running:
            return
        self._failure = error
        self._halt()
        _log.error("the control loop ended: %s", error)
        if self.error_callback is not None:
            try:
                self.error_callback(str(error))
            except Exception:  # Of the user; what waits must still be told why the control loop ended.
                _log.exception("error_callback failed")

    def _restart_clocks(self) -> None:
        for pace in list(self._paces.values()):
            pace.interrupt()

    def _halt(self) -> None:
        """The arm does not run any more: wake everything that waits."""
        if self.guard is not None:
            self.guard.stop()
        if self._running:
            self._running = False
            self._ended.set_result(None)
            self._measured.set()

    async def _wait(self, delay: float) -> None:
        """Wait for ``delay`` [s], or until the control loop ends."""
        if delay > 0.0:
            await asyncio.wait([self._ended], timeout=delay)
        else:
            await asyncio.sleep(0.0)  # Other tasks get a turn, however late the caller is.
        self._check()


def _no_attribute(name: str) -> str:
    """Why an attribute cannot be assigned."""
    if name not in SETTING_NAMES:
        return unknown("attribute to assign called", name, ASSIGNABLE)
    if name == "mode":
        return "mode is a setting, not an attribute: call controller.switch(mode)"
    return (
        f"{name} is a setting, not an attribute: give it to RobotInterface({name}=...), or set it in the node with "
        f"python3 -m aiofranka_ros.ctl set {name} VALUE"
    )


def _warm_up() -> None:
    """Load or compile the kernels that targets need; in the event loop, that would block it for seconds."""
    if not compiled():
        report_compiling()
    control_frame(HOME)
    position_and_quaternion("a pose", np.eye(4))
