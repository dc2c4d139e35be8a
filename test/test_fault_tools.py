"""The tools that cause and judge faults, and the attribution of late answers, on made-up data."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from aiofranka_ros.control.records import CYCLE_RECORD
from bench.faults.__main__ import main, write
from bench.faults.arm import STEP
from bench.faults.catalogue import FAULTS
from bench.faults.fuzz import Fuzzer, kind_of
from bench.faults.proxy import CYCLE
from bench.faults.report import Outcome
from bench.faults.rig import Findings, Options
from bench.faults.tape import CAPACITY, Tape
from bench.faults.walk import violations
from bench.ledger import Ledger
from bench.witness import WAKE, Evidence

pytestmark = pytest.mark.unit


def test_the_report_has_one_entry_per_fault_and_a_page_in_a_single_file(tmp_path: Path) -> None:
    steps = np.zeros(50, STEP)
    steps["stamp"] = np.arange(50) * 1_000_000
    fault = FAULTS["node_killed"]
    outcomes = [
        Outcome(fault, "noticed; ✗ never stopped", False, marked=10_000_000, steps=steps),
        Outcome(fault, "fine", True, stop_ms=12.34),
    ]
    write(tmp_path, outcomes, Options())
    entries = json.loads((tmp_path / "report.json").read_text())
    assert [(entry["name"], entry["passed"], entry["stop_ms"]) for entry in entries] == [
        ("node_killed", False, None),
        ("node_killed", True, 12.3),
    ]
    assert all({"name", "expected", "seen", "passed", "stop_ms"} <= set(entry) for entry in entries)
    page = (tmp_path / "report.html").read_text()
    assert "class=bad>✗ never stopped" in page and "data:image/png;base64," in page
    assert 'src="http' not in page and "1 of 2 as expected" in page


def test_the_list_names_every_fault_and_its_expected_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    assert all(f"{fault.name}  {fault.expected}" in said for fault in FAULTS.values())
    assert all(fault.stage.__doc__ or "_lost" in name or "_late" in name for name, fault in FAULTS.items())


def test_findings_pass_only_if_there_are_some_and_all_are_good() -> None:
    findings = Findings()
    assert not findings.passed
    findings.within(0.05, 0.1, "noticed")
    assert findings.passed and findings.text == "noticed after 50 ms (at most 100)"
    findings.within(None, 0.1, "stood still")
    assert not findings.passed and "✗ stood still never" in findings.text


def test_a_tape_returns_every_record_once_even_after_its_ring_is_full() -> None:
    reader = Tape(STEP)
    writer = Tape(STEP, reader.path)
    position, seen = 0, []
    for number in range(CAPACITY + 100):
        writer.fields["stamp"][writer.next()] = number
        writer.commit()
        if number % 1000 == 0:
            records, position = reader.since(position)
            seen += records["stamp"].tolist()
    records, position = reader.since(position)
    assert [*seen, *records["stamp"].tolist()] == list(range(CAPACITY + 100))
    assert len(reader.since(0)[0]) == CAPACITY - 1


def cycles(count: int) -> np.ndarray:
    """Recorded cycles of an arm that stands still."""
    records = np.zeros(count, CYCLE_RECORD)
    records["activation"], records["success_rate"] = 1, 1.0
    records["q"] = [0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785]
    return records


def test_violations_of_the_robots_limits_are_found_in_recorded_cycles() -> None:
    good = cycles(10)
    good["tau"][:, 0] = 0.99 * np.arange(10)
    assert violations(good) == []
    for field, value, text in (
        ("tau", 12.5, "a torque of 12.5 Nm"),
        ("dq", 5.3, "velocity limit"),
        ("q", 3.1, "beyond its limit"),
    ):
        bad = cycles(10)
        bad[field][5:, 6] = value
        assert any(text in violation for violation in violations(bad)), field
    step = cycles(10)
    step["tau"][5:, 0] = 1.5
    assert violations(step) == ["a torque changed by 1.50 Nm within a cycle"]
    # Torques of different activations are not compared.
    step["activation"][5:] = 2
    assert violations(step) == []


def test_corrupted_messages_are_reproducible_and_cover_every_kind_of_field() -> None:
    kind = kind_of("sensor_msgs/msg/JointState")
    first, second = (
        [repr(fuzzer.message(kind, "sensor_msgs/msg/JointState").position) for _ in range(300)]
        for fuzzer in (Fuzzer(3, {}), Fuzzer(3, {}))
    )
    assert first == second
    assert any("nan" in text for text in first) and any("inf" in text for text in first)

    sizes = {len(Fuzzer(n, {}).value("sequence<double>")) for n in range(100)}
    assert {0, 6, 7, 8} <= sizes
    assert len(Fuzzer(1, {}).value("double[16]")) == 16


def wakes(*, stop: tuple[int, int] = (0, 0), slow: tuple[int, int] = (0, 0)) -> np.ndarray:
    """A witness's records of a second [ns], with one stop and a period in which everything took four times as long."""
    seen = np.zeros(4000, WAKE)
    seen["due"] = np.arange(4000) * 250_000
    seen["woke"] = seen["due"] + 50_000
    seen = seen[(seen["due"] <= stop[0]) | (seen["due"] >= stop[1])]
    seen["woke"][seen["due"] == stop[0]] = stop[1]
    seen["done"] = seen["woke"] + np.where((seen["due"] >= slow[0]) & (seen["due"] < slow[1]), 20_000, 5_000)
    return seen


