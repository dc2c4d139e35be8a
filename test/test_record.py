"""Rows of a recording: each cycle once, in order, from whatever the links give it. With an arm: test_controller.py."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from rclpy.serialization import serialize_message
from scipy.spatial.transform import Rotation

from aiofranka_ros.api.recording import Recording
from aiofranka_ros.control.cycles import DEFAULT_FIELDS, FIELDS, CycleReader, Cycles, columns
from aiofranka_ros.control.records import CYCLE_RECORD, Mode, new
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.errors import ConfigurationError, FrankaError
from aiofranka_ros.ros.cycles import message_of, read_cycles

pytestmark = pytest.mark.unit

#: A cycle [ns].
CYCLE = 1_000_000


def cycles(number: int, count: int, source: int = 1, offset: int = 5) -> Cycles:
    """Cycles whose stamps are their numbers in milliseconds."""
    rows = np.zeros(count, CYCLE_RECORD)
    rows["stamp"] = CYCLE * (number + np.arange(count))
    rows["time"] = 1e-3 * (number + np.arange(count))
    return Cycles(source, number, rows, offset)


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    with SharedMemory.create() as memory:
        yield memory


def append(memory: SharedMemory, count: int) -> None:
    for _ in range(count):
        record = new(CYCLE_RECORD)
        record["stamp"] = CYCLE * memory.cycles.count
        memory.cycles.append(record.view(np.uint8).data)


def test_rows_that_come_twice_are_taken_once_and_missing_ones_are_counted() -> None:
    recording = Recording(["cycle"], None)
    for part in (cycles(10, 5), cycles(12, 5), cycles(13, 2), cycles(20, 3)):
        recording.take(part)
    assert recording.data()["cycle"].tolist() == [*range(10, 17), 20, 21, 22]
    assert (recording.rows, recording.dropped) == (10, 3)


def test_another_control_process_begins_again_and_misses_nothing() -> None:
    recording = Recording(["cycle"], None)
    recording.take(cycles(100, 2))
    recording.take(cycles(0, 3, source=2))
    assert recording.data()["cycle"].tolist() == [100, 101, 0, 1, 2]
    assert recording.dropped == 0


@pytest.mark.parametrize(("begin", "first", "dropped"), [(12, 12, 0), (10, 10, 0), (3, 10, 7), (20, None, 0)])
def test_a_recording_begins_when_it_was_asked_for_although_the_rows_begin_elsewhere(
    begin: int, first: int | None, dropped: int
) -> None:
    recording = Recording(["cycle"], None)
    recording.follow(lambda: None, lambda: None, begin * CYCLE + 5)
    recording.take(cycles(10, 8))
    found = recording.data()["cycle"].tolist()
    assert found == ([] if first is None else list(range(first, 18)))
    assert recording.dropped == dropped
    recording.take(cycles(18, 4))
    assert recording.data()["cycle"].tolist() == list(range(max(begin, 10), 22))


def test_columns_have_a_row_for_each_cycle_and_the_names_of_scripts() -> None:
    rng = np.random.default_rng(1)
    part = cycles(7, 3)
    for name in ("q", "tau_last", "position", "response"):
        part.rows[name] = rng.uniform(size=part.rows[name].shape)
    part.rows["orientation"] = turns = Rotation.random(3, random_state=1).as_quat()
    found = columns([part], FIELDS)
    assert {len(column) for column in found.values()} == {3}
    assert set(DEFAULT_FIELDS) <= set(FIELDS)
    np.testing.assert_array_equal(found["tau_J_d"], part.rows["tau_last"])
    np.testing.assert_allclose(found["tcp"][:, :3, :3], Rotation.from_quat(turns).as_matrix())
    np.testing.assert_array_equal(found["tcp"][:, :3, 3], part.rows["position"])
    np.testing.assert_array_equal(found["tcp"][:, 3], np.tile([0.0, 0.0, 0.0, 1.0], (3, 1)))
    np.testing.assert_allclose(found["wall_time"] + found["busy"], 1e-9 * (part.rows["stamp"] + 5))
    np.testing.assert_array_equal(found["cycle"], [7, 8, 9])


def test_a_reader_gives_every_cycle_from_now_on_also_of_the_next_control_process() -> None:
    with SharedMemory.create() as first, SharedMemory.create() as second:
        append(first, 3)
        present: list[SharedMemory | None] = [first]
        recording = Recording(["cycle"], None)
        reader = CycleReader(lambda: present[0], recording.take)
        recording.follow(reader.read, reader.close)
        append(first, 4)
        present[0] = None
        append(second, 2)
        present[0] = second
        assert recording.stop()["cycle"].tolist() == [3, 4, 5, 6, 0, 1]
        append(second, 1)
        assert recording.rows == 6 and not recording.recording


def test_no_row_is_lost_or_doubled_while_several_threads_read(memory: SharedMemory) -> None:
    recording = Recording(["cycle"], None)
    reader = CycleReader(lambda: memory, recording.take)
    recording.follow(reader.read, reader.close)
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            recording.data()

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        append(memory, 25)
    stop.set()
    for thread in threads:
        thread.join()
    assert recording.stop()["cycle"].tolist() == list(range(5000))


def test_a_message_carries_cycles_and_one_of_another_version_is_refused(memory: SharedMemory) -> None:
    append(memory, 5)
    slots, first = memory.cycles.slots(2, 2)
    message = message_of(3, first, slots, 9)
    received = read_cycles(serialize_message(message))
    assert (received.source, received.number, received.offset) == (3, 2, 9)
    assert received.rows["stamp"].tolist() == [2 * CYCLE, 3 * CYCLE]
    message.data[0] ^= 1
    with pytest.raises(FrankaError, match="another version"):
        read_cycles(serialize_message(message))


def test_a_record_that_was_damaged_on_its_way_ends_the_rows_before_it(memory: SharedMemory) -> None:
    append(memory, 5)
    message = message_of(1, 0, *memory.cycles.slots(0)[:1], 0)
    message.data[-1] ^= 1
    assert len(read_cycles(serialize_message(message)).rows) == 4


def test_rows_are_saved_whole_also_after_an_error_inside_the_block(tmp_path: Path, memory: SharedMemory) -> None:
    path = tmp_path / "made" / "run.npz"
    with pytest.raises(RuntimeError, match="policy"):
        with Recording(["time", "q"], path) as recording:
            reader = CycleReader(lambda: memory, recording.take)
            recording.follow(reader.read, reader.close)
            append(memory, 3)
            raise RuntimeError("policy")
    with np.load(path) as saved:
        assert sorted(saved) == ["q", "time"] and saved["q"].shape == (3, 7)
    assert [entry.name for entry in path.parent.iterdir()] == ["run.npz"]


def test_a_file_for_foxglove_has_a_message_for_each_row(tmp_path: Path) -> None:
    recording = Recording(["time", "q", "tcp", "mode"], None)
    part = cycles(3, 4)
    part.rows["mode"] = Mode.OSC
    recording.take(part)
    path = recording.save(tmp_path / "run.mcap")
    with path.open("rb") as file:
        rows = [(message.log_time, json.loads(message.data)) for _, _, message in make_reader(file).iter_messages()]
    assert [stamp for stamp, _ in rows] == [CYCLE * number + 5 for number in range(3, 7)]
    assert rows[1][1]["time"] == 0.004 and rows[1][1]["mode"] == "osc"
    assert len(rows[0][1]["q"]) == 7 and np.shape(rows[0][1]["tcp"]) == (4, 4)
    assert "stamp" not in rows[0][1]


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        (["qq"], None, "no field of a recording 'qq'; did you mean 'q'"),
        ("q", None, "must be a list of names"),
        (["q", "tau", "q"], None, "'q' twice"),
        (["q"], "run.csv", r"saved as \.npz or \.mcap, not as 'run.csv'"),
        (["q"], "/proc/run.npz", "/proc/run.npz cannot be written: "),
    ],
)
def test_what_cannot_be_recorded_is_refused_at_the_beginning(fields: list[str], path: str | None, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Recording(fields, path)


def test_without_a_path_save_wants_one(tmp_path: Path) -> None:
    recording = Recording(["q"], None)
    with pytest.raises(ConfigurationError, match="give save\\(\\) one"):
        recording.save()
    assert recording.save(tmp_path / "empty.npz").exists()
    assert recording.data()["q"].shape == (0, 7)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of zipfile
def test_a_full_disk_is_reported_and_the_rows_can_be_saved_elsewhere(tmp_path: Path) -> None:
    recording = Recording(["q"], None)
    recording.take(cycles(0, 10))
    full = tmp_path / "full.npz"
    full.with_name(f".{full.name}.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        recording.save(full)
    assert recording.save(full).exists()
