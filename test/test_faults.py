"""A quick selection of the faults that ``make faults`` stages, and that what stages them is not what is at fault."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from action_msgs.msg import GoalStatus

from aiofranka_ros.control.realtime import PRIORITY
from aiofranka_ros.control.records import CYCLE_RECORD
from bench.faults.__main__ import main, stage, write
from bench.faults.arm import STEP
from bench.faults.catalogue import FAULTS
from bench.faults.fuzz import Fuzzer, kind_of
from bench.faults.proxy import CYCLE
from bench.faults.report import Outcome
from bench.faults.rig import SWING, Findings, Options, Rig
from bench.faults.tape import CAPACITY, Tape
from bench.faults.walk import violations
from bench.ledger import Ledger
from bench.witness import WAKE, Evidence, Witness

#: What one sees within seconds.
QUICK = Options(seed=7, messages=1500, minutes=0.07)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("faults"), QUICK) as rig:
        yield rig


@pytest.mark.parametrize(
    "name",
    [
        "network_without_faults",
        "5_commands_lost",
        "25_commands_lost",
        "user_stop",
        "guiding",
        "random_walk",
        "fuzz",
        "node_killed",
    ],
)
def test_a_fault_ends_as_expected(rig: Rig, name: str) -> None:
    outcome = stage(rig, FAULTS[name])
    assert outcome.passed, outcome.seen
    if name == "25_commands_lost":
        assert outcome.stop_ms is not None and outcome.stop_ms < 1500.0
        assert len(outcome.steps) > 100


def test_four_busy_threads_in_its_interpreter_hardly_keep_a_node_from_giving_signs_of_life(rig: Rig) -> None:
    rig.ready(burdened=True, options=("--spinning-threads", "4"))
    assert rig.observer is not None
    rig.observer.take()
    beats, cycles = rig.observer.beats, 0
    for goal in SWING:
        assert rig.outcome(rig.move(goal, 1.0)).status == GoalStatus.STATUS_SUCCEEDED
        cycles += len(rig.observer.take())
    # A hundred a second, if nothing delays them; at Python's own switch interval, such a node answers nobody.
    assert rig.observer.beats - beats > 0.05 * cycles > 50


def test_a_fault_that_cannot_be_staged_is_an_outcome_too(tmp_path: Path) -> None:
    def break_down(rig: Rig, findings: Findings) -> None:
        raise RuntimeError("no such arm")

    with Rig(tmp_path) as rig:
        outcome = stage(rig, FAULTS["node_killed"].__class__("broken", "nothing", break_down))
    assert not outcome.passed and "no such arm" in outcome.seen


def test_the_report_has_one_entry_a_fault_and_a_page_without_other_files(tmp_path: Path) -> None:
    steps = np.zeros(50, STEP)
    steps["stamp"] = np.arange(50) * 1_000_000
    fault = FAULTS["node_killed"]
    outcomes = [
        Outcome(fault, "noticed; ✗ never stopped", False, marked=10_000_000, steps=steps),
        Outcome(fault, "fine", True, stop_ms=12.34),
    ]
    write(tmp_path, outcomes, QUICK)
    entries = json.loads((tmp_path / "report.json").read_text())
    assert [(entry["name"], entry["passed"], entry["stop_ms"]) for entry in entries] == [
        ("node_killed", False, None),
        ("node_killed", True, 12.3),
    ]
    assert all({"name", "expected", "seen", "passed", "stop_ms"} <= set(entry) for entry in entries)
    page = (tmp_path / "report.html").read_text()
    assert "class=bad>✗ never stopped" in page and "data:image/png;base64," in page
    assert 'src="http' not in page and "1 of 2 as expected" in page


def test_the_list_names_every_fault_with_what_is_expected(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    assert all(f"{fault.name}  {fault.expected}" in said for fault in FAULTS.values())
    assert all(fault.stage.__doc__ or "_lost" in name or "_late" in name for name, fault in FAULTS.items())


def test_findings_pass_only_where_there_are_some_and_all_are_good() -> None:
    findings = Findings()
    assert not findings.passed
    findings.within(0.05, 0.1, "noticed")
    assert findings.passed and findings.text == "noticed after 50 ms (at most 100)"
    findings.within(None, 0.1, "stood still")
    assert not findings.passed and "✗ stood still never" in findings.text


def test_a_tape_gives_every_record_once_also_after_its_ring_is_full() -> None:
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
    """Recorded cycles of an arm that holds at rest."""
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
    # Another activation begins anew, and after lost commands the robot compares with what it used.
    step["activation"][5:] = 2
    assert violations(step) == []


def test_spoilt_messages_are_reproducible_and_reach_every_kind_of_field() -> None:
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
    """What a witness saw in a second [ns] that had one stop, and a time in which everything took four times as long."""
    seen = np.zeros(4000, WAKE)
    seen["due"] = np.arange(4000) * 250_000
    seen["woke"] = seen["due"] + 50_000
    seen = seen[(seen["due"] <= stop[0]) | (seen["due"] >= stop[1])]
    seen["woke"][seen["due"] == stop[0]] = stop[1]
    seen["done"] = seen["woke"] + np.where((seen["due"] >= slow[0]) & (seen["due"] < slow[1]), 20_000, 5_000)
    return seen


def test_the_soak_tells_who_was_late() -> None:
    """A late answer is this software's, unless the computer stopped everybody for so long that it had been in time."""
    passed = np.zeros(1000, CYCLE)
    passed["id"], passed["motion"] = np.arange(1000), 1
    passed["state"] = np.arange(1000) * 1_000_000
    passed["command"] = passed["state"] + 100_000
    passed["state"][500:] += 3_000_000  # The simulator pauses,
    passed["command"][500:] += 3_000_000
    passed["command"][499] += 2_500_000  # and whoever answers is stopped with it.
    passed["command"][300] = 0  # One state is never answered,
    passed["command"][301] += 1_200_000  # the next one late.
    evidence = Evidence(wakes(stop=(499_250_000, 502_200_000)), 5_000)
    books = Ledger()
    books.add_packets(passed, evidence)
    assert (books.late_states, books.late_states_by_stops) == (1, 1)
    assert (books.late_answers_by_stops, books.late_answers, books.worst) == (1, 2, 2)
    assert books.late_ms == pytest.approx(3.0)
    assert [(at, *rest) for at, _, *rest in books.listed] == [(300e6, 0.0, 1.0), (301e6, 0.0, 1.0)]
    assert [late[1] for late in books.listed] == pytest.approx([2.1, 1.1])  # At the latest with the next answer.
    # In parts, as it is read, nothing is counted twice.
    parts = Ledger()
    position = 0
    for end in itertools.chain(range(100, 1000, 100), [1000]):
        parts.add_packets(passed[max(0, position - 3) : end], evidence)
        position = end
    assert (parts.late_states, parts.late_answers_by_stops, parts.late_answers) == (1, 1, 2)
    assert parts.states >= books.states - 1
    # Without a stop, whoever has the CPU is to blame: a control process that keeps it makes the simulator late, too.
    hogged = Ledger()
    hogged.add_packets(passed, Evidence(wakes(), 5_000))
    assert (hogged.late_states_by_stops, hogged.late_answers_by_stops, hogged.late_answers) == (0, 0, 3)
    # A stop is one, too, when it comes while the witness itself works, or is on its way to sleep again.
    for phase in ("woke", "due"):
        seen = wakes(stop=(499_250_000, 502_200_000))
        (stop,) = np.flatnonzero(seen["woke"] - seen["due"] > 1_000_000)
        seen["woke"][stop] = seen["due"][stop] + 50_000
        if phase == "due":
            seen["done"][stop] = seen["woke"][stop] + 5_000
        working = Ledger()
        working.add_packets(passed, Evidence(seen, 5_000))
        assert (working.late_answers_by_stops, working.late_answers) == (1, 2), phase
    # A stop of a part of that time does not excuse the rest.
    partly = Ledger()
    partly.add_packets(passed, Evidence(wakes(stop=(499_250_000, 500_000_000)), 5_000))
    assert (partly.late_answers_by_stops, partly.late_answers) == (0, 3)


def test_a_slow_computer_excuses_what_had_been_in_time_on_a_usual_one() -> None:
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


def test_the_witness_notes_what_stops_everybody_but_not_a_control_process_that_keeps_the_cpu(tmp_path: Path) -> None:
    hog = (
        "import os, sys, time; os.sched_setaffinity(0, {0}); "
        "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(int(sys.argv[1]))); end = time.monotonic() + 0.2\n"
        "while time.monotonic() < end: pass"
    )
    stopped = []
    with Witness(0, tmp_path) as witness:
        if not witness.credible:
            pytest.skip("needs SCHED_FIFO")
        assert witness.outranks(os.getpid()) and not witness.outranks(witness.process.pid)
        for priority in (PRIORITY, 95):
            begin = time.monotonic_ns()
            subprocess.run([sys.executable, "-c", hog, str(priority)], check=True, timeout=30.0)
            stopped.append(1e-3 * float(witness.evidence().stopped(begin, time.monotonic_ns())))
    assert stopped[1] > 0.19
    assert stopped[0] < 0.5 * stopped[1]
    assert witness.stops > 0 and witness.longest > 190.0 and 0.0 < witness.usual < 1e6
