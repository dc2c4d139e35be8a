"""The shared memory: readers see whole records or none, whatever the writer does."""

from __future__ import annotations

import multiprocessing
import os
import time

import numpy as np
import pytest

from aiofranka_ros.control import shared_memory
from aiofranka_ros.control.records import COMMANDS, CYCLE_RECORD, MOTION, new
from aiofranka_ros.control.shared_memory import (
    RING_CAPACITY,
    Block,
    GradualReader,
    Ring,
    SharedMemory,
    fill_path,
    path_size,
)
from aiofranka_ros.errors import ControlProcessDied
from aiofranka_ros.testing import PATIENCE

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
    deadline = time.monotonic() + PATIENCE
    try:
        while (accepted < 20_000 or refused < 20 or len(seen) <= 50) and time.monotonic() < deadline:
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


def interrupt(block: Block, record: np.ndarray, share: float) -> None:
    """Do what a write does that an exception interrupts after a ``share`` of the payload."""
    data = record.view(np.uint8).data
    block._head[0] |= 1
    block._payload[: int(share * len(data))] = data[: int(share * len(data))]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("times", [1, 2])
def test_a_write_after_an_interrupted_one_is_read(memory, share, times):
    record, half, copy = new(COMMANDS), new(COMMANDS), new(COMMANDS)
    record["target_id"], half["target_id"] = 1, 2
    memory.commands.write(record)
    version = memory.commands.version
    for _ in range(times):
        interrupt(memory.commands, half, share)
        assert not memory.commands.read(copy), "half of a record"
    record["target_id"] = 3
    memory.commands.write(record)
    assert memory.commands.read(copy) and copy["target_id"][0] == 3
    assert memory.commands.version > version, "readers must notice that it is another one"


def test_an_old_record_with_the_number_of_a_new_one_is_refused(memory):
    """If a processor reorders stores, the number may be that of a write whose payload is not visible yet."""
    record = new(COMMANDS)
    memory.commands.write(record)
    memory.commands._head[0] += 2
    assert not memory.commands.read(record)


def test_a_torn_block_with_an_even_sequence_number_is_refused(memory):
    """If a processor reorders stores, the number may be even before the payload is complete: the checksum decides."""
    record = new(COMMANDS)
    memory.commands.write(record)
    assert memory.commands.read(record)
    memory.commands._payload[100] ^= 1
    assert not memory.commands.read(record)


def test_a_block_that_was_never_written_is_not_read(memory):
    assert not memory.state.read(new(shared_memory.STATE))
    reader = GradualReader(memory.motion)
    reader.restart(new(MOTION).view(np.uint8).data)
    assert not reader.proceed()


def write_motions(descriptor: int, stop) -> None:
    memory = SharedMemory(os.dup(descriptor))
    record = new(MOTION)
    value = 0
    while not stop.is_set():
        value += 1
        record.view(np.uint8)[:] = value % 251
        memory.motion.write(record, path_size(record, value % 1024))
        time.sleep(1e-4)
    memory.close()


def test_a_gradual_reader_racing_a_writer_never_accepts_a_torn_block(memory):
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    writer = context.Process(target=write_motions, args=(memory.descriptor, stop))
    writer.start()
    record = new(MOTION)
    reader, accepted, calls = GradualReader(memory.motion), 0, 0
    deadline = time.monotonic() + PATIENCE
    try:
        reader.restart(record.view(np.uint8).data)
        while (accepted < 500 or calls < 3 * accepted) and time.monotonic() < deadline:
            calls += 1
            if reader.proceed():
                data = record.view(np.uint8)[: reader._size]
                assert data.min() == data.max(), "half of one write and half of another"
                accepted += 1
    finally:
        stop.set()
        writer.join()
    assert accepted >= 500, "there was no race"


def test_only_the_used_part_of_a_motion_is_copied(memory):
    motion, copy = new(MOTION), new(MOTION)
    fill_path(motion, 7, 1.5, np.array([0.0, 1.0, 2.0]), np.arange(84.0).reshape(2, 7, 6))
    memory.motion.write(motion, path_size(motion, 2))
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


