"""The helpers that keep blocking work off the event loop: asyncify and CudaInferenceThread."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import inspect
import math
import os
import random
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from aiofranka_ros.errors import ConfigurationError, NotStarted, Superseded
from aiofranka_ros.offload import workers as offload
from aiofranka_ros.offload.inference import CudaInferenceThread
from aiofranka_ros.offload.workers import ASYNCIFY_WORKERS, asyncify, set_asyncify_workers

pytestmark = pytest.mark.unit

#: A wait that ends long before, unless something is broken [s].
LONG = 20.0

request = contextvars.ContextVar("request", default="none")


def run(main):
    """Run a coroutine function; an error that reaches the loop's exception handler fails the test."""
    complaints = []

    async def watched():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        result = await asyncio.wait_for(main(), LONG)
        await asyncio.sleep(0)
        return result

    result = asyncio.run(watched())
    assert complaints == []
    return result


async def until(condition):
    """Wait for something that another thread does."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.001)


class Gate:
    """A function that blocks its thread until it is opened, and records its calls."""

    def __init__(self):
        self.entered = []
        self.left = []
        self.open = threading.Event()

    def __call__(self, value=None):
        self.entered.append(value)
        assert self.open.wait(LONG)
        self.left.append(value)
        return value


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()  # releases all threads, however the test ends


@pytest.fixture
def infer():
    with CudaInferenceThread() as infer:
        yield infer


class Policy:
    """A class with decorated methods."""

    def __init__(self, gain):
        self.gain = gain

    @asyncify
    def get_action(self, obs, *, bias=0):
        """Scale an observation."""
        return self.gain * obs + bias

    @asyncify
    @staticmethod
    def outer_static(x):
        return x + 1

    @staticmethod
    @asyncify
    def inner_static(x):
        return x + 2

    @asyncify
    @classmethod
    def outer_class(cls, x):
        return cls.__name__, x

    @classmethod
    @asyncify
    def inner_class(cls, x):
        return cls.__name__, x

    @asyncify
    def fails(self):
        raise KeyError("k")


def square(x):
    return x * x


class Model:
    """A callable object with a state, as a torch module is."""

    def __init__(self):
        self._run = self.sync = "the module's own"
        self.weights = [2]

    def __call__(self, x):
        return self.weights[0] * x


# asyncify: what it wraps.


def test_an_asyncified_function_runs_in_another_thread():
    thread = run(asyncify(threading.current_thread))
    assert thread is not threading.main_thread()
    assert thread.daemon


def test_a_method_is_bound_when_awaited_and_in_sync():
    policy = Policy(3)
    assert run(lambda: policy.get_action(2, bias=1)) == 7
    assert policy.get_action.sync(2, bias=1) == 7
    assert Policy.get_action.sync(policy, 2) == 6
    assert run(lambda: Policy.get_action(policy, 2)) == 6


def test_static_and_class_methods_work_with_either_order_of_decorators():
    for holder in (Policy, Policy(1)):
        assert run(lambda h=holder: h.outer_static(1)) == 2 == holder.outer_static.sync(1)
        assert run(lambda h=holder: h.inner_static(1)) == 3 == holder.inner_static.sync(1)
        assert run(lambda h=holder: h.outer_class(1)) == ("Policy", 1) == holder.outer_class.sync(1)
        assert run(lambda h=holder: h.inner_class(1)) == ("Policy", 1) == holder.inner_class.sync(1)


@pytest.mark.parametrize(
    ("function", "args", "expected"),
    [
        (Model(), (4,), 8),
        (functools.partial(pow, 2), (5,), 32),
        (len, ("four",), 4),
        (math.hypot, (3.0, 4.0), 5.0),
        (int, ("7",), 7),
        (Model().__call__, (4,), 8),
        (np.add, (1, 2), 3),
    ],
    ids=["object", "partial", "builtin", "c function", "class", "bound method", "ufunc"],
)
def test_any_callable_can_be_wrapped(function, args, expected):
    wrapper = asyncify(function)
    assert run(lambda: wrapper(*args)) == expected
    assert wrapper.sync(*args) == expected
    assert isinstance(wrapper.__name__, str)


def test_arguments_of_any_name_reach_the_function():
    def odd(self, fn, function, repeat):
        return self, fn, function, repeat

    assert run(lambda: asyncify(odd)(self=1, fn=2, function=3, repeat=4)) == (1, 2, 3, 4)


def test_the_wrapper_looks_like_a_coroutine_function_with_the_originals_signature():
    policy = Policy(1)
    for wrapper in (asyncify(square), Policy.get_action, policy.get_action, asyncify(Model()), asyncify(len)):
        assert inspect.iscoroutinefunction(wrapper)
        assert asyncio.iscoroutinefunction(wrapper)
    assert policy.get_action.__name__ == "get_action"
    assert policy.get_action.__doc__ == "Scale an observation."
    assert policy.get_action.__qualname__ == "Policy.get_action"
    assert list(inspect.signature(policy.get_action).parameters) == ["obs", "bias"]
    assert list(inspect.signature(Policy.get_action).parameters) == ["self", "obs", "bias"]


async def coroutine_function():
    pass


async def generator_function():
    yield


class AsyncModel:
    async def __call__(self):
        pass


@pytest.mark.parametrize(
    "function",
    [coroutine_function, generator_function, AsyncModel(), functools.partial(coroutine_function), asyncify(square), 3],
)
def test_asynchronous_and_uncallable_objects_are_refused(function):
    with pytest.raises(TypeError):
        asyncify(function)
    with pytest.raises(TypeError):
        CudaInferenceThread().wrap(function)
    with pytest.raises(TypeError):
        asyncify(staticmethod(function) if callable(function) else function)


def test_an_exception_keeps_its_type_and_the_line_that_raised_it():
    with pytest.raises(KeyError, match="'k'") as caught:
        run(Policy(1).fails)
    assert caught.traceback[-1].name == "fails"


def test_stop_iteration_becomes_a_runtime_error(infer):
    for offloaded in (asyncify(next), infer.wrap(next)):
        with pytest.raises(RuntimeError) as caught:
            run(lambda offloaded=offloaded: offloaded(iter(())))
        assert isinstance(caught.value.__cause__, StopIteration)


def test_system_exit_reaches_the_awaiting_task(infer):
    async def main(offloaded):
        with pytest.raises(SystemExit) as caught:
            await offloaded(3)
        return caught.value.code

    assert run(lambda: main(asyncify(sys.exit))) == 3
    assert run(lambda: main(infer.wrap(sys.exit))) == 3


def test_context_variables_are_those_of_the_awaiting_task(infer):
    def look():
        before = request.get()
        request.set("changed in the thread")
        return before

    async def main(offloaded):
        request.set("outer")

        async def task(name):
            request.set(name)
            seen = await offloaded()
            return seen, request.get()

        return await asyncio.gather(task("a"), task("b"), offloaded())

    for offloaded in (asyncify(look), infer.wrap(look)):
        assert run(lambda offloaded=offloaded: main(offloaded)) == [("a", "a"), ("b", "b"), "outer"]


# asyncify: its executor.


def test_calls_beyond_the_number_of_workers_wait_for_their_turn(gate):
    async def main():
        calls = [asyncio.ensure_future(asyncify(gate)(i)) for i in range(3 * ASYNCIFY_WORKERS)]
        await until(lambda: len(gate.entered) == ASYNCIFY_WORKERS)
        # The loop's default executor is free: nothing of this runs there.
        assert await asyncio.get_running_loop().run_in_executor(None, square, 3) == 9
        assert sorted(gate.entered) == list(range(ASYNCIFY_WORKERS))
        gate.open.set()
        return await asyncio.gather(*calls)

    assert run(main) == list(range(3 * ASYNCIFY_WORKERS))


def test_the_number_of_workers_can_be_changed_while_calls_wait(gate):
    async def main():
        set_asyncify_workers(1)
        calls = [asyncio.ensure_future(asyncify(gate)(i)) for i in range(6)]
        await until(lambda: len(gate.entered) == 1)
        set_asyncify_workers(3)
        await until(lambda: len(gate.entered) == 3)
        set_asyncify_workers(1)
        gate.open.set()
        assert await asyncio.gather(*calls) == list(range(6))
        await until(lambda: len(offload._shared._threads) == 1)

    try:
        run(main)
    finally:
        set_asyncify_workers(ASYNCIFY_WORKERS)


def test_fewer_than_one_worker_is_refused():
    with pytest.raises(ConfigurationError):
        set_asyncify_workers(0)
    with pytest.raises(ConfigurationError):
        asyncify(max_workers=0)


def test_a_decorator_with_one_worker_runs_one_call_at_a_time(gate):
    one_at_a_time = asyncify(max_workers=1)
    first, second = one_at_a_time(gate), one_at_a_time(gate)

    async def main():
        calls = [asyncio.ensure_future(call(i)) for i, call in enumerate((first, second, first))]
        await until(lambda: gate.entered)
        assert await asyncify(square)(2) == 4  # the shared threads are free
        assert gate.entered == [0]
        gate.open.set()
        await asyncio.gather(*calls)
        assert gate.entered == [0, 1, 2]

    run(main)


def test_a_call_cancelled_before_it_begins_never_runs(gate):
    offloaded = asyncify(max_workers=1)(gate)

    async def main():
        running = asyncio.ensure_future(offloaded("first"))
        await until(lambda: gate.entered)
        waiting = asyncio.ensure_future(offloaded("never"))
        last = asyncio.ensure_future(offloaded("last"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.open.set()
        assert await running == "first"
        assert await last == "last"
        assert gate.entered == ["first", "last"]

    run(main)


def test_the_outcome_of_a_cancelled_call_is_dropped(gate, infer):
    def fails_later(value):
        gate(value)
        raise ValueError(value)

    async def main(offloaded, square_too):
        cancelled = asyncio.ensure_future(offloaded("cancelled"))
        await until(lambda: "cancelled" in gate.entered)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        following = asyncio.ensure_future(square_too(5))
        gate.open.set()
        assert await following == 25
        await until(lambda: "cancelled" in gate.left)

    one = asyncify(max_workers=1)
    run(lambda: main(one(fails_later), one(square)))
    gate.__init__()
    run(lambda: main(infer.wrap(fails_later), infer.wrap(square)))


def test_a_call_awaited_in_a_worker_runs_right_there(infer):
    def nested(offloaded):
        return asyncio.run(offloaded(4)), threading.get_ident()

    one = asyncify(max_workers=1)
    for decorate in (one, infer.wrap):
        value, thread = run(lambda decorate=decorate: decorate(nested)(decorate(square)))
        assert value == 16
        assert thread != threading.get_ident()


def test_idle_threads_end_after_a_while_and_the_next_call_starts_another(monkeypatch):
    monkeypatch.setattr(offload, "_PATIENCE", 0.01)
    offloaded = asyncify(max_workers=2)(threading.current_thread)

    async def main():
        first = await offloaded()
        await until(lambda: not first.is_alive())
        second = await offloaded()
        assert second is not first
        await until(lambda: not second.is_alive())

    run(main)


def test_arguments_and_results_are_not_kept_after_the_call(gate):
    class Image:
        pass

    def fails(image):
        raise ValueError("bad image")

    def fails_later(image):
        gate()
        raise ValueError("bad image")

    async def returned(decorate):
        image = Image()
        assert await decorate(lambda image: image)(image) is image
        return weakref.ref(image)

    async def raised(decorate):
        image = Image()
        with contextlib.suppress(ValueError):  # pytest.raises would keep the traceback
            await decorate(fails)(image)
        return weakref.ref(image)

    async def dropped(decorate):
        image = Image()
        task = asyncio.ensure_future(decorate(fails_later)(image))
        await until(lambda: gate.entered)
        task.cancel()
        gate.open.set()
        return weakref.ref(image)

    async def main(decorate):
        for call in (returned, raised, dropped):
            alive = await call(decorate)
            await until(lambda alive=alive: alive() is None)

    gc.disable()  # reference counts alone must free them
    try:
        with CudaInferenceThread() as infer:
            for decorate in (asyncify(max_workers=1), infer.wrap):
                run(lambda decorate=decorate: main(decorate))
                gate.__init__()
    finally:
        gc.enable()


def test_a_call_that_outlives_its_event_loop_causes_no_errors(gate, infer, monkeypatch):
    failures = []
    monkeypatch.setattr(threading, "excepthook", failures.append)

    async def abandon(offloaded):
        asyncio.ensure_future(offloaded("orphan"))
        await until(lambda: gate.entered)

    for decorate in (asyncify(max_workers=1), infer.wrap):
        asyncio.run(abandon(decorate(gate)))
        gate.open.set()
        assert run(lambda decorate=decorate: decorate(square)(3)) == 9
        assert gate.left == ["orphan"]
        gate.__init__()
    assert failures == []


def test_several_event_loops_share_the_threads(infer):
    async def main(offloaded):
        return sum(await asyncio.gather(*(offloaded(i) for i in range(50))))

    expected = sum(i * i for i in range(50))
    for offloaded in (asyncify(square), infer.wrap(square)):
        results = []
        loops = [
            threading.Thread(target=lambda o=offloaded, r=results: r.append(asyncio.run(main(o)))) for _ in range(4)
        ]
        for thread in loops:
            thread.start()
        for thread in loops:
            thread.join(LONG)
        assert results == 4 * [expected]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from Python 3.12, and the point of this
def test_a_forked_child_starts_new_threads_and_has_no_inference_thread(infer):
    run(lambda: asyncify(square)(2))  # the parent has threads that the child will not have

    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert asyncio.run(asyncify(square)(3)) == 9
            try:
                asyncio.run(infer.run(square, 3))
            except NotStarted:
                code = 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + LONG
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.005)
    if ended == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended == (child, 0)


EXIT_SCRIPT = """
import asyncio, sys, threading, time
from aiofranka_ros.offload import threads
from aiofranka_ros.offload.inference import CudaInferenceThread
from aiofranka_ros.offload.workers import asyncify
entered = threading.Event()

