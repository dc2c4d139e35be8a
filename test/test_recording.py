"""Recordings: what a file contains, who can read it, how much of the disk they take, and what goes wrong. No arm."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import ROOT
from mcap.reader import make_reader
from mcap.writer import Writer
from story import MS, PARAMETERS, Story

from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.records import CYCLE_RECORD, STATE, new
from aiofranka_ros.control.shared_memory import RING_CAPACITY, Ring, SharedMemory
from aiofranka_ros.errors import ControlProcessDied, ControlStopped, RecordingFailed
from aiofranka_ros.recording import folder as files
from aiofranka_ros.recording.channels import CHANNELS
from aiofranka_ros.recording.notes import Notes
from aiofranka_ros.recording.reader import read
from aiofranka_ros.recording.recorder import Recorder, Trigger
from aiofranka_ros.recording.writer import save

pytestmark = pytest.mark.unit


# --- What is in a file


def test_a_file_has_every_cycle_as_it_was_recorded(tmp_path: Path) -> None:
    story = Story(3000)
    random = np.random.default_rng(1)
    for name in ("q", "dq", "tau", "ref_q"):
        story.cycles[name] = random.normal(size=(3000, 7))
    story.cycles["target_id"], story.cycles["motion_id"] = np.arange(3000), 2**40
    before = time.time_ns() - 3_100 * MS
    recording = story.recording(tmp_path)
    assert len(recording.cycles) == 3000 and not recording.truncated
    for name in ("q", "dq", "tau", "ref_q", "response", "success_rate", "time"):
        np.testing.assert_allclose(recording.cycles[name], story.cycles[name], rtol=0.0, atol=1e-9, err_msg=name)
    for name in ("target_id", "motion_id", "mode", "law", "motion_status", "activation", "lost"):
        np.testing.assert_array_equal(recording.cycles[name], story.cycles[name], err_msg=name)
    # Times are by the system's clock, to the nanosecond.
    np.testing.assert_array_equal(np.diff(recording.cycles.stamps), np.diff(story.cycles["stamp"]))
    assert before < recording.cycles.stamps[0] < recording.cycles.stamps[-1] < time.time_ns()
    assert recording.parameters["kp"] == list(PARAMETERS["kp"])


def test_what_else_tells_the_story_is_there_in_the_order_in_which_it_happened(tmp_path: Path) -> None:
    story = Story(100)
    for ago, topic, size in ((5, "twist_desired", 6), (9, "q_desired", 7)):
        story.targets.append((story.end - ago * MS, topic, (0.1,) * size))
    story.events = [(story.end, "owner", "/policy on ~/ee_desired", {"client": "/policy"})]
    story.lines = [(story.end, "warning", "targets are limited")]
    story.ticks["state"]["target_age"] = np.inf
    recording = story.recording(tmp_path)
    assert [(one["topic"], len(one["values"]), one["sender"]) for one in recording.targets] == [
        ("q_desired", 7, "/policy"), ("twist_desired", 6, "/policy"),
    ]  # fmt: skip
    assert recording.events[0].data == {
        "kind": "owner", "message": "/policy on ~/ee_desired", "data": {"client": "/policy"},
    }  # fmt: skip
    assert recording.log[0]["message"] == "targets are limited" and recording.log[0]["level"] == 3
    assert recording.summary["trigger"] == "asked"
    assert np.isnan(recording.ticks["target_age"]).all(), "JSON has no infinity"


def test_foxglove_can_read_it(tmp_path: Path) -> None:
    """Its rules: JSON messages with a JSON schema of an object for each channel, and an index."""
    with Story().save(tmp_path).open("rb") as file:
        reader = make_reader(file)
        summary = reader.get_summary()
        assert summary is not None and summary.statistics is not None and summary.chunk_indexes
        topics = {channel.topic: channel for channel in summary.channels.values()}
        assert topics.keys() == CHANNELS.keys()
        for channel in topics.values():
            schema = summary.schemas[channel.schema_id]
            assert (channel.message_encoding, schema.encoding) == ("json", "jsonschema")
            assert json.loads(schema.data)["type"] == "object"
        seen = set()
        last = 0
        for _, channel, message in reader.iter_messages():
            fields = json.loads(message.data)
            properties = CHANNELS[channel.topic].fields
            if channel.topic != "/recording":  # Its details differ.
                assert fields.keys() == properties.keys(), channel.topic
            for name, value in fields.items():
                kind = properties.get(name, {}).get("type")
                allowed = {"number": (int, float, type(None)), "array": list, "string": str, "object": dict}
                assert kind is None or isinstance(value, allowed.get(kind, object)), name
            assert message.log_time >= last
            last = message.log_time
            seen.add(channel.topic)
        assert seen >= {"/cycles", "/ticks", "/parameters", "/recording"}
        assert summary.statistics.channel_message_counts[topics["/cycles"].id] == 2000


def test_sixteen_seconds_take_a_few_megabytes_and_all_of_them_are_there(tmp_path: Path) -> None:
    story = Story(RING_CAPACITY + 500)
    random = np.random.default_rng(2)
    for name in ("q", "dq", "tau", "ref_q"):
        story.cycles[name] += np.cumsum(random.normal(scale=1e-4, size=story.cycles[name].shape), axis=0)
    path = story.save(tmp_path)
    assert len(read(path).cycles) == RING_CAPACITY
    assert path.stat().st_size < 10e6


def test_records_that_were_torn_while_the_memory_was_copied_are_left_out() -> None:
    """A ring is copied slowly while it is written: what was overwritten during the copy counts once, and whole."""
    capacity, size = 64, Ring.size(CYCLE_RECORD, 64)
    memory = memoryview(bytearray(size))
    ring, record = Ring(memory, CYCLE_RECORD, capacity), new(CYCLE_RECORD)

    def append(number: int) -> None:
        record["target_id"], record["q"] = number, number
        ring.append(record.view(np.uint8).data)

    for number in range(100):
        append(number)
    copy = memoryview(bytearray(size))
    half = 64 + 41 * 456 + 100  # In the middle of a record.
    copy[:half] = memory[:half]
    for number in range(100, 110):
        append(number)
    copy[half:] = memory[half:]
    found = Ring(copy, CYCLE_RECORD, capacity).intact()
    numbers = found["target_id"].tolist()
    assert (found["q"] == found["target_id"][:, np.newaxis]).all()
    assert numbers == sorted(set(numbers)) and set(numbers) <= set(range(36, 110))
    assert len(numbers) >= capacity - 11


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_whose_end_is_missing_still_tells_what_it_can(share: float, tmp_path: Path) -> None:
    story = Story(8000).stopped("joint_reflex")
    story.cycles["q"] = np.random.default_rng(4).normal(size=(8000, 7))
    path = story.save(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    recording = read(path)
    assert recording.truncated
    assert recording.summary["errors"] == ["joint_reflex"] and recording.parameters["mode"] == "osc"
    assert len(recording.cycles) >= (share - 0.4) * 8000
    path.write_bytes(data[:60])
    with pytest.raises(RecordingFailed, match="or ends too early"):
        read(path)


def test_bytes_that_are_wrong_lose_what_comes_after_them_and_nothing_else(tmp_path: Path) -> None:
    story = Story(8000)
    story.cycles["q"] = np.random.default_rng(3).normal(size=(8000, 7))
    path = story.save(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 500] = b"\xff" * 500
    path.write_bytes(data)
    recording = read(path)
    assert recording.truncated and 1000 < len(recording.cycles) < 8000


def test_an_mcap_file_of_another_program_is_not_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "bag.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data")
        writer.add_message(writer.register_channel("/chatter", "cdr", schema), 1, b"\0", 1)
        writer.finish()
    with pytest.raises(RecordingFailed, match=r"bag.mcap is not a recording of this package$"):
        read(path)


def test_another_version_of_the_format_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other:
        other.setattr("aiofranka_ros.recording.channels.VERSION", 99)
        path = Story(10).save(tmp_path)
    with pytest.raises(RecordingFailed, match="its format is 99, this one reads 1"):
        read(path)


# --- How much of the disk they take


def test_the_oldest_recordings_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "20200101T000000.mcap").write_bytes(b"a recording of another program" * 1000)
    (tmp_path / "notes.txt").write_text("mine")
    names = []
    for number in range(4):
        story = Story(50)
        story.noticed = story.end + number * 1000 * MS
        names.append(story.save(tmp_path, most_files=2).name)
        assert len(files.recordings(tmp_path)) <= 2
    assert [path.name for path in files.recordings(tmp_path)] == names[-2:]
    assert (tmp_path / "notes.txt").exists() and (tmp_path / "20200101T000000.mcap").exists()


def test_all_of_them_together_stay_below_the_largest_size(tmp_path: Path) -> None:
    size = Story(2000).save(tmp_path).stat().st_size
    for number in range(1, 6):
        story = Story(2000)
        story.noticed += number * 1000 * MS
        story.save(tmp_path, most_bytes=2.5 * size)
        found = files.recordings(tmp_path)
        assert sum(path.stat().st_size for path in found) <= 2.5 * size
    assert len(found) == 2
    with pytest.raises(RecordingFailed, match="is larger than recording_megabytes allows"):
        Story(2000).save(tmp_path, most_bytes=0.5 * size)
    assert not list(tmp_path.glob("*.part"))


def test_what_a_killed_process_left_is_removed_later(tmp_path: Path) -> None:
    left, fresh = tmp_path / "20200101T000000.000Z_a_b.mcap.part", tmp_path / "20200101T000001.000Z_a_b.mcap.part"
    for path in (left, fresh):
        path.write_bytes(b"half")
    os.utime(left, (time.time() - 7200, time.time() - 7200))
    Story(10).save(tmp_path)
    assert not left.exists() and fresh.exists(), "another process may still write that one"


def test_the_folder_of_ros_is_used_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROS_HOME", raising=False)
    assert files.folder_of("~/.ros/aiofranka") == Path.home() / ".ros" / "aiofranka"
    monkeypatch.setenv("ROS_HOME", "/data/ros")
    assert files.folder_of("~/.ros/aiofranka") == Path("/data/ros/aiofranka")
    assert files.folder_of("~/.rosette") == Path.home() / ".rosette"
    assert files.folder_of("/elsewhere") == Path("/elsewhere")


# --- When they are written, and what goes wrong


class Owner:
    """An owner of an arm: its notes, its recorder, and what that logs."""

    def __init__(self, folder: Path) -> None:
        self.settings: dict[str, Any] = {**PARAMETERS, "recording_folder": str(folder)}
        self.log: list[tuple[str, str]] = []
        self.notes = Notes()
        self.recorder = Recorder(
            "/aiofranka", self.notes, lambda: self.settings, dict, lambda level, text: self.log.append((level, text))
        )
        self.client = ControlClient()

    def with_cycles(self) -> SharedMemory:
        """Give the client the memory of a control process that has died."""
        shared = SharedMemory.create()
        Story(500).fill(shared)
        self.client._shared = shared
        return shared

    def save(self, trigger: Trigger) -> Future[Path]:
        found = self.recorder.save(trigger, self.client)
        assert found is not None
        return found

    def close(self) -> None:
        self.recorder.close()
        self.notes.close()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    owner = Owner(tmp_path / "folder")
    yield owner
    owner.close()


def test_a_request_writes_a_file_and_the_log_names_the_command(owner: Owner) -> None:
    owner.with_cycles()
    owner.notes.target("ee_desired", (0.3, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0), 123, "/policy")
    owner.notes.event("request", "~/move", goal=[0.0] * 7)
    owner.notes.line("warning", "a line of the log")
    path = owner.save(Trigger("asked")).result(60)
    recording = read(path)
    assert len(recording.cycles) == 500 and recording.summary["trigger"] == "asked"
    assert recording.targets[0].data == {
        "topic": "ee_desired", "sender": "/policy", "made": 123, "values": [0.3, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0],
    }  # fmt: skip
    assert recording.events[0]["message"] == "~/move" and recording.log[0]["message"] == "a line of the log"
    owner.recorder.report()
    assert owner.log == [("info", f"recorded (asked); what happened: python3 -m aiofranka_ros.explain {path}")]


def test_a_parameter_that_is_changed_again_and_again_does_not_push_everything_else_out(owner: Owner) -> None:
    owner.notes.event("request", "~/move")
    for _ in range(2000):
        owner.notes.changed({"kp", "kd"})
    owner.notes.changed(())
    assert [event.message for event in owner.notes.events] == ["~/move", "kd, kp"]


def test_the_cycles_of_a_control_process_that_died_are_still_there(owner: Owner) -> None:
    shared = owner.with_cycles()
    result = owner.save(Trigger.of(ControlProcessDied("the control process was killed by signal 9", exit_code=-9)))
    shared.close()
    owner.client._shared = None  # As if it had been released at once.
    recording = read(result.result(60))
    assert len(recording.cycles) == 500
    assert (recording.summary["trigger"], recording.summary["exit_code"]) == ("control process died", -9)


def test_a_request_before_anything_was_connected_is_answered_with_a_file(owner: Owner) -> None:
    assert len(read(owner.save(Trigger("asked")).result(60)).cycles) == 0


def test_what_comes_before_a_recording_has_begun_joins_it_and_the_stop_counts(owner: Owner) -> None:
    owner.with_cycles()
    first = owner.save(Trigger("cycles lost", delay=0.5))
    second = owner.save(Trigger.of(ControlStopped("the robot stopped: joint_reflex", errors=("joint_reflex",))))
    third = owner.save(Trigger("asked"))
    assert first is second is third
    assert read(first.result(60)).summary["errors"] == ["joint_reflex"]


def test_two_are_never_written_at_once_but_both_are(owner: Owner) -> None:
    """The second is asked for while the first is being written."""
    owner.with_cycles()
    first = owner.save(Trigger("asked"))
    owner.recorder._runs[0].handed_over.wait(30)
    second = owner.save(Trigger("asked"))
    assert first is not second
    second.result(60)
    assert first.done() and first.result() != second.result()
    assert len(files.recordings(Path(owner.settings["recording_folder"]))) == 2


def test_lost_cycles_are_recorded_once_in_a_while_and_with_what_follows(owner: Owner) -> None:
    owner.with_cycles()
    state = new(STATE)[0]
    state["activation"] = 1
    for lost in (0, 0, 3, 3, 5):
        state["cycles_lost"] = lost
        owner.recorder.tick(state, owner.client)
    assert [run.trigger.kind for run in owner.recorder._runs] == ["cycles lost"]
    assert not owner.recorder._runs[0].begun, "what follows is waited for"
    owner.recorder.close()  # There is no time for that any more.
    assert read(owner.recorder._runs[0].result.result(60)).summary["message"] == "3 cycles were lost"


def test_an_empty_folder_name_switches_it_off(owner: Owner) -> None:
    owner.settings["recording_folder"] = " "
    assert owner.recorder.save(Trigger("asked"), owner.client) is None


def test_a_folder_that_cannot_be_written_is_one_warning_in_plain_words(owner: Owner, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    owner.settings["recording_folder"] = str(tmp_path / "file" / "folder")
    for _ in range(3):
        with pytest.raises(RecordingFailed, match=r"cannot write to /.*/file/folder: Not a directory$"):
            owner.save(Trigger("asked")).result(60)
        owner.recorder.report()
    (line,) = [text for level, text in owner.log if level == "warning"]
    assert line == f"what happened was not recorded: cannot write to {tmp_path}/file/folder: Not a directory"


@pytest.mark.skipif(
    shutil.which("unshare") is None or os.geteuid() != 0, reason="separate mounts need root and unshare"
)
def test_a_full_disk_is_one_line_and_nothing_is_left_on_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from story import Story; import os\n"
        "from aiofranka_ros.errors import RecordingFailed\n"
        "try: Story(8000).save(Path(sys.argv[1]))\n"
        "except RecordingFailed as error: print(error, os.listdir(sys.argv[1]))\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'test'}"}
    script = f"mount -t tmpfs -o size=128k none {tmp_path} && exec {sys.executable} -c '{code}' {tmp_path}"
    command = ["unshare", "--mount", "bash", "-c", script]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    if "mount:" in ran.stderr or "unshare:" in ran.stderr:
        pytest.skip(f"no mounts here: {ran.stderr}")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"cannot write to {tmp_path}: No space left on device []\n"


def test_a_write_that_fails_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    """The largest size of a file stands for everything that can go wrong there."""
    story, before = Story(8000), resource.getrlimit(resource.RLIMIT_FSIZE)
    notes = story.notes()
    with SharedMemory.create() as shared:
        story.fill(shared)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
            with pytest.raises(RecordingFailed, match="File too large"):
                save(story.job(tmp_path), shared, notes)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_the_writing_process_says_why_it_died(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    owner.settings["recording_files"] = "many"
    with pytest.raises(RecordingFailed, match=r"the process that writes it failed \(status 1, ValueError: .*many"):
        owner.save(Trigger("asked")).result(60)
