"""The guard: what it reports about blocks of the event loop."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import inspect
import json
import logging
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from aiofranka_ros.errors import ConfigurationError
from aiofranka_ros.offload.guard import Guard, blocking_ok, guard

pytestmark = [pytest.mark.unit, pytest.mark.timing]

#: A wait that ends long before, unless something is broken [s].
LONG = 20.0
#: Threshold for blocks of 0.3 s: a busy machine alone can delay the loop by 0.05 s [s].
PATIENT = 0.1


@pytest.fixture
def log():
    """A logger whose messages are in its ``messages``."""
    logger = logging.Logger("test")
    logger.messages = []
    handler = logging.Handler()
    handler.emit = lambda record: logger.messages.append(record.getMessage())
    logger.addHandler(handler)
    return logger


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    threads = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= threads


async def until(condition):
    """Wait for something that the guard's thread does."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.002)


def slow_policy(seconds):
    time.sleep(seconds)  # the culprit


def line_of(function, text):
    lines, first = inspect.getsourcelines(function)
    return next(first + i for i, line in enumerate(lines) if text in line)


CULPRIT = f"{__file__}:{line_of(slow_policy, 'time.sleep')} in slow_policy: time.sleep(seconds)  # the culprit"


def test_a_block_is_reported_with_its_duration_its_line_and_what_to_do(log):
    async def main():
        with guard(PATIENT, log=log) as watching:
            await asyncio.sleep(0.06)
            slow_policy(0.2)
            await until(lambda: log.messages)
        return watching

    watching = asyncio.run(main())
    (message,) = log.messages
    assert re.match(r"the event loop was blocked for \d+\.\d", message)
    assert f" at {CULPRIT}; " in message
    assert "asyncify" in message and "blocking_ok()" in message
    assert watching.blocks == 1
    # A quarter of the threshold is how well the beginning is known; a busy machine only adds to it.
    assert watching.longest == watching.total > 0.18


def test_by_default_the_modules_logger_warns(caplog):
    async def main():
        async with guard():
            slow_policy(0.3)

    asyncio.run(main())
    (record,) = (record for record in caplog.records if record.name == "aiofranka_ros.offload.guard")
    assert record.levelno == logging.WARNING and CULPRIT in record.getMessage()


def test_a_loop_that_is_not_blocked_is_not_reported(log):
    async def main():
        # Idle, and working in short steps. The long threshold allows for a busy machine.
        with guard(1.0, log=log) as watching:
            for _ in range(20):
                await asyncio.sleep(0.005)
                time.sleep(0.005)
        return watching.blocks, watching.longest, watching.total

    assert asyncio.run(main()) == (0, 0.0, 0.0)
    assert log.messages == []


def test_a_block_that_lasts_until_the_guard_ends_is_reported(log):
    async def main():
        with guard(PATIENT, log=log) as watching:
            slow_policy(0.3)
        assert watching.blocks == 1

    asyncio.run(main())
    assert CULPRIT in log.messages[0]


def test_a_long_block_is_reported_while_it_lasts(log):
    early = []

    async def main():
        with guard(PATIENT, log=log):
            deadline = time.monotonic() + LONG
            while not log.messages and time.monotonic() < deadline:
                time.sleep(0.01)
            early.extend(log.messages)

    asyncio.run(main())
    assert re.search(r"has been blocked for [1-9]\d*\.", early[0]) and "so far" in early[0]
    assert re.search(r"was blocked for [1-9]\d*\.", log.messages[-1])


def test_a_block_in_a_library_is_reported_at_the_users_line(log):
    def parse(text):
        return json.loads(text, object_hook=lambda fields: (slow_hook(), fields)[1])

    def slow_hook():
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.3)"])  # blocks in selectors or os

    async def main():
        with guard(PATIENT, log=log):
            parse('{"a": 1}')

    asyncio.run(main())
    assert f"{__file__}:" in log.messages[0] and "in slow_hook: subprocess.run" in log.messages[0]


def test_the_innermost_line_is_reported_if_no_code_of_the_user_runs(log):
    async def main():
        with guard(PATIENT, log=log) as watching:
            asyncio.get_running_loop().call_soon(
                subprocess.call, [sys.executable, "-c", "import time; time.sleep(0.3)"]
            )
            await until(lambda: watching.blocks)

    asyncio.run(main())
    assert "subprocess.py:" in log.messages[0]


