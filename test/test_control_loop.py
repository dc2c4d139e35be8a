"""How the control loop reads what the node writes, without a robot: the reader's side of races with the writer."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from aiofranka_ros.control.law import cycle as control_cycle
from aiofranka_ros.control.law import report as cycle_report
from aiofranka_ros.control.law.memory import MEMORY, SCRATCH
from aiofranka_ros.control.law.motion import LONGEST_STOP
from aiofranka_ros.control.loop import SILENCE_GRACE, ControlLoop, End, _Watch
from aiofranka_ros.control.records import (
    CHUNK,
    COMMANDS,
    MAX_CHUNK_SEGMENTS,
    MAX_SEGMENTS,
    MEASURED,
    MOTION,
    STATE,
    Hold,
    MotionStatus,
    command_word,
    new,
)
from aiofranka_ros.control.shared_memory import _SLICE, SharedMemory, fill_path, path_size
from aiofranka_ros.errors import CommandRefused
from aiofranka_ros.kernels import entry_point

pytestmark = pytest.mark.unit


class Node:
    """The writer."""

    def __init__(self, shared: SharedMemory) -> None:
        self.shared, self.commands, self.record = shared, new(COMMANDS), new(MOTION)

    def write_motion(self, number: int, start: float) -> None:
        fill_path(self.record, number, start, np.array([0.0, 1.0]), np.full((1, 7, 6), float(number)))
        self.shared.motion.write(self.record, path_size(self.record, 1))

    def write_commands(self, number: int) -> None:
        self.commands["motion_id"] = number
        self.shared.commands.write(self.commands)


@pytest.fixture
def shared() -> Iterator[SharedMemory]:
    with SharedMemory.create() as memory:
        yield memory


@pytest.fixture
def node(shared: SharedMemory) -> Node:
    return Node(shared)


@pytest.fixture
def loop(shared: SharedMemory) -> ControlLoop:
    return ControlLoop(shared, os.getppid())


def take(loop: ControlLoop, version: int = 0, *, cycles: int = 1) -> int:
    """Read new commands, and what ``cycles`` cycles read of their motion or chunk."""
    version = loop.read_commands(version)
    for _ in range(cycles):
        for incoming in (loop.motions, loop.chunks):
            if incoming.reading:
                incoming.read()
    return version


def test_a_motion_waits_for_its_time_and_the_one_before_continues_until_then(node: Node, loop: ControlLoop) -> None:
    for number, start in (1, 0.0), (2, 5.0):
        node.write_motion(number, start)
        node.write_commands(number)
        take(loop)
        assert loop.commands["motion_id"][0] == number and loop.motions.due == start
        assert loop.motions.record["id"][0] == number - 1
        loop.motions.switch()
        assert loop.motions.record["id"][0] == number and loop.motions.due is None


def test_commands_are_used_at_once_and_their_motion_when_it_is_complete(
    node: Node, loop: ControlLoop, shared: SharedMemory
) -> None:
    node.write_motion(1, 0.0)
    node.write_commands(1)
    version = take(loop)
    loop.motions.switch()
    node.write_motion(2, 5.0)
    node.write_commands(2)
    version = take(loop, version)
    # The node is in the middle of writing the next one: motion 2, which waited for its time, is gone.
    shared.motion._head[0] += 1
    node.write_commands(3)
    version = take(loop, version, cycles=10)
    assert version == shared.commands.version
    assert loop.commands["motion_id"][0] == 3 and loop.motions.record["id"][0] == 1
    assert loop.motions.due is None, "motion 1 must stay until another was read completely"
    node.write_motion(3, 6.0)
    take(loop, version)
    assert loop.motions.due == 6.0
    loop.motions.switch()
    assert loop.motions.record["id"][0] == 3 and loop.motions.record["coefficients"][0, 0, 0, 0] == 3.0


def test_no_motion_begins_before_it_is_written(node: Node, loop: ControlLoop) -> None:
    node.write_motion(1, 0.0)
    node.write_commands(2)
    version = take(loop, cycles=10)
    assert loop.commands["motion_id"][0] == 2 and loop.motions.due is None
    node.write_motion(2, 7.0)
    take(loop, version)
    assert loop.motions.due == 7.0


def test_a_motion_that_cannot_be_read_does_not_keep_the_arm_from_being_deactivated(
    node: Node, loop: ControlLoop, shared: SharedMemory
) -> None:
    shared.motion._head[0] += 1  # An exception interrupted the write.
    node.commands["activation"] = 5
    node.write_commands(1)
    version = take(loop, cycles=10)
    node.commands["activation"] = 0
    node.write_commands(1)
    take(loop, version)
    assert loop.commands["activation"][0] == 0


def test_a_large_motion_is_read_in_parts_that_no_cycle_notices(
    node: Node, loop: ControlLoop, shared: SharedMemory
) -> None:
    coefficients = np.arange(MAX_SEGMENTS * 42.0).reshape(MAX_SEGMENTS, 7, 6)
    fill_path(node.record, 1, 0.0, np.arange(MAX_SEGMENTS + 1.0), coefficients)
    shared.motion.write(node.record, path_size(node.record, MAX_SEGMENTS))
    node.write_commands(1)
    take(loop, cycles=0)
    cycles = 0
    while loop.motions.reading:
        loop.motions.read()
        cycles += 1
    assert MOTION.itemsize / _SLICE <= cycles <= 10, "it must begin before the motion that it replaces has ended"
    loop.motions.switch()
    np.testing.assert_array_equal(loop.motions.record["coefficients"][0], coefficients)


def test_a_motion_that_changes_while_it_is_read_is_read_again(
    node: Node, loop: ControlLoop, shared: SharedMemory
) -> None:
    for number in (1, 2):
        coefficients = np.full((MAX_SEGMENTS, 7, 6), float(number))
        fill_path(node.record, number, 0.0, np.arange(MAX_SEGMENTS + 1.0), coefficients)
        shared.motion.write(node.record, path_size(node.record, MAX_SEGMENTS))
        node.write_commands(number)
        take(loop, cycles=3)
    take(loop, cycles=10)
    loop.motions.switch()
    np.testing.assert_array_equal(loop.motions.record["coefficients"][0], coefficients)


def test_a_chunk_of_a_policy_is_in_force_in_the_cycle_in_which_it_arrives(
    node: Node, loop: ControlLoop, shared: SharedMemory
) -> None:
    record = new(CHUNK)
    for number, segments, cycles in ((1, 70, 0), (2, MAX_CHUNK_SEGMENTS, 2)):  # 50 points; the longest path.
        fill_path(record, number, 0.5, np.arange(segments + 1.0), np.full((segments, 7, 6), float(number)))
        shared.chunk.write(record, path_size(record, segments))
        node.commands["chunk_id"] = number
        node.write_commands(0)
        take(loop, cycles=cycles)
        assert loop.chunks.due == 0.5, "read"
        loop.chunks.switch()
        assert loop.chunks.record["segments"][0] == segments
        assert (loop.chunks.record["coefficients"][0, :segments] == number).all()


def test_commands_that_are_being_written_at_activation_are_waited_for(
    node: Node, loop: ControlLoop, shared: SharedMemory
) -> None:
    node.write_commands(1)
    shared.commands._head[0] += 1
    writer = threading.Timer(0.05, node.write_commands, (2,))
    writer.start()
    assert loop._await_commands() == shared.commands.version
    writer.join()
    assert loop.commands["motion_id"][0] == 2


def test_commands_that_never_become_readable_are_an_error(loop: ControlLoop) -> None:
    with pytest.raises(CommandRefused, match="could not be read"):
        loop._await_commands()


@pytest.mark.parametrize("name", ["activation", "motion_id", "heartbeat_timeout"])
def test_the_words_of_the_commands_are_their_fields(node: Node, loop: ControlLoop, name: str) -> None:
    node.commands[name] = 7
    node.write_motion(7, 0.0)
    node.shared.commands.write(node.commands)
    take(loop)
    views = loop._current.numbers if COMMANDS[name].kind == "f" else loop._current.integers
    assert views[command_word(name)] == 7


@pytest.fixture
def watch(shared: SharedMemory) -> _Watch:
    """A watch over a node that may be silent for 0.1 s."""
    watch = _Watch(shared, os.getppid(), activation=1)
    watch.timeout = 0.1
    return watch


def reasons(watch: _Watch, *, cycles: int, period: int = 1_000_000) -> list[int]:
    """What the watch returns in the next ``cycles``, ``period`` [ns] apart."""
    return [watch.reason(watch._seen + period) for _ in range(cycles)]


def test_without_a_heartbeat_the_arm_first_holds_and_is_then_released(watch: _Watch) -> None:
    assert not any(reasons(watch, cycles=99))
    reasons(watch, cycles=2)  # Rounding decides when exactly.
    assert set(reasons(watch, cycles=round(1e3 * SILENCE_GRACE) - 3)) == {int(Hold.NODE_SILENT)}
    assert watch.end is None
    reasons(watch, cycles=4)
    assert set(reasons(watch, cycles=2)) == {int(Hold.FINISHING)}
    assert watch.end is End.NODE_SILENT


def test_a_heartbeat_ends_the_silence(watch: _Watch, shared: SharedMemory) -> None:
    assert int(Hold.NODE_SILENT) in reasons(watch, cycles=300)
    shared.beat()
    assert not any(reasons(watch, cycles=100))
    assert int(Hold.NODE_SILENT) in reasons(watch, cycles=100)


def test_a_computer_that_stood_still_does_not_count_as_a_silent_node(watch: _Watch, shared: SharedMemory) -> None:
    assert not any(reasons(watch, cycles=3))
    assert not any(reasons(watch, cycles=1, period=10_000_000_000))
    shared.beat()
    assert not any(reasons(watch, cycles=100))


def test_the_entry_point_of_a_kernel_computes_what_the_kernel_does() -> None:
    arguments = [new(dtype) for dtype in (COMMANDS, MEASURED, MEMORY, STATE)]
    arguments[1]["time"] = 3.0
    cycle_report.report(*arguments, 1, 0.5, 0.9)
    expected = arguments[3].copy()
    arguments[3][:] = new(STATE)
    entry = entry_point(cycle_report.report, *arguments, 1, 0.5, 0.9)
    entry(*arguments, 1, 0.5, 0.9)
    np.testing.assert_array_equal(arguments[3], expected)
    assert expected["time"][0] == 3.0
    step = [new(dtype) for dtype in (COMMANDS, MOTION, CHUNK, MEASURED, MEMORY, SCRATCH)]
    with pytest.raises(TypeError):
        entry_point(control_cycle.step, *step, 0)(*step[:5], None, 0)


def ends_after(loop: ControlLoop, watch: _Watch) -> float:
    """How long the loop waits for an arm that does not stop [s]."""
    loop._rest_timeout = loop._longest_stop()
    return next(0.01 * n for n in range(1000) if loop._has_stopped(watch, watch.end_since + 10_000_000 * n))


@pytest.mark.parametrize("speed", [1.0, np.nan])
def test_the_loop_does_not_end_before_the_longest_stop_of_a_motion_is_over_but_at_last(
    loop: ControlLoop, watch: _Watch, speed: float
) -> None:
    loop.memory["motion_status"], loop.measured["dq"] = MotionStatus.STOPPING, speed
    assert LONGEST_STOP + 0.4 < ends_after(loop, watch) < LONGEST_STOP + 0.6
    loop.memory["motion_status"], loop.measured["dq"] = MotionStatus.STOPPED, 0.0
    assert ends_after(loop, watch) == 0.0


@pytest.mark.parametrize(
    ("speed", "limit"), [("ref_dq", "max_joint"), ("ref_linear", "max_linear"), ("ref_angular", "max_angular")]
)
def test_the_loop_waits_longer_for_a_reference_that_may_brake_only_slowly(
    loop: ControlLoop, watch: _Watch, speed: str, limit: str
) -> None:
    loop.measured["dq"] = loop.memory[speed] = 1.0
    loop.commands[f"{limit}_acceleration"] = 0.8
    assert 2.9 < ends_after(loop, watch) < 3.1
    loop.commands[f"{limit}_acceleration"] = 0.01
    assert ends_after(loop, watch) < 4.1, "the node waits for 5 s"
