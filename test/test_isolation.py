"""Objects in separate processes: calls, arrays, errors, cancellation, and the end of the process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import multiprocessing
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from isolated_objects import (
    Policy,
    broken_factory,
    dying_factory,
    footprint,
    logging_factory,
    slow_factory,
)

from aiofranka_ros.errors import ConfigurationError, NotPicklable, RemoteDied, RemoteError, RemoteStopped
from aiofranka_ros.offload.mpify.arrays import SLOTS, Channel, Packed
from aiofranka_ros.offload.mpify.isolated import Proxy, mpify
from aiofranka_ros.testing import alive

pytestmark = pytest.mark.unit

#: Long enough for everything here on a busy machine [s]; only reached if something is wrong.
PATIENCE = 60.0


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    with mpify(Policy):  # multiprocessing keeps some descriptors open from its first use on.
        pass
    started = len(os.listdir("/proc/self/fd"))
    assert started <= before + 1
    yield
    gc.collect()
    assert not multiprocessing.active_children()
    assert len(os.listdir("/proc/self/fd")) <= started  # Descriptors of other test modules may have been closed.


@pytest.fixture(scope="module")
def policy() -> Iterator[Proxy]:
    with mpify(Policy, gain=0.5) as proxy:
        yield proxy


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


def exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


@contextlib.contextmanager
def script(tmp_path: Path, text: str) -> Iterator[subprocess.Popen[str]]:
    """A user's script, in a separate process."""
    path = tmp_path / "script.py"
    path.write_text(text)
    # The script needs the objects of the tests.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# --- Arrays through a channel, within one process


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    one, other = (Channel(end, 64) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    yield one, other
    one.close()
    other.close()


def packed(channel: Channel, value: Any) -> Packed:
    return channel.pack(channel.encode(value, "it"))


def through(channels: tuple[Channel, Channel], value: Any) -> Any:
    channels[0].send(1, 2, packed(channels[0], value))
    message = channels[1].receive()
    assert message is not None and (message.kind, message.number) == (1, 2)
    return message.load()


def answer(channels: tuple[Channel, Channel]) -> None:
    """A message in the other direction, which releases the memory that the receiver no longer uses."""
    channels[1].send(1, 2, packed(channels[1], None))
    assert channels[0].receive() is not None


@dataclass
class Observation:
    images: dict[str, list[Any]]
    state: tuple[Any, ...]


BASE = np.arange(600.0).reshape(20, 30)
RECORDS = np.zeros(50, [("q", "f8", (7,)), ("name", "U5")])
RECORDS["name"] = "joint"
READ_ONLY = BASE.copy()
READ_ONLY.flags.writeable = False
ARRAYS = {
    "contiguous": BASE,
    "small": np.arange(7.0),
    "small and read-only": READ_ONLY[0, :3],
    "Fortran order": np.asfortranarray(BASE),
    "small in Fortran order": np.asfortranarray(BASE[:2, :3]),
    "every other": BASE[::2, ::3],
    "backwards": BASE[::-1, ::-1],
    "read-only": READ_ONLY,
    "broadcast": np.broadcast_to(np.arange(30.0), (20, 30)),
    "empty": np.zeros((0, 480, 3), np.uint8),
    "0-d": np.array(2.5),
    "structured": RECORDS,
    "bytes": np.arange(250, dtype=np.uint8),
    "booleans": BASE % 2 == 0,
    "complex": BASE * 1j,
    "big-endian": BASE.astype(">f4"),
    "times": np.arange(100).astype("M8[ms]"),
    "strings": np.array(["link"] * 30),
    "objects": np.array([{"a": 1}, None, "text"] * 20, object),
    "half floats": BASE.astype(np.float16),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_every_kind_of_array_arrives_equal_and_writable(channels, name):
    sent = ARRAYS[name]
    received = through(channels, sent)
    np.testing.assert_array_equal(received, sent)
    assert received.dtype == sent.dtype and received.shape == sent.shape
    assert received.flags.fnc == sent.flags.fnc, "code that relies on the memory order must keep working"
    assert received.flags.writeable


def test_arrays_are_found_at_any_depth(channels):
    observation = Observation({"wrist": [BASE, BASE + 1], "base": [BASE[:, ::2]]}, (np.arange(7.0), {"mask": BASE > 3}))
    received = through(channels, ("get_action", (observation,), {"again": BASE}))[1][0]
    np.testing.assert_array_equal(received.images["wrist"][1], BASE + 1)
    np.testing.assert_array_equal(received.images["base"][0], BASE[:, ::2])
    np.testing.assert_array_equal(received.state[1]["mask"], BASE > 3)


def test_an_array_that_occurs_twice_arrives_as_one_object(channels):
    first, second = through(channels, [BASE, BASE])
    assert first is second


class Blob(bytearray):
    def __reduce_ex__(self, protocol: Any) -> Any:
        return Blob, (pickle.PickleBuffer(self),)


def test_objects_with_their_own_buffers_arrive(channels):
    for content in (b"short", bytes(range(256)) * 10):
        assert through(channels, Blob(content)) == Blob(content)


def test_messages_longer_than_a_packet_arrive(channels):
    long = "joint" * 1_000_000
    many = [np.full(100, index) for index in range(5000)]
    assert through(channels, long) == long
    for index, array in enumerate(through(channels, many)):
        assert array[0] == index


def test_a_message_that_waits_does_not_change_with_the_callers_array(channels):
    image = BASE.copy()
    waiting = channels[0].encode(image, "it")
    waiting.keep()
    image[:] = -1.0
    ready = channels[0].pack(waiting)
    channels[0].send(1, 2, ready)
    np.testing.assert_array_equal(channels[1].receive().load(), BASE)


def test_a_kept_array_does_not_change_when_more_arrive(channels):
    kept = []
    for number in range(3 * SLOTS):
        kept.append(through(channels, BASE + number)[1:])  # A view of it is enough.
        answer(channels)
    for number, array in enumerate(kept):
        np.testing.assert_array_equal(array, BASE[1:] + number)


def test_writing_into_a_received_array_changes_nothing_else(channels):
    first = through(channels, BASE)
    first[:] = 0.0
    second = through(channels, BASE)
    np.testing.assert_array_equal(second, BASE)
    assert not first.any()


def test_arrays_outlive_the_channel(channels):
    received = through(channels, BASE)
    for channel in channels:
        channel.close()
    np.testing.assert_array_equal(received, BASE)
    received[:] = 1.0


def test_memory_is_reused_once_the_arrays_are_gone(channels):
    before = footprint()["segments"]
    for _ in range(100):
        array = through(channels, BASE)
        del array
        answer(channels)
    assert footprint()["segments"] - before == 2, "one slot, mapped by both ends"


def test_keeping_many_arrays_uses_a_bounded_number_of_descriptors_and_segments(channels):
    kept, before = [], footprint()
    for number in range(10 * SLOTS):
        kept.append(through(channels, BASE + number))
        answer(channels)
    after = footprint()
    most = 2 * (SLOTS + 1)  # Each slot is mapped by both ends here.
    assert after["segments"] - before["segments"] <= most
    assert after["descriptors"] - before["descriptors"] <= most


def test_many_messages_at_once_leave_no_memory_behind(channels):
    before = footprint()["segments"]
    for number in range(40):
        channels[0].send(1, 1 + number, packed(channels[0], BASE + number))
    for number in range(40):
        np.testing.assert_array_equal(channels[1].receive().load(), BASE + number)
    assert footprint()["segments"] - before <= 2 * (SLOTS + 1)


def test_larger_messages_replace_the_memory_of_smaller_ones(channels):
    before = footprint()["segments"]
    for size in (100, 10_000, 1_000_000, 100):
        np.testing.assert_array_equal(through(channels, np.arange(size)), np.arange(size))
        answer(channels)
        through(channels, None)
    assert footprint()["segments"] - before <= 2


# --- Used like a local object


def test_methods_attributes_and_the_object_itself_are_used_like_local_ones(policy):
    async def main() -> None:
        assert await policy.pid() != os.getpid()
        assert await policy.gain == 0.5
        assert await policy._last_timing == 0.25
        assert await policy(3) == ("called", 3)
        assert await policy.echo([1], note="kw") == [1]
        assert (await policy.calls)[-1] == "kw"

    run(main())


def test_dotted_names_reach_into_the_object(policy):
    async def main() -> None:
        assert await policy.part.double(21) == 42
        assert await policy.part.scale == 3
        await policy.assign("part.scale", 4)
        assert await policy.part.scale == 4

    run(main())


def test_attributes_are_set_by_assign_only(policy):
    async def main() -> None:
        await policy.assign("gain", 0.75)
        assert await policy.gain == 0.75
        with pytest.raises(AttributeError, match="assign"):
            policy.gain = 1.0
        with pytest.raises(AttributeError):
            del policy.gain
        assert await policy.gain == 0.75

    run(main())


def test_remote_reaches_an_attribute_that_the_proxy_has_too(policy):
    async def main() -> None:
        await policy.assign("stop", "of the object")
        assert await policy.remote("stop") == "of the object"

    run(main())


def test_a_proxy_has_no_special_methods_and_cannot_be_pickled(policy):
    for name in ("__len__", "__iter__", "__wrapped__", "__array__"):
        assert not hasattr(policy, name) and not hasattr(policy.echo, name)
    for thing in (policy, policy.echo):
        with pytest.raises(NotPicklable):
            pickle.dumps(thing)
    assert "Policy" in repr(policy) and "echo" in repr(policy.echo)


def test_images_arrive_in_both_directions(policy):
    async def main() -> None:
        images = [np.random.default_rng(n).integers(0, 255, (480, 640, 3), np.uint8) for n in range(4)]
        received = await policy.echo({"images": images})
        for sent, back in zip(images, received["images"], strict=True):
            np.testing.assert_array_equal(sent, back)
            assert back.flags.writeable

    run(main())


def test_arrays_kept_on_either_side_do_not_change(policy):
    async def main() -> None:
        await policy.assign("kept", [])
        received = []
        for number in range(2 * SLOTS):
            image = np.full((100, 100, 3), number, np.uint8)
            await policy.keep(image)
            received.append(await policy.echo(image))
        for number, (here, there) in enumerate(zip(received, await policy.kept, strict=True)):
            assert (here == number).all() and (there == number).all()

    run(main())


def test_a_waiting_call_sends_its_arguments_as_they_were_when_it_was_made(policy, tmp_path):
    gate = tmp_path / "gate"

    async def main() -> None:
        running = asyncio.ensure_future(policy.wait_for(str(gate)))
        image = np.zeros((100, 100, 3), np.uint8)
        waiting = asyncio.ensure_future(policy.echo(image))
        await until((tmp_path / "gate.begun").exists)
        image[:] = 1
        gate.touch()
        await running
        assert not (await waiting).any()

    run(main())


def test_large_messages_neither_deadlock_nor_mix(policy):
    async def main() -> None:
        texts = [letter * 3_000_000 for letter in "abcd"]
        assert await asyncio.gather(*[policy.echo(text) for text in texts]) == texts

    run(main())


# --- Order, time limits and cancellation


def test_concurrent_calls_each_get_their_own_answer_in_order(policy):
    async def main() -> None:
        await policy.assign("calls", [])
        answers = await asyncio.gather(*[policy.echo(n, note=n) for n in range(200)])
        assert answers == list(range(200))
        assert await policy.calls == list(range(200))

    run(main())


def test_a_call_that_times_out_raises_and_its_late_answer_is_dropped(policy, tmp_path):
    gate = tmp_path / "gate"

    async def main() -> None:
        slow = asyncio.ensure_future(policy.with_timeout(0.1).wait_for(str(gate), "late"))
        with pytest.raises(TimeoutError, match="wait_for"):
            await slow
        waiting = asyncio.ensure_future(policy.echo("in time"))
        await asyncio.sleep(0)
        gate.touch()
        assert await waiting == "in time"

    run(main())


def test_a_time_limit_holds_for_all_calls_or_for_one(tmp_path):
    async def main() -> None:
        async with await mpify.options(timeout=0.05).create(Policy) as proxy:
            with pytest.raises(TimeoutError):
                await proxy.wait_for(str(tmp_path / "gate"))
            (tmp_path / "gate").touch()
            assert await proxy.with_timeout(None).echo(1) == 1

    run(main())


def test_a_call_cancelled_or_timed_out_before_its_turn_is_never_executed(policy, tmp_path):
    gate = tmp_path / "gate"

    async def main() -> None:
        await policy.assign("calls", [])
        running = asyncio.ensure_future(policy.wait_for(str(gate), "first"))
        cancelled = asyncio.ensure_future(policy.echo(1, note="cancelled"))
        late = asyncio.ensure_future(policy.with_timeout(0.05).echo(np.zeros(100_000), note="late"))
        last = asyncio.ensure_future(policy.echo(3, note="last"))
        with pytest.raises(TimeoutError):
            await late
        cancelled.cancel()
        gate.touch()
        assert await last == 3 and await running == "first"
        assert await policy.calls == ["first", "last"]

    run(main())


def test_after_a_cancelled_call_the_next_one_gets_its_own_answer(policy, tmp_path):
    gate = tmp_path / "gate"

    async def main() -> None:
        running = asyncio.ensure_future(policy.wait_for(str(gate), "dropped"))
        await until((tmp_path / "gate.begun").exists)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        following = asyncio.ensure_future(policy.echo("mine"))
        gate.touch()
        assert await following == "mine"

    run(main())


def test_calls_cancelled_at_any_moment_leave_the_proxy_usable(policy):
    async def main() -> None:
        choose = random.Random(3)
        image = np.arange(90_000)
        outcomes = {"cancelled": 0, "answered": 0}
        for number in range(300):
            task = asyncio.ensure_future(policy.echo((number, image if number % 3 == 0 else None)))
            neighbour = asyncio.ensure_future(policy.echo(number))
            for _ in range(choose.randrange(8)):
                await asyncio.sleep(choose.choice((0, 0, 0.0003)))
            task.cancel()
            try:
                assert (await task)[0] == number
                outcomes["answered"] += 1
            except asyncio.CancelledError:
                outcomes["cancelled"] += 1
            assert await neighbour == number
        assert outcomes["cancelled"] > 20, outcomes

    run(main())


def test_one_event_loop_after_another_can_use_a_proxy(policy, tmp_path):
    gate = tmp_path / "gate"

    async def leave() -> None:
        asyncio.ensure_future(policy.wait_for(str(gate), "of the first loop"))
        asyncio.ensure_future(policy.echo("never sent"))
        await until((tmp_path / "gate.begun").exists)

    async def follow() -> None:
        answer = asyncio.ensure_future(policy.echo("of the second"))
        await asyncio.sleep(0)
        gate.touch()
        assert await answer == "of the second"

    run(leave())
    run(follow())


def test_loops_that_are_not_closed_can_take_turns(policy):
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        for loop in (first, second, first):
            assert loop.run_until_complete(policy.echo(5)) == 5
    finally:
        first.close()
        second.close()


def test_a_second_running_loop_is_refused(policy):
    async def main() -> None:
        await policy.echo(1)

        def elsewhere() -> None:
            with pytest.raises(RuntimeError, match="another event loop"):
                asyncio.run(policy.echo(2))

        await asyncio.to_thread(elsewhere)
        assert await policy.echo(3) == 3

    run(main())


def test_a_call_without_an_event_loop_raises(policy):
    call = policy.echo(1)
    with pytest.raises(RuntimeError, match="event loop"):
        call.send(None)


# --- Errors in the object


def test_an_exception_keeps_its_type_and_has_its_remote_traceback(policy):
    async def main() -> None:
        with pytest.raises(KeyError) as caught:
            await policy.fail("k")
        assert caught.value.args == ("k",)
        assert "isolated_objects.py" in str(caught.value.__cause__)
        assert "raise KeyError(key)" in str(caught.value.__cause__)
        with pytest.raises(AttributeError, match="nowhere"):
            await policy.nowhere

    run(main())


@pytest.mark.parametrize(
    ("way", "type_name"),
    [
        ("unportable", "isolated_objects.Unportable"),
        ("local", "isolated_objects.Policy.fail_in.<locals>.Local"),
        ("stop iteration", "builtins.StopIteration"),
        ("keyboard interrupt", "builtins.KeyboardInterrupt"),
    ],
)
def test_an_exception_that_cannot_travel_becomes_a_remote_error(policy, way, type_name):
    async def main() -> None:
        with pytest.raises(RemoteError) as caught:
            await policy.fail_in(way)
        assert caught.value.type_name == type_name
        assert "fail_in" in caught.value.traceback
        assert await policy.echo(1) == 1

    run(main())


def test_only_the_call_with_an_unpicklable_value_fails(policy):
    async def main() -> None:
        with pytest.raises(NotPicklable, match=r"echo.*lock"):
            await policy.echo(threading.Lock())
        with pytest.raises(NotPicklable, match="result"):
            await policy.unpicklable()
        assert await policy.echo(1) == 1

    run(main())


def test_an_exception_of_the_factory_arrives_and_the_process_ends():
    with pytest.raises(ValueError, match="no checkpoint") as caught:
        mpify(broken_factory, "no checkpoint")
    assert "broken_factory" in str(caught.value.__cause__)
    assert not [child for child in multiprocessing.active_children() if "broken" in child.name]


def test_a_factory_that_cannot_be_pickled_is_refused_before_anything_starts(monkeypatch):
    def start(process: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", start)
    with pytest.raises(NotPicklable, match="lambda"):
        mpify(lambda: Policy())
    with pytest.raises(NotPicklable, match="Policy"):
        mpify(Policy, threading.Lock())


def test_a_process_that_dies_before_the_object_exists_raises_its_exit_code():
    with pytest.raises(RemoteDied, match="exit code 7") as caught:
        mpify(dying_factory)
    assert caught.value.exit_code == 7


def test_options_are_checked():
    with pytest.raises(ConfigurationError, match="timeout"):
        mpify.options(timeout=0.0)
    with pytest.raises(TypeError):
        mpify.options(time_out=1.0)


# --- The end of the process


def test_a_process_that_dies_fails_every_waiting_call_at_once_and_all_later_ones(tmp_path):
    async def main() -> None:
        async with await mpify.create(Policy) as proxy:
            pid = await proxy.pid()
            calls = [asyncio.ensure_future(proxy.wait_for(str(tmp_path / "gate"), n)) for n in range(5)]
            await until((tmp_path / "gate.begun").exists)
            os.kill(pid, signal.SIGKILL)
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(outcome, RemoteDied) and not isinstance(outcome, RemoteStopped)
                assert outcome.exit_code == -signal.SIGKILL and "SIGKILL" in str(outcome)
            with pytest.raises(RemoteDied, match="SIGKILL"):
                await proxy.echo(1)
            assert not exists(pid), "reaped without stop()"

    run(main())


def test_a_process_that_dies_between_two_event_loops_is_noticed_by_the_next_call():
    with mpify(Policy) as proxy:
        pid = run(proxy.pid())
        os.kill(pid, signal.SIGSEGV)
        with pytest.raises(RemoteDied, match="SIGSEGV"):
            run(proxy.echo(1))


@pytest.mark.parametrize("status", [0, 3])
def test_an_object_that_exits_ends_its_process_and_not_this_one(status):
    async def main() -> None:
        async with await mpify.create(Policy) as proxy:
            with pytest.raises(RemoteDied, match=f"exit code {status}") as caught:
                await proxy.leave(status)
            assert caught.value.exit_code == status

    run(main())


def test_stop_reaps_the_process_is_idempotent_and_refuses_later_calls(tmp_path):
    async def main() -> None:
        proxy = await mpify.create(Policy)
        pid = await proxy.pid()
        proxy.stop()
        assert not exists(pid)
        proxy.stop()
        with pytest.raises(RemoteStopped):
            await proxy.echo(1)

    run(main())


def test_stop_fails_waiting_calls(tmp_path):
    async def main() -> None:
        proxy = await mpify.options(grace=0.05).create(Policy)
        calls = [asyncio.ensure_future(proxy.wait_for(str(tmp_path / "gate"))) for _ in range(3)]
        await until((tmp_path / "gate.begun").exists)
        proxy.stop()
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, RemoteStopped)

    run(main())


def test_a_call_that_ends_during_stop_gets_no_answer_and_the_process_ends_by_itself(tmp_path, caplog):
    gate = tmp_path / "gate"

    async def main() -> None:
        proxy = await mpify.options(grace=PATIENCE).create(Policy)
        waiting = asyncio.ensure_future(proxy.wait_for(str(gate)))
        await until((tmp_path / "gate.begun").exists)
        gate.touch()
        proxy.stop()
        with pytest.raises(RemoteStopped) as caught:
            await waiting
        assert caught.value.exit_code is None, "raised before the process had ended"
        with pytest.raises(RemoteStopped) as caught:
            await proxy.echo(1)
        assert caught.value.exit_code == 0

    run(main())
    assert not [record for record in caplog.records if "SIGTERM" in record.getMessage()]


def test_leaving_async_with_ends_a_busy_process_without_blocking_the_loop(tmp_path):
    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        async with await mpify.options(grace=0.2).create(Policy) as proxy:
            await proxy.ignore_sigterm()
            pid = await proxy.pid()
            busy = asyncio.ensure_future(proxy.compute(str(tmp_path / "begun")))
            await until((tmp_path / "begun").exists)
            ticking = asyncio.ensure_future(tick())
        assert not exists(pid), "killed, because it ignored SIGTERM"
        assert ticks > 10, "there is time for many in 0.4 s of grace"
        ticking.cancel()
        with pytest.raises(RemoteStopped):
            await busy

    run(main())


def test_another_thread_can_stop_it_while_the_loop_runs(tmp_path):
    async def main() -> None:
        proxy = await mpify.options(grace=0.1).create(Policy)
        pid = await proxy.pid()
        waiting = asyncio.ensure_future(proxy.wait_for(str(tmp_path / "gate")))
        await until((tmp_path / "gate.begun").exists)
        await asyncio.to_thread(proxy.stop)
        with pytest.raises(RemoteStopped):
            await waiting
        assert not exists(pid)

    run(main())


def test_a_garbage_collected_proxy_ends_its_process():
    proxy = mpify(Policy)
    pid = run(proxy.pid())
    view = proxy.with_timeout(1.0)
    del proxy
    assert run(view.echo(1)) == 1, "another view still uses it"
    with pytest.warns(ResourceWarning, match="never stopped"):
        del view
        gc.collect()
    assert not exists(pid)


def test_create_does_not_block_the_loop_and_can_be_cancelled(tmp_path):
    async def main() -> None:
        creating = asyncio.ensure_future(mpify.options(grace=0.05).create(slow_factory, str(tmp_path / "gate")))
        await until((tmp_path / "gate.begun").exists)
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
        assert not [child for child in multiprocessing.active_children() if "slow" in child.name]

    run(main())


@pytest.mark.parametrize("blocking", [True, False])
def test_an_object_that_is_not_ready_in_time_raises_and_its_process_ends(tmp_path, blocking):
    hasty = mpify.options(start_timeout=0.05, grace=0.05)
    with pytest.raises(TimeoutError):
        if blocking:
            hasty(slow_factory, str(tmp_path / "gate"))
        else:
            run(hasty.create(slow_factory, str(tmp_path / "gate")))
    assert not [child for child in multiprocessing.active_children() if "slow" in child.name]


def test_the_child_ignores_ctrl_c(policy):
    async def main() -> None:
        os.kill(await policy.pid(), signal.SIGINT)
        assert await policy.echo(1) == 1

    run(main())


def test_the_object_can_start_processes(policy):
    assert run(policy.has_children()) == 0


FORGETFUL = """
import asyncio, sys
from aiofranka_ros.offload.mpify.isolated import mpify
from isolated_objects import Policy

async def main(policy):
    print(await policy.pid(), flush=True)
    {then}

if __name__ == "__main__":
    policy = mpify.options(grace=0.1)(Policy)
    asyncio.run(main(policy))
"""


def test_a_script_that_does_not_call_stop_ends_and_leaves_no_process(tmp_path):
    with script(tmp_path, FORGETFUL.format(then="pass")) as process:
        output, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        assert not exists(int(output))


def test_the_process_ends_with_the_users_process_even_while_it_computes(tmp_path):
    begun = tmp_path / "begun"
    with script(tmp_path, FORGETFUL.format(then=f"await policy.compute({str(begun)!r})")) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        try:
            run(until(begun.exists))
            process.kill()
            process.wait()
            run(until(lambda: not alive(pid)))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_a_script_without_a_main_guard_gets_a_clear_error(tmp_path):
    text = "from aiofranka_ros import mpify\nfrom isolated_objects import Policy\nprint('once')\nmpify(Policy)\n"
    with script(tmp_path, text) as process:
        output, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1
        assert output.count("once") == 2, "by the script, and by the child that imports it"
        assert "__main__" in errors.strip().splitlines()[-1]


# --- Logs and output of the child


def test_log_records_of_the_child_reach_the_loggers_of_the_users_process(policy, caplog):
    async def main() -> None:
        await policy.log(logging.WARNING, "gripper at %.1f mm", 12.34)
        await policy.log(logging.WARNING, "x" * 200_000)
        await policy.log_exception()

    run(main())
    first, long, exception = [record for record in caplog.records if record.name == "policy.child"]
    assert first.getMessage() == "gripper at 12.3 mm" and first.levelno == logging.WARNING
    assert first.process != os.getpid()
    assert long.getMessage().startswith("xxx")
    assert "KeyError: 'k'" in exception.getMessage()


def test_log_levels_hold_in_the_child_and_records_of_the_factory_arrive(caplog):
    with caplog.at_level(logging.DEBUG, logger="policy"), mpify(logging_factory) as proxy:
        run(proxy.log(logging.DEBUG, "fine"))
    assert [record.getMessage() for record in caplog.records if record.name == "policy.child"] == ["loading", "fine"]


def test_output_of_the_child_is_not_lost_if_it_is_killed(capfd, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with mpify(Policy) as proxy:
        run(proxy.speak())
        with pytest.raises(RemoteDied):
            run(proxy.die(signal.SIGKILL))
    output = capfd.readouterr()
    assert "said by the child" in output.out and "complained by the child" in output.err


# --- Leaks


def test_calls_with_images_leak_neither_memory_nor_descriptors(policy):
    async def main() -> None:
        image = np.zeros((480, 640, 3), np.uint8)
        footprints = []
        for _ in range(3):
            for number in range(300):
                await policy.echo(image)
                if number % 50 == 0:
                    with pytest.raises(KeyError):
                        await policy.fail("k")
            gc.collect()
            footprints.append((footprint(), await policy.footprint()))
        for half, end in zip(footprints[1], footprints[2], strict=True):
            assert end["descriptors"] <= half["descriptors"] and end["segments"] <= half["segments"]
            # 300 images would be 276 MB; allocators may keep a little.
            assert end["memory"] - half["memory"] < 2_000_000

    run(main())


@pytest.mark.slow
def test_the_benchmark_writes_its_figures(tmp_path):
    report = tmp_path / "bench" / "offload.json"
    bench = Path(__file__).parent.parent / "bench" / "offload.py"
    command = [sys.executable, str(bench), "--rounds", "1", "--leak-check", "100", "--quiet", "--output", str(report)]
    status = subprocess.run(command, timeout=PATIENCE, check=False).returncode
    assert status in (0, 1), "1 if this machine is too slow at the moment"
    figures = json.loads(report.read_text())
    for helper in ("mpify", "pipe", "asyncify", "run_in_executor", "cuda_inference_thread"):
        for payload in ("vector", "image", "four_images"):
            trip = figures["round_trip_us"][helper][payload]
            assert 0.0 < trip["p50"] <= trip["p99"]
    assert figures["ratio"]["mpify_over_pipe"]["four_images"]["median"] > 1.0
    assert figures["leak_check"]["calls"] == 100
    assert report.with_suffix(".png").stat().st_size > 10_000
