"""Reports about chunks survive their way as messages."""

from __future__ import annotations

import math

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.ros.arrivals import start_of, times_of
from aiofranka_ros.ros.chunk_reports import ChunkReport, ChunkState

pytestmark = pytest.mark.unit

NOW = 1_764_457_110_123_456_789


def test_a_report_is_read_as_it_was_written() -> None:
    report = ChunkReport(
        topic="joint_chunk", state=ChunkState.FOLLOWED, message="chunk 3 of 16 points", publisher="/policy", number=3,
        stamp=NOW, arrival=NOW + 1, begin=NOW + 2, first_torque=NOW + 3_000_000, points=16, dropped=2, clipped=1,
        seam=(0.001, 0.25), delay=0.125, steps=2,
    )  # fmt: skip
    assert ChunkReport.of(report.message_of("/aiofranka")) == report


def test_a_refusal_says_what_to_do() -> None:
    report = ChunkReport("ee_chunk", ChunkState.REFUSED, "all past", "too late", points=4)
    status = report.message_of("/aiofranka")
    values = {pair.key: pair.value for pair in status.values}
    assert status.level == DiagnosticStatus.WARN and "sooner" in values["what to do"]
    found = ChunkReport.of(status)
    assert math.isnan(found.delay) and found._replace(delay=0.0) == report._replace(delay=0.0)


@pytest.mark.parametrize("values", [[], [KeyValue(key="state", value="dancing")]])
def test_another_message_is_no_report(values: list[KeyValue]) -> None:
    with pytest.raises(ValueError):
        ChunkReport.of(DiagnosticStatus(values=values))


@pytest.mark.parametrize(
    ("stamp", "start"), [(0, 5.0), (NOW, 5.0), (NOW - 3_000_000_000, 2.0), (NOW + 100_000_000, 5.1)]
)
def test_a_chunk_begins_at_its_stamp_or_its_arrival(stamp: int, start: float) -> None:
    assert start_of(stamp, NOW, 5.0, 0.5) == pytest.approx(start)


@pytest.mark.parametrize(
    ("stamp", "reason"), [(NOW + 600_000_000, "in the future"), (1_000_000_000, "old"), (-1, "old")]
)
def test_a_stamp_of_another_clock_or_in_the_future_is_refused(stamp: int, reason: str) -> None:
    with pytest.raises(InvalidTarget) as refused:
        start_of(stamp, NOW, 5.0, 0.5)
    assert refused.value.reason == reason


def test_points_without_times_are_due_at_the_frequency() -> None:
    np.testing.assert_allclose(times_of(np.zeros(3), 10.0), [0.0, 0.1, 0.2])
    np.testing.assert_allclose(times_of(np.array([0.0, 0.5]), 10.0), [0.0, 0.5])
