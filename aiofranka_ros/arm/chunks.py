"""Chunks: several targets with their times, of which the arm makes one even movement, whenever the next chunk comes.

Used by the node and by :class:`~aiofranka_ros.api.robot_interface.RobotInterface`, in the process and thread that own
an arm. A chunk becomes a path (:mod:`aiofranka_ros.arm.chunk_paths`) that continues what the arm does at that moment,
and the control process follows it at 1 kHz (:mod:`aiofranka_ros.control.law.chunk`), within the limits of all targets.

Times here are of the monotonic clock; paths have robot time, so that no jitter of this process reaches the arm.
"""

from __future__ import annotations

import contextlib
import enum
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from aiofranka_ros.arm.chunk_delays import Delays
from aiofranka_ros.arm.chunk_paths import (
    at_rest,
    connected,
    curve,
    ended,
    evaluate,
    fading,
    is_on,
    joined,
    pose_reference,
    slowly,
)
from aiofranka_ros.arm.chunk_points import Chunk, Points, points_of
from aiofranka_ros.control.law.approach import LONGEST_GAP, NEAR_ANGULAR, NEAR_LINEAR
from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.control.records import Approach, ChunkEnd, Hold, Mode, MotionStatus
from aiofranka_ros.control.snapshot import distance_text
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.model import fr3
from aiofranka_ros.model.kinematics import control_frame

#: From reading the state until the control process has the new path [s]; until then it follows the old one.
_LEAD = fr3.CYCLE
#: Jerk of a seam [m/s³], [rad/s³]: a difference of 1 cm fades out within 0.2 s. Of slowing down at the end.
_JERK_LINEAR, _JERK_ANGULAR = 30.0, 60.0
#: A single point takes effect this long before it is due [s].
_SINGLE = 0.1
#: How far two times may be apart that are the same [s]: each stamp is converted to this clock on its own.
SAME = fr3.CYCLE
#: After so many chunks in a row that came before their predecessor ended, the next one is expected to do so, too.
_OVERLAPS = 2
#: States from which the clock of the robot is known: some, since each can be late, but few, because a simulated robot
#: on a slow computer has a slow clock.
_CLOCK_STATES = 8

_WHY_ENDED = {
    ChunkEnd.TARGET: "a single target came later",
    ChunkEnd.HELD: "the arm holds: a client asked for it, it was pushed, or its owner was silent",
    ChunkEnd.MODE: "the mode or the control frame changed",
    ChunkEnd.MOTION: "a move began",
    ChunkEnd.STOPPED: "it was stopped",
    ChunkEnd.FAR: "it began far from the arm, see approach_far_streams",
    ChunkEnd.INVALID: "its path could not be used",
}


class Outcome(enum.Enum):
    """What became of a chunk."""

    RUNNING = "running"  #: it is followed, or will be in a moment
    FINISHED = "finished"  #: the arm's reference has arrived at its end
    REPLACED = "replaced"  #: by a newer chunk
    STOPPED = "stopped"  #: something else ended it


@dataclass
class Ticket:
    """What is known of a chunk that was accepted; :meth:`ChunkPlayer.observe` keeps it up to date."""

    number: int  #: of the chunk in the control process
    start: float  #: when ``times == 0`` was due [s, monotonic]
    arrived: float  #: when it was accepted [s, monotonic]
    starts_at: float  #: from when on it decides the movement [s, monotonic]
    ends_at: float  #: when its last point is due [s, monotonic]
    dropped: int  #: points that were past
    clipped: int  #: points that were cut to a limit
    seam: tuple[float, float]  #: how far it was from what the arm would have done [m], [rad]
    first_torque: float | None = None  #: when the first torque was computed from it [s, monotonic]
    outcome: Outcome = Outcome.RUNNING
    reason: str = ""  #: why it ended, as a sentence; empty while it runs
    accepted: bool = True
    _listeners: list[Callable[[], object]] = field(default_factory=list, repr=False)

    @property
    def latency(self) -> float | None:
        """From ``start`` to the first torque [s]; ``None`` before that."""
        return None if self.first_torque is None else self.first_torque - self.start

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.outcome is not Outcome.RUNNING

    def end(self, outcome: Outcome, reason: str) -> None:
        """It ends; only the first reason counts."""
        if not self.done:
            self.reason, self.outcome = reason, outcome
            self._tell()

    def when_ended(self, call: Callable[[], object]) -> None:
        """Call ``call`` when it ends, in any thread; at once if it has."""
        self._listeners.append(call)
        if self.done:
            self._tell()

    def _tell(self) -> None:
        with contextlib.suppress(IndexError):  # Two threads may come here at the same time.
            while True:
                self._listeners.pop()()


