"""A movement that is meant, and a policy that sends it in chunks as policies do: late, unevenly, and with seams.

Everything is decided before anything moves, so each player gets exactly the same chunks at the same times. Called by
:mod:`bench.policies.mix`; nothing here needs ROS or an arm. Times are in s from the beginning of a case, joint
positions in rad.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aiofranka_ros.kernels import Array
from aiofranka_ros.model.fr3 import HOME

#: How far the joints move from home, and how fast, at most [rad], [rad/s]: within a fifth of the arm's velocity limits,
#: which is what franka-rs allows by default.
_REACH, _SPEED = 0.3, 0.4
#: The movement is a sum of so many oscillations per joint, with frequencies in this range [Hz]...
_WAVES, _SLOWEST, _FASTEST = 3, 0.1, 0.5
#: ...that begins at rest, at home, after this time, and ends there; how long both take [s].
_STILL, _RAMP = 1.0, 1.5
#: Two chunks of a policy differ: by a distance [rad], a velocity [rad/s], and for each row [rad]; standard deviations.
_OFFSET, _DRIFT, _ROW = 0.01, 0.02, 3e-4
#: Share of the chunks that are lost.
_LOST = 0.02


class Meant:
    """The movement that a policy means.

    :param duration: until its end [s].
    """

    def __init__(self, rng: np.random.Generator, duration: float) -> None:
        self.duration = duration
        self._frequency = 2.0 * np.pi * rng.uniform(_SLOWEST, _FASTEST, (_WAVES, 7))
        self._phase = rng.uniform(0.0, 2.0 * np.pi, (_WAVES, 7))
        self._size = rng.uniform(0.3, 1.0, (_WAVES, 7))
        times = np.arange(0.0, duration, 0.01)
        reach, speed = np.abs(self.at(times) - HOME).max(axis=0), np.abs(self.velocity(times)).max(axis=0)
        self._size = self._size * np.minimum(_REACH / reach, _SPEED / speed)

    def at(self, times: Array) -> Array:
        """Where the joints should be (n, 7)."""
        t = np.clip(np.atleast_1d(times), _STILL, self.duration)[:, None]
        waves = sum(
            size * np.sin(frequency * t + phase)
            for size, frequency, phase in zip(self._size, self._frequency, self._phase, strict=True)
        )
        u = np.clip(np.minimum(t - _STILL, self.duration - t) / _RAMP, 0.0, 1.0)
        return np.asarray(HOME + u**3 * (10.0 - 15.0 * u + 6.0 * u**2) * waves)

    def velocity(self, times: Array) -> Array:
        """How fast they should move (n, 7) [rad/s]."""
        step, times = 1e-4, np.atleast_1d(times)
        return np.asarray((self.at(times + step) - self.at(times - step)) / (2.0 * step))


@dataclass(frozen=True)
class Sent:
    """A chunk: row ``i`` is meant for ``observed + i * dt``."""

    observed: float
    arrives: float
    rows: Array  #: (n, 7)


@dataclass(frozen=True)
class Case:
    """A policy and what it means.

    :ivar dt: between two rows [s].
    :ivar sent: the chunks that arrive, in the order of their arrival.
    """

    name: str
    meant: Meant
    dt: float
    sent: Sequence[Sent]

    @property
    def arrivals(self) -> Array:
        """When chunks replace others (n,): all arrivals but the first."""
        return np.array([chunk.arrives for chunk in self.sent[1:]])


def case(
    seed: int, *, duration: float = 10.0, length: int, dt: float, inference: float, jitter: float, overlap: float
) -> Case:
    """A policy that observes, computes for a while, and observes again.

    :param length: rows in a chunk.
    :param inference: how long a chunk is computed [s].
    :param jitter: by how much that differs, as a share.
    :param overlap: which share of what is left of a chunk is replaced by the next one; 1: it observes again at once.
    """
    rng = np.random.default_rng(seed)
    meant, sent, observed = Meant(rng, duration), [], 0.0
    while observed < duration:
        late = inference * (1.0 + jitter * rng.uniform(-1.0, 1.0))
        times = observed + dt * np.arange(length)
        wrong = rng.normal(0.0, _OFFSET, 7) + (times - observed)[:, None] * rng.normal(0.0, _DRIFT, 7)
        # The first chunk begins where the arm is.
        rows = meant.at(times) + min(1.0, observed / _STILL) * wrong + rng.normal(0.0, _ROW, (length, 7))
        if rng.uniform() >= _LOST:
            sent.append(Sent(observed, observed + late, rows))
        spare = dt * length - (2.0 + jitter) * inference
        observed += late + (1.0 - overlap) * max(spare, 0.0)
    name = f"{length} rows at {1.0 / dt:.0f} Hz, {1e3 * inference:.0f} ms ± {100.0 * jitter:.0f} %"
    return Case(name, meant, dt, sent)


def mix(count: int, seed: int = 1, duration: float = 10.0) -> list[Case]:
    """Policies of all kinds: 8 to 50 rows, 10 to 50 Hz, 50 to 400 ms of inference with jitter, some chunks lost.

    Chunks are long enough for the next one to arrive in time, unless it is lost: what a policy means while it has
    nothing to say is not known.
    """
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        length, inference = int(rng.integers(8, 51)), float(rng.uniform(0.05, 0.4))
        jitter = float(rng.uniform(0.0, 0.4))
        needed = (2.0 + jitter) * inference / length
        dts = [1.0 / rate for rate in (50, 30, 20, 15, 10) if 1.0 / rate >= needed] or [0.1]
        found.append(
            case(
                seed * 10_000 + number, duration=duration, length=length, dt=dts[int(rng.integers(min(len(dts), 3)))],
                inference=inference, jitter=jitter, overlap=float(rng.uniform(0.0, 1.0)),
            )
        )  # fmt: skip
    return found
