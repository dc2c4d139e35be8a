"""The shared memory: readers see whole records or none, whatever the writer does."""

from __future__ import annotations

import multiprocessing
import os
import time

import numpy as np
import pytest

from aiofranka_ros.control import shared_memory
from aiofranka_ros.control.records import COMMANDS, CYCLE_RECORD, MOTION, new
from aiofranka_ros.control.shared_memory import RING_CAPACITY, Block, SharedMemory, fill_motion, motion_size
from aiofranka_ros.errors import ControlProcessDied

pytestmark = pytest.mark.unit


def write_as_fast_as_possible(descriptor: int, stop) -> None:
    memory = SharedMemory(os.dup(descriptor))
    record = new(COMMANDS)
    value = 0
    while not stop.is_set():
        value += 1
        record.view(np.uint8)[:] = value % 251  # Every byte shows which write it belongs to.
        memory.commands.write(record)
    memory.close()


@pytest.fixture
def memory():
    with SharedMemory.create() as shared:
        yield shared


def test_a_reader_racing_a_writer_never_accepts_a_torn_block(memory):
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    writer = context.Process(target=write_as_fast_as_possible, args=(memory.descriptor, stop))
    writer.start()
    record = new(COMMANDS)
    accepted, refused, seen = 0, 0, set()
    deadline = time.monotonic() + 20.0
    try:
        while (accepted < 20_000 or refused < 20) and time.monotonic() < deadline:
            if memory.commands.read(record):
                data = record.view(np.uint8)
                assert data.min() == data.max(), "half of one write and half of another"
                accepted += 1
                seen.add(int(data[0]))
            else:
                refused += 1
    finally:
        stop.set()
        writer.join()
    assert accepted >= 20_000 and len(seen) > 50, "there was no race"
    assert refused >= 20, "no read met a write, so nothing was proved"


def test_a_torn_block_with_an_even_sequence_number_is_refused(memory):
    """If a processor reorders stores, the number may be even before the payload is complete: the checksum decides."""
    record = new(COMMANDS)
    memory.commands.write(record)
    assert memory.commands.read(record)
    memory.commands._payload[100] ^= 1
    assert not memory.commands.read(record)


def test_a_block_that_was_never_written_is_not_read(memory):
    assert not memory.state.read(new(shared_memory.STATE))


def test_only_the_used_part_of_a_motion_is_copied(memory):
    motion, copy = new(MOTION), new(MOTION)
    fill_motion(motion, 7, 1.5, np.array([0.0, 1.0, 2.0]), np.arange(84.0).reshape(2, 7, 6))
    memory.motion.write(motion, motion_size(2))
    assert memory.motion.read(copy)
    assert copy["id"][0] == 7 and copy["segments"][0] == 2 and copy["start"][0] == 1.5
    np.testing.assert_array_equal(copy["coefficients"][0, :2], motion["coefficients"][0, :2])
    np.testing.assert_array_equal(copy["times"][0, :3], [0.0, 1.0, 2.0])


def record_cycles(memory: SharedMemory, count: int) -> None:
    """Append cycles whose times are their numbers, and whose stamps are as many milliseconds."""
    record = new(CYCLE_RECORD)
    for number in range(memory.cycles.count, memory.cycles.count + count):
        record["time"], record["stamp"] = number, 1_000_000 * number
        memory.cycles.append(record.view(np.uint8).data)


def test_the_ring_gives_every_cycle_once_and_in_order(memory):
    record_cycles(memory, 10)
    first, position, missed = memory.cycles.since(0)
    assert list(first["time"]) == list(range(10)) and missed == 0
    record_cycles(memory, 5)
    more, position, missed = memory.cycles.since(position)
    assert list(more["time"]) == list(range(10, 15)) and missed == 0
    assert len(memory.cycles.since(position)[0]) == 0


def test_a_reader_of_the_ring_that_is_too_slow_learns_how_much_it_missed(memory):
    record_cycles(memory, RING_CAPACITY + 100)
    records, position, missed = memory.cycles.since(0)
    assert position == RING_CAPACITY + 100
    assert missed + len(records) == position and 100 <= missed <= 102
    assert list(records["time"]) == list(range(missed, position))


@pytest.mark.parametrize("cycles", [50, RING_CAPACITY + 100])
def test_the_ring_has_the_cycle_nearest_to_a_time(memory, cycles):
    assert memory.cycles.at(0) is None
    record_cycles(memory, cycles)
    newest = cycles - 1
    for when, expected in (
        (1e6 * (newest - 20), newest - 20),
        (1e6 * (newest - 20) + 4e5, newest - 20),
        (1e6 * (newest - 20) + 6e5, newest - 19),
        (1e6 * (newest + 20), newest),
        (-1e6, max(0, cycles - RING_CAPACITY + 1)),
    ):
        assert memory.cycles.at(int(when))["time"] == expected


def test_an_observer_can_read_but_not_write(memory):
    memory.commands.write(new(COMMANDS))
    with SharedMemory.observe(memory.address) as observer:
        assert observer.commands.read(new(COMMANDS))
        with pytest.raises(TypeError):
            observer.commands.write(new(COMMANDS))


def test_memory_of_another_version_is_refused(memory):
    memory._words[0] += 1
    with pytest.raises(ControlProcessDied, match="different versions"):
        SharedMemory.observe(memory.address)


def test_the_memory_has_no_name_and_is_gone_with_its_last_user():
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    memory = SharedMemory.create()
    address = memory.address
    memory.close()
    memory.close()
    with pytest.raises(OSError):
        SharedMemory.observe(address)
    after = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    assert not any("aiofranka" in name for name in after - before)


def test_only_this_user_may_open_the_memory(memory):
    assert os.stat(memory.address).st_uid == os.getuid()
    # Linux protects /proc/<pid>/fd: only the same user may read it.
    assert os.stat(f"/proc/{os.getpid()}/fd").st_mode & 0o077 == 0


def test_blocks_are_aligned_so_that_no_word_can_tear(memory):
    assert Block.size(COMMANDS) % 64 == 0 and Block.size(CYCLE_RECORD) % 64 == 0
    assert np.frombuffer(memory.commands._head, np.uint64).ctypes.data % 64 == 0
