"""Chunks from their arrival to the reference of every cycle: late, noisy, far away, stopped and interrupted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_chunk import CYCLE, DDQ, DQ, HOME_POSE, LINEAR, LINEAR_CHANGE, POSITION, Q, Rig

from aiofranka_ros.arm.chunk_points import Chunk
from aiofranka_ros.arm.chunks import ChunkPlayer, Outcome, Ticket
from aiofranka_ros.arm.settings import ArmSettings
from aiofranka_ros.control.law import cycle as control_cycle
from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.control.law.report import report
from aiofranka_ros.control.records import Approach, Mode, TargetKind
from aiofranka_ros.control.shared_memory import fill_path
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.model import fr3

pytestmark = pytest.mark.unit

HOME_ROW = np.concatenate([HOME_POSE[:3, 3], Rotation.from_matrix(HOME_POSE[:3, :3]).as_quat()])


class PlayedRig:
    """The control cycle with a player of chunks; robot time is far ahead of this computer's clock."""

    def __init__(self, mode: Mode = Mode.IMPEDANCE, **settings: Any) -> None:
        self.rig = Rig(mode)
        self.player = ChunkPlayer(self, ArmSettings(**settings).__getitem__)
        self._parts: list[Array] = []
        self.advance(3)
        self.begin = self.now
        self._parts.clear()

    @property
    def now(self) -> float:
        """This computer's clock [s]."""
        return self.rig.time - 90.0

    @property
    def rows(self) -> Array:
        return np.concatenate(self._parts)

    @property
    def mode(self) -> Mode:
        return Mode(int(self.rig.commands["mode"][0]))

    @property
    def flange_to_tcp(self) -> Array:
        return self.rig.commands["flange_to_tcp"][0].copy()

    def hold_in_place(self, cycles: int) -> None:
        """Run while a person holds the arm."""
        rig, measured, memory = self.rig, self.rig.measured, self.rig.memory
        for _ in range(cycles):
            measured["elapsed"] = CYCLE
            measured["time"] += CYCLE
            measured["tau_last"], measured["dq"] = memory["tau"], 0.0
            control_cycle.step(rig.commands, rig.motion, rig.chunk, measured, memory, rig.scratch, 0)
        if cycles:
            report(rig.commands, rig.measured, rig.memory, rig.state, round(1e9 * self.now), 0.0, 1.0)
        self.player.observe(self.state())

    def drive(self, velocity: Any, seconds: float, advance: Callable[[int], None] | None = None) -> None:
        """A policy of velocities, whose chunks of 1 s follow each other after 0.3 s."""
        kind = "twist" if self.mode is Mode.OSC else "dq"
        for _ in range(round(seconds / 0.3)):
            self.follow(np.tile(velocity, (30, 1)), 1 / 30, kind=kind)
            (advance or self.advance)(300)

    def switch(self, mode: Mode, **fields: Any) -> None:
        """Change the mode, as the client does; the newest state is from before that."""
        for name, value in {"mode": mode, **fields}.items():
            self.rig.commands[name] = value
        self.rig.commands["mode_id"] += 1
        self.rig.commands["law_id"] += 1

    def begin_stream(self) -> None:
        self.rig.commands["stream_id"] += 1

    def state(self) -> Record:
        return self.rig.state[0].copy()

    def start_chunk(self, path: Motion, *, start: float = 0.0) -> int:
        rig, number = self.rig, int(self.rig.commands["chunk_id"][0]) + 1
        fill_path(rig.chunk, number, start, path.times, path.coefficients)
        rig.chunk["mode_id"], rig.chunk["target_id"] = rig.commands["mode_id"], rig.commands["target_id"]
        rig.commands["chunk_id"] = number
        return number

    def stop_chunk(self, number: int) -> None:
        self.rig.commands["chunk_stop"] = number

    def advance(self, cycles: int) -> None:
        rig = self.rig
        # The first torque is seen in its cycle, and the newest state at the end.
        for count in (1, cycles - 1):
            if count > 0:
                self._parts.append(rig.run(count))
                report(rig.commands, rig.measured, rig.memory, rig.state, round(1e9 * self.now), 0.0, 1.0)
        self.player.observe(self.state())

    def follow(self, values: Array, dt: float, start: float | None = None, kind: str = "") -> Ticket:
        kind = kind or ("ee" if self.mode is Mode.OSC else "q")
        return self.player.follow(Chunk(kind, dt * np.arange(len(values)), values, start), self.now)


