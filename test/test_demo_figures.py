"""The demo's circle and its figures, computed from made-up cycles."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiofranka_ros.control.records import COMMANDS, CYCLE_RECORD, new
from aiofranka_ros.demo import evaluation
from aiofranka_ros.demo.evaluation import REQUIREMENTS, Requirement
from aiofranka_ros.demo.policy import Circle

pytestmark = pytest.mark.unit

#: A time as large as a real one [ns].
NOW = 1_700_000_000_123_456_789
MS = 1_000_000

CIRCLE = Circle(start=(0.3, -0.05, 0.6), start_time=NOW, duration=10.0)


def cycles(count: int) -> np.ndarray:
    """Cycles of one activation, one per millisecond from ``NOW``, in which the arm stands still without problems."""
    records = np.zeros(count, CYCLE_RECORD)
    records["activation"] = 1
    records["stamp"] = NOW + MS * np.arange(count)
    records["success_rate"] = 1.0
    records["response"] = 100e-6
    return records


def passing_report() -> dict[str, Any]:
    """A report that just meets every requirement."""
    report: dict[str, Any] = {}
    for requirement in REQUIREMENTS:
        place = report
        *parents, name = requirement.key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        limit = requirement.limit
        place[name] = limit + 1 if requirement.relation == ">" and not isinstance(limit, str) else limit
    return report


# The policy's circle.


def test_the_circle_begins_at_the_measured_pose_and_at_zero_speed() -> None:
    np.testing.assert_allclose(CIRCLE.position([NOW])[0], CIRCLE.start)
    # Within the first period of the policy, the arm could follow at once.
    assert np.linalg.norm(CIRCLE.position([NOW + 20 * MS])[0] - CIRCLE.start) < 1e-6


def test_every_point_of_the_circle_is_at_its_radius() -> None:
    points = CIRCLE.position(NOW + MS * np.arange(10_000))
    centre = np.array(CIRCLE.start) + [0.0, 0.05, 0.0]
    np.testing.assert_allclose(np.linalg.norm(points - centre, axis=1), 0.05)
    np.testing.assert_allclose(points[:, 0], 0.3)


def test_the_circle_turns_at_its_frequency_between_smooth_ends() -> None:
    time_ = np.linspace(-0.5, 10.5, 11_001)
    speed = np.gradient(CIRCLE.angle(time_), time_)
    full = 2.0 * math.pi * 0.25
    np.testing.assert_allclose(speed[(time_ > 1.01) & (time_ < 8.99)], full, rtol=1e-6)
    np.testing.assert_allclose(speed[(time_ < -0.01) | (time_ > 10.01)], 0.0, atol=1e-9)
    # A smoothstep over 1 s is steepest in its middle, with 1.5 per second.
    assert np.abs(np.gradient(speed, time_)).max() < 1.51 * full
    # Two ramps of 1 s cover half of what full speed would.
    assert CIRCLE.angle(np.array([10.0]))[0] == pytest.approx(9.0 * full)


# The figures.


def test_response_times_are_percentiles_of_the_cycles() -> None:
    records = cycles(1000)
    records["response"] = 1e-6 * np.arange(1, 1001)
    figures = evaluation.response_times(records)
    assert figures == {"mean": 500.5, "p50": 500.5, "p99": 990.0, "p999": 999.0, "max": 1000.0}


def test_the_success_rate_excludes_the_first_100_cycles_of_each_activation() -> None:
    records = cycles(600)
    records["activation"][300:] = 2
    records["success_rate"][:100] = 0.1
    records["success_rate"][300:400] = 0.2
    assert evaluation.success_rate_min(records) == 1.0
    records["success_rate"][400] = 0.7
    assert evaluation.success_rate_min(records) == pytest.approx(0.7)
    assert evaluation.success_rate_min(cycles(100)) is None


def test_the_latency_of_a_target_ends_with_the_first_torque_that_used_it() -> None:
    records = cycles(100)
    stamps = NOW + MS * np.array([9, 29, 49]) + 500_000
    records["target_stamp"][10:] = stamps[0]  # 0.5 ms later
    records["target_stamp"][33:] = stamps[1]  # 3.5 ms later
    np.testing.assert_allclose(evaluation.setpoint_latencies(records, stamps), [0.5, 3.5])


def test_tracking_is_measured_from_the_first_to_the_last_target_including_gaps() -> None:
    records = cycles(10_000)
    records["position"] = CIRCLE.position(records["stamp"]) + [0.0, 0.0, 0.003]
    # Before the first and after the last target, the position does not count.
    records["position"][:100] = records["position"][9001:] = 7.0
    records["position"][5000] += [0.004, 0.0, 0.0]
    tracking = evaluation.track(records, CIRCLE.position, NOW + MS * np.array([100, 120, 9000]))
    assert len(tracking.time) == 8901
    assert tracking.time[[0, -1]] == pytest.approx([0.0, 8.9])
    assert tracking.figures == {"rms": pytest.approx(3.0, abs=0.001), "max": pytest.approx(5.0)}


def test_a_stop_ends_when_all_joints_stand_still_for_good() -> None:
    records = cycles(1000)
    since, until = NOW + 100 * MS, NOW + 999 * MS
    assert evaluation.stop_duration(records, since, until) == 0.0
    records["dq"][:401, 2] = 0.5
    assert evaluation.stop_duration(records, since, until) == pytest.approx(0.301)
    records["dq"][600, 6] = -0.02  # Moves again.
    assert evaluation.stop_duration(records, since, until) == pytest.approx(0.501)
    assert evaluation.stop_duration(records, since, NOW + 550 * MS) == pytest.approx(0.301)
    records["dq"][600:, 6] = -0.02  # Never stands still.
    assert evaluation.stop_duration(records, since, until) is None


def test_the_joint_error_is_the_largest_of_any_joint_while_the_arm_is_watched() -> None:
    records = cycles(100)
    records["q"][:] = np.arange(7.0)
    records["q"][40, 3] += 0.02
    records["q"][90, 5] += 0.5
    assert evaluation.joint_error(records, np.arange(7.0), NOW + 20 * MS, NOW + 60 * MS) == pytest.approx(0.02)
    assert evaluation.joint_error(records, np.arange(7.0), NOW + 200 * MS, NOW + 300 * MS) is None


def test_gains_are_judged_by_the_worst_axis() -> None:
    commands = new(COMMANDS)[0]
    commands["ee_kp"], commands["ee_kd"] = (400, 100, 100, 9, 9, 9), (40, 20, 10, 1, 1, 1)
    assert evaluation.gains(commands) == {"translation": 400.0, "damping_ratio": 0.5}


def test_a_report_that_just_meets_the_requirements_passes() -> None:
    assert [item.key for item in REQUIREMENTS if not item.holds(passing_report())] == []


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda item: item.key)
@pytest.mark.parametrize("value", ["worse", "not measured"])
def test_each_requirement_fails_by_itself(requirement: Requirement, value: str) -> None:
    if value == "not measured":
        worse: Any = None
    elif isinstance(requirement.limit, str):
        worse = "ABORTED"
    else:
        worse = requirement.limit + (-0.1 if requirement.relation in (">", ">=") else 0.1)
    report = passing_report()
    place = report
    *parents, name = requirement.key.split(".")
    for parent in parents:
        place = place[parent]
    place[name] = worse
    assert [item.key for item in REQUIREMENTS if not item.holds(report)] == [requirement.key]


def test_the_plot_is_an_image_even_of_an_arm_that_did_not_move(tmp_path: Path) -> None:
    records = cycles(500)
    stamps = NOW + MS * np.arange(0, 500, 20)
    tracking = evaluation.track(records, CIRCLE.position, stamps)
    report = {
        "tracking_mm": tracking.figures,
        "response_us": evaluation.response_times(records),
        "cycles_lost": 0,
    }
    path = tmp_path / "tracking.png"
    evaluation.plot(path, tracking, CIRCLE.position(stamps), [(0.1, 0.2)], report, records)
    assert path.read_bytes().startswith(b"\x89PNG")
