"""An event loop in a separate thread: outcomes, Ctrl-C, and its end. No arm."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aiofranka_ros.errors import NotStarted, WouldDeadlock
from aiofranka_ros.offload.loop_thread import LoopThread

pytestmark = pytest.mark.unit

#: A wait that ends long before, unless something is broken [s].
LONG = 20.0


async def nothing() -> None: ...


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    loop = LoopThread("test-loop", nothing)
    yield loop
    loop.end()
    loop.join(LONG)
    assert "test-loop" not in [thread.name for thread in threading.enumerate()]


async def failing() -> None:
    await asyncio.sleep(0)
    raise KeyError("a deep reason")


def in_thread(call: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_a_call_returns_what_the_coroutine_returns_and_all_run_in_one_thread(loop: LoopThread) -> None:
    async def where() -> tuple[str, asyncio.AbstractEventLoop]:
        return threading.current_thread().name, asyncio.get_running_loop()

    first, second = loop.call(where()), loop.call(where())
    assert first == second and first[0] == "test-loop"


def test_an_error_has_the_callers_line_and_the_coroutines_in_its_traceback(loop: LoopThread) -> None:
    def caller() -> None:
        loop.call(failing())

    with pytest.raises(KeyError, match="a deep reason") as raised:
        caller()
    functions = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert functions.index("caller") < functions.index("failing")


def test_the_coroutine_sees_the_callers_context_variables(loop: LoopThread) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    variable.set(7)

    async def value() -> int:
        return variable.get()

    assert loop.call(value()) == 7
    other = contextvars.copy_context()
    other.run(variable.set, 8)
    assert loop.call(value(), other) == 8


def test_it_works_where_another_event_loop_runs(loop: LoopThread) -> None:
    async def cell() -> str:
        async def other() -> str:
            await asyncio.sleep(0.01)
            return "done"

        return loop.call(other())

    assert asyncio.run(cell()) == "done"


def test_calls_from_several_threads_wait_at_the_same_time(loop: LoopThread) -> None:
    everyone = threading.Barrier(4)

    async def meet() -> None:
        await asyncio.get_running_loop().run_in_executor(None, everyone.wait, LONG)

    threads = [in_thread(lambda: loop.call(meet())) for _ in range(3)]
    loop.call(meet())
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()


def test_ctrl_c_cancels_the_call_and_is_raised_when_it_has_ended(loop: LoopThread, ctrl_c: Callable[[], None]) -> None:
    ended = []

    async def moving() -> None:
        ctrl_c()
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            await asyncio.sleep(0.2)  # The arm slows down.
            ended.append(True)
            raise

    with pytest.raises(KeyboardInterrupt):
        loop.call(moving())
    assert ended
    loop.call(nothing())


def test_the_second_ctrl_c_does_not_wait_for_the_first(loop: LoopThread, ctrl_c: Callable[[], None]) -> None:
    released = asyncio.Event()

    async def stubborn() -> None:
        ctrl_c()
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            ctrl_c()
            await released.wait()
            raise

    async def release() -> None:
        released.set()

    with pytest.raises(KeyboardInterrupt):
        loop.call(stubborn())
    assert not released.is_set()
    loop.call(release())


def test_a_call_that_fails_while_it_is_cancelled_still_raises_ctrl_c(
    loop: LoopThread, caplog: pytest.LogCaptureFixture, ctrl_c: Callable[[], None]
) -> None:
    async def failing_late() -> None:
        ctrl_c()
        try:
            await asyncio.sleep(LONG)
        finally:
            raise ValueError("too late")

    with pytest.raises(KeyboardInterrupt):
        loop.call(failing_late())
    assert "never retrieved" not in caplog.text


def test_a_call_in_its_own_thread_is_refused_instead_of_waiting_for_ever(loop: LoopThread) -> None:
    async def callback() -> None:
        loop.call(nothing())

    with pytest.raises(WouldDeadlock, match="another thread"):
        loop.call(callback())


def test_at_the_end_the_last_coroutine_runs_and_calls_that_wait_raise() -> None:
    events = []

    async def last() -> None:
        events.append("last")

    async def endless() -> None:
        events.append("begun")
        await asyncio.sleep(LONG)

    def wait_for_ever() -> None:
        with pytest.raises(NotStarted, match="has ended"):
            loop.call(endless())
        events.append("raised")

    loop = LoopThread("test-loop", last)
    waiting = in_thread(wait_for_ever)
    while not events:
        time.sleep(0.001)
    loop.end()
    loop.end()
    loop.join(LONG)
    waiting.join(LONG)
    assert events == ["begun", "last", "raised"]
    assert not loop.running
    with pytest.raises(NotStarted, match="has ended"):
        loop.call(nothing())


def test_a_thread_that_never_ran_ends_without_running_anything() -> None:
    loop = LoopThread("test-loop", failing)
    loop.end()
    loop.join(LONG)
    assert not loop.running


def test_an_error_of_the_last_coroutine_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    loop = LoopThread("test-loop", failing)
    loop.call(nothing())
    loop.end()
    loop.join(LONG)
    assert "a deep reason" in caplog.text


def test_a_fork_refuses_calls_and_does_not_end_the_thread_of_its_parent(loop: LoopThread) -> None:
    loop.call(nothing())
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            loop.end()
            loop.join(LONG)
            with pytest.raises(NotStarted, match="fork"):
                loop.call(nothing())
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert loop.running
    loop.call(nothing())


SCRIPT = """
import asyncio
from aiofranka_ros.offload.loop_thread import LoopThread

async def take():
    await asyncio.get_running_loop().run_in_executor(None, print, "taken")

async def release():
    await asyncio.get_running_loop().run_in_executor(None, print, "released")

loop = LoopThread("loop", release)
loop.call(take())
{end}
"""


@pytest.mark.parametrize(("end", "status"), [("", 0), ("raise SystemExit(3)", 3), ("loop.call(missing())", 1)])
def test_when_the_main_thread_ends_the_last_coroutine_runs_and_may_use_executors(end: str, status: int) -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT.format(end=end)], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (status, "taken\nreleased\n"), ran.stderr
    assert ("Traceback" in ran.stderr) == (status == 1)
