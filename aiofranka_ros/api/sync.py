"""The synchronous API: the calls of the asyncio API without ``await``, for scripts, IPython and notebooks.

::

    from aiofranka_ros import sync

    with sync.FrankaController(sync.RobotInterface("172.16.0.2")) as controller:
        controller.move()
        controller.set_freq(50)
        target = controller.initial_ee.copy()
        for step in range(100):
            target[2, 3] += 1e-5 * min(step, 100 - step)
            controller.set("ee_desired", target)

Used in the process of a script, in any of its threads. There is one implementation: a class here passes each call on
to the asyncio class of the same name, whose event loop runs in a separate thread
(:class:`~aiofranka_ros.offload.loop_thread.LoopThread`), and waits. So it also works where another event loop runs, as
in Jupyter, and neither a prompt that waits nor a cell that computes delays that loop.
"""

from __future__ import annotations

import contextvars
import functools
import logging
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

from aiofranka_ros.api import chunk_ticket, controller, gripper, policy
from aiofranka_ros.api.attributes import StateLock
from aiofranka_ros.api.competition import SENDER
from aiofranka_ros.api.link import Link
from aiofranka_ros.api.policy import PolicyReport
from aiofranka_ros.api.robot_interface import RobotInterface
from aiofranka_ros.arm.chunks import Outcome
from aiofranka_ros.errors import WouldDeadlock
from aiofranka_ros.kernels import Array
from aiofranka_ros.offload.loop_thread import LoopThread

if TYPE_CHECKING:
    from aiofranka_ros.api.ros_interface import RosInterface

__all__ = ["ChunkTicket", "FrankaController", "Gripper", "PolicyRun", "RobotInterface", "RosInterface"]

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S")
_F = TypeVar("_F", bound=Callable[..., Any])
_Asynchronous = controller.FrankaController

#: How long a start waits for the arms of controllers that were lost without a stop [s].
_LOST_TIMEOUT = 15.0
#: The threads of controllers that were lost without a stop.
_lost: weakref.WeakSet[LoopThread] = weakref.WeakSet()


def __getattr__(name: str) -> Any:
    if name != "RosInterface":  # The only one that needs ROS.
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from aiofranka_ros.api.ros_interface import RosInterface

    return RosInterface


class _Attribute(Generic[_R]):
    """An attribute of the asyncio object inside; in any thread.

    :param source: the same attribute of its class, for the documentation.
    """

    def __init__(self, source: Any = None) -> None:
        self.__doc__ = getattr(source, "__doc__", None)

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> _R:
        if instance is None:
            return self  # type: ignore[return-value]
        return getattr(instance._inner, self._name)

    def __set__(self, instance: Any, value: Any) -> None:
        _as_sender().run(setattr, instance._inner, self._name, value)


def _as_sender() -> contextvars.Context:
    """A context in which the calling thread is the one that sets targets, whichever event loops run."""
    context = contextvars.copy_context()
    context.run(SENDER.set, threading.current_thread())
    return context


