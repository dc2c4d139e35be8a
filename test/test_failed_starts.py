"""A start that fails, at whichever step, has released everything when its exception reaches the caller."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rclpy
from rclpy.context import Context
from rclpy.exceptions import InvalidServiceNameException
from rclpy.signals import SignalHandlerOptions

from aiofranka_ros import CudaInferenceThread, FrankaController, RobotInterface, RosInterface, mpify
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.errors import CommandRefused, ConnectionFailed, FrankaError
from aiofranka_ros.offload import threads
from aiofranka_ros.simulation import remote
from aiofranka_ros.simulation.simulated_arm import SimulatedArm
from aiofranka_ros.testing import descendants, wait_until

pytestmark = pytest.mark.light

ARM, NOTHING, BRIEF = "127.0.0.78", "127.0.0.79", "127.0.0.80"


def descriptors() -> list[str]:
    """What the descriptors of this process refer to; anonymous memory stays mapped until no exception refers to it."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # That of the folder itself.
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return sorted(name for name in found if "memfd" not in name and "/fd" not in name)


class Taken:
    """The processes, descriptors and threads of this process at one moment."""

    def __init__(self) -> None:
        self._processes = descendants(os.getpid())
        self._descriptors = collections.Counter(descriptors())
        self._threads = set(threading.enumerate())

    def processes_and_threads(self) -> list[object]:
        """Those that were taken since."""
        return [*(descendants(os.getpid()) - self._processes), *(set(threading.enumerate()) - self._threads)]

    def since(self) -> list[object]:
        """Everything that was taken since, and is not released."""
        return [*self.processes_and_threads(), *(collections.Counter(descriptors()) - self._descriptors)]


