"""Objects in a separate process, used like local ones: for models that would hold the GIL or block the event loop.

Users call :data:`mpify` in their own process and await the proxy's methods in their event loop. The object is made and
used in the main thread of a spawned child, one request after another. docs/async_mode.md has examples.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import numbers
import threading
import warnings
import weakref
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiofranka_ros.errors import ConfigurationError, NotPicklable
from aiofranka_ros.offload.mpify.arrays import THRESHOLD
from aiofranka_ros.offload.mpify.process import RemoteProcess
from aiofranka_ros.offload.mpify.protocol import Kind

#: How long the process has to end when its proxy is garbage collected without having been stopped [s].
_COLLECTED_GRACE = 0.2


class Proxy:
    """Represents an object in another process; :data:`mpify` makes it.

    Every name except :meth:`stop`, :meth:`with_timeout`, :meth:`assign` and :meth:`remote` belongs to the object,
    underscores included:

    - ``await proxy.method(argument, key=value)`` calls a method, ``await proxy(argument)`` the object itself;
    - ``await proxy.attribute`` gets an attribute;
    - dotted names work, and only the last value travels: ``await proxy.model.eval()``.

    Arguments and results are pickled. Arrays arrive as they were when the call was made, writable, and without a copy
    on arrival. Every array that you keep also keeps the other arrays of its message in memory, within the limits of
    :mod:`~aiofranka_ros.offload.mpify.arrays`; beyond them, arrays are copied. Send arrays rather than tensors: a
    framework pickles its tensors in its own, slower way.

    A call is sent when it is awaited. Concurrent calls wait for their turn, in order, and each gets its own answer. A
    call that is cancelled or times out before its turn is never executed. One that is already running runs to its end,
    its answer is dropped, and the next call waits for it.

    Each call raises:

    - whatever the object raised, with the same type, and with the remote traceback as its ``__cause__``;
      :class:`~aiofranka_ros.errors.RemoteError` if that exception cannot travel;
    - :class:`~aiofranka_ros.errors.NotPicklable` if an argument or the result cannot be pickled;
    - :class:`TimeoutError` if there was no answer in time, see :meth:`with_timeout`;
    - :class:`~aiofranka_ros.errors.RemoteDied` as soon as the process has ended;
      :class:`~aiofranka_ros.errors.RemoteStopped` if :meth:`stop` ended it;
    - :class:`RuntimeError` outside of an asyncio event loop, or while another one uses the proxy. One event loop after
      another is fine.

    A proxy that is garbage collected without having been stopped ends its process with a :class:`ResourceWarning`. All
    remaining processes end when the interpreter exits; if this process is killed, they end themselves.
    """

    __slots__ = ("__process", "__timeout", "__original", "__weakref__")
    __process: RemoteProcess
    __timeout: float | None
    __original: Proxy | None

    def __init__(self, process: RemoteProcess, timeout: float | None, original: Proxy | None = None) -> None:
        # Assignment itself is refused, see __setattr__.
        object.__setattr__(self, "_Proxy__process", process)
        object.__setattr__(self, "_Proxy__timeout", timeout)
        object.__setattr__(self, "_Proxy__original", original)
        if original is None:
            weakref.finalize(self, _collected, process).atexit = False

    def with_timeout(self, timeout: float | None) -> Proxy:
        """The same object with another time limit: ``await policy.with_timeout(0.1).get_action(observation)``.

        :param timeout: how long each call may take [s], including the wait for its turn; ``None``: without limit.
        :raises ConfigurationError: it is not a positive number.
        """
        return Proxy(self.__process, _positive("timeout", timeout), self.__original or self)

    def remote(self, name: str) -> Any:
        """The object's attribute ``name``, even if the proxy has that name too: ``await policy.remote("stop")()``.

        :param name: may be dotted.
        :returns: something to await or call, like ``proxy.name``.
        """
        return _Remote(self, name)

    def assign(self, name: str, value: object) -> Coroutine[Any, Any, None]:
        """Set an attribute of the object: ``await policy.assign("temperature", 0.5)``.

        :param name: may be dotted.
        :raises Exception: as for every call, see :class:`Proxy`; the same holds for cancellation.
        """
        return self.__request(Kind.ASSIGN, (name, value), f"assigning {name}")

    def stop(self) -> None:
        """End the process and reap it: ask it to end, then send SIGTERM, then SIGKILL, ``grace`` apart.

        Blocks until the process has ended; ``async with`` does not block the event loop. Idempotent; from any thread.
        """
        self.__process.stop()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Proxy:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.__process.stop_in_thread()

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the object itself."""
        return await self.__request(Kind.CALL, ("", args, kwargs), self.__process.name)

    async def __request(self, kind: Kind, request: Any, what: str) -> Any:
        # Waiting here keeps the proxy, and with it the process.
        return await self.__process.call(kind, request, what, self.__timeout)

    def __getattr__(self, name: str) -> Any:
        _refuse_special(name)
        return _Remote(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"the object is in another process: await proxy.assign({name!r}, value)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("the object is in another process: its attributes cannot be deleted from here")

    def __reduce__(self) -> Any:
        raise NotPicklable("a proxy belongs to the process that made it")

    def __repr__(self) -> str:
        return f"<proxy of {self.__process}>"


class _Remote:
    """An attribute of an isolated object: await it to get its value, or call it."""

    __slots__ = ("__proxy", "__name")

    def __init__(self, proxy: Proxy, name: str) -> None:
        self.__proxy, self.__name = proxy, name  # The proxy, so that it is not collected before this is used.

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return await self.__proxy._Proxy__request(Kind.CALL, (self.__name, args, kwargs), self.__name)

    def __await__(self) -> Generator[Any, None, Any]:
        return self.__proxy._Proxy__request(Kind.GET, self.__name, self.__name).__await__()

    def __getattr__(self, name: str) -> _Remote:
        _refuse_special(name)
        return _Remote(self.__proxy, f"{self.__name}.{name}")

    def __reduce__(self) -> Any:
        raise NotPicklable(f"{self.__name} belongs to an isolated object: await it")

    def __repr__(self) -> str:
        return f"<{self.__name} of {self.__proxy!r}>"


@dataclasses.dataclass(frozen=True)
class Mpify:
    """Makes objects in separate processes; :data:`mpify` has the defaults, :meth:`options` changes them.

    :param timeout: how long each call may take [s], including the wait for its turn; ``None``: without limit.
    :param start_timeout: how long making the object may take [s]; ``None``: without limit.
    :param threshold: arrays of at least this size travel through shared memory [bytes].
    :param grace: how long the process may take to end by itself, and again after SIGTERM, before it is killed [s].
    :raises ConfigurationError: a value is not a positive number.
    """

    timeout: float | None = None
    start_timeout: float | None = None
    threshold: int = THRESHOLD
    grace: float = 1.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _positive(field.name, getattr(self, field.name))

    def options(self, **options: Any) -> Mpify:
        """The same with other options: ``mpify.options(timeout=0.5)(make_policy, "checkpoint.pt")``.

        :param options: ``timeout``, ``start_timeout``, ``threshold`` and ``grace``, as for :class:`Mpify`.
        :raises ConfigurationError: a value is not a positive number.
        :raises TypeError: there is no such option.
        """
        return dataclasses.replace(self, **options)

    def __call__(self, factory: Callable[..., Any], *args: Any, **kwargs: Any) -> Proxy:
        """Start a process, make an object there with ``factory(*args, **kwargs)``, and wait until it is ready.

        Blocks: use it before the event loop has work to do, or use :meth:`create`.

        :param factory: a class, or a function of a module or of the script; it is called in the child.
        :raises NotPicklable: the factory or one of its arguments cannot be pickled; nothing was started.
        :raises RemoteDied: the process ended before the object was ready.
        :raises TimeoutError: the object was not ready within ``start_timeout``.
        :raises RuntimeError: a child that imports the user's script called this: the script has no
            ``if __name__ == "__main__":``.
        :raises Exception: whatever the factory raised, with the remote traceback as its ``__cause__``.
        """
        started: list[RemoteProcess] = []
        given_up = threading.Event()

        def start() -> None:
            started.append(self._start(factory, args, kwargs))
            if given_up.is_set():  # Before there was a process to stop.
                started[0].stop()
            else:
                asyncio.run(started[0].made(self.start_timeout))

        # In a thread, because an event loop may run in this one, and because a signal interrupts only main threads.
        with ThreadPoolExecutor(1) as thread:
            try:
                thread.submit(start).result()
                return Proxy(started[0], self.timeout)
            except BaseException:
                given_up.set()
                for process in started:
                    process.stop()
                raise

    async def create(self, factory: Callable[..., Any], *args: Any, **kwargs: Any) -> Proxy:
        """The same without blocking the event loop: ``policy = await mpify.create(make_policy, "checkpoint.pt")``.

        Only starting the process blocks, for a few milliseconds. Cancellation ends the process.

        :raises Exception: as when called.
        """
        process = self._start(factory, args, kwargs)
        try:
            await process.made(self.start_timeout)
        except BaseException:
            await process.stop_in_thread()
            raise
        return Proxy(process, self.timeout)

    def _start(self, factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> RemoteProcess:
        name = getattr(factory, "__qualname__", None) or type(factory).__qualname__
        return RemoteProcess(name, (factory, args, kwargs), threshold=self.threshold, grace=self.grace)


def _collected(process: RemoteProcess) -> None:
    if process.to_be_stopped:
        warnings.warn(f"{process} was never stopped", ResourceWarning, stacklevel=2)
        process.stop(_COLLECTED_GRACE)


def _refuse_special(name: str) -> None:
    # Python and its libraries look for these to find out what an object is, and do not await the answer.
    if name[:2] == "__" == name[-2:]:
        raise AttributeError(name)


def _positive(name: str, value: float | None) -> float | None:
    if value is not None and not (isinstance(value, numbers.Real) and 0 < value < math.inf):
        raise ConfigurationError(f"{name} must be a positive number, not {value!r}")
    return value


#: ``mpify(factory, *args, **kwargs)``: the object that the factory makes, in a separate process; see :class:`Mpify`.
mpify = Mpify()
