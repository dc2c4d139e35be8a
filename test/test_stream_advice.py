"""What is said about a stream, and what to set, from made-up streams."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from test_stream_kinds import held_back, path, steady, stream, thinking

from aiofranka_ros.arm.setting_table import SETTINGS
from aiofranka_ros.streams.advice import (
    Finding,
    chunk_findings,
    describe,
    describe_chunks,
    length,
    node_findings,
    stream_findings,
)
from aiofranka_ros.streams.analysis import analyse
from aiofranka_ros.streams.chunks import Chunk, chunk_figures
from aiofranka_ros.streams.recording import Quantity, Stream
from aiofranka_ros.streams.response import Response

pytestmark = pytest.mark.unit

DEFAULTS: dict[str, Any] = {setting.name: setting.default for setting in SETTINGS}


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def findings(of: Stream, response: Response | None = None, **settings: Any) -> list[Finding]:
    return stream_findings(analyse(of), response, DEFAULTS | settings)


def settings_of(found: list[Finding]) -> dict[str, Any]:
    return {name: value for finding in found for name, value in finding.settings.items()}


# --- Nothing to set


@pytest.mark.parametrize("rate", [3.0, 10.0, 50.0, 100.0])
def test_an_even_stream_needs_nothing(rate: float) -> None:
    assert findings(stream(*steady(rate, rng()), rng())) == []


def test_neither_a_repeated_stream_nor_one_that_stops_and_thinks_needs_anything() -> None:
    times = np.arange(0.0, 5.0, 0.02)
    made = np.floor(10.0 * times + 1e-9).astype(int)
    repeated = stream(times, path(np.arange(made[-1] + 1) / 10.0, rng())[made], rng())
    assert findings(repeated) == []
    assert describe(analyse(repeated)).startswith("repeated: 10 Hz, each target sent 5 times")
    pausing = stream(*thinking(15.0, 0.4, rng()), rng())
    assert findings(pausing) == []
    assert "pauses of" in describe(analyse(pausing))


# --- Stamps


@pytest.mark.parametrize(
    ("offset", "text", "settings"),
    [
        (3.0, "3 s after their stamps", {"max_target_age": 3.4}),
        (-3.0, "in the future", {}),
        (-0.1, "the arm waits for each target", {}),
        (40.0, "40 s after their stamps", {}),
        (1e9, "another kind of clock", {}),
    ],
)
def test_a_clock_that_differs_is_named_with_its_remedy(offset: float, text: str, settings: dict[str, Any]) -> None:
    times, values = steady(50.0, rng())
    (found,) = findings(stream(times, values, rng(), times - offset))
    assert text in found.text and ("synchronise" in found.remedy or "use_sim_time" in found.remedy)
    assert found.settings == settings
    assert found.serious == (abs(offset) > DEFAULTS["max_target_age"])


def test_constant_stamps_backwards_stamps_and_empty_ones_are_named() -> None:
    times, values = steady(50.0, rng())
    (constant,) = findings(stream(times, values, rng(), np.full(len(times), -1.0)))
    assert constant.serious and "all stamps are the same" in constant.text
    swapped = times.copy()
    swapped[[50, 51]] = swapped[[51, 50]]
    (backwards,) = findings(stream(times, values, rng(), swapped))
    assert backwards.serious and "out of order" in backwards.text
    some = times.copy()
    some[::2] = np.nan
    (empty,) = findings(stream(times, values, rng(), some))
    assert not empty.serious and "50 % of the messages have an empty stamp" in empty.text


def test_targets_that_come_too_early_may_be_allowed_to() -> None:
    index = np.arange(80)
    stamps = 0.1 * index
    sent = 0.8 * (index // 8) + 0.001 * (index % 8)
    (found,) = findings(stream(sent, path(stamps, rng()), rng(), stamps, jitter=0.0))
    assert found.serious and settings_of([found]) == {"max_target_age": 0.8}


# --- Movement


def test_noise_jumps_and_outliers_are_named() -> None:
    times, values = steady(50.0, rng())
    noisy = values.copy()
    noisy[:, :3] += 0.001 * rng().standard_normal((len(times), 3))
    (found,) = findings(stream(times, noisy, rng()))
    assert "noisy" in found.text and found.settings == {"interpolation": "interpolate", "reference_bandwidth": 10.0}
    (found,) = findings(stream(times, noisy, rng()), interpolation="interpolate", reference_bandwidth=10.0)
    assert not found.settings and not found.serious
    jumping = values.copy()
    jumping[times > 2.5, 2] += 0.3
    (found,) = findings(stream(times, jumping, rng()))
    assert "jumps 1 times, by up to 300 mm" in found.text
    away = values.copy()
    away[[50, 90], 2] += 0.3
    (found,) = findings(stream(times, away, rng()))
    assert found.text == "2 targets jump away and back"


def test_targets_that_are_faster_than_the_arm_are_named() -> None:
    times, values = steady(50.0, rng())
    values[:, 1] += 1.5 * times
    (found,) = findings(stream(times, values, rng()))
    assert found.serious and 1.6 <= found.settings["max_linear_velocity"] <= 3.0
    values[:, 1] += 3.0 * times
    (found,) = findings(stream(times, values, rng()))
    assert found.serious and not found.settings


# --- Parameters that do not fit


def test_parameters_that_do_not_fit_the_stream_are_put_right() -> None:
    slow, dense = (stream(*steady(rate, rng()), rng()) for rate in (10.0, 50.0))
    (found,) = findings(slow, interpolation="extrapolate")
    assert found.serious and found.settings == {"interpolation": "auto"}
    assert findings(dense, interpolation="extrapolate") == []
    (found,) = findings(dense, interpolation="interpolate")
    assert not found.serious and found.settings == {"interpolation": "auto"}
    (found,) = findings(dense, smooth_targets=False)
    assert found.settings == {"smooth_targets": True}


def test_gaps_are_bridged_up_to_extrapolation_time() -> None:
    times, values = steady(50.0, rng())
    kept = (times % 1.0) > 0.3
    (found,) = findings(stream(times[kept], values[kept], rng()))
    assert found.settings == {"extrapolation_time": pytest.approx(0.35, abs=0.051)}
    kept = (times % 1.0) > 0.1
    (found,) = findings(stream(times[kept], values[kept], rng()))
    assert not found.settings and "bridges" in found.text


def test_bursts_without_stamps_need_stamps() -> None:
    arrivals, values, times = held_back(90.0, rng(), 0.12)
    without = findings(stream(arrivals, values, rng(), jitter=0.0))
    assert any("header.stamp" in finding.remedy for finding in without)
    stamped = findings(stream(arrivals, values, rng(), times, jitter=0.0))
    assert not any("header.stamp" in finding.remedy for finding in stamped)


def test_torques_that_come_too_rarely_need_a_longer_timeout() -> None:
    times = np.arange(0.0, 5.0, 0.2)
    torques = Stream(Quantity.TORQUE, times, np.full(len(times), np.nan), np.zeros((len(times), 7)))
    (found,) = stream_findings(analyse(torques), None, DEFAULTS)
    assert found.serious and found.settings == {"torque_timeout": 0.3}


# --- The arm, the node


def test_an_arm_that_moves_badly_is_a_problem() -> None:
    even = stream(*steady(50.0, rng()), rng())
    good = Response("m", True, 0.01, 0.97, 1.02, 0.0002, 0.001)
    assert findings(even, good) == []
    (found,) = findings(even, Response("m", True, 0.01, 0.4, 1.6, 0.0, 0.001))
    assert "0.40 to 1.60" in found.text
    (found,) = findings(even, Response("m", True, 0.01, math.nan, math.nan, 0.005, 0.001))
    assert "goes back by up to 5 mm" in found.text
    (found,) = findings(even, Response("m", False))
    assert "does not follow" in found.text and "ctl status" in found.remedy


def test_a_node_that_refuses_the_targets_is_a_problem() -> None:
    assert node_findings(("osc",), DEFAULTS, "active", 0, ("/policy",)) == []
    assert node_findings((), {"mode": "torque"}, "active", 0, ()) == []
    (found,) = node_findings(("impedance", "pid"), DEFAULTS, "active", 0, ())
    assert found.settings == {"mode": "impedance"}
    (found,) = node_findings(("osc",), DEFAULTS, "unconfigured", 0, ())
    assert "configure, then activate" in found.remedy
    (found,) = node_findings(("osc",), DEFAULTS, "active", 12, ("/policy", "/teleoperation"))
    assert "12 messages" in found.text and "/teleoperation" in found.text


# --- Chunks


def chunks(count: int, every: float, points: int, step: float, *, age: float = 0.1, seam: float = 0.0) -> list[Chunk]:
    """A policy that sends ``points`` ``step`` apart, computed from an observation ``age`` ago."""
    found = []
    for i in range(count):
        stamp = i * every
        times = step * np.arange(points)
        values = np.tile(0.1 * (stamp + times)[:, None], (1, 7)) + i % 2 * seam
        found.append(Chunk(stamp + age, stamp, times, values))
    return found


def test_chunks_in_time_need_nothing() -> None:
    figures = chunk_figures(Quantity.JOINTS, chunks(10, 0.4, 16, 0.05, seam=0.01), 1.0 / 15.0)
    assert describe_chunks(figures) == "chunks: 10 of 16 points 50 ms apart, one every 400 ms"
    assert figures.age == pytest.approx(0.1) and figures.starved == 0
    assert figures.seam == pytest.approx((0.01 * math.sqrt(7.0),))
    assert chunk_findings(figures, None, DEFAULTS) == []


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (chunks(10, 1.0, 8, 0.05), "9 times the next chunk came after the last one had ended, by up to 750 ms"),
        (chunks(10, 0.4, 8, 0.05, age=3.0), "3 s after their stamps, with all points past"),
        (chunks(10, 0.4, 16, 0.05, age=0.6), "75 % of the points are past"),
        ([Chunk(c.arrival, math.nan, c.times, c.values) for c in chunks(10, 0.4, 16, 0.05)], "no stamp"),
        ([Chunk(c.arrival, c.stamp, 0.0 * c.times, c.values) for c in chunks(10, 0.4, 16, 0.05)], "no times"),
    ],
)  # fmt: skip
def test_chunks_that_do_not_fit_are_explained(made: list[Chunk], text: str) -> None:
    found = chunk_findings(chunk_figures(Quantity.JOINTS, made, 1.0 / 15.0), None, {"chunk_frequency": 15.0})
    assert any(text in finding.text for finding in found)


def test_one_chunk_is_no_error() -> None:
    figures = chunk_figures(Quantity.JOINTS, chunks(1, 1.0, 1, 0.05), 1.0 / 15.0)
    assert figures.chunks == 1 and figures.seam == () and math.isnan(figures.period)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.0123, "m", "12.3 mm"), (1.5, "m/s", "1.5 m/s"), (0.05, "rad", "50 mrad"), (0.5, "rad/s", "0.5 rad/s")],
)
def test_lengths_are_readable(value: float, unit: str, text: str) -> None:
    assert length(value, unit) == text