def swing(times: Array) -> Array:
    """Joint positions (n, 7), at rest in the first 0.6 s; at most 0.45 rad/s."""
    t = np.maximum(np.asarray(times) - 0.6, 0.0)[:, np.newaxis]
    return fr3.HOME + 0.15 * (1.0 - np.cos(t * np.linspace(1.0, 3.0, 7)))


def swept(times: Array) -> Array:
    """Poses (n, 7) on a circle on which the hand turns, at rest in the first 0.6 s."""
    t = np.maximum(np.asarray(times) - 0.6, 0.0)
    rows = np.tile(HOME_ROW, (len(t), 1))
    rows[:, 0] += 0.05 * (1.0 - np.cos(2.0 * t))
    rows[:, 1] += 0.05 * np.sin(2.0 * t) * (1.0 - np.exp(-5.0 * t))
    turns = Rotation.from_rotvec(np.outer(0.5 * (1.0 - np.cos(t)), [0.0, 0.0, 1.0]))
    rows[:, 3:] = (turns * Rotation.from_quat(HOME_ROW[3:])).as_quat()
    return rows


@pytest.mark.parametrize("mode", [Mode.IMPEDANCE, Mode.OSC])
@pytest.mark.parametrize(
    ("count", "rate", "inference"), [(8, 10, 0.15), (16, 15, 0.4), (30, 30, 0.1), (50, 30, 0.4), (50, 50, 0.05)]
)
def test_late_chunks_are_followed_where_they_were_meant(mode, count, rate, inference):
    rig, rng = PlayedRig(mode), np.random.default_rng(4)
    meant, columns = (swept, POSITION) if mode is Mode.OSC else (swing, Q)
    delays = []
    while rig.now < rig.begin + 4.0:
        observed = rig.now
        rig.advance(round(inference * rng.uniform(0.8, 1.2) / CYCLE))
        rows = meant(observed - rig.begin + np.arange(count) / rate)
        rows[:, :3] += rng.normal(0.0, 3e-3, 3) + rng.normal(0.0, 3e-4, (count, 3))
        sent = rig.now
        ticket = rig.follow(rows, 1 / rate, observed)
        rig.advance(20)
        delays.append((ticket.latency, sent - observed))
    rows = rig.rows
    error = rows[:, columns] - meant(CYCLE * np.arange(1, len(rows) + 1))[:, : rows[:, columns].shape[1]]
    # Each chunk is 3 mm or mrad off in each of three columns.
    assert np.sqrt(np.mean(np.sum(error**2, axis=1))) < 8e-3
    assert all(latency == pytest.approx(late, abs=1.5 * CYCLE) for latency, late in delays)
    assert rig.rig.approach is Approach.FOLLOWING
    change = np.abs(np.diff(rows[:, DDQ if mode is Mode.IMPEDANCE else slice(34, 37)], axis=0)).max() / CYCLE
    assert change < 300.0


def test_a_chunk_that_begins_far_away_is_approached_slowly_and_then_followed():
    rig = PlayedRig()
    far = fr3.HOME + np.array([0.3, 0, 0, 0, 0, 0, 0])
    for _ in range(12):
        rig.follow(np.tile(far, (20, 1)), 0.05)
        rig.advance(300)
    rows = rig.rows
    assert np.abs(rows[:, DQ]).max() <= 0.31
    assert rows[-1, Q] == pytest.approx(far, abs=1e-3)
    assert rig.rig.approach is Approach.FOLLOWING


def test_a_chunk_that_would_have_to_be_approached_may_be_refused():
    rig = PlayedRig(approach_far_streams=False)
    with pytest.raises(InvalidTarget) as caught:
        rig.follow(np.tile(fr3.HOME + 0.1, (20, 1)), 0.05)
    assert caught.value.reason == "far away"


def test_limits_hold_for_whatever_a_chunk_contains():
    rig, rng, fastest = PlayedRig(max_joint_velocity=[0.8] * 7), np.random.default_rng(6), 0.8
    rig.rig.commands["max_joint_velocity"] = fastest
    for _ in range(40):
        rows = swing(rig.now - rig.begin + np.arange(20) / 30)
        rows[rng.integers(20)] += rng.normal(0.0, 0.5, 7)
        rows[rng.integers(20) :] += rng.normal(0.0, 0.1, 7)
        rig.follow(rows, 1 / 30)
        rig.advance(int(rng.integers(3, 200)))
    rows = rig.rows
    # The filter of the acceleration overshoots a little.
    assert np.abs(rows[:, DQ]).max() < 1.03 * fastest
    assert np.abs(rows[:, DDQ]).max() < 8.01
    assert np.isfinite(rows).all()