class Follower(Protocol):
    """What follows paths: :class:`~aiofranka_ros.control.client.ControlClient`."""

    @property
    def mode(self) -> Mode:
        """The control law."""

    def state(self) -> Record:
        """The newest measured state."""

    @property
    def flange_to_tcp(self) -> Array:
        """The control frame in the flange (4, 4)."""

    def begin_stream(self) -> None:
        """What comes next must be near the reference, or is approached slowly."""

    def start_chunk(self, path: Motion, *, start: float = 0.0) -> int:
        """Follow ``path`` from robot time ``start`` [s] on; returns its number."""

    def stop_chunk(self, number: int) -> None:
        """End that chunk."""


@dataclass
class _Path:
    """A path that the control process follows, or soon will."""

    ticket: Ticket
    motion: Motion
    begin: float  #: robot time of its beginning [s]
    joints: bool


@dataclass
class _Clock:
    """Converts times of this computer to robot time."""

    _offsets: deque[float] = field(default_factory=lambda: deque(maxlen=_CLOCK_STATES))
    _seen: int = 0

    def observe(self, state: Record) -> None:
        """Compare the clocks. A stamp can be late, but not early, so the smallest difference is the best."""
        if state["stamp"] != self._seen:
            self._seen = int(state["stamp"])
            self._offsets.append(1e-9 * self._seen - float(state["time"]))

    @property
    def offset(self) -> float:
        """What to add to robot time for monotonic time [s]."""
        return min(self._offsets)