def work(seconds):
    entered.set()
    time.sleep(seconds)
    print("finished", flush=True)

async def main(offloaded, seconds):
    task = asyncio.ensure_future(offloaded(seconds))
    while not entered.is_set():
        await asyncio.sleep(0.001)

threads.EXIT_GRACE = float(sys.argv[3])
infer = CudaInferenceThread()
infer.start()
asyncio.run(main(asyncify(work) if sys.argv[1] == "asyncify" else infer.wrap(work), float(sys.argv[2])))
"""


@pytest.mark.parametrize("helper", ["asyncify", "cuda"])
def test_the_process_waits_at_exit_for_a_short_call_but_not_for_one_that_hangs(helper):
    for seconds, grace, expected in (("0.1", "20", "finished\n"), ("1000", "0.1", "")):
        command = [sys.executable, "-c", EXIT_SCRIPT, helper, seconds, grace]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, expected, "")


# CudaInferenceThread.


def test_all_calls_run_in_one_thread_in_order(infer):
    order = []

    def note(i):
        order.append(i)
        return threading.get_ident()

    async def main():
        warm = await infer.warm_up(note, -1, repeat=1)
        threads = set(await asyncio.gather(*(infer.run(note, i) for i in range(50))))
        assert len(warm) == 1 and len(threads) == 1 and threading.get_ident() not in threads

    run(main)
    assert order == list(range(-1, 50))


def test_use_before_start_and_after_stop_raises_at_once():
    infer = CudaInferenceThread()
    wrapped = infer.wrap(square)

    async def refused():
        for use in (infer.run(square, 1), wrapped(1), infer.warm_up(square, 1)):
            with pytest.raises(NotStarted):
                await use

    run(refused)
    assert not infer.running
    infer.start()
    assert infer.running
    assert run(lambda: wrapped(3)) == 9
    assert infer.stop()
    run(refused)
    assert not infer.running
    assert issubclass(NotStarted, RuntimeError)


def test_start_and_stop_may_be_repeated_and_leave_no_thread():
    before = set(threading.enumerate())
    infer = CudaInferenceThread()
    assert infer.stop()
    for _ in range(3):
        infer.start()
        infer.start()
        assert len(set(threading.enumerate()) - before) == 1
        assert run(lambda: infer.run(square, 2)) == 4
        assert infer.stop()
        assert infer.stop()
        assert set(threading.enumerate()) <= before


def test_the_sync_attribute_of_a_wrapped_method_is_bound(infer):
    class Camera:
        offset = 5

        @infer.wrap
        def read(self, index):
            return self.offset + index

    camera = Camera()
    assert run(lambda: camera.read(1)) == 6 == camera.read.sync(1)
    assert inspect.iscoroutinefunction(camera.read)
    wrapped = infer.wrap(threading.get_ident)
    assert wrapped.sync() == threading.get_ident() != run(wrapped)


def test_stop_fails_waiting_calls_and_lets_the_running_one_finish(gate):
    async def main():
        infer = CudaInferenceThread()
        infer.start()
        running = asyncio.ensure_future(infer.run(gate, "running"))
        await until(lambda: gate.entered)
        waiting = asyncio.ensure_future(infer.run(gate, "waiting"))
        await asyncio.sleep(0)
        assert not infer.stop(timeout=0.01)
        with pytest.raises(NotStarted):
            await waiting
        with pytest.raises(NotStarted):
            infer.start()  # two threads must not use one model
        gate.open.set()
        assert await running == "running"
        assert infer.stop()
        infer.start()
        assert await infer.run(square, 2) == 4
        infer.stop()
        assert gate.entered == ["running"]

    run(main)


def test_stop_from_inside_the_thread_does_not_wait_for_itself():
    infer = CudaInferenceThread()
    infer.start()
    thread = run(lambda: infer.run(threading.current_thread))
    assert run(lambda: infer.run(infer.stop)) is False
    thread.join(LONG)
    assert not thread.is_alive()
    assert infer.stop()


def test_async_with_waits_for_the_running_call_without_blocking_the_loop(gate):
    async def main():
        async with CudaInferenceThread() as infer:
            running = asyncio.ensure_future(infer.run(gate))
            await until(lambda: gate.entered)
            # Only the loop can open the gate: if the exit blocked the loop, the gate would stay closed.
            asyncio.get_running_loop().call_later(0.02, gate.open.set)
        assert not infer.running and infer.stop(timeout=0.0)
        await running

    run(main)


def test_with_stops_the_thread_when_the_body_raises():
    with pytest.raises(KeyError), CudaInferenceThread() as infer:
        raise KeyError
    assert not infer.running


def test_a_cancelled_call_that_waits_never_runs(gate, infer):
    async def main():
        running = asyncio.ensure_future(infer.run(gate, 0))
        await until(lambda: gate.entered)
        calls = [asyncio.ensure_future(infer.run(gate, i)) for i in (1, 2)]
        await asyncio.sleep(0)
        calls[0].cancel()
        gate.open.set()
        deadline = time.monotonic() + LONG
        while 2 not in gate.entered and time.monotonic() < deadline:
            time.sleep(0.001)  # the loop is blocked, so the thread runs first and must notice the cancellation itself
        assert await calls[1] == 2 and await running == 0
        assert calls[0].cancelled()
        assert gate.entered == [0, 2]

    run(main)


def test_latest_only_drops_an_observation_when_a_newer_one_arrives(gate):
    reset = []

    async def main():
        async with CudaInferenceThread(latest_only=True) as infer:
            first = asyncio.ensure_future(infer.run(gate, 0))
            await until(lambda: gate.entered)
            calls = [asyncio.ensure_future(infer.run(gate, 1))]
            await asyncio.sleep(0)
            other = asyncio.ensure_future(infer.run(reset.append, "reset"))
            await asyncio.sleep(0)
            calls += [asyncio.ensure_future(infer.run(gate, i)) for i in (2, 3)]
            await asyncio.sleep(0)
            gate.open.set()
            outcomes = await asyncio.gather(first, *calls, return_exceptions=True)
            await other
        assert [type(outcome) for outcome in outcomes] == [int, Superseded, Superseded, int]
        assert gate.entered == [0, 3]
        assert reset == ["reset"], "a call of another function was dropped"

    run(main)


def test_latest_only_treats_methods_of_different_objects_as_different(gate):
    class Arm:
        def __init__(self, name):
            self.name = name

        def act(self, obs):
            return self.name, obs

    async def main():
        left, right = Arm("left"), Arm("right")
        async with CudaInferenceThread(latest_only=True) as infer:
            blocker = asyncio.ensure_future(infer.run(gate))
            await until(lambda: gate.entered)
            calls = [asyncio.ensure_future(infer.run(arm.act, i)) for i, arm in enumerate((left, right, left))]
            await asyncio.sleep(0)
            gate.open.set()
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            await blocker
        assert isinstance(outcomes[0], Superseded)
        assert outcomes[1:] == [("right", 1), ("left", 2)]

    run(main)


def test_warm_up_is_measured_and_neither_counted_nor_superseded(gate):
    async def main():
        async with CudaInferenceThread(latest_only=True) as infer:
            warming = asyncio.ensure_future(infer.warm_up(gate, 1, repeat=2))
            await until(lambda: gate.entered)
            gate.open.set()
            assert await asyncio.gather(*(infer.warm_up(square, i, repeat=3) for i in range(2)))
            timings = await warming
            assert len(timings) == 2 and all(ran > 0 for ran in timings)
            assert infer.timings == ()

    run(main)


def test_timings_separate_waiting_from_running_and_are_bounded(gate):
    def fails():
        raise ValueError

    async def main():
        async with CudaInferenceThread(history=3) as infer:
            assert infer.summary().count == 0 and math.isnan(infer.summary().ran_p50)
            first = asyncio.ensure_future(infer.run(gate))
            await until(lambda: gate.entered)
            second = asyncio.ensure_future(infer.run(square, 1))
            await asyncio.sleep(0.05)
            gate.open.set()
            await asyncio.gather(first, second)
            one, two = infer.timings
            assert one.ran > 0.04  # the gate was shut for 0.05 s
            assert two.waited > 0.04
            with pytest.raises(ValueError):
                await infer.run(fails)
            await infer.run(square, 1)
            assert len(infer.timings) == 3 and infer.timings[0] == two
            summary = infer.summary()
            waited = [timing.waited for timing in infer.timings]
            assert summary.count == 3
            assert summary.waited_p50 == pytest.approx(np.median(waited))
            assert summary.ran_p50 <= summary.ran_p99
            assert summary.waited_p99 <= max(waited)

    run(main)


# All of it.


def test_hundreds_of_cancellations_at_random_moments_leave_everything_usable(infer):
    chance = random.Random(20240501)
    latest = CudaInferenceThread(latest_only=True)
    shared = asyncify(lambda value, pause: (time.sleep(pause), value)[1])
    on_thread = infer.wrap(shared.sync)
    on_latest = latest.wrap(shared.sync)
    threads = threading.active_count()

    async def main():
        async def call(offloaded, value):
            try:
                assert await offloaded(value, chance.random() * 0.0005) == value
            except Superseded:
                return

        for _ in range(40):
            tasks = [
                asyncio.ensure_future(call(offloaded, value))
                for value in range(10)
                for offloaded in (shared, on_thread, on_latest)
            ]
            chance.shuffle(tasks)
            for task in tasks:
                if chance.random() < 0.7:
                    await asyncio.sleep(chance.random() * 0.0003)
                    task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert outcome is None or isinstance(outcome, asyncio.CancelledError)
        for offloaded in (shared, on_thread, on_latest):
            assert await offloaded("still there", 0) == "still there"

    with latest:
        run(main)
    assert threading.active_count() <= threads + ASYNCIFY_WORKERS