@pytest.fixture
def few_descriptors() -> Iterator[Callable[[int], None]]:
    """Lets this process open only so many more descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def allow(count: int) -> None:
        used = {int(name) for name in os.listdir("/proc/self/fd")}
        free = [number for number in range(max(used) + count + 2) if number not in used]
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[count], hard))

    yield allow
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def answer() -> int:
    return 42


STARTS: dict[str, Callable[[], Any]] = {
    "control process": lambda: ControlClient(priority=0).__enter__(),
    "simulated arm": lambda: SimulatedArm(BRIEF).__enter__(),
    "isolated object": lambda: mpify(answer),
}


@pytest.mark.unit
@pytest.mark.parametrize("what", STARTS)
def test_a_start_for_which_a_descriptor_is_missing_leaves_nothing(
    what: str, few_descriptors: Callable[[int], None]
) -> None:
    """One descriptor more at each attempt, so that it fails at each step that takes one."""
    if what == "isolated object":
        mpify(answer).stop()  # Starts a helper process of multiprocessing, which stays.
    gc.collect()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    failed = 0
    for count in range(12):
        before = Taken()
        few_descriptors(count)
        try:
            started = STARTS[what]()
        except (OSError, FrankaError) as error:
            failed += 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert not before.processes_and_threads(), f"with {count} descriptors: {error!r}"
            # multiprocessing closes its pipes when nothing refers to the exception any more; before Python 3.11.4,
            # subprocess does not close its own at all.
            leaks = what == "isolated object" or (what == "simulated arm" and sys.version_info < (3, 11, 4))
            assert leaks or not before.since(), f"with {count} descriptors: {error!r}"
        else:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            started.__exit__(None, None, None)
            break
        gc.collect()
        assert not before.since()
    assert failed >= 3


@pytest.mark.unit
def test_shared_memory_that_the_system_refuses_is_closed() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        for _ in range(3):
            with pytest.raises(OSError):
                SharedMemory.create()
            with pytest.raises(OSError):
                ControlClient(priority=0).start()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.unit
def test_an_inference_thread_whose_start_is_interrupted_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(threading.Thread):
        def start(self) -> None:
            super().start()
            raise KeyboardInterrupt

    before = Taken()
    infer = CudaInferenceThread()
    with monkeypatch.context() as patch:
        patch.setattr(threads.threading, "Thread", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            infer.start()
    assert not infer.running
    assert wait_until(lambda: not before.since())
    with infer:  # And it can be started again.
        assert infer.running
    assert wait_until(lambda: not before.since())


@pytest.mark.unit
def test_a_client_of_a_node_with_an_impossible_name_leaves_the_graph() -> None:
    async def start() -> None:
        with pytest.raises(InvalidServiceNameException):
            await RosInterface("a name").start(lambda: None, lambda error: None)

    context = Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    observer = rclpy.create_node("observer", context=context, use_global_arguments=False)
    try:
        before = Taken()
        for _ in range(3):
            asyncio.run(start())
            assert wait_until(lambda: not before.processes_and_threads())
        assert wait_until(lambda: [name for name in observer.get_node_names() if "client" in name] == [])
    finally:
        observer.destroy_node()
        context.try_shutdown()


def interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.unit
def test_an_isolated_object_whose_start_is_interrupted_leaves_no_process() -> None:
    """By handlers as Python installs them: the signals arrive at any moment of the start."""
    mpify(list).stop()
    before = Taken()
    handler = signal.signal(signal.SIGUSR1, interrupted)
    try:
        for delay in (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3):
            timer = threading.Timer(delay, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
            try:
                timer.start()
                mpify(list).stop()
                timer.join()
            except KeyboardInterrupt:
                pass
            timer.join()
            gc.collect()
            assert wait_until(lambda: not before.since()), (delay, before.since())
    finally:
        signal.signal(signal.SIGUSR1, handler)


# --- With an arm


@pytest.fixture(scope="module")
def arm() -> Iterator[SimulatedArm]:
    with SimulatedArm(ARM) as arm:
        yield arm


async def start_and_stop(host: str) -> None:
    async with FrankaController(RobotInterface(host, realtime_priority=0)):
        pass


def test_an_arm_whose_user_stop_is_pressed_is_free_after_each_failed_start(arm: SimulatedArm) -> None:
    asyncio.run(start_and_stop(arm.host))
    remote.ask(arm.host, "stop")
    failures = []
    try:
        for _ in range(2):
            before = descendants(os.getpid())
            with pytest.raises(CommandRefused) as failure:
                asyncio.run(start_and_stop(arm.host))
            failures.append(failure)  # Kept: nothing may depend on garbage collection.
            assert descendants(os.getpid()) == before
    finally:
        remote.ask(arm.host, "release")
    asyncio.run(start_and_stop(arm.host))


def test_a_recovery_that_is_refused_keeps_the_connection_until_the_end(arm: SimulatedArm) -> None:
    async def recover() -> None:
        async with FrankaController(RobotInterface(arm.host, realtime_priority=0)) as controller:
            control = descendants(os.getpid())
            remote.ask(arm.host, "stop")
            with pytest.raises(FrankaError):
                while True:
                    await controller.next_state()
            with pytest.raises(CommandRefused):
                await controller.recover()
            assert descendants(os.getpid()) == control
            remote.ask(arm.host, "release")
            await controller.recover()
            await controller.next_state()

    before = descendants(os.getpid())
    try:
        asyncio.run(recover())
    finally:
        remote.ask(arm.host, "release")
    # What writes the recording of the stop takes a moment longer.
    assert wait_until(lambda: descendants(os.getpid()) == before)


def test_a_start_without_a_robot_leaves_nothing() -> None:
    before = descendants(os.getpid())
    for _ in range(2):
        with pytest.raises(ConnectionFailed):
            asyncio.run(start_and_stop(NOTHING))
        assert descendants(os.getpid()) == before


def test_a_start_that_is_cancelled_at_any_moment_leaves_nothing(arm: SimulatedArm) -> None:
    async def cancelled_after(delay: float) -> None:
        task = asyncio.ensure_future(start_and_stop(arm.host))
        await asyncio.sleep(delay)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    before = descendants(os.getpid())
    for delay in (0.0, 0.02, 0.2, 0.6, 1.0, 1.4):
        asyncio.run(cancelled_after(delay))
        assert descendants(os.getpid()) == before
    asyncio.run(start_and_stop(arm.host))
