"""The synchronous API: it offers what the asyncio API does, and behaves in threads, callbacks and prompts. No arm."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_controller_clock import Recorder

from aiofranka_ros import FrankaController, sync
from aiofranka_ros.api import chunk_ticket, policy
from aiofranka_ros.errors import ControlStopped, InvalidTarget, NotStarted, PolicyFailed, WouldDeadlock
from aiofranka_ros.offload.guard import Guard

pytestmark = pytest.mark.unit

#: A wait that ends long before, unless something is broken [s].
LONG = 20.0
#: Another value than at the start.
ELSEWHERE = np.full(7, 0.1)
#: What only the asyncio classes have: a future, and what ``wait()`` does.
ONLY_ASYNCHRONOUS, ONLY_SYNCHRONOUS = {"task"}, {"wait"}


class Arm(Recorder):
    """A link whose moves take long, and that notes what becomes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.moving = threading.Event()
        self.during_move: Callable[[], object] = lambda: None
        self.on_state: Callable[[], None] = lambda: None

    async def start(self, on_state: Callable[[], None], on_end: Callable[[Exception], None]) -> None:
        self.on_state, self.on_end = on_state, on_end
        self.calls.append(("start", threading.current_thread().name))

    async def stop(self) -> None:
        self.calls.append(("stop", None))

    async def move(self, goal: np.ndarray) -> None:
        self.moving.set()
        self.during_move()
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)  # It slows down.
            self.calls.append(("held", None))
            raise

    def apply(self, changes: Mapping[str, Any]) -> None:
        super().apply(changes)
        self.calls[-1] = ("apply", dict(changes))

    def named(self, name: str) -> list[Any]:
        return [value for call, value in self.calls if call == name]


@pytest.fixture
def arm() -> Arm:
    return Arm()


@pytest.fixture
def controller(arm: Arm) -> Iterator[sync.FrankaController]:
    """Started, in mode impedance."""
    controller = sync.FrankaController(arm)  # type: ignore[arg-type]
    controller.start()
    controller.switch("impedance")
    controller.set_freq(1000.0)
    yield controller
    controller.stop()


