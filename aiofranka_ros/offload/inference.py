"""A model's own thread: :class:`CudaInferenceThread`, and how long its calls take.

Calls run in the one thread and are awaited in the caller's event loop. It does not need torch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np

from aiofranka_ros.errors import NotStarted
from aiofranka_ros.offload.threads import Call, CallTiming, Workers
from aiofranka_ros.offload.workers import Offloaded, asyncify, check_function

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class TimingSummary:
    """The number of the last calls, and their medians and 99th percentiles [s]; ``nan`` if there were none."""

    count: int
    waited_p50: float
    waited_p99: float
    ran_p50: float
    ran_p99: float


class CudaInferenceThread:
    """One thread that lives from :meth:`start` to :meth:`stop` and runs all calls in order.

    A model on a GPU needs this rather than ``asyncify``. PyTorch keeps the current stream and device and the cuBLAS and
    cuDNN handles per thread, so a pool of threads sets them up several times, with separate workspaces. The capture of
    a CUDA graph belongs to the thread that began it (in the default mode, even another thread's allocation spoils it).
    A graph must not be replayed by two threads at once, nor on a different stream than the one its inputs were written
    on. So load, warm up, capture and replay in this one thread, and do not touch the model elsewhere. It suits anything
    else that is tied to a thread, too::

        with CudaInferenceThread() as infer:
            await infer.warm_up(policy.get_action, obs)
            action = await infer.run(policy.get_action, obs)

    Start and stop it from any thread, use it from any event loop. The thread shares the GIL with the loop: a model that
    spends its time in Python rather than in kernels belongs in a separate process (``mpify``).

    :param latest_only: a call replaces an earlier one of the same function that has not begun, which then raises
        :exc:`Superseded`: a policy always gets the newest observation, and no backlog builds up. Calls of other
        functions keep their places. Methods are the same function if object and name are the same; a lambda that is
        made for each call is a new function each time.
    :param history: how many calls :attr:`timings` keeps.
    """

    def __init__(self, *, latest_only: bool = False, history: int = 1000) -> None:
        self._latest_only = latest_only
        self._timings: deque[CallTiming] = deque(maxlen=history)
        self._lock = threading.Lock()
        self._workers: Workers | None = None

    @property
    def running(self) -> bool:
        """Whether it accepts calls."""
        return self._workers is not None and self._workers.running

    def start(self) -> None:
        """Start the thread; does nothing if it is running.

        :raises NotStarted: a call from before :meth:`stop` still runs: two threads must not use one model.
        """
        with self._lock:
            if self.running:
                return
            if self._workers is not None and self._workers.alive:
                raise NotStarted("the thread cannot start again while a call from before stop() still runs")
            self._workers = workers = Workers("cuda-inference", 1, patience=None)
            try:
                workers.add_thread()
            except BaseException:
                workers.close("the inference thread could not start")
                raise

    def stop(self, timeout: float | None = None) -> bool:
        """Fail the calls that have not begun with :exc:`NotStarted`, and wait for the running one. Idempotent.

        Blocks while it waits; ``async with`` does not. The running call still delivers its result.

        :param timeout: how long to wait at most [s]; ``None``: without limit.
        :returns: whether the thread has ended. It has not after a timeout, or if the thread itself calls this; it then
            ends after its current call.
        """
        with self._lock:
            workers = self._workers
            if workers is not None:
                workers.close("the inference thread was stopped before this call began")
        return workers is None or workers.join(timeout)

    def __enter__(self) -> CudaInferenceThread:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> CudaInferenceThread:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop(0.0)  # fails the waiting calls at once, even if this is cancelled
        await asyncify(self.stop)()

    async def run(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
        """Run ``fn(*args, **kwargs)`` in the thread, after all earlier calls.

        Raises what ``fn`` raises; StopIteration becomes RuntimeError. ``fn`` sees the context variables of the awaiting
        task. Awaited in the thread itself (by a call that runs its own event loop), ``fn`` runs right there. Cancelling
        the await returns at once: a call that has not begun never runs; one that has begun runs to its end, delays the
        next one until then, and its outcome is dropped.

        :raises NotStarted: the thread was not started, or was stopped before the call began.
        :raises Superseded: with ``latest_only``, a newer call of ``fn`` took this one's place.
        :raises TypeError: ``fn`` is not callable, or is already asynchronous.
        """
        return await self._run(Call(fn, args, kwargs, self._timings.append), replaces=self._latest_only)

    async def _run(self, call: Call, *, replaces: bool) -> Any:
        check_function(call.function)
        workers = self._workers
        if workers is None or not workers.running:
            raise NotStarted("the inference thread is not running: call start() first, or use it in a with statement")
        return await workers.run(call, replaces=replaces)

    def wrap(self, fn: Callable[P, R]) -> Offloaded[P, R]:
        """Decorate a function or method: awaiting it then does the same as :meth:`run`.

        Its ``sync`` is the original (bound, for methods) and runs in the calling thread. Decorating is possible before
        :meth:`start`.

        :raises TypeError: ``fn`` is not callable, or is already asynchronous.
        """
        check_function(fn)
        return Offloaded(fn, self.run)

    async def warm_up(self, fn: Callable[..., Any], /, *args: Any, repeat: int = 3, **kwargs: Any) -> list[float]:
        """Call ``fn(*args, **kwargs)`` a few times in the thread before its duration matters, and measure it.

        First calls are slow: they compile, choose kernels, allocate and capture CUDA graphs, which must happen in the
        thread that replays them. These calls do not appear in :attr:`timings` and are never superseded. Cancellation
        ends it after the current call. Raises what :meth:`run` raises, except Superseded.

        :param repeat: number of calls.
        :returns: how long each call ran [s].
        """
        timings: list[CallTiming] = []
        for _ in range(repeat):
            await self._run(Call(fn, args, kwargs, timings.append), replaces=False)
        return [timing.ran for timing in timings]

    @property
    def timings(self) -> tuple[CallTiming, ...]:
        """The last calls, newest last, including failed ones and those that were cancelled while they ran."""
        return tuple(self._timings)

    def summary(self) -> TimingSummary:
        """Medians and 99th percentiles of :attr:`timings`."""
        timings = self.timings
        if not timings:
            return TimingSummary(0, *[float("nan")] * 4)
        (waited_p50, ran_p50), (waited_p99, ran_p99) = np.percentile(timings, (50, 99), axis=0).tolist()
        return TimingSummary(len(timings), waited_p50, waited_p99, ran_p50, ran_p99)
