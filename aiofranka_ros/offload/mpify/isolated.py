"""An object in a process of its own, used as if it were here: for models that would hold the GIL or block the loop.

Users call :data:`mpify` in their own process and await what the proxy offers in their event loop. The object is made
and used in the main thread of a spawned child, one request after another::

    def make_policy(checkpoint, device):
        return Policy(load_model(checkpoint, device))

    if __name__ == "__main__":  # The child imports this script.
        policy = mpify(make_policy, "checkpoint.pt", "cuda:0")  # Blocks until the model is loaded.
        asyncio.run(main(policy))

    async def main(policy):
        async with policy:  # Ends the process at last.
            await policy.reset(initial_ee)
            action = await policy.get_action(observation)
            timing = await policy._last_timing

How arrays travel is in ``array_transport``, the process in ``remote_process``.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import warnings
import weakref
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any

from aiofranka_ros.errors import ConfigurationError, NotPicklable
from aiofranka_ros.offload.mpify.arrays import THRESHOLD
from aiofranka_ros.offload.mpify.process import RemoteProcess
from aiofranka_ros.offload.mpify.protocol import Kind

#: How long the process of a proxy that was never stopped has to end when the proxy is garbage collected [s].
_COLLECTED_GRACE = 0.2


class Proxy:
    """Stands for an object in another process; :data:`mpify` makes it.

    Everything but :meth:`stop`, :meth:`with_timeout`, :meth:`assign`, :meth:`remote`, ``with`` and ``async with`` is
    the object's own, underscores included:

    - ``await proxy.method(argument, key=value)`` calls a method, ``await proxy(argument)`` the object itself;
    - ``await proxy.attribute`` gets an attribute;
    - dotted names work without sending what is in between: ``await proxy.model.eval()``.

    Arguments and results are pickled. Arrays arrive as they were when the call was made, writable, in memory of
    their own. They need no copy on arrival; each message of which you keep an array keeps its memory, up to the limits
    in :mod:`~aiofranka_ros.offload.mpify.arrays`, and arrays beyond those are copied.
    Tensors of a framework are pickled in its own, slower way: send arrays.

    A call is sent when it is awaited. Concurrent calls wait here for their turn, in order, and each gets its own
    answer. Cancelling a call that waits for its turn means that it is never executed; one that is being executed goes
    on to its end, its answer is dropped, and the next call waits for that. The same holds where the time is over.

    Each call raises:

    - whatever the object raised, of the same type, with the remote traceback as its ``__cause__``;
      :class:`~aiofranka_ros.errors.RemoteError` instead where that exception cannot travel;
    - :class:`~aiofranka_ros.errors.NotPicklable` where an argument or the result cannot be pickled;
    - :class:`TimeoutError` where there was no answer in time, see :meth:`with_timeout`;
    - :class:`~aiofranka_ros.errors.RemoteDied` at once when the process ends, and ever after;
      :class:`~aiofranka_ros.errors.RemoteStopped` where that was by :meth:`stop`;
    - :class:`RuntimeError` outside of an asyncio event loop, or while another one uses the proxy. Event loops one after
      another are fine.

    A proxy that is garbage collected without having been stopped ends its process with a :class:`ResourceWarning`;
    whatever is left is ended when the interpreter exits, and by the child itself when this process is killed.
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

    # --- The proxy's own names

    def with_timeout(self, timeout: float | None) -> Proxy:
        """The same object, with another time limit: ``await policy.with_timeout(0.1).get_action(observation)``.

        :param timeout: how long each call may take [s], waiting for its turn included; ``None``: as long as it takes.
        :raises ConfigurationError: it is no positive number.
        """
        return Proxy(self.__process, _positive("timeout", timeout), self.__original or self)

    def remote(self, name: str) -> Any:
        """What the object has under ``name``, even if the proxy has that name too: ``await policy.remote("stop")()``.

        :param name: may be dotted.
        :returns: to be awaited or called, like ``proxy.name``.
        """
        return _Remote(self, name, self.__process, self.__timeout)

    def assign(self, name: str, value: object) -> Coroutine[Any, Any, None]:
        """Set an attribute of the object: ``await policy.assign("temperature", 0.5)``.

        :param name: may be dotted.
        :raises Exception: see above; cancellation as for every call.
        """
        return self.__process.call(Kind.ASSIGN, (name, value), f"assigning {name}", self.__timeout, self)

    def stop(self) -> None:
        """End the process: ask it, after a while terminate it, at last kill it; it is reaped when this returns.

        Blocks for as long as that takes; ``async with`` does not block the event loop. Idempotent, from any thread.
        """
        self.__process.stop()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Proxy:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.__process.stop_in_thread()

    # --- The object's

    def __call__(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Call the object itself."""
        process = self.__process
        return process.call(Kind.CALL, ("", args, kwargs), process.name, self.__timeout, self)

    def __getattr__(self, name: str) -> Any:
        _refuse_special(name)
        return _Remote(self, name, self.__process, self.__timeout)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"the object is in another process: await proxy.assign({name!r}, value)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("the object is in another process: its attributes cannot be deleted from here")

    def __reduce__(self) -> Any:
        raise NotPicklable("a proxy belongs to the process that made it")

    def __repr__(self) -> str:
        return f"<proxy of {self.__process}>"


class _Remote:
    """An attribute of an isolated object: awaited, its value; called, a call of it."""

    __slots__ = ("__proxy", "__name", "__process", "__timeout")

    def __init__(self, proxy: Proxy, name: str, process: RemoteProcess, timeout: float | None) -> None:
        self.__proxy, self.__name = proxy, name  # The proxy, so that it is not collected before it is used.
        self.__process, self.__timeout = process, timeout

    def __call__(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        name = self.__name
        return self.__process.call(Kind.CALL, (name, args, kwargs), name, self.__timeout, self.__proxy)

    def __await__(self) -> Generator[Any, None, Any]:
        name = self.__name
        return self.__process.call(Kind.GET, name, name, self.__timeout, self.__proxy).__await__()

    def __getattr__(self, name: str) -> _Remote:
        _refuse_special(name)
        return _Remote(self.__proxy, f"{self.__name}.{name}", self.__process, self.__timeout)

    def __reduce__(self) -> Any:
        raise NotPicklable(f"{self.__name} belongs to an isolated object: await it")

    def __repr__(self) -> str:
        return f"<{self.__name} of {self.__process}>"


@dataclasses.dataclass(frozen=True)
class Mpify:
    """Makes objects in processes of their own; :data:`mpify` is one, :meth:`options` gives others.

    :param timeout: how long each call may take [s], waiting for its turn included; ``None``: as long as it takes.
    :param start_timeout: how long the object may take to be made [s]; ``None``: as long as it takes.
    :param threshold: arrays of at least so many bytes travel through shared memory.
    :param grace: how long the process may take to end by itself, and again after SIGTERM, before it is killed [s].
    :raises ConfigurationError: one of them is no positive number.
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
        :raises ConfigurationError: a value is no positive number.
        :raises TypeError: there is no such option.
        """
        return dataclasses.replace(self, **options)

    def __call__(self, factory: Callable[..., Any], *args: Any, **kwargs: Any) -> Proxy:
        """Start a process, make an object there with ``factory(*args, **kwargs)``, and wait until it is ready.

        Blocks: use it before the event loop has anything to do, or :meth:`create`.

        :param factory: a class, or a function of a module or of the script; it is called in the child.
        :raises NotPicklable: the factory or one of its arguments cannot be pickled; nothing was started.
        :raises RemoteDied: the process ended meanwhile.
        :raises TimeoutError: the object was not ready within ``start_timeout``.
        :raises RuntimeError: a process that imports the user's script came here: the script lacks its
            ``if __name__ == "__main__":``.
        :raises Exception: whatever the factory raised, with the remote traceback as its ``__cause__``.
        """
        process = self._start(factory, args, kwargs)
        try:
            process.wait_made(self.start_timeout)
        except BaseException:
            process.stop()
            raise
        return Proxy(process, self.timeout)

    async def create(self, factory: Callable[..., Any], *args: Any, **kwargs: Any) -> Proxy:
        """The same without blocking the event loop: ``policy = await mpify.create(make_policy, "checkpoint.pt")``.

        Only starting the process blocks, for a few milliseconds. Cancelled, it ends the process.

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
    # Python and its libraries look for these to learn what an object is; no answer could be awaited there.
    if name[:2] == "__" == name[-2:]:
        raise AttributeError(name)


def _positive(name: str, value: float | None) -> float | None:
    if value is not None and not (isinstance(value, numbers.Real) and 0 < value < math.inf):
        raise ConfigurationError(f"{name} has to be a positive number, not {value!r}")
    return value


#: ``mpify(factory, *args, **kwargs)``: the object that the factory makes, in a process of its own; see :class:`Mpify`.
mpify = Mpify()