def test_many_blocks_at_one_place_are_reported_once_and_summed_up(log):
    async def main():
        with guard(0.02, log=log) as watching:
            for _ in range(12):
                slow_policy(0.06)
                await asyncio.sleep(0.03)
        return watching

    watching = asyncio.run(main())
    assert watching.blocks >= 10
    assert watching.longest < watching.total
    *reports, summary = log.messages
    assert sum(CULPRIT in report for report in reports) == 1
    assert f"blocked {watching.blocks - len(reports)} more times" in summary
    assert f" s in slow_policy ({__file__})" in summary


def test_the_next_message_of_a_place_sums_up_its_blocks_since_the_last_one(log, monkeypatch):
    monkeypatch.setattr("aiofranka_ros.offload.guard._QUIET", 1.5)

    async def main():
        with guard(PATIENT, log=log):
            for pause in (0.1, 0.1, 1.5):
                slow_policy(0.3)
                await asyncio.sleep(pause)
            slow_policy(0.3)

    asyncio.run(main())
    reports = [message for message in log.messages if CULPRIT in message]
    assert len(reports) == 2
    assert "(2 more blocks there since the last message, 0." in reports[1]


def test_a_second_place_is_reported_right_after_the_first(log):
    def another_policy():
        time.sleep(0.3)

    async def main():
        with guard(PATIENT, log=log):
            for function in (lambda: slow_policy(0.3), another_policy):
                function()
                await asyncio.sleep(0.1)

    asyncio.run(main())
    assert "in slow_policy" in log.messages[0] and "in another_policy" in log.messages[1]


def test_a_deliberate_block_is_neither_reported_nor_counted(log, caplog):
    caplog.set_level(logging.DEBUG, "aiofranka_ros.offload.guard")

    @blocking_ok("as a decorator")
    def load():
        time.sleep(0.15)

    async def main():
        with guard(PATIENT, log=log):
            await asyncio.sleep(0.06)
            with blocking_ok("loading the model"):
                time.sleep(0.15)
                with blocking_ok():
                    time.sleep(0.15)
                time.sleep(0.15)
            load()
            await asyncio.sleep(0.1)
            # A busy machine may stop the loop somewhere else.
            assert not [message for message in log.messages if "time.sleep" in message]
            slow_policy(0.3)
            with blocking_ok():
                pass
            await until(lambda: any(CULPRIT in message for message in log.messages))

    asyncio.run(main())
    assert "on purpose: loading the model" in caplog.text


def test_a_deliberate_block_ends_with_an_exception_too(log):
    async def main():
        with guard(PATIENT, log=log) as watching:
            with pytest.raises(KeyError), blocking_ok():
                raise KeyError
            slow_policy(0.3)
        assert watching.blocks == 1

    asyncio.run(main())


def test_blocking_ok_does_nothing_without_a_loop_or_a_guard():
    with blocking_ok("no loop"):
        pass

    async def main():
        with blocking_ok("no guard"):
            pass

    asyncio.run(main())


def test_the_causes_are_listed_if_all_python_code_was_blocked(log):
    keeps_the_gil = ctypes.PyDLL(None).usleep

    def bad_driver():
        keeps_the_gil(300_000)

    async def main():
        with guard(PATIENT, log=log) as watching:
            await asyncio.sleep(0.06)
            bad_driver()
        assert watching.blocks and watching.longest > 0.25

    asyncio.run(main())
    assert "a C call that keeps the GIL" in log.messages[0]
    assert "bad_driver" in log.messages[0] or "in main" in log.messages[0]


def test_garbage_collection_is_named_as_the_cause(log):
    async def main():
        gc.collect()  # Not in the measurement.
        objects = [[] for _ in range(2_000_000)]  # One collection takes longer than the threshold.
        with guard(0.02, log=log) as watching:
            await asyncio.sleep(0.06)
            gc.collect()
            await asyncio.sleep(0)
        assert objects and watching.blocks

    asyncio.run(main())
    assert any("by garbage collection (" in message and "gc.freeze()" in message for message in log.messages)


STOPPED_SCRIPT = """
import asyncio, logging, threading
from aiofranka_ros.offload.guard import guard
logging.basicConfig()

async def main():
    loop = asyncio.get_running_loop()
    resumed = asyncio.Event()
    loop.add_signal_handler(10, resumed.set)
    with guard() as watching:
        await asyncio.sleep(0.1)
        # From a thread, and after main() has begun to wait: a stop must not meet the loop while it prints.
        loop.call_soon(threading.Timer(0.1, print, ["ready"], {"flush": True}).start)
        await resumed.wait()
        await asyncio.sleep(0.1)
    print(watching.blocks)

asyncio.run(main())
"""