def _passed_on(method: Callable[Concatenate[Any, _P], _R]) -> Callable[Concatenate[Any, _P], _R]:
    """A method that is called in the caller's thread."""

    @functools.wraps(method)
    def call(self: Any, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return method(self._inner, *args, **kwargs)

    return call


def _in_loop(method: Callable[Concatenate[Any, _P], _R]) -> Callable[Concatenate[Any, _P], _R]:
    """A method that is called in the loop's thread, because it must not run at the same time as coroutines."""

    @functools.wraps(method)
    def call(self: Any, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        async def called() -> _R:
            return method(self._inner, *args, **kwargs)

        result: _R = self._wait(called())
        return result

    return call


def _awaited(
    method: Callable[Concatenate[Any, _P], Coroutine[Any, Any, _R]],
) -> Callable[Concatenate[Any, _P], _R]:
    """A method that waits for a coroutine."""

    @functools.wraps(method)
    def call(self: Any, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        result: _R = self._wait(method(self._inner, *args, **kwargs))
        return result

    return call


def _returning(
    part: Callable[[FrankaController, _R], _S], call: Callable[Concatenate[Any, _P], _R]
) -> Callable[Concatenate[Any, _P], _S]:
    """``call``, whose result is a part of the controller that has coroutines, too."""

    @functools.wraps(call)
    def converted(self: FrankaController, /, *args: _P.args, **kwargs: _P.kwargs) -> _S:
        return part(self, call(self, *args, **kwargs))

    return converted


def _documented_by(method: Any) -> Callable[[_F], _F]:
    """Give a method the docstring of ``method``."""

    def document(function: _F) -> _F:
        function.__doc__ = method.__doc__
        return function

    return document


class _Part(Generic[_R]):
    """A part of a controller.

    :param owner: the controller.
    :param inner: the part of the asyncio controller.
    """

    def __init__(self, owner: FrankaController, inner: _R) -> None:
        self._inner = inner
        self._wait = owner._wait

    def __repr__(self) -> str:
        return repr(self._inner)


class ChunkTicket(_Part[chunk_ticket.ChunkTicket]):
    """A chunk that was accepted; its attributes are kept up to date."""

    accepted = _Attribute[bool](chunk_ticket.ChunkTicket.accepted)
    number = _Attribute[int](chunk_ticket.ChunkTicket.number)
    dropped = _Attribute[int](chunk_ticket.ChunkTicket.dropped)
    clipped = _Attribute[int](chunk_ticket.ChunkTicket.clipped)
    seam = _Attribute[tuple[float, float]](chunk_ticket.ChunkTicket.seam)
    starts_at = _Attribute[float](chunk_ticket.ChunkTicket.starts_at)
    latency = _Attribute["float | None"](chunk_ticket.ChunkTicket.latency)
    outcome = _Attribute[Outcome](chunk_ticket.ChunkTicket.outcome)
    reason = _Attribute[str](chunk_ticket.ChunkTicket.reason)

    @property
    def done(self) -> bool:
        """Whether it has ended; :meth:`wait` waits for that."""
        return bool(self._inner.reason)

    def wait(self) -> Outcome:
        """Wait for the end, however it comes: it raises nothing. After Ctrl-C, the chunk continues."""

        async def ended() -> Outcome:
            return await self._inner.done

        return self._wait(ended())


class PolicyRun(_Part[policy.PolicyRun]):
    """A policy that plans in chunks drives the arm while a ``with`` block runs.

    ::

        with controller.policy(policy.get_chunk, dt=1 / 30, horizon=50) as run:
            run.until(60.0)
        print(run.report())

    See :class:`.policy.PolicyRun`, also for the arguments. Asynchronous functions run in the controller's event loop.
    """

    def __enter__(self) -> PolicyRun:
        self._wait(self._inner.__aenter__(), sends=False)  # Its chunks are not the caller's.
        return self

    def __exit__(self, *error: Any) -> None:
        self._wait(self._inner.__aexit__(*error))

    def until(self, stop: policy.Stop | threading.Event = None) -> None:
        """Wait until ``stop``; the arm then still follows the policy, until the block is left.

        After Ctrl-C, nothing else happens. May be called again.

        :param stop: how long [s]; a :class:`threading.Event`; a function that gets each new
            :attr:`~.FrankaController.state` and returns whether to stop; ``None``: for ever.
        :raises PolicyFailed, FrankaError: as :meth:`.policy.PolicyRun.until`.
        """
        if isinstance(event := stop, threading.Event):
            self._wait(self._inner.until(lambda state: event.is_set()))
        else:
            self._wait(self._inner.until(stop))  # type: ignore[arg-type]

    def report(self) -> PolicyReport:
        """How the policy has done so far, and how it did after the end."""
        return self._inner.report()


class Gripper(_Part[gripper.Gripper]):
    """The gripper of the arm; see :class:`.gripper.Gripper`."""

    state = _Attribute[dict[str, Any]](gripper.Gripper.state)
    width = _Attribute[Any](gripper.Gripper.width)
    max_width = _Attribute[float](gripper.Gripper.max_width)
    is_grasped = _Attribute[bool](gripper.Gripper.is_grasped)
    next_state = _awaited(gripper.Gripper.next_state)
    homing = _awaited(gripper.Gripper.homing)
    move = _awaited(gripper.Gripper.move)
    grasp = _awaited(gripper.Gripper.grasp)
    stop = _awaited(gripper.Gripper.stop)


class FrankaController:
    """Drives a Franka arm; :class:`.controller.FrankaController` without ``await``.

    Every call and attribute has the same name, arguments and errors there and here; what is described as a coroutine
    returns when it is done. ``with`` starts and stops the controller.

    Ctrl-C cancels the call that waits, as described there: a move slows down and holds. Then ``KeyboardInterrupt`` is
    raised, and the controller may be used again; a second Ctrl-C does not wait for the first one. Calls may come from
    several threads. They raise :class:`.WouldDeadlock` inside ``with controller.state_lock:`` if they wait, and in
    callbacks, which run in the controller's own thread.

    When the main thread ends, or the controller is garbage-collected, the arm is stopped and released. In a fork,
    :meth:`stop` does nothing, and calls that wait raise :class:`.NotStarted`.

    ``guard`` is ``None`` at first: no code of the caller runs in the event loop, except for callbacks.

    :param robot: the way to the arm: :class:`~aiofranka_ros.api.robot_interface.RobotInterface` or
        :class:`~aiofranka_ros.api.ros_interface.RosInterface`.
    """

    def __init__(self, robot: Link) -> None:
        self._inner = inner = _Asynchronous(robot)
        inner.guard = None
        self._loop = loop = LoopThread("aiofranka_ros-sync", inner.stop)
        weakref.finalize(self, _on_lost, inner, loop).atexit = False  # Then, the thread itself ends in order.

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") or hasattr(type(self), name):
            super().__setattr__(name, value)
        elif type(self) is FrankaController or hasattr(self._inner, name):
            setattr(self._inner, name, value)  # Raises if it was mistyped.
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        """What only this controller has, not its class."""
        if name.startswith("_") or hasattr(_Asynchronous, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._inner, name)

    def __repr__(self) -> str:
        return repr(self._inner)

    def __enter__(self) -> FrankaController:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @_documented_by(_Asynchronous.start)
    def start(self) -> None:
        """As the asyncio controller's."""
        for loop in tuple(_lost):  # One of them may still drive the same arm.
            loop.join(_LOST_TIMEOUT)
        self._wait(self._inner.start())

    @_documented_by(_Asynchronous.stop)
    def stop(self) -> None:
        """As the asyncio controller's."""
        if self._loop.running:  # Otherwise nothing was started, the process ends, or this is a fork.
            self._wait(self._inner.stop())

    recover = _awaited(_Asynchronous.recover)
    switch = _passed_on(_Asynchronous.switch)
    set_freq = _passed_on(_Asynchronous.set_freq)
    set = _awaited(_Asynchronous.set)
    handed_back = _awaited(_Asynchronous.handed_back)
    lateness = _passed_on(_Asynchronous.lateness)
    move = _awaited(_Asynchronous.move)
    set_tcp = _passed_on(_Asynchronous.set_tcp)
    follow = _returning(ChunkTicket, _awaited(_Asynchronous.follow))
    committed = _in_loop(_Asynchronous.committed)
    inference_delay = _in_loop(_Asynchronous.inference_delay)
    stop_following = _in_loop(_Asynchronous.stop_following)
    policy = _returning(PolicyRun, _passed_on(_Asynchronous.policy))
    state_at = _awaited(_Asynchronous.state_at)
    next_state = _awaited(_Asynchronous.next_state)
    test_connection = _awaited(_Asynchronous.test_connection)
    save_recording = _awaited(_Asynchronous.save_recording)
    record = _passed_on(_Asynchronous.record)
    loop_stats = _passed_on(_Asynchronous.loop_stats)

    @_documented_by(_Asynchronous.states)
    def states(self) -> Iterator[dict[str, Any]]:
        """As the asyncio controller's."""
        while True:
            yield self.next_state()

    @property
    @_documented_by(_Asynchronous.gripper)
    def gripper(self) -> Gripper:
        """As the asyncio controller's."""
        return Gripper(self, self._inner.gripper)

    robot = _Attribute[Any]()
    state_lock = _Attribute[StateLock]()
    error_callback = _Attribute["Callable[[str], object] | None"]()
    guard = _Attribute[Any]()
    running = _Attribute[bool](_Asynchronous.running)
    error = _Attribute["Exception | None"](_Asynchronous.error)
    type = _Attribute[str](_Asynchronous.type)
    state = _Attribute[dict[str, Any]](_Asynchronous.state)
    last_command = _Attribute[Array](_Asynchronous.last_command)
    initial_qpos = _Attribute[Array](_Asynchronous.initial_qpos)
    initial_qvel = _Attribute[Array](_Asynchronous.initial_qvel)
    initial_ee = _Attribute[Array](_Asynchronous.initial_ee)
    control_transform = _Attribute[Array](_Asynchronous.control_transform)
    q_desired = _Attribute[Any](_Asynchronous.q_desired)
    ee_desired = _Attribute[Any](_Asynchronous.ee_desired)
    dq_desired = _Attribute[Any](_Asynchronous.dq_desired)
    ee_velocity = _Attribute[Any](_Asynchronous.ee_velocity)
    torque = _Attribute[Any](_Asynchronous.torque)
    kp = _Attribute[Any](_Asynchronous.kp)
    kd = _Attribute[Any](_Asynchronous.kd)
    ki = _Attribute[Any](_Asynchronous.ki)
    ee_kp = _Attribute[Any](_Asynchronous.ee_kp)
    ee_kd = _Attribute[Any](_Asynchronous.ee_kd)
    null_kp = _Attribute[Any](_Asynchronous.null_kp)
    null_kd = _Attribute[Any](_Asynchronous.null_kd)
    free_axes = _Attribute[Any](_Asynchronous.free_axes)
    free_damping = _Attribute[Any](_Asynchronous.free_damping)
    free_friction = _Attribute[Any](_Asynchronous.free_friction)
    torque_limit = _Attribute[Any](_Asynchronous.torque_limit)
    torque_diff_limit = _Attribute[Any](_Asynchronous.torque_diff_limit)
    arrival_tolerance = _Attribute[Any](_Asynchronous.arrival_tolerance)
    clip = _Attribute[bool](_Asynchronous.clip)
    verbose = _Attribute[Any](_Asynchronous.verbose)
    track = _Attribute[Any](_Asynchronous.track)

    def _wait(self, coroutine: Coroutine[Any, Any, _R], *, sends: bool = True) -> _R:
        """What ``coroutine`` returns, which the loop's thread runs.

        :param sends: whether the targets that it sets are those of the calling thread.
        """
        if self._inner.state_lock.held:
            coroutine.close()
            raise WouldDeadlock("a call that waits cannot be made inside `with controller.state_lock:`: make it after")
        return self._loop.call(coroutine, _as_sender() if sends else None)


def _on_lost(inner: controller.FrankaController, loop: LoopThread) -> None:
    """A controller was garbage-collected, in any thread."""
    if inner.running and loop.running:
        _log.warning("%r was lost without stop(): its arm is stopped and released", inner)
        _lost.add(loop)
    loop.end()
