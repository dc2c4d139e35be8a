"""The thread that drives the hand of an arm that this process owns; only while the hand is used.

Started by :class:`~aiofranka_ros.api.robot_gripper.RobotGripper`, in the policy's process. It waits for nothing but its
next turn, and every turn takes microseconds, because the hand is not reached through libfranka, whose calls keep the
GIL for seconds (:mod:`aiofranka_ros.arm.gripper.connection`). So neither a slow hand nor a blocked event loop delays
the other, and the control process has nothing to do with either.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from aiofranka_ros.api.gripper import GripperRequest, GripperState, explained
from aiofranka_ros.arm.gripper import commands
from aiofranka_ros.arm.gripper.commands import BEYOND, Command, Outcome, width_of
from aiofranka_ros.arm.gripper.connection import HandState, Request
from aiofranka_ros.arm.gripper.gripper import Gripper
from aiofranka_ros.arm.gripper.settings import Settings
from aiofranka_ros.arm.gripper.widths import DueWidths, WidthTargets
from aiofranka_ros.control.stamps import Stamps
from aiofranka_ros.errors import FrankaError, GripperFailed, InvalidTarget, NotStarted

_log = logging.getLogger(__name__)

#: How often the thread has a turn [s].
PERIOD = 0.01
#: Why commands end when the controller is stopped.
_STOPPED = "the controller was stopped"
#: How many turns commands have to end then; they need two.
_LAST_TURNS = 10


class Seen(NamedTuple):
    """What the thread knows of the gripper, for other threads to read."""

    state: GripperState | None = None
    tried: bool = False  #: whether it is known if there is a gripper
    why: str = ""  #: why there is no state


class HandThread:
    """Drives the hand at ``address``, from now on until :meth:`close`; its methods may be called from any thread.

    Functions that are called at the end of something get the error, or ``None``, in the hand's thread; a state that is
    read from then on is newer.
    """

    def __init__(self, address: str, settings: Settings) -> None:
        self._settings = settings
        self._gripper = Gripper(self._settings, _log)
        self._targets = WidthTargets(self._settings, self._gripper, _log_failure)
        self._stamps = Stamps()
        self.seen = Seen(why=f"not connected to {address} yet")
        self._gripper.use(address, self.seen.why)
        self._lock = threading.Lock()  # Of the next two.
        self._closed = False
        self._asked: list[Callable[[], None]] = []
        #: The newest width that was set, if it was not sent yet; and those that have their times.
        self._newest: deque[float] = deque(maxlen=1)
        self._due: DueWidths | None = None
        #: How many commands the gripper had been given when ``_due`` last used it.
        self._begun = 0
        self._ended: list[Callable[[], object]] = []
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aiofranka_ros-gripper", daemon=True)
        self._thread.start()

    def submit(
        self, request: GripperRequest, cancelled: Callable[[], bool], on_end: Callable[[FrankaError | None], None]
    ) -> None:
        """Run a request to its end; once ``cancelled`` is true, stop the fingers, unless another one wants the same."""

        def end(outcome: Outcome) -> None:
            self._ended.append(lambda: on_end(self._error(outcome.failure)))

        def begin() -> None:
            try:
                state = self._gripper.state
                if state is None:
                    raise GripperFailed(self._gripper.why)
                self._gripper.submit(self._command(request, state), cancelled, end)
            except InvalidTarget as error:
                refusal = explained(error)
                self._ended.append(lambda: on_end(refusal))
            except GripperFailed as error:
                failure = self._error(str(error))
                self._ended.append(lambda: on_end(failure))

        self._ask(begin, on_end)

    def stop(self, on_end: Callable[[FrankaError | None], None]) -> None:
        """Stop the fingers and release what they hold."""

        def end(failure: str) -> None:
            self._ended.append(lambda: on_end(self._error(failure)))

        self._ask(lambda: self._gripper.stop("stopped by controller.gripper.stop()", end), on_end)

    def set_width(self, width: float) -> None:
        """Send a width [m]; as soon as the gripper is connected. Only the newest counts.

        :raises InvalidTarget, GripperFailed: see :meth:`.GripperLink.set_width`.
        """
        self.check(width, "width")
        self._newest.append(width)
        self._wake.set()

    def begin(self, widths: DueWidths | None) -> None:
        """Send ``widths`` when they are due, until there is another width or command; ``None``: no more of them."""

        def begin() -> None:
            if widths is not None:
                self._newest.clear()
            self._due, self._begun = widths, self._gripper.begun

        self._ask(begin, lambda error: None)

    def check(self, width: float, name: str) -> None:
        """Check whether the gripper can have a width [m], as far as that is known.

        :raises InvalidTarget, GripperFailed: see :meth:`.GripperLink.set_width`.
        """
        seen = self.seen
        if seen.state is None and seen.tried:
            raise GripperFailed(seen.why)
        if seen.state is not None:
            try:
                width_of(width, HandState(*seen.state[:4]), name, BEYOND)
            except InvalidTarget as error:
                raise explained(error) from None

    def close(self) -> None:
        """Stop the fingers if they move, disconnect and end; blocks for a moment. What is held stays held."""
        with self._lock:
            self._closed = True
        self._wake.set()
        self._thread.join()

    def _ask(self, work: Callable[[], None], on_end: Callable[[FrankaError | None], None]) -> None:
        """Do something in the thread; if that has ended, call ``on_end``."""
        with self._lock:
            if not self._closed:
                self._asked.append(work)
                self._wake.set()
                return
        on_end(NotStarted(_STOPPED))

    def _error(self, failure: str) -> FrankaError | None:
        if self._closed and failure:
            return NotStarted(_STOPPED)
        return GripperFailed(failure) if failure else None

    # In the thread.

    def _run(self) -> None:
        try:
            while not self._closed:
                self._turn()
                self._wake.wait(PERIOD)
                self._wake.clear()
        finally:
            self._closed = True  # Also if it ends because of an error in this package.
            self._newest.clear()
            self._due = None
            self._gripper.abandon(_STOPPED)
            limit = time.monotonic() + self._settings["stop_timeout"]
            while self._gripper.busy and time.monotonic() < limit:
                self._turn()
                time.sleep(PERIOD)
            self._gripper.use("", _STOPPED)
            for _ in range(_LAST_TURNS):
                self._turn()

    def _turn(self) -> None:
        gripper = self._gripper
        gripper.tick()
        with self._lock:
            asked, self._asked = self._asked, []
        for work in asked:
            work()
        self._send_width()
        self._publish()
        ended, self._ended = self._ended, []
        for call in ended:
            call()

    def _publish(self) -> None:
        gripper, state = self._gripper, self._gripper.state
        measured = None
        if state is not None:
            measured = GripperState(*state, stamp=self._stamps.of(round(1e9 * gripper.heard)))
        self.seen = Seen(measured, gripper.tried, gripper.why)

    def _send_width(self) -> None:
        """Send the gripper what it should do now."""
        gripper, state, width = self._gripper, self._gripper.state, None
        if state is None and not gripper.tried:
            return  # Until it is known whether there is a gripper.
        if self._newest:
            width, self._due = self._newest.popleft(), None
        elif self._due is not None and gripper.begun == self._begun:
            width = self._due.take(time.monotonic())
        if width is None:
            return
        if state is None:
            _log_failure(gripper.why)
            return
        try:
            self._targets.send(width_of(width, state, slack=BEYOND), _never)
        except InvalidTarget as error:  # It was set before the gripper was connected.
            _log_failure(str(error))
        self._begun = gripper.begun

    def _command(self, request: GripperRequest, state: HandState) -> Command:
        """:raises InvalidTarget: the gripper cannot do it."""
        settings = self._settings
        if request.kind is Request.HOMING:
            return commands.homing()
        if request.kind is Request.MOVE:
            return commands.move(request.width, request.speed, state, settings)
        epsilon = request.inner, request.outer
        return commands.grasp(request.width, request.speed, request.force, epsilon, state, settings)


def _never() -> bool:
    return False


def _log_failure(why: str) -> None:
    _log.warning("a width of the gripper was not reached: %s", why)