def test_the_soak_attributes_late_answers() -> None:
    """This software is to blame for a late answer unless only a stop of the computer made it late."""
    passed = np.zeros(1000, CYCLE)
    passed["id"], passed["motion"] = np.arange(1000), 1
    passed["state"] = np.arange(1000) * 1_000_000
    passed["command"] = passed["state"] + 100_000
    passed["state"][500:] += 3_000_000  # The simulator pauses,
    passed["command"][500:] += 3_000_000
    passed["command"][499] += 2_500_000  # and its client is stopped with it.
    passed["command"][300] = 0  # One state is never answered,
    passed["command"][301] += 1_200_000  # the next one late.
    evidence = Evidence(wakes(stop=(499_250_000, 502_200_000)), 5_000)
    books = Ledger()
    books.add_packets(passed, evidence)
    assert (books.late_states, books.late_states_by_stops) == (1, 1)
    assert (books.late_answers_by_stops, books.late_answers, books.worst) == (1, 2, 2)
    assert books.late_ms == pytest.approx(3.0)
    assert [(at, *rest) for at, _, *rest in books.listed] == [(300e6, 0.0, 1.0), (301e6, 0.0, 1.0)]
    assert [late[1] for late in books.listed] == pytest.approx([2.1, 1.1])  # A missing answer ends with the next one.
    # Read in parts, nothing is counted twice.
    parts = Ledger()
    position = 0
    for end in itertools.chain(range(100, 1000, 100), [1000]):
        parts.add_packets(passed[max(0, position - 3) : end], evidence)
        position = end
    assert (parts.late_states, parts.late_answers_by_stops, parts.late_answers) == (1, 1, 2)
    assert parts.states >= books.states - 1
    # Without a stop, the process on the CPU is to blame: a control process that keeps it delays the simulator, too.
    hogged = Ledger()
    hogged.add_packets(passed, Evidence(wakes(), 5_000))
    assert (hogged.late_states_by_stops, hogged.late_answers_by_stops, hogged.late_answers) == (0, 0, 3)
    # A stop also counts if it interrupts the witness's work, or comes before its next sleep.
    for phase in ("woke", "due"):
        seen = wakes(stop=(499_250_000, 502_200_000))
        (stop,) = np.flatnonzero(seen["woke"] - seen["due"] > 1_000_000)
        seen["woke"][stop] = seen["due"][stop] + 50_000
        if phase == "due":
            seen["done"][stop] = seen["woke"][stop] + 5_000
        working = Ledger()
        working.add_packets(passed, Evidence(seen, 5_000))
        assert (working.late_answers_by_stops, working.late_answers) == (1, 2), phase
    # A stop during a part of that time does not excuse the rest.
    partly = Ledger()
    partly.add_packets(passed, Evidence(wakes(stop=(499_250_000, 500_000_000)), 5_000))
    assert (partly.late_answers_by_stops, partly.late_answers) == (0, 3)


def test_a_slow_computer_excuses_answers_that_would_have_been_in_time_at_the_usual_pace() -> None:
    passed = np.zeros(1000, CYCLE)
    passed["id"], passed["motion"] = np.arange(1000), 1
    passed["state"] = np.arange(1000) * 1_000_000
    passed["command"] = passed["state"] + 100_000
    passed["command"][[300, 400]] += 1_500_000  # 0.4 ms at a quarter of the pace, and 1.6 ms at the usual one
    passed["state"][600:] += 9_000_000
    passed["command"][600:] += 9_000_000
    passed["command"][599] += 5_000_000  # 1.3 ms even at the usual pace
    slow = wakes(slow=(250_000_000, 350_000_000)), wakes(slow=(590_000_000, 620_000_000))
    books = Ledger()
    books.add_packets(passed[:500], Evidence(slow[0], 5_000))
    assert (books.late_answers_by_stops, books.late_answers_by_slowness, books.late_answers) == (0, 1, 1)
    books = Ledger()
    books.add_packets(passed[500:], Evidence(slow[1], 5_000))
    assert (books.late_answers_by_slowness, books.late_answers) == (0, 1)
    assert books.listed[0][3] == 4.0
