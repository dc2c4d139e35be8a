"""A quick selection of the faults of ``make faults``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from action_msgs.msg import GoalStatus

from aiofranka_ros.control.realtime import PRIORITY
from bench.faults.__main__ import stage
from bench.faults.catalogue import FAULTS
from bench.faults.rig import SWING, Findings, Options, Rig
from bench.witness import Witness

#: Amounts that take seconds.
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


def cpu_time(pid: int) -> float:
    """How long a process has run [s]."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_four_busy_threads_in_its_interpreter_hardly_delay_the_heartbeat_of_a_node(rig: Rig) -> None:
    rig.ready(burdened=True, options=("--spinning-threads", "4"), heartbeat_timeout=2.0)
    heartbeats, ran = rig.observer.heartbeats, cpu_time(rig.node_pid)
    for goal in SWING:
        assert rig.outcome(rig.move(goal, 1.0)).status == GoalStatus.STATUS_SUCCEEDED
    # A hundred per second without delays; at Python's default switch interval, such a node answers no client. Its
    # threads always want to run, so this is how long it was allowed to: on a busy computer, less than the swings take.
    ran = cpu_time(rig.node_pid) - ran
    assert rig.observer.heartbeats - heartbeats > 50.0 * ran > 25.0


def test_an_exception_while_staging_a_fault_is_a_failed_outcome(tmp_path: Path) -> None:
    def break_down(rig: Rig, findings: Findings) -> None:
        raise RuntimeError("no such arm")

    with Rig(tmp_path) as rig:
        outcome = stage(rig, FAULTS["node_killed"].__class__("broken", "nothing", break_down))
    assert not outcome.passed and "no such arm" in outcome.seen


def test_the_witness_records_stops_of_the_computer_but_not_a_control_process_that_keeps_the_cpu(
    tmp_path: Path,
) -> None:
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