def in_thread(call: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def finished(thread: threading.Thread) -> bool:
    thread.join(LONG)
    return not thread.is_alive()


# The same names.


def public(cls: type) -> set[str]:
    """Names of what a class offers, also of attributes that it only annotates."""
    names = set(dir(cls))
    for base in cls.__mro__:
        names |= set(vars(base).get("__annotations__", ()))
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize(
    ("asynchronous", "synchronous"),
    [
        (FrankaController, sync.FrankaController),
        (chunk_ticket.ChunkTicket, sync.ChunkTicket),
        (policy.PolicyRun, sync.PolicyRun),
    ],
)
def test_everything_that_the_asyncio_api_offers_is_there_and_nothing_else(
    asynchronous: type, synchronous: type
) -> None:
    assert public(synchronous) - ONLY_SYNCHRONOUS == public(asynchronous) - ONLY_ASYNCHRONOUS


METHODS = [name for name in public(FrankaController) if inspect.isfunction(getattr(FrankaController, name, None))]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods_have_the_signature_and_the_docstring_of_the_asyncio_api_and_await_nothing(name: str) -> None:
    asynchronous, synchronous = getattr(FrankaController, name), getattr(sync.FrankaController, name)
    assert synchronous.__name__ == name and synchronous.__doc__ == asynchronous.__doc__
    theirs, ours = inspect.signature(asynchronous), inspect.signature(synchronous)
    assert list(theirs.parameters.values()) == list(ours.parameters.values())
    assert inspect.isgeneratorfunction(synchronous) == inspect.isasyncgenfunction(asynchronous)
    assert not inspect.iscoroutinefunction(synchronous) and not inspect.isasyncgenfunction(synchronous)


def test_help_and_completion_know_attributes_and_methods(controller: sync.FrankaController) -> None:
    assert {"move", "kp", "state", "ee_desired", "verbose"} <= set(dir(controller))
    assert "Joint positions when the mode began" in str(sync.FrankaController.initial_qpos.__doc__)
    assert repr(controller) == "<FrankaController of recorder, running>"


# Calls.


def test_calls_run_in_a_thread_of_the_controller_and_return_when_they_are_done(
    arm: Arm, controller: sync.FrankaController
) -> None:
    assert arm.named("start") == ["aiofranka_ros-sync"] and controller.running
    assert controller.set("q_desired", ELSEWHERE) == ()
    np.testing.assert_array_equal(controller.q_desired, ELSEWHERE)
    assert controller.lateness().name == "q_desired"
    controller.stop()
    assert not controller.running and arm.named("stop")
    with pytest.raises(NotStarted, match=r"call controller\.start\(\) first"):
        controller.move()
    controller.start()
    assert controller.running


def test_with_starts_and_stops(arm: Arm) -> None:
    with sync.FrankaController(arm) as controller:  # type: ignore[arg-type]
        assert controller.running
    assert not controller.running
    controller.stop()


def test_a_loop_of_set_keeps_the_rate(controller: sync.FrankaController) -> None:
    controller.set_freq(100)
    begin = time.monotonic()
    for _ in range(20):
        controller.set("q_desired", ELSEWHERE)
    assert time.monotonic() - begin > 0.19


def test_attributes_are_those_of_the_asyncio_controller(arm: Arm, controller: sync.FrankaController) -> None:
    arm.calls.clear()
    with controller.state_lock:
        controller.kp = np.full(7, 80.0)
        controller.kd = np.full(7, 4.0)
        controller.switch("pid")
        controller.ki = np.full(7, 1.0)
    assert [(name, *value) for name, value in arm.calls if name == "apply"] == [("apply", "kp", "kd"), ("apply", "ki")]
    np.testing.assert_array_equal(controller.kp, np.full(7, 80.0))
    assert controller.type == "pid" and controller.robot is arm
    with pytest.raises(AttributeError, match="no attribute to assign called 'kP'"):
        controller.kP = np.full(7, 80.0)
    with pytest.raises(AttributeError):
        controller.running = False
    with pytest.raises(AttributeError, match="no attribute 'task'"):
        _ = controller.task
    with pytest.raises(ValueError, match="always limited"):
        controller.clip = False


def test_a_subclass_may_have_more_attributes(arm: Arm) -> None:
    class Mine(sync.FrankaController):
        pass

    controller = Mine(arm)  # type: ignore[arg-type]
    controller.note = "mine"  # type: ignore[attr-defined]
    controller.kp = np.full(7, 80.0)
    assert controller.note == "mine" and controller.kp[0] == 80.0  # type: ignore[attr-defined]


def test_each_new_state_is_yielded_until_the_control_loop_ends(arm: Arm, controller: sync.FrankaController) -> None:
    def measure() -> None:
        while controller.error is None:
            controller._loop.call(announced())
            time.sleep(0.01)

    async def announced() -> None:
        arm.on_state()

    measuring = in_thread(measure)
    states = controller.states()
    assert [next(states)["qpos"].shape for _ in range(3)] == [(7,)] * 3

    async def end() -> None:
        arm.on_end(ControlStopped("a reflex"))

    controller._loop.call(end())
    with pytest.raises(ControlStopped, match="a reflex"):
        next(states)
    assert str(controller.error) == "a reflex" and finished(measuring)


def test_an_error_is_raised_at_the_callers_line(controller: sync.FrankaController) -> None:
    with pytest.raises(InvalidTarget) as raised:
        controller.set("q_desired", [0.0] * 6)  # the culprit
    assert "the culprit" in str(raised.traceback[0].statement)


# Ctrl-C.


def test_ctrl_c_stops_the_move_smoothly_before_it_is_raised(
    arm: Arm, controller: sync.FrankaController, ctrl_c: Callable[[], None]
) -> None:
    arm.during_move = ctrl_c
    with pytest.raises(KeyboardInterrupt):
        controller.move(progress=False)
    assert arm.named("held") and controller.running
    controller.set("q_desired", ELSEWHERE)


# Threads, locks, callbacks, forks.


def test_a_call_that_waits_is_refused_inside_the_state_lock(controller: sync.FrankaController) -> None:
    with controller.state_lock, pytest.raises(WouldDeadlock, match="state_lock"):
        controller.set("q_desired", ELSEWHERE)
    controller.set("q_desired", ELSEWHERE)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with controller.state_lock:
            held.set()
            done.wait(LONG)

    thread = in_thread(hold)
    held.wait(LONG)
    controller._loop.call(asyncio.sleep(0))  # Another thread's lock is no reason.
    done.set()
    assert finished(thread)


def test_a_callback_that_calls_the_controller_is_told_so(arm: Arm, controller: sync.FrankaController) -> None:
    errors = []

    def callback(message: str) -> None:
        try:
            controller.recover()
        except WouldDeadlock as error:
            errors.append(error)

    async def end() -> None:
        arm.on_end(ControlStopped("a reflex"))

    controller.error_callback = callback
    controller._loop.call(end())
    assert len(errors) == 1


def test_another_thread_can_stop_the_controller_while_a_call_waits(arm: Arm, controller: sync.FrankaController) -> None:
    def stop() -> None:
        arm.moving.wait(LONG)
        controller.stop()

    stopping = in_thread(stop)
    with pytest.raises(NotStarted):
        controller.move(progress=False)
    assert finished(stopping)


def test_two_threads_that_set_targets_in_turns_are_told_so(controller: sync.FrankaController) -> None:
    controller.set_freq(20.0)
    refused: list[InvalidTarget] = []
    over = threading.Event()

    def shake() -> None:
        try:
            while not over.is_set():
                controller.set("q_desired", ELSEWHERE)
        except InvalidTarget as error:
            refused.append(error)

    threads = [in_thread(shake) for _ in range(2)]
    deadline = time.monotonic() + LONG
    while not refused and time.monotonic() < deadline:
        time.sleep(0.01)
    over.set()
    assert all(map(finished, threads))
    assert refused[0].reason == "another task" and "by two tasks in turns: thread 'Thread-" in str(refused[0])


def test_set_and_assignments_of_one_thread_are_one_sender_also_in_a_running_event_loop(
    controller: sync.FrankaController,
) -> None:
    async def cell() -> None:
        for _ in range(3):
            controller.set("q_desired", ELSEWHERE)
            controller.q_desired = ELSEWHERE

    asyncio.run(cell())


def test_in_a_fork_stop_does_nothing_and_calls_that_wait_are_refused(
    arm: Arm, controller: sync.FrankaController
) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with pytest.raises(NotStarted, match="fork"):
                controller.move()
            controller.stop()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert controller.running and not arm.named("stop")


def test_a_controller_that_is_lost_is_stopped_before_the_next_one_starts(
    arm: Arm, caplog: pytest.LogCaptureFixture
) -> None:
    controller: Any = sync.FrankaController(arm)  # type: ignore[arg-type]
    controller.start()
    del controller
    gc.collect()
    with sync.FrankaController(Arm()):  # type: ignore[arg-type]
        assert arm.named("stop"), "as if a cell were run again"
    assert "was lost without stop()" in caplog.text


@pytest.mark.timing
def test_the_guard_does_not_complain_about_a_prompt_that_waits(arm: Arm) -> None:
    controller = sync.FrankaController(arm)  # type: ignore[arg-type]
    assert controller.guard is None
    controller.guard = guard = Guard(threshold=0.5)  # A busy machine alone delays the loop by less.
    with controller:
        reading, writing = os.pipe()
        threading.Timer(1.5, os.write, (writing, b"\n")).start()
        assert os.read(reading, 1) == b"\n"
        assert guard.running
    os.close(reading)
    os.close(writing)
    assert guard.blocks == 0


# Chunks and policies.


class Ticket(SimpleNamespace):
    """As a link makes them."""

    def when_ended(self, call: Callable[[], None]) -> None:
        self.end = call


def test_a_ticket_waits_for_the_end_of_its_chunk(arm: Arm, controller: sync.FrankaController) -> None:
    ticket = Ticket(accepted=True, number=3, dropped=1, outcome="runs", reason="", latency=None)

    async def follow(*arguments: Any) -> Ticket:
        return ticket

    arm.follow = follow  # type: ignore[attr-defined]
    mine = controller.follow(np.zeros((5, 7)), dt=0.1)
    assert isinstance(mine, sync.ChunkTicket)
    assert (mine.number, mine.dropped, mine.latency, mine.done) == (3, 1, None, False)

    def end() -> None:
        ticket.outcome, ticket.reason = "finished", "it has arrived"
        ticket.end()

    threading.Timer(0.1, end).start()
    assert mine.wait() == "finished" and mine.done  # type: ignore[comparison-overlap]
    assert repr(mine) == "<chunk 3: it has arrived>"


def test_a_policy_runs_in_a_with_block_until_an_event_and_its_failure_is_raised(
    controller: sync.FrankaController,
) -> None:
    stop = threading.Event()
    controller.robot.clock = lambda: 0  # type: ignore[attr-defined]
    controller.robot.committed = lambda n, dt, start: (np.zeros((0, 7)), 0)  # type: ignore[attr-defined]
    controller.robot.inference_delay = lambda dt, quantile: 0  # type: ignore[attr-defined]
    controller.robot.stop_following = lambda: None  # type: ignore[attr-defined]

    def infer(observation: Any, prefix: Any, delay: int) -> Any:
        raise RuntimeError("no weights")

    with pytest.raises(PolicyFailed, match="infer raised RuntimeError: no weights"):
        with controller.policy(infer, dt=0.1) as run:
            run.until(stop)
    assert run.report().chunks == 0