def test_a_stopped_process_is_reported_with_that_as_a_possible_cause():
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED_SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process.stdout, process.stderr:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.5)  # the process is stopped for this time
            process.send_signal(signal.SIGCONT)
            time.sleep(0.1)
            process.send_signal(signal.SIGUSR1)
            assert process.wait(LONG) == 0
            output, errors = process.stdout.read(), process.stderr.read()
        finally:
            process.kill()
            process.wait()
    assert int(output) >= 1, errors
    assert "the process was stopped" in errors


def test_guards_of_one_loop_count_separately_and_log_a_block_once(log):
    async def main():
        with guard(PATIENT, log=log) as outer, guard(1.0, log=log) as tolerant:
            with guard(PATIENT, log=log) as inner:
                slow_policy(0.3)
            await asyncio.sleep(0.1)
            slow_policy(0.3)
        assert (outer.blocks, inner.blocks, tolerant.blocks) == (2, 1, 0)

    asyncio.run(main())
    assert sum(CULPRIT in message for message in log.messages) == 1


def test_a_guard_does_not_count_earlier_blocks(log):
    async def main():
        with guard(PATIENT, log=log) as outer:
            slow_policy(0.3)
            with guard(PATIENT, log=log) as inner:
                await asyncio.sleep(0.1)
        assert (outer.blocks, inner.blocks) == (1, 0)

    asyncio.run(main())


def test_each_guard_has_its_own_log(log):
    other = logging.Logger("other")
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    other.addHandler(handler)

    async def main():
        with guard(PATIENT, log=log), guard(PATIENT, log=other):
            slow_policy(0.3)

    asyncio.run(main())
    assert messages == log.messages and len(messages) == 1


def test_start_and_stop_are_idempotent_and_a_guard_can_start_again(log):
    async def main():
        watching = Guard(asyncio.get_running_loop(), PATIENT, log)
        watching.stop()
        for _ in range(2):
            watching.start()
            watching.start()
            assert watching.running
            slow_policy(0.3)
            watching.stop()
            watching.stop()
            assert not watching.running
            slow_policy(0.3)
            await asyncio.sleep(0)
        assert watching.blocks == 2

    asyncio.run(main())


def test_a_guard_can_be_started_and_stopped_from_another_thread(log):
    async def main():
        loop = asyncio.get_running_loop()
        watching = Guard(loop, PATIENT, log)
        await loop.run_in_executor(None, watching.start)
        await asyncio.sleep(0.05)
        slow_policy(0.3)
        await until(lambda: watching.blocks)
        await loop.run_in_executor(None, watching.stop)
        assert watching.blocks == 1

    asyncio.run(main())


def test_a_loop_that_does_not_run_is_not_blocked(log):
    loop = asyncio.new_event_loop()
    watching = Guard(loop, PATIENT, log)
    watching.start()
    loop.run_until_complete(asyncio.sleep(0.1))
    time.sleep(0.3)
    loop.run_until_complete(asyncio.sleep(0.1))
    watching.stop()
    loop.close()
    assert (watching.blocks, log.messages) == (0, [])


def test_the_thread_ends_with_the_loop_if_the_guard_is_not_stopped(log):
    before = threading.active_count()

    async def main():
        guard(PATIENT, log=log).start()

    asyncio.run(main())
    deadline = time.monotonic() + LONG
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.005)
    assert threading.active_count() == before


def test_a_block_counts_only_for_the_loop_that_was_blocked(log):
    async def blocked():
        with guard(PATIENT, log=log) as watching:
            slow_policy(0.3)
        return watching.blocks

    async def free():
        with guard(PATIENT, log=log) as watching:
            other = asyncio.get_running_loop().run_in_executor(None, asyncio.run, blocked())
            assert await other == 1
        return watching.blocks

    assert asyncio.run(free()) == 0
    assert len(log.messages) == 1


def test_another_thread_that_keeps_the_gil_is_reported_but_not_at_a_line_of_the_loop(log):
    def hold():
        time.sleep(0.1)  # until the loop is idle
        ctypes.PyDLL(None).usleep(300_000)

    async def main():
        with guard(PATIENT, log=log):
            await asyncio.get_running_loop().run_in_executor(None, hold)
            await asyncio.sleep(0.06)

    asyncio.run(main())
    assert "a C call that keeps the GIL" in log.messages[0]
    assert not any(f" at {__file__}" in message for message in log.messages)


def test_a_threshold_that_is_too_small_is_refused():
    for threshold in (0.0, -1.0, 0.001, float("nan")):
        with pytest.raises(ConfigurationError):
            guard(threshold)


def test_a_guard_needs_a_loop():
    with pytest.raises(RuntimeError):
        guard().start()
