"""Keep blocking work off the event loop: :func:`asyncify` and :class:`CudaInferenceThread`.

An event loop that waits for a model or a camera sends its targets late. Scripts that control an arm through asyncio
hand such work to the threads of this module and await the outcome. It is imported by users' scripts, needs neither ROS
nor libfranka, and has nothing to do with the 1 kHz process. Who runs where:

- the functions run in daemon threads (:mod:`aiofranka_ros.offload.threads`): those that all asyncified callables share,
  or the one thread of a :class:`CudaInferenceThread`;
- the awaiting side runs in the caller's event loop. Several loops, in several threads, may use the same callable.

All threads share one GIL. Work that computes in Python itself, rather than in a library that releases the GIL, belongs
in another process instead (``mpify``).
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar, overload

import numpy as np

from aiofranka_ros.errors import ConfigurationError, NotStarted
from aiofranka_ros.offload.threads import Call, CallTiming, Workers

__all__ = [
    "CudaInferenceThread",
    "Offloaded",
    "TimingSummary",
    "asyncify",
    "set_asyncify_workers",
]

P = ParamSpec("P")
R = TypeVar("R")

#: Threads that all asyncified callables share, unless :func:`set_asyncify_workers` says otherwise.
ASYNCIFY_WORKERS = 8
#: A thread of :func:`asyncify` that had nothing to do for so long ends [s]; the next call starts another.
_PATIENCE = 30.0


@dataclass(frozen=True)
class TimingSummary:
    """Medians and 99th percentiles of the last calls [s]; ``nan`` without any.

    :ivar count: calls that were taken into account.
    """

    count: int
    waited_p50: float
    waited_p99: float
    ran_p50: float
    ran_p99: float


_shared = Workers("asyncify", ASYNCIFY_WORKERS, patience=_PATIENCE)


def set_asyncify_workers(count: int) -> None:
    """Change how many threads all asyncified callables share, :data:`ASYNCIFY_WORKERS` at first.

    Nothing is lost: when there are fewer, the surplus ones end after the calls that they run.

    :raises ConfigurationError: fewer than one.
    """
    _shared.resize(_checked_count(count))


def _checked_count(count: int) -> int:
    if count < 1:
        raise ConfigurationError(f"at least one thread is needed, not {count}")
    return count


def _check_function(function: Any) -> None:
    """Refuse what cannot be run in a thread.

    :raises TypeError: it is not callable, or its call only makes a coroutine, which would run in the loop after all.
    """
    if isinstance(function, staticmethod | classmethod):
        function = function.__func__
    if not callable(function):
        raise TypeError(f"{function!r} is not callable")
    for code in (function, getattr(type(function), "__call__", None)):  # noqa: B004 - the method itself is wanted
        if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
            raise TypeError(f"{function!r} is asynchronous already: await it directly")


class Offloaded(Generic[P, R]):
    """A callable that runs in a thread when it is called and awaited, as ``asyncify`` and ``wrap`` return it.

    It binds to instances and classes exactly as the original does, and so does :attr:`sync`. It has the original's
    name, documentation and signature, and passes for a coroutine function.

    :ivar sync: the original, which runs in the calling thread.
    """

    sync: Callable[P, R]

    def __init__(self, function: Callable[P, R], run: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        # The attributes of other callables (a torch module's parameters) are not metadata.
        functools.update_wrapper(self, function, updated=("__dict__",) if inspect.isfunction(function) else ())
        if not hasattr(self, "__name__"):
            self.__name__ = getattr(getattr(function, "func", None), "__name__", type(function).__name__)
        self.sync = function
        self._run = run

    async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the original in a thread; see where this was made for what is raised and what cancelling does."""
        return await self._run(self.sync, *args, **kwargs)

    # `inspect` takes objects with these attributes for functions, which is the one way for an object to pass for a
    # coroutine function in every supported Python. The signature still comes from the original.
    __code__ = __call__.__code__
    __defaults__ = None
    __kwdefaults__ = None

    def __get__(self, instance: Any, owner: type | None = None) -> Offloaded[..., R]:
        if not hasattr(type(self.sync), "__get__"):
            return self
        bound = self.sync.__get__(instance, owner)
        return self if bound is self.sync else Offloaded(bound, self._run)

    def __repr__(self) -> str:
        return f"<offloaded {self.sync!r}>"