class ChunkPlayer:
    """Makes paths of chunks, and knows what becomes of them; one for each activation.

    :param client: follows the paths.
    :param parameter: values of settings.
    """

    def __init__(self, client: Follower, parameter: Callable[[str], Any]) -> None:
        self._client, self._parameter = client, parameter
        self._clock = _Clock()
        self._running: _Path | None = None
        self._open: list[Ticket] = []
        self._delays = Delays()
        self._overlaps = 0

    @property
    def running(self) -> Ticket | None:
        """The newest chunk, if it has not ended."""
        return None if self._running is None or self._running.ticket.done else self._running.ticket

    def follow(self, chunk: Chunk, now: float, *, other: bool = False) -> Ticket:
        """Follow ``chunk``, which replaces the one before.

        :param now: [s, monotonic].
        :param other: whether another client begins: unless its chunk is near, the arm approaches it slowly.
        :raises InvalidTarget: it is refused, and ``reason`` is why; the one before continues.
        """
        state = self._client.state()
        self.observe(state)
        _refuse_if_busy(state)
        start = now if chunk.start is None else float(chunk.start)
        present = now - start - 1e-9  # Time of the chunk: what was due before is past.
        points = points_of(chunk, self._client.mode, self._parameter, present)
        past = int(np.count_nonzero(points.times < present))
        self._check_times(chunk, points, start, past, now, other)

        robot_now = now - self._clock.offset
        due = start - self._clock.offset + points.times
        valid = self._is_of_this_law(state)
        before = self._before(state, points.relative, robot_now) if valid and not other else None
        frozen = _LEAD if before is None or before.ticket.done else max(_LEAD, self._parameter("chunk_freeze"))
        interval = due[1] - due[0] if len(due) > 1 else _SINGLE
        seam = max(robot_now + frozen, float(due[0]) - interval)

        path, lead = self._shape(points, float(due[0]) - seam, robot_now, state)
        offset = seam - (float(due[0]) - lead)
        reference = self._present(state, before, seam if valid else None)
        path, difference = connected(path, offset, reference, points.relative, self._is_joints)
        distance = self._distance(difference)
        fade = self._fade(difference, distance, before is not None)
        if before is None:
            motion, begin = joined(None, 0.0, 0.0, path, offset, fade), seam
            self._client.begin_stream()  # The control process must not follow at once what is not blended.
        else:
            begin = robot_now
            motion = joined(before.motion, begin - before.begin, seam - begin, path, offset, fade)
        number = self._client.start_chunk(motion, start=begin)
        ticket = Ticket(
            number=number, start=start, arrived=now, starts_at=seam + self._clock.offset,
            ends_at=start + float(points.times[-1]), dropped=past - (points.relative and past > 0),
            clipped=points.clipped, seam=distance,
        )  # fmt: skip
        overlaps = before is not None and now < before.ticket.ends_at
        self._overlaps = self._overlaps + 1 if overlaps else 0
        self._running = _Path(ticket, motion, begin, self._is_joints)
        self._open.append(ticket)
        return ticket

    def stop(self) -> None:
        """End the chunk in force, if there is one: the arm slows down and holds."""
        if self.running is not None:
            self._client.stop_chunk(self.running.number)

    def observe(self, state: Record) -> None:
        """Learn from a new state what became of the chunks."""
        self._clock.observe(state)
        inforce, seen = int(state["chunk_id"]), int(state["chunk_seen"])
        for ticket in self._open:
            first = 1e-9 * int(state["chunk_first"])
            if ticket.number in (inforce, seen) and ticket.first_torque is None and first > ticket.arrived:
                ticket.first_torque = first
                self._delays.add(first - ticket.start)
            if ticket.number < seen:
                ticket.end(Outcome.REPLACED, "a newer chunk replaced it")
            elif ticket.number == seen and inforce == 0:
                ticket.end(Outcome.STOPPED, _WHY_ENDED.get(ChunkEnd(int(state["chunk_end"])), "the arm was released"))
            elif ticket.number == inforce and self._running is not None:
                over = ticket is self._running.ticket and state["chunk_time"] >= self._running.motion.duration
                if over and state["approach"] != Approach.APPROACHING:
                    ticket.end(Outcome.FINISHED, "the arm has arrived at its end")
        self._open = [ticket for ticket in self._open if not ticket.done]

    def close(self, reason: str) -> None:
        """The arm is no longer active."""
        for ticket in self._open:
            ticket.end(Outcome.STOPPED, reason)
        self._open = []

    def committed(self, n: int, dt: float, now: float, start: float | None = None) -> tuple[Array, int]:
        """What the arm does if no other chunk comes, on the grid of a policy.

        :param n: rows, at most.
        :param dt: time between two rows [s].
        :param now: [s, monotonic].
        :param start: when the first row is due [s, monotonic]; ``None``: now.
        :returns: joint positions [rad], or positions [m] and quaternions (m, 7), up to the last point of the chunk in
            force; and how many of them no chunk can change any more, see ``chunk_freeze``.
        """
        path = self._running
        if path is None or path.ticket.done:
            return np.empty((0, 7)), 0
        times = (now if start is None else start) + dt * np.arange(n)
        times = times[times <= path.ticket.ends_at + SAME]
        rows, _, _ = evaluate(path.motion, times - self._clock.offset - path.begin)
        if not path.joints:
            rows[:, 3:] /= np.linalg.norm(rows[:, 3:], axis=1, keepdims=True)
        certain = np.count_nonzero(times <= now + self._parameter("chunk_freeze"))
        return rows, int(certain)

    def inference_delay(self, dt: float, quantile: float = 0.95) -> int:
        """How many steps of ``dt`` [s] passed from the start of a chunk to its first torque.

        :param quantile: for this share of the last chunks it was no longer; the first ones are left out.
        :returns: 0 before the first chunk.
        """
        return self._delays.steps(dt, quantile)

    # How a path is made.

    @property
    def _is_joints(self) -> bool:
        return self._client.mode is not Mode.OSC

    def _check_times(self, chunk: Chunk, points: Points, start: float, past: int, now: float, other: bool) -> None:
        """:raises InvalidTarget: it comes too late or too early, or is older than the chunk in force."""
        last = start + float(points.times[-1])
        if past == len(points.times):
            raise InvalidTarget(
                f"its last point was due {now - last:.3f} s ago: send longer chunks, compute them faster, or compare "
                "the clocks",
                reason="too late",
            )
        ahead = start + float(points.times[0]) - now
        if ahead > self._parameter("max_target_age"):
            raise InvalidTarget(
                f"its first point is due {ahead:.3f} s from now; at most {self._parameter('max_target_age'):g} s are "
                "allowed (max_target_age): send it later, or compare the clocks",
                reason="from the future",
            )
        running = None if other else self.running  # The clocks and delays of two clients do not compare.
        if running is not None and chunk.start is not None and start < running.start - SAME:
            raise InvalidTarget(
                f"it is from an observation {running.start - start:.3f} s older than that of the chunk in force: send "
                "chunks in the order of their observations",
                reason="stale",
            )

    def _is_of_this_law(self, state: Record) -> bool:
        """Whether the reference in ``state`` is that of the mode and its control frame, not of what controlled the arm
        before; if not, the control process lets the mode start from where the arm is measured."""
        if state["law"] != self._client.mode:
            return False
        pose = None if self._is_joints else control_frame(state["q"], self._client.flange_to_tcp)
        return pose is None or bool(np.abs(pose - state["tcp"]).max() <= 1e-6)

    def _before(self, state: Record, relative: bool, now: float) -> _Path | None:
        """The path that the new one continues; ``None``: it begins where the reference is."""
        path = self._running
        if path is None or path.joints != self._is_joints:
            return None
        if path.ticket.done and (
            path.ticket.outcome is not Outcome.FINISHED or state["chunk_id"] != path.ticket.number
        ):
            return None
        if now - path.begin > path.motion.duration + 0.9 * LONGEST_GAP:
            return None
        # Velocities would take the path ever further away from an arm that something keeps from following it.
        on_path = not relative or is_on(path.motion, float(state["time"]) - path.begin, state, path.joints)
        return path if on_path else None

    def _shape(self, points: Points, ahead: float, now: float, state: Record) -> tuple[Motion, float]:
        """The path of the points with its end, and how long before the first point it begins [s]."""
        cutoff = 2.0 * math.pi * self._parameter("chunk_smoothing")
        path = curve(points.times - points.times[0], points.values, cutoff or math.inf)
        end = self._parameter("chunk_end")
        if end == "auto":
            end = "hold" if self._overlaps >= _OVERLAPS else "rest"
        overrun = {"rest": -math.inf, "hold": 0.0}.get(end, self._parameter("extrapolation_time"))
        jerk, acceleration = self._gentle()
        return ended(path, max(ahead, 0.0), overrun, jerk, 0.5 * acceleration)

    def _gentle(self) -> tuple[Array, Array]:
        """Jerks and accelerations of seams for each column of a path (7,)."""
        if self._is_joints:
            return np.full(7, _JERK_ANGULAR), np.array(self._parameter("max_joint_acceleration"), dtype=float)
        linear, angular = (self._parameter(f"max_{part}_acceleration") for part in ("linear", "angular"))
        # A quaternion changes half as much as the angle.
        jerk = np.array([_JERK_LINEAR] * 3 + [0.5 * _JERK_ANGULAR] * 4)
        return jerk, np.array([linear] * 3 + [0.5 * angular] * 4)

    def _present(self, state: Record, before: _Path | None, seam: float | None) -> tuple[Array, Array, Array]:
        """Position, velocity and acceleration (7,) at ``seam`` [s, robot time], if there were no new chunk.

        ``None``: the reference in ``state`` is another law's.
        """
        if seam is None:
            return at_rest(state["q"], None if self._is_joints else self._client.flange_to_tcp)
        if before is not None:
            p, v, a = evaluate(before.motion, np.array([seam - before.begin]))
            return p[0], v[0], a[0]
        if self._is_joints:
            p, v, a = (np.array(state[name]) for name in ("ref_q", "ref_dq", "ref_ddq"))
        else:
            p, v, a = pose_reference(state)
        # It has moved since, for some milliseconds; for longer than that only if it holds.
        elapsed = min(max(0.0, seam - float(state["time"])), 5.0 * fr3.CYCLE)
        return p + elapsed * v, v, a

    def _distance(self, difference: tuple[Array, Array, Array]) -> tuple[float, float]:
        """Size of a seam [m], [rad]."""
        p = difference[0]
        if self._is_joints:
            return 0.0, float(np.abs(p).max())
        return float(np.linalg.norm(p[:3])), 4.0 * math.asin(min(0.5 * float(np.linalg.norm(p[3:])), 1.0))

    def _fade(
        self, difference: tuple[Array, Array, Array], distance: tuple[float, float], replaces: bool
    ) -> Motion | None:
        """How the difference fades out; ``None``: the control process approaches the path.

        :raises InvalidTarget: it is too large, and such chunks are refused.
        """
        far = distance[0] > NEAR_LINEAR or distance[1] > NEAR_ANGULAR
        if not replaces and far:
            if not self._parameter("approach_far_streams"):
                raise InvalidTarget(
                    f"it begins {distance_text(np.array(distance))} from where the arm is: begin there, or set "
                    "approach_far_streams",
                    reason="far away",
                )
            return None
        steps = [self._parameter(name) for name in ("max_linear_step", "max_angular_step")]
        if self._is_joints:
            steps = [math.inf, float(np.min(self._parameter("max_joint_step")))]
        jerk, acceleration = self._gentle()
        # A path may ask for any acceleration, but the reference on it has no higher one.
        difference = (*difference[:2], np.clip(difference[2], -acceleration, acceleration))
        if distance[0] <= steps[0] and distance[1] <= steps[1]:
            return fading(*difference, jerk, acceleration)
        if self._parameter("chunk_violation") == "refuse":
            raise InvalidTarget(
                f"it is {distance_text(np.array(distance))} from the chunk before, see max_linear_step, "
                "max_angular_step and max_joint_step: continue where that one is, or set chunk_violation to clip",
                reason="jumps",
            )
        mean = max(
            distance[0] / self._parameter("approach_linear_velocity"),
            distance[1] / self._parameter(f"approach_{'joint' if self._is_joints else 'angular'}_velocity"),
        )
        return slowly(*difference, jerk, acceleration, mean)


def _refuse_if_busy(state: Record) -> None:
    """:raises InvalidTarget: a move runs, or the arm holds."""
    if state["motion_status"] in (MotionStatus.EXECUTING, MotionStatus.STOPPING, MotionStatus.PAUSED):
        raise InvalidTarget("a move runs: wait until it has ended, or cancel it", reason="during a move")
    if int(state["hold"]) & (Hold.ASKED | Hold.PUSHED):
        raise InvalidTarget("the arm holds until it is released", reason="held")