@pytest.mark.parametrize(
    ("take", "word"),
    [
        (lambda rig: rig.commands.__setitem__("hold", 1), "holds"),
        (lambda rig: rig.target(target_q=rig.memory["ref_q"][0]), "single target"),
        (lambda rig: rig.commands.__setitem__("mode_id", rig.commands["mode_id"] + 1), "mode"),
    ],
)
def test_what_ends_a_chunk_is_the_reason_in_its_ticket(take, word):
    rig = PlayedRig()
    ticket = rig.follow(swing(0.6 + np.arange(50) / 30), 1 / 30)
    rig.advance(500)
    take(rig.rig)
    rig.advance(700)
    assert ticket.outcome is Outcome.STOPPED
    assert word in ticket.reason
    assert np.abs(rig.rows[-1, DQ]).max() < 1e-3


def test_a_chunk_that_is_stopped_slows_down_without_going_back():
    rig = PlayedRig()
    ticket = rig.follow(swing(0.6 + np.arange(50) / 30), 1 / 30)
    rig.advance(600)
    rig.player.stop()
    rig.advance(600)
    assert ticket.reason == "it was stopped"
    assert rig.rows[:, DQ].min() > -1e-3
    assert np.abs(rig.rows[-1, DQ]).max() < 1e-3


# Velocities, which have no place to return to.

AHEAD = {Mode.IMPEDANCE: np.array([0.3, 0, 0, 0, 0, 0, 0]), Mode.OSC: np.array([0.1, 0, 0, 0, 0, 0])}


@pytest.mark.parametrize("mode", [Mode.IMPEDANCE, Mode.OSC])
def test_velocities_do_not_add_up_while_the_arm_is_held(mode):
    rig, column = PlayedRig(mode), Q if mode is Mode.IMPEDANCE else POSITION
    start = fr3.HOME[0] if mode is Mode.IMPEDANCE else HOME_POSE[0, 3]
    rig.drive(AHEAD[mode], 3.0, rig.hold_in_place)
    rig.drive(0.0 * AHEAD[mode], 3.0)
    # What the reference may be ahead of an arm that is held, and slowing down.
    assert abs(rig.rows[-1, column][0] - start) < 0.15
    assert np.abs(rig.rows[:, DQ if mode is Mode.IMPEDANCE else LINEAR]).max() < 0.6


@pytest.mark.parametrize(
    ("mode", "limit"),
    [(Mode.IMPEDANCE, "joint"), (Mode.IMPEDANCE, "wall"), (Mode.OSC, "wall")],
)
@pytest.mark.parametrize("pushed", [0.6, 3.0])
def test_velocities_that_point_away_from_a_limit_leave_it_at_once(mode, limit, pushed):
    rig, velocity = PlayedRig(mode), AHEAD[mode]
    if limit == "joint":
        rig.rig.commands["joint_upper"] = np.append(fr3.HOME[0] + 0.1, rig.rig.commands["joint_upper"][0][1:])
    else:
        x = 0.05 if mode is Mode.OSC else 1.0
        rig.rig.commands["workspace_upper"] = HOME_POSE[:3, 3] + np.array([x, 0.05, 1.0])
    rig.advance(5)
    rig.drive(velocity, pushed)
    before = len(rig.rows)
    rig.drive(-velocity, 1.2)
    x = rig.rows[before:, Q if mode is Mode.IMPEDANCE else POSITION][:, 0]
    assert np.argmax(x < x[0] - 0.01) * CYCLE == pytest.approx(0.15, abs=0.15)
    assert x[-1] < x[0] - 0.05


# What the arm did before was another law's.


def frame_aside() -> Array:
    frame = np.eye(4)
    frame[:3, 3] = [0.0, 0.05, 0.1]
    return frame