@overload
def asyncify(fn: Callable[P, R], /) -> Offloaded[P, R]: ...


@overload
def asyncify(*, max_workers: int | None = None) -> Callable[[Callable[P, R]], Offloaded[P, R]]: ...


def asyncify(fn: Any = None, /, *, max_workers: int | None = None) -> Any:
    """Make a blocking callable awaitable: it then runs in a thread, and the event loop goes on.

    A decorator for functions and methods, and a wrapper for any callable (an object, a partial, a builtin, a torch
    module)::

        class Policy:
            @asyncify
            def get_action(self, obs): ...

        action = await policy.get_action(obs)
        action = policy.get_action.sync(obs)  # the original, in the calling thread
        image = await asyncify(cv2.imread)(path)

    All asyncified callables share :data:`ASYNCIFY_WORKERS` threads (:func:`set_asyncify_workers`); further calls wait
    for their turn, in order. ``asyncify(max_workers=1)`` is a decorator with threads of its own, for all that it
    decorates: with one, calls run one after the other, as a camera's library may need, though not always in the same
    thread (for that, use :class:`CudaInferenceThread`).

    The await returns what ``fn`` returns and raises what it raises; StopIteration becomes RuntimeError, as in every
    coroutine. Context variables are those of the awaiting task; what ``fn`` sets is seen by itself only. Awaited in
    one of the executor's own threads (by a call that runs an event loop of its own), ``fn`` runs right there.
    Cancelling the await returns at once: a call that has not begun never runs; one that has runs to its end, keeps its
    thread until then, and its outcome is dropped.

    :param max_workers: how many threads of its own the decorator gets.
    :returns: an :class:`Offloaded`; without ``fn``, a decorator that makes them.
    :raises TypeError: ``fn`` is not callable, or is asynchronous already.
    :raises ConfigurationError: fewer than one thread.
    """
    workers = _shared
    if max_workers is not None:
        workers = Workers("asyncify", _checked_count(max_workers), patience=_PATIENCE)

    async def run(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return await workers.run(Call(function, args, kwargs))

    def decorate(function: Callable[P, R]) -> Offloaded[P, R]:
        _check_function(function)
        return Offloaded(function, run)

    return decorate if fn is None else decorate(fn)


class CudaInferenceThread:
    """One thread that lives from :meth:`start` to :meth:`stop` and runs everything it is given, in order.

    A model on a GPU wants this rather than :func:`asyncify`. PyTorch keeps the current stream and device and the cuBLAS
    and cuDNN handles per thread, so a pool of threads sets them up several times, each with workspaces of its own. The
    capture of a CUDA graph belongs to the thread that began it (in the default mode, even another thread's allocation
    spoils it), and a graph must not be replayed by two threads at once, nor on another stream than its inputs were
    written on. Hence: load, warm up, capture and replay in this one thread, and leave the model alone elsewhere.
    Nothing here imports torch; it is useful for whatever is tied to a thread::

        with CudaInferenceThread() as infer:
            await infer.warm_up(policy.get_action, obs)
            action = await infer.run(policy.get_action, obs)

    Start and stop it from any thread, use it from any event loop. The thread shares the GIL with the loop: a model that
    spends its time in Python rather than in kernels belongs in a process of its own.

    :param latest_only: a call replaces an earlier one of the same function that has not begun, which then raises
        :exc:`Superseded`; a policy then always gets the newest observation and no backlog builds up. Calls of other
        functions keep their places. Methods of one object are told apart by object and name; a lambda that is made for
        each call is another function each time.
    :param history: how many calls :attr:`timings` keeps.
    """

    def __init__(self, *, latest_only: bool = False, history: int = 1000) -> None:
        self._latest_only = latest_only
        self._timings: deque[CallTiming] = deque(maxlen=history)
        self._lock = threading.Lock()
        self._workers: Workers | None = None
        self._started = False

    @property
    def running(self) -> bool:
        """Whether calls are taken."""
        workers = self._workers
        return self._started and workers is not None and workers.alive

    def start(self) -> None:
        """Start the thread; does nothing where it is running.

        :raises NotStarted: the last call of before :meth:`stop` still runs: two threads must not use one model.
        """
        with self._lock:
            if self.running:
                return
            if self._workers is not None and self._workers.alive:
                raise NotStarted("the thread cannot start again while the call that stop() left behind still runs")
            workers = Workers("cuda-inference", 1, patience=None)
            workers.add_thread()
            self._workers = workers
            self._started = True

    def stop(self, timeout: float | None = None) -> bool:
        """Fail the calls that have not begun with :exc:`NotStarted`, and wait for the one that runs. Idempotent.

        This blocks its caller while it waits. ``async with`` does not. The call that runs still gets its result to
        who awaits it.

        :param timeout: how long to wait at most [s]; ``None``: as long as it takes.
        :returns: whether the thread has ended; not so after a timeout, or called from the thread itself, which then
            ends as soon as it can.
        """
        workers = self._close()
        return workers is None or workers.join(timeout)

    def _close(self) -> Workers | None:
        with self._lock:
            self._started = False
            if self._workers is not None:
                self._workers.close("the inference thread was stopped before this call began")
            return self._workers

    def __enter__(self) -> CudaInferenceThread:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> CudaInferenceThread:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        await _shared.run(Call(self.stop, (), {}))

    async def run(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
        """Run ``fn(*args, **kwargs)`` in the thread, after what was asked for before.

        Raises what ``fn`` raises; StopIteration becomes RuntimeError. Context variables are those of the awaiting task.
        Within the thread itself (a call that runs an event loop of its own) ``fn`` runs right there. Cancelling the
        await returns at once: a call that has not begun never runs; one that has runs to its end, delays the next
        one until then, and its outcome is dropped.

        :raises NotStarted: the thread was not started or is stopped, also while the call waits.
        :raises Superseded: with ``latest_only``, a newer call of ``fn`` took this one's place.
        :raises TypeError: ``fn`` is not callable, or is asynchronous already.
        """
        return await self._run(fn, args, kwargs, self._timings.append, replaces=self._latest_only)

    async def _run(
        self,
        fn: Callable[..., R],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        record: Callable[[CallTiming], None],
        *,
        replaces: bool,
    ) -> R:
        _check_function(fn)
        workers = self._workers
        if workers is None or not self.running:
            raise NotStarted("the inference thread is not running: call start() first, or use it in a with statement")
        return await workers.run(Call(fn, args, kwargs, record), replaces=replaces)

    def wrap(self, fn: Callable[P, R]) -> Offloaded[P, R]:
        """Decorate a function or method so that awaiting it does what :meth:`run` does; ``.sync`` is the original.

        ``.sync`` runs in the calling thread, bound for methods too. Decorating is possible before :meth:`start`.

        :raises TypeError: ``fn`` is not callable, or is asynchronous already.
        """
        _check_function(fn)
        return Offloaded(fn, self.run)

    async def warm_up(self, fn: Callable[..., Any], /, *args: Any, repeat: int = 3, **kwargs: Any) -> list[float]:
        """Call ``fn(*args, **kwargs)`` in the thread before it matters, and measure it.

        First calls are slow: they compile, choose kernels, allocate and capture CUDA graphs, which has to happen in the
        very thread that replays them. These calls are not part of :attr:`timings` and are never superseded.
        Cancelling ends it after the call that runs. Raises what :meth:`run` raises, but for Superseded.

        :param repeat: how many times.
        :returns: how long each call ran [s].
        """
        timings: list[CallTiming] = []
        for _ in range(repeat):
            await self._run(fn, args, kwargs, timings.append, replaces=False)
        return [timing.ran for timing in timings]

    @property
    def timings(self) -> tuple[CallTiming, ...]:
        """The last calls, the latest one last; failed ones too, and those whose await was cancelled while they ran."""
        return tuple(self._timings)

    def summary(self) -> TimingSummary:
        """Medians and 99th percentiles of :attr:`timings`."""
        timings = self.timings
        if not timings:
            return TimingSummary(0, *[float("nan")] * 4)
        figures = np.array([(timing.waited, timing.ran) for timing in timings])
        (waited_p50, ran_p50), (waited_p99, ran_p99) = np.percentile(figures, (50, 99), axis=0).tolist()
        return TimingSummary(len(timings), waited_p50, waited_p99, ran_p50, ran_p99)
