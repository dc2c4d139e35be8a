"""The commands that the client of a control process sends, read from shared memory; no process is started."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.defaults import default_commands
from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.control.records import CHUNK, COMMANDS, MAX_CHUNK_SEGMENTS, Mode, new
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.errors import ControlProcessDied
from bench.faults.interruption import Interruption, interrupt_next_write

pytestmark = pytest.mark.unit


@pytest.fixture
def client() -> Iterator[ControlClient]:
    client = ControlClient()
    with SharedMemory.create() as memory:
        client._shared = memory
        yield client
        client._shared = None


def sent(client: ControlClient) -> Any:
    """The commands that the control process would read."""
    record = new(COMMANDS)
    assert client.shared.commands.read(record)
    return record[0]


def test_all_commands_are_sent_together_and_start_as_the_default_ones(client: ControlClient) -> None:
    client.update({"heartbeat_timeout": 0.5, "kp": 100.0})
    expected = default_commands()
    expected["heartbeat_timeout"], expected["kp"] = 0.5, 100.0
    np.testing.assert_array_equal(sent(client), expected[0])


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("set_pose", {"target_position": (0.1, 0.2, 0.3), "target_orientation": (0.5, -0.5, 0.5, 0.5)}),
        ("set_joints", {"target_q": np.linspace(-1.0, 1.0, 7)}),
        ("set_torque", {"target_torque": tuple(range(7))}),
    ],
)
def test_a_target_is_sent_with_its_stamp_its_mode_and_its_number(
    client: ControlClient, method: str, values: dict[str, Any]
) -> None:
    client.switch(Mode.OSC)
    assert getattr(client, method)(*values.values(), 123) == 1
    assert getattr(client, method)(*values.values(), 456) == 2
    commands, expected = sent(client), default_commands()[0]
    assert (commands["target_id"], commands["target_stamp"], commands["target_mode_id"]) == (2, 456, client.mode_id)
    for name in ("target_position", "target_orientation", "target_q", "target_torque"):
        np.testing.assert_array_equal(commands[name], values.get(name, expected[name]))


def test_only_a_switch_and_what_must_be_blended_in_count_as_a_change_of_law(client: ControlClient) -> None:
    client.update({"torque_limit": 10.0})
    assert (sent(client)["law_id"], sent(client)["mode_id"]) == (0, 0)
    client.update({"kp": 100.0}, blend=True)
    assert (sent(client)["law_id"], sent(client)["mode_id"]) == (1, 0)
    client.switch(Mode.PID)
    assert (sent(client)["law_id"], sent(client)["mode_id"], sent(client)["mode"]) == (2, 1, Mode.PID)
    assert client.mode is Mode.PID and client.mode_id == 1


def test_a_release_ends_the_hold_and_is_counted(client: ControlClient) -> None:
    client.hold()
    assert sent(client)["hold"] == 1
    client.release()
    assert (sent(client)["hold"], sent(client)["release_id"], client.release_id) == (0, 1, 1)


def test_commands_that_do_not_change_are_not_sent_again(client: ControlClient) -> None:
    client.copy_robot_states(10)
    version = client.shared.commands.version
    client.copy_robot_states(10)
    assert client.shared.commands.version == version and sent(client)["robot_state_period"] == 10


@pytest.mark.parametrize("again", [True, False])
def test_a_change_whose_write_was_interrupted_is_sent_with_the_next_one(client: ControlClient, again: bool) -> None:
    client.update({"activation": 1})
    interrupt_next_write(client.shared.commands)
    with pytest.raises(Interruption):
        client.update({"activation": 0})
    assert not client.shared.commands.read(new(COMMANDS))
    if again:
        client.update({"activation": 0})  # Nothing changes, but it must be sent.
    else:
        client.set_joints((0.0,) * 7)
    assert sent(client)["activation"] == 0


def test_a_motion_whose_start_was_interrupted_does_not_begin_later(client: ControlClient) -> None:
    motion = Motion(np.array([0.0, 1.0]), np.zeros((1, 7, 6)))
    assert client.start_motion(motion) == 1
    interrupt_next_write(client.shared.commands)
    with pytest.raises(Interruption):
        client.start_motion(motion)
    assert sent(client)["motion_release"] == sent(client)["motion_id"] == 2
    assert client.start_motion(motion) == 3
    assert sent(client)["motion_id"] == 3 and sent(client)["motion_release"] == 2


def test_a_chunk_is_sent_with_its_start_its_mode_and_the_target_that_it_replaces(client: ControlClient) -> None:
    path = Motion(np.array([0.0, 0.1, 0.3]), np.arange(84.0).reshape(2, 7, 6))
    client.switch(Mode.IMPEDANCE)
    client.set_joints((0.0,) * 7)
    assert client.start_chunk(path) == 1
    assert client.start_chunk(path, start=12.5) == 2
    record = new(CHUNK)
    assert client.shared.chunk.read(record)
    chunk = record[0]
    assert sent(client)["chunk_id"] == chunk["id"] == 2 and chunk["start"] == 12.5
    assert (chunk["mode_id"], chunk["target_id"]) == (sent(client)["mode_id"], sent(client)["target_id"])
    np.testing.assert_array_equal(chunk["times"][:3], path.times)
    np.testing.assert_array_equal(chunk["coefficients"][: chunk["segments"]], path.coefficients)
    client.stop_chunk(2)
    client.stop_chunk(1)
    assert sent(client)["chunk_stop"] == 2


def test_a_chunk_that_was_not_started_does_not_begin_later(client: ControlClient) -> None:
    path = Motion(np.array([0.0, 1.0]), np.zeros((1, 7, 6)))
    for bad, start in (Motion(np.zeros(1), np.zeros((0, 7, 6))), 0.0), (path, np.nan):
        with pytest.raises(ValueError, match="a chunk"):
            client.start_chunk(bad, start=start)
    many = Motion(np.arange(MAX_CHUNK_SEGMENTS + 2.0), np.zeros((MAX_CHUNK_SEGMENTS + 1, 7, 6)))
    with pytest.raises(ValueError, match="256"):
        client.start_chunk(many)
    client.update({})
    assert client.start_chunk(path) == 1
    interrupt_next_write(client.shared.commands)
    with pytest.raises(Interruption):
        client.start_chunk(path)
    assert sent(client)["chunk_stop"] == sent(client)["chunk_id"] == 2


def test_a_value_that_does_not_fit_changes_nothing(client: ControlClient) -> None:
    before = sent_bytes(client)
    with pytest.raises(ValueError):
        client.update({"torque_timeout": 0.5, "kp": (1.0, 2.0)})
    client.update({})
    assert sent_bytes(client) == before


def sent_bytes(client: ControlClient) -> bytes:
    client._send()
    return bytes(sent(client).tobytes())


def test_no_change_is_lost_when_several_threads_send_commands(client: ControlClient) -> None:
    def send() -> None:
        for _ in range(500):
            client.set_joints((0.0,) * 7)
            client.update({}, blend=True)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sent(client)["target_id"], sent(client)["law_id"]) == (2000, 2000)


def test_a_copy_of_the_control_frame_does_not_change_the_commands(client: ControlClient) -> None:
    client.flange_to_tcp[0, 3] = 1.0
    assert client.flange_to_tcp[0, 3] == 0.0


def test_commands_cannot_be_sent_without_a_control_process() -> None:
    with pytest.raises(ControlProcessDied, match="not running"):
        ControlClient().switch(Mode.OSC)


def test_an_interruption_does_not_keep_the_control_process_from_being_closed() -> None:
    closed = []
    client = ControlClient()
    with SharedMemory.create() as memory:
        client._shared = memory
        client._process = SimpleNamespace(close=lambda patience: not closed.append(True))  # type: ignore[assignment]
        client.update({"activation": 1})
        interrupt_next_write(memory.commands)
        with pytest.raises(Interruption):
            client.close()
        client.close()
    assert closed == [True] and memory.descriptor == -1
