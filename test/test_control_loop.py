"""How the control loop reads what the node writes, without a robot: the reader's side of races with the writer."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from aiofranka_ros.control.law import cycle as control_cycle
from aiofranka_ros.control.loop import SILENCE_GRACE, ControlLoop, End, _Watch
from aiofranka_ros.control.records import (
    COMMANDS,
    MEASURED,
    MEMORY,
    MOTION,
    SCRATCH,
    STATE,
    Hold,
    command_word,
    new,
)
from aiofranka_ros.control.shared_memory import SharedMemory, fill_motion, motion_size
from aiofranka_ros.kernels import entry_point

pytestmark = pytest.mark.unit


class Node:
    """The writer."""

    def __init__(self, shared: SharedMemory) -> None:
        self.shared, self.commands, self.record = shared, new(COMMANDS), new(MOTION)

    def write_motion(self, number: int, start: float) -> None:
        fill_motion(self.record, number, start, np.array([0.0, 1.0]), np.full((1, 7, 6), float(number)))
        self.shared.motion.write(self.record, motion_size(1))

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


def take(loop: ControlLoop, version: int = 0) -> int:
    return loop._read_commands(version)


def test_a_motion_waits_for_its_time_and_the_one_before_continues_until_then(node: Node, loop: ControlLoop) -> None:
    for number, start in (1, 0.0), (2, 5.0):
        node.write_motion(number, start)
        node.write_commands(number)
        take(loop)
        assert loop.commands["motion_id"][0] == number and loop._due == start
        assert loop.motion["id"][0] == number - 1
        loop._switch_motion()
        assert loop.motion["id"][0] == number and loop._due is None


def test_commands_whose_motion_is_being_written_are_used_once_it_is_complete(
    node: Node, loop: ControlLoop, shared: SharedMemory
) -> None:
    node.write_motion(1, 0.0)
    node.write_commands(1)
    version = take(loop)
    loop._switch_motion()
    node.write_motion(2, 5.0)
    node.write_commands(2)
    version = take(loop, version)
    # The node is in the middle of writing the next one: motion 2, which waited for its time, is gone.
    shared.motion._head[0] += 1
    node.write_commands(3)
    assert take(loop, version) == version
    assert loop.commands["motion_id"][0] == 2 and loop.motion["id"][0] == 1
    assert loop._due is None, "motion 1 must stay until another was read completely"
    shared.motion._head[0] += 1
    node.write_motion(3, 6.0)
    assert take(loop, version) == shared.commands.version
    assert loop.commands["motion_id"][0] == 3 and loop._due == 6.0
    loop._switch_motion()
    assert loop.motion["id"][0] == 3 and loop.motion["coefficients"][0, 0, 0, 0] == 3.0


def test_commands_that_name_a_motion_not_yet_written_are_not_used(node: Node, loop: ControlLoop) -> None:
    node.write_motion(1, 0.0)
    node.write_commands(2)
    assert take(loop) == 0 and loop.commands["motion_id"][0] == 0


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
    control_cycle.report(*arguments, 1, 0.5, 0.9)
    expected = arguments[3].copy()
    arguments[3][:] = new(STATE)
    entry = entry_point(control_cycle.report, *arguments, 1, 0.5, 0.9)
    entry(*arguments, 1, 0.5, 0.9)
    np.testing.assert_array_equal(arguments[3], expected)
    assert expected["time"][0] == 3.0
    step = [new(dtype) for dtype in (COMMANDS, MOTION, MEASURED, MEMORY, SCRATCH)]
    with pytest.raises(TypeError):
        entry_point(control_cycle.step, *step, 0)(*step[:4], None, 0)