@pytest.mark.parametrize(
    ("before", "after", "fields"),
    [
        (Mode.OSC, Mode.IMPEDANCE, {}),
        (Mode.IMPEDANCE, Mode.OSC, {}),
        (Mode.IMPEDANCE, Mode.PID, {}),
        (Mode.OSC, Mode.OSC, {"flange_to_tcp": frame_aside()}),
    ],
)
@pytest.mark.parametrize("late", [0, 5])
def test_velocities_of_zero_do_not_move_the_arm_after_a_change_of_law(before, after, fields, late):
    rig = PlayedRig(before)
    rig.follow(swept(0.6 + np.arange(20) / 30) if before is Mode.OSC else swing(0.6 + np.arange(20) / 30), 1 / 30)
    rig.advance(2500)
    q = rig.rig.measured["q"][0].copy()
    rig.switch(after, **fields)
    rig.hold_in_place(late)
    ticket = rig.follow(
        np.zeros((30, 6 if after is Mode.OSC else 7)), 1 / 30, kind="twist" if after is Mode.OSC else "dq"
    )
    rig.hold_in_place(1)  # The rig's arm follows the reference of the new law once that is known.
    rig.advance(3000)
    assert ticket.outcome is Outcome.FINISHED
    # From an arm that has not quite arrived, the reference slows down.
    assert rig.rig.measured["q"][0] == pytest.approx(q, abs=5e-3)


def test_a_chunk_where_the_arm_is_is_not_far_away_after_a_change_of_law():
    rig = PlayedRig(Mode.OSC, approach_far_streams=False)
    rig.follow(swept(0.6 + np.arange(40) / 30), 1 / 30)
    rig.advance(2500)
    rig.switch(Mode.IMPEDANCE)
    rig.follow(np.tile(rig.rig.measured["q"][0], (30, 1)), 1 / 30)


def test_velocities_of_zero_after_moveit_servo_leave_the_hand_where_it_is():
    rig = PlayedRig(Mode.OSC)
    aside = np.array([0.25, 0, 0, 0, 0, 0, 0])
    for k in range(60):
        rig.rig.target(target_q=fr3.HOME + aside * k / 60, target_kind=TargetKind.SERVO)
        for _ in range(33):  # The law holds joints, so the arm follows those.
            rig.hold_in_place(1)
            rig.rig.measured["q"] = rig.rig.memory["ref_q"]
    rig.hold_in_place(1)
    here = rig.rig.memory["position"][0].copy()
    rig.follow(np.zeros((30, 6)), 1 / 30, kind="twist")
    rig.advance(2000)
    assert rig.rig.memory["position"][0] == pytest.approx(here, abs=0.01)


# After the end of a chunk.


@pytest.mark.parametrize("pause", [0.05, 0.3, 0.44, 0.47, 0.49, 0.6])
def test_a_chunk_soon_after_the_end_of_another_is_blended_and_later_approached(pause):
    rig, aside = PlayedRig(Mode.OSC), HOME_ROW.copy()
    aside[1] += 0.1
    first = rig.follow(np.tile(HOME_ROW, (6, 1)), 1 / 30)
    rig.advance(167 + round(1000 * pause))
    rig.follow(np.tile(aside, (60, 1)), 1 / 30)
    rig.advance(2500)
    speed = np.linalg.norm(rig.rows[:, LINEAR], axis=1).max()
    jerk = np.linalg.norm(np.diff(rig.rows[:, LINEAR_CHANGE], axis=0), axis=1).max() / CYCLE
    assert first.done
    assert (speed < 0.65 and jerk < 200.0) or speed < 0.12  # As while the first one runs; or an approach.
    assert rig.rows[-1, POSITION] == pytest.approx(aside[:3], abs=1e-3)


def test_velocities_begin_where_the_arm_is_if_something_else_moved_it_since_the_last_chunk():
    rig = PlayedRig()
    rig.follow(np.tile(fr3.HOME, (6, 1)), 1 / 30)
    rig.advance(400)
    rig.rig.target(target_q=fr3.HOME + 0.03)
    rig.advance(100)
    here = rig.rows[-1, Q]
    rig.follow(np.tile(here, (30, 1)), 1 / 30)
    rig.advance(1500)
    # It slows down from where the target has brought it, and does not go back to the old chunk.
    assert rig.rows[-1500:, Q].min(axis=0) == pytest.approx(here, abs=2e-3)


def test_a_chunk_has_not_arrived_while_the_arm_still_approaches_it():
    rig, far = PlayedRig(Mode.OSC), HOME_ROW.copy()
    far[1] += 0.3
    ticket = rig.follow(np.tile(far, (15, 1)), 1 / 15)
    rig.advance(1300)
    assert rig.rig.approach is Approach.APPROACHING
    assert ticket.outcome is Outcome.RUNNING
    rig.advance(4000)
    assert ticket.outcome is Outcome.FINISHED
    assert rig.rows[-1, POSITION] == pytest.approx(far[:3], abs=1e-3)
