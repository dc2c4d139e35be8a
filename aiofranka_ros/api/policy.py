"""Run a policy that plans in chunks: ask it early enough, send what it answers, and stop the arm if it fails.

Used through :meth:`.FrankaController.policy`, in the policy's process and event loop. How chunks are blended is decided
where the arm is, see :meth:`.FrankaController.follow`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aiofranka_ros.api.arguments import positive, share, stamp_of, whole
from aiofranka_ros.api.link import uninterrupted
from aiofranka_ros.arm.chunk_points import KINDS
from aiofranka_ros.control.chunk_size import MOST_POINTS
from aiofranka_ros.control.setting import plain
from aiofranka_ros.errors import ConfigurationError, InvalidTarget, Overridden, PolicyFailed, unknown
from aiofranka_ros.offload.workers import asyncify

if TYPE_CHECKING:
    from aiofranka_ros.api.controller import FrankaController

_log = logging.getLogger(__name__)

#: What ends a run: seconds, an event, anything to await, a function of the state, or ``None``: nothing but a failure.
Stop = float | asyncio.Event | Awaitable[Any] | Callable[[dict[str, Any]], bool] | None

#: A policy whose chunks are refused so many times in a row has failed.
_REFUSALS = 5
#: How many answers the figures cover, at most, and the share of them that is expected not to take longer.
_KEPT, _USUAL = 1000, 0.95
#: How many of the last answers say how long the next one takes.
_RECENT = 50


@dataclass(frozen=True)
class PolicyReport:
    """How a policy did; ``print`` it, or read its figures."""

    #: Chunks that the arm followed, and those that were refused, by reason.
    chunks: int
    refused: Mapping[str, int]
    #: From an observation to its chunk [s], the first one left out because it warms the policy up; 0 before the second.
    inference_median: float
    inference_max: float
    #: Actions that were past when their chunk arrived.
    dropped: int
    #: How often the arm had done everything before the next chunk came, and the longest wait [s].
    gaps: int
    gap_max: float
    #: How often another client took over.
    overridden: int

    def __str__(self) -> str:
        inference = f"{1e3 * self.inference_median:.0f} ms (median), {1e3 * self.inference_max:.0f} ms (longest)"
        text = f"{self.chunks} chunks, from observation to chunk {inference}; "
        text += f"{self.dropped} actions were past when they came; "
        text += f"the arm waited {self.gaps} times" + (f", at most {self.gap_max:.2f} s" if self.gaps else "")
        if self.refused:
            text += "; refused: " + ", ".join(f"{count} {reason}" for reason, count in self.refused.items())
        return text + (f"; overridden {self.overridden} times" if self.overridden else "")


class PolicyRun:
    """A policy that plans in chunks drives the arm while an ``async with`` block runs.

    ::

        async with controller.policy(policy.get_chunk, dt=1 / 30, horizon=50) as run:
            await run.until(60.0)
        print(run.report())

    Each chunk is sent with :meth:`.FrankaController.follow`, and the next one is asked for early enough that the arm
    never waits. When the block is left, or the policy fails, the arm slows down and holds. A failure that :meth:`until`
    has not raised is raised at the end of the block. While another client takes precedence, the run waits, and then
    continues with a new observation.

    :param infer: called as ``infer(obs, prefix, delay)``; answers with the next actions: one row for each ``dt``, the
        first for the time of the observation, as :meth:`.FrankaController.follow` takes them; or with a tuple of them
        and the gripper's widths [m] (n,). It is asynchronous (a coroutine function, a method of an ``mpify`` proxy,
        ``CudaInferenceThread.wrap``), or a plain function, which a thread then calls.
        ``obs``: :attr:`.FrankaController.state`, and what ``observe`` returns. ``prefix``: what the arm does from the
        observation on if no other chunk comes, in rows of ``dt`` (m, 7), m up to ``horizon``. ``delay``: how many of
        these will be done when the answer arrives.
    :param dt: time from one action to the next [s].
    :param horizon: how many actions of a chunk are used at most, 2 to 128.
    :param overlap: share of a chunk that is left when the next one is expected, 0 to 1; 1: ask all the time.
    :param kind: what the actions are, see :meth:`.FrankaController.follow`; ``None``: ``"ee"`` in mode ``osc``,
        otherwise ``"q"``.
    :param observe: returns a dictionary that is added to the state, e.g. images; called like ``infer``. With ``stamp``
        [ns, as in the state], the state is the one of that time.
    :param timeout: how long each call of ``infer`` and ``observe`` may take [s]. Warm the policy up before.
    :raises ConfigurationError: an argument cannot be used.
    """

    def __init__(
        self,
        controller: FrankaController,
        infer: Callable[..., Any],
        *,
        dt: float,
        horizon: int,
        overlap: float,
        kind: str | None,
        observe: Callable[[], Any] | None,
        timeout: float,
    ) -> None:
        if not callable(infer) or not (observe is None or callable(observe)):
            raise ConfigurationError("infer and observe must be functions: infer(obs, prefix, delay), observe()")
        if kind is not None and kind not in KINDS:
            raise ConfigurationError(unknown("kind of chunk", kind, KINDS))
        self._controller = controller
        self._infer = infer
        self._observe = observe
        self._dt = positive("dt", dt, "s")
        self._horizon = whole("the horizon", horizon, 2, MOST_POINTS)
        self._overlap = share("the overlap", overlap)
        self._kind = kind
        self._timeout = positive("the timeout", timeout, "s")
        self._task: asyncio.Task[None] | None = None
        self._leaving = self._raised = False
        #: When the chunk in force ends [s, time of the event loop], and how long it is [s]; ``None``: there is none.
        self._ends: float | None = None
        self._length = 0.0
        #: When the last chunk began [s, time of the event loop].
        self._started = -math.inf
        # For the report.
        self._chunks = self._dropped = self._overridden = 0
        self._refused: Counter[str] = Counter()
        self._durations: deque[float] = deque(maxlen=_KEPT)
        self._gaps, self._longest_gap = 0, 0.0
        self._waiting = False

    async def __aenter__(self) -> PolicyRun:
        if self._task is not None:
            raise ConfigurationError("a run cannot be used twice: call controller.policy(...) again")
        self._controller._check()
        self._task = asyncio.ensure_future(self._drive())
        return self

    async def __aexit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        task = self._require_task()
        self._leaving = True
        task.cancel()
        await uninterrupted(asyncio.wait([task]))
        failure = None if task.cancelled() else task.exception()
        if failure is not None and error_type is None and not self._raised:
            raise failure

    async def until(self, stop: Stop = None) -> None:
        """Wait until ``stop``; the arm then still follows the policy, until the block is left.

        If cancelled, nothing else happens. May be called again.

        :param stop: how long [s]; an :class:`asyncio.Event`; a task or future, which is not cancelled; anything else to
            await, which is cancelled if this ends before it; a function that gets each new
            :attr:`~.FrankaController.state` and returns whether to stop; ``None``: for ever.
        :raises PolicyFailed: ``infer`` or ``observe`` raised, died or did not answer in time, or five chunks in a row
            were refused; the message says why. The arm slows down and holds.
        :raises FrankaError: what ended the control loop.
        """
        task = self._require_task()
        stopped = asyncio.ensure_future(self._stopped(stop))
        try:
            await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not stopped.done():
                stopped.cancel()
                await asyncio.wait([stopped])
        if task.done() and not task.cancelled():
            self._raised = True
            task.result()
        if not stopped.cancelled():
            stopped.result()

    def report(self) -> PolicyReport:
        """How the policy has done so far, and how it did after the end."""
        durations = np.array(self._durations) if self._durations else np.zeros(1)
        return PolicyReport(
            chunks=self._chunks,
            refused=dict(self._refused),
            inference_median=float(np.median(durations)),
            inference_max=float(durations.max()),
            dropped=self._dropped,
            gaps=self._gaps,
            gap_max=self._longest_gap,
            overridden=self._overridden,
        )

    # In the run's task.

    async def _drive(self) -> None:
        loop = asyncio.get_running_loop()
        refused, overridden, first = 0, False, True
        try:
            while True:
                taken = loop.time()
                observation, observed = await self._ask("observe", self._observed)
                chunk, gripper = await self._ask("infer", self._answer, observation)
                if not first:
                    self._durations.append(loop.time() - taken)
                first = False
                try:
                    await self._send(chunk, gripper, observation["stamp"], observed)
                    refused, overridden = 0, False
                except Overridden:
                    self._overridden += not overridden
                    overridden, self._ends = True, None
                    await self._controller.handed_back()
                except InvalidTarget as error:
                    self._refused[error.reason] += 1
                    refused += 1
                    if refused == _REFUSALS:
                        raise PolicyFailed(f"{refused} chunks in a row were refused: {error}") from error
                await asyncio.sleep(max(self._due() - loop.time(), taken + self._dt - loop.time()))
        except asyncio.CancelledError:
            if self._leaving:
                raise
            raise PolicyFailed("the run was cancelled; the arm holds") from None
        finally:  # It failed, the control loop ended, or the block was left.
            self._controller.stop_following()

    async def _ask(self, name: str, work: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Await ``work``, which calls the user's function ``name``, within the time limit.

        :raises PolicyFailed: it raised, died, or took too long.
        """

        async def outcome() -> tuple[Any, Exception | None]:
            try:
                return await work(*arguments), None
            except Exception as error:
                return None, error

        limited = asyncio.wait_for(outcome(), self._timeout)
        try:
            answer, error = await self._controller._unless_ended(limited)
        except asyncio.TimeoutError as late:
            raise PolicyFailed(f"{name} has not answered for {self._timeout:g} s: the arm holds") from late
        if error is not None:
            raise PolicyFailed(f"{name} raised {type(error).__name__}: {error}; the arm holds") from error
        return answer

    async def _observed(self) -> tuple[dict[str, Any], float]:
        """The state, and what ``observe`` adds; of the time that ``observe`` gives as ``stamp``, if it does.

        :returns: also when that was [s, time of the event loop].
        """
        state = self._controller.state
        if self._observe is not None:
            more = await _call(self._observe)
            if "stamp" in more:
                more = {**more, "stamp": stamp_of("its stamp", more["stamp"])}
                state = await self._controller.state_at(more["stamp"])
            state = {**state, **more}
        age = 1e-9 * (self._controller.robot.clock() - state["stamp"])
        return state, asyncio.get_running_loop().time() - age

    async def _answer(self, observation: dict[str, Any]) -> tuple[Any, Any]:
        """The chunk for an observation, and the gripper's widths or ``None``."""
        dt, stamp = self._dt, observation["stamp"]
        prefix, _ = self._controller.committed(self._horizon, dt, start=stamp)
        delay = self._controller.inference_delay(dt)
        answer = await _call(self._infer, observation, prefix, min(delay, len(prefix)))
        chunk, gripper = answer if isinstance(answer, tuple) else (answer, None)
        if not hasattr(chunk, "__len__") or len(chunk) == 0:
            raise TypeError(f"it returned {chunk!r}, but must return the next actions: an array of one row each")
        return chunk[: self._horizon], None if gripper is None else gripper[: self._horizon]

    async def _send(self, chunk: Any, gripper: Any, stamp: int, observed: float) -> None:
        """Let the arm follow ``chunk``.

        Its first action is for the time of the observation. Time during which the arm stood still is left out: then
        nothing has changed that the policy knows of.

        :param stamp: of the observation [ns].
        :param observed: the same, by the event loop's clock [s].
        """
        now = asyncio.get_running_loop().time()
        stood = now - observed if self._ends is None else max(0.0, now - max(self._ends, observed))
        # What was observed before the last chunk began has not seen the arm move, either.
        begin = max(observed + stood, self._started)
        kind = self._kind or ("ee" if self._controller.type == "osc" else "q")
        start = stamp + round(1e9 * (begin - observed))
        ticket = await self._controller.follow(chunk, dt=self._dt, start=start, kind=kind, gripper=gripper)
        if self._ends is not None:
            self._note_gap(stood)
        self._chunks += 1
        self._dropped += ticket.dropped
        self._length = (len(chunk) - 1) * self._dt
        self._started, self._ends = begin, begin + self._length

    def _note_gap(self, stood: float) -> None:
        before, self._waiting = self._waiting, stood > self._dt
        if self._waiting:
            self._gaps, self._longest_gap = self._gaps + 1, max(self._longest_gap, stood)
        if self._waiting and not before:
            _log.warning(
                "the arm had done all actions %.2f s before the next chunk came. A chunk lasts %.2f s, and the policy "
                "took %.2f s: ask it for more actions (horizon), or sooner (overlap)",
                stood,
                self._length,
                self._durations[-1],
            )

    def _due(self) -> float:
        """When to observe next, so that the chunk in force has not ended when its successor comes [s]."""
        if self._ends is None or not self._durations:
            return 0.0
        recent = list(self._durations)[-_RECENT:]
        usual = float(np.quantile(recent, _USUAL, method="higher"))
        return self._ends - self._overlap * self._length - usual

    # For the block's task.

    def _require_task(self) -> asyncio.Task[None]:
        if self._task is None:
            raise ConfigurationError("the policy does not run yet: use `async with controller.policy(...) as run`")
        return self._task

    async def _stopped(self, stop: Stop) -> None:
        """Wait until ``stop``."""
        if isinstance(seconds := plain(stop), (int, float)):
            await asyncio.sleep(seconds)
        elif isinstance(stop, asyncio.Event):
            await stop.wait()
        elif isinstance(stop, asyncio.Future):
            await asyncio.shield(stop)  # It may have other uses, so a failure of the policy does not cancel it.
        elif inspect.isawaitable(stop):
            await stop
        elif callable(stop):
            async for state in self._controller.states():
                if stop(state):
                    return
        elif stop is None:
            await asyncio.Event().wait()
        else:
            raise ConfigurationError(f"a run cannot be stopped by {stop!r}: give seconds, an event or a function")


async def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function`` answers, which may be asynchronous; if it is not, a thread calls it."""
    asynchronous = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004 - to inspect the method
    )
    answer = function(*arguments) if asynchronous else await asyncify(function)(*arguments)
    # A lambda may only make something to await.
    return await answer if inspect.isawaitable(answer) else answer