def append_as_fast_as_possible(descriptor: int, stop) -> None:
    memory = SharedMemory(os.dup(descriptor))
    ring, record = small_ring(memory), new(CYCLE_RECORD)
    while not stop.is_set():
        record.view(np.uint8)[:] = ring.count % 251  # Every byte shows which record it belongs to.
        ring.append(record.view(np.uint8).data)
    memory.close()


def small_ring(memory: SharedMemory) -> Ring:
    """A ring of eight records, in the place of the block of motions, so that it is overwritten all the time."""
    return Ring(memory.motion._payload, CYCLE_RECORD, 8)


def test_a_reader_racing_a_writer_never_gets_a_torn_record_of_the_ring(memory):
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    writer = context.Process(target=append_as_fast_as_possible, args=(memory.descriptor, stop))
    writer.start()
    ring, position, given, lost = small_ring(memory), 0, 0, 0
    deadline = time.monotonic() + PATIENCE
    try:
        # If both share a processor, the reader gets one ring full each time that the system changes between them.
        while (given < 1000 or lost < 100) and time.monotonic() < deadline:
            given, lost, position = read_whole(ring, position, given, lost)
    finally:
        stop.set()
        writer.join()
    assert given >= 1000 and lost >= 100, "there was no race"


def read_whole(ring: Ring, position: int, given: int, lost: int) -> tuple[int, int, int]:
    """Read what is new in a ring whose records show which they are; the sums of what it gave and lost, and where."""
    records, after, missed = ring.since(position)
    assert after == position + missed + len(records)
    for number, record in enumerate(records, after - len(records)):
        assert set(record.tobytes()) == {number % 251}, "of another record"
    return given + len(records), lost + missed, after


class OvertakenRing(Ring):
    """A ring that the writer fills by ``ahead`` more records just after its reader has looked how many there are."""

    ahead = 0

    @property
    def count(self) -> int:
        count = super().count
        record = new(CYCLE_RECORD)
        for number in range(count, count + self.ahead):
            record.view(np.uint8)[:] = number % 251
            self.append(record.view(np.uint8).data)
        return count


@pytest.mark.parametrize("ahead", range(20))
def test_a_writer_that_overtakes_a_reader_of_the_ring_costs_it_records_and_tears_none(memory, ahead):
    ring = OvertakenRing(memory.motion._payload, CYCLE_RECORD, 8)
    ring.ahead = 5
    assert ring.count == 0
    ring.ahead, position, given, lost = ahead, 0, 0, 0
    for _ in range(10):
        given, lost, position = read_whole(ring, position, given, lost)
    assert given + lost == position
    assert lost or ahead < 4, "it was not overtaken"


def test_a_record_whose_content_is_not_visible_yet_is_given_later(memory):
    """If a processor reorders stores, a reader may see the count before the record."""
    record_cycles(memory, 10)
    ring, record = memory.cycles, new(CYCLE_RECORD)
    record["time"], record["stamp"] = 10, 10_000_000
    check = ring._words[10 * ring._slot_size // 8]
    ring.append(record.view(np.uint8).data)
    slot = ring._slots[10:11]
    slot["record"]["time"] = 99.0
    records, position, missed = ring.since(8)
    assert list(records["time"]) == [8, 9] and (position, missed) == (10, 0)
    assert ring.at(10_000_000)["time"] == 9
    slot["record"]["time"] = 10
    complete, slot["check"] = slot["check"].copy(), check
    assert len(ring.since(position)[0]) == 0, "its checksum is not visible"
    slot["check"] = complete
    records, position, missed = ring.since(position)
    assert list(records["time"]) == [10] and (position, missed) == (11, 0)


def test_a_record_that_an_exception_interrupted_is_never_given(memory):
    record_cycles(memory, 3)
    memory.cycles._slots["record"]["time"][3] = 99.0
    record_cycles(memory, 1)
    assert list(memory.cycles.since(0)[0]["time"]) == [0, 1, 2, 3]


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
    assert Block.needs(COMMANDS) % 64 == 0 and Block.needs(CYCLE_RECORD) % 64 == 0
    assert np.frombuffer(memory.commands._head, np.uint64).ctypes.data % 64 == 0
