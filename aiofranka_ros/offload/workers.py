"""Keep blocking work off the event loop: :func:`asyncify`.

An event loop that waits for a model or a camera sends its targets late, so scripts hand such work to a thread and await
the outcome. The functions run in daemon threads (:mod:`aiofranka_ros.offload.threads`) that all asyncified callables
share. Several event loops, in several threads, may use the same callable.

All threads share one GIL. Work that computes in Python, rather than in a library that releases the GIL, belongs in a
separate process (``mpify``).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar, overload

from aiofranka_ros.offload.threads import Call, Workers

__all__ = ["Offloaded", "asyncify", "set_asyncify_workers"]

P = ParamSpec("P")
R = TypeVar("R")

#: Number of threads that all asyncified callables share, unless :func:`set_asyncify_workers` changes it.
ASYNCIFY_WORKERS = 8
#: A thread of :func:`asyncify` that was idle for this time ends [s]; the next call starts another.
_PATIENCE = 30.0

_shared = Workers("asyncify", ASYNCIFY_WORKERS, patience=_PATIENCE)


def set_asyncify_workers(count: int) -> None:
    """Change how many threads all asyncified callables share, initially :data:`ASYNCIFY_WORKERS`.

    No call is lost: surplus threads end after their current call.

    :raises ConfigurationError: less than one thread.
    """
    _shared.resize(count)


def check_function(function: Any) -> None:
    """Refuse a function that cannot run in a thread.

    :raises TypeError: it is not callable, or calling it only makes a coroutine, which would run in the loop after all.
    """
    if isinstance(function, staticmethod | classmethod):
        function = function.__func__
    if not callable(function):
        raise TypeError(f"{function!r} is not callable")
    for code in (function, getattr(type(function), "__call__", None)):  # noqa: B004 - to inspect the method
        if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
            raise TypeError(f"{function!r} is already asynchronous: await it directly")


class Offloaded(Generic[P, R]):
    """A callable that runs in a thread when it is called and awaited; ``asyncify`` and ``wrap`` return it.

    It binds to instances and classes exactly like the original, and so does :attr:`sync`. It has the original's name,
    documentation and signature, and counts as a coroutine function.

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
        """Run the original in a thread; for errors and cancellation see ``asyncify`` or ``wrap``."""
        return await self._run(self.sync, *args, **kwargs)

    # `inspect` treats objects with these attributes as functions, which is the only way for an object to count as a
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
    """Make a blocking callable awaitable: it then runs in a thread, and the event loop continues.

    A decorator for functions and methods, and a wrapper for any callable (an object, a partial, a builtin, a torch
    module)::

        class Policy:
            @asyncify
            def get_action(self, obs): ...

        action = await policy.get_action(obs)
        action = policy.get_action.sync(obs)  # the original, in the calling thread
        image = await asyncify(cv2.imread)(path)

    All asyncified callables share :data:`ASYNCIFY_WORKERS` threads (:func:`set_asyncify_workers`); further calls wait
    for their turn, in order. ``asyncify(max_workers=1)`` makes a decorator with its own threads, which everything it
    decorates shares. With one thread, calls run one after another, as a camera's library may need, but not always in
    the same thread (for that, use ``CudaInferenceThread``).

    The await returns what ``fn`` returns and raises what it raises; StopIteration becomes RuntimeError, as in every
    coroutine. ``fn`` sees the context variables of the awaiting task; only ``fn`` sees its changes to them. Awaited in
    one of these threads (by a call that runs its own event loop), ``fn`` runs right there. Cancelling the await returns
    at once: a call that has not begun never runs; one that has begun runs to its end, keeps its thread until then, and
    its outcome is dropped.

    :param max_workers: the number of the decorator's own threads.
    :returns: an :class:`Offloaded`; without ``fn``, a decorator that makes them.
    :raises TypeError: ``fn`` is not callable, or is already asynchronous.
    :raises ConfigurationError: less than one thread.
    """
    workers = _shared
    if max_workers is not None:
        workers = Workers("asyncify", max_workers, patience=_PATIENCE)

    async def run(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return await workers.run(Call(function, args, kwargs))

    def decorate(function: Callable[P, R]) -> Offloaded[P, R]:
        check_function(function)
        return Offloaded(function, run)

    return decorate if fn is None else decorate(fn)
