"""A short run of the demo, and how it ends early."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiofranka_ros.demo.__main__ import main
from aiofranka_ros.demo.evaluation import REQUIREMENTS
from aiofranka_ros.demo.policy import RATE
from aiofranka_ros.testing import Child, Failed, wait_until


@pytest.mark.unit
def test_a_process_that_dies_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = Child(["-m", "aiofranka_ros.is_not_there"], log=tmp_path / "node.log", label="node")
    child.process.wait(20.0)
    with pytest.raises(Failed, match=r"(?s)the node ended with exit code 1.*is_not_there"):
        child.check()
    assert child.end() == 1


@pytest.mark.unit
@pytest.mark.parametrize("arguments", [["--duration", "1"], ["--duration", "long"], ["--domain-id", "102"]])
def test_invalid_options_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2
    assert arguments[0] in capsys.readouterr().err


class Run(Child):
    """A demo in a separate process."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self._domain = f"ROS_DOMAIN_ID={os.environ['ROS_DOMAIN_ID']}"
        options = ["--output", str(output), "--duration", "3", "--domain-id", os.environ["ROS_DOMAIN_ID"]]
        super().__init__(["-m", "aiofranka_ros.demo", *options], log=output.with_suffix(".log"))

    def node(self) -> int:
        """Process id of its node."""
        (pid,) = (pid for pid, command in self.processes().items() if "aiofranka_ros.node" in command)
        return pid

    def processes(self) -> dict[int, str]:
        """The command lines of all processes of this package in its ROS domain."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().decode().replace("\0", " ")
                environment = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if "-m aiofranka_ros." in command and self._domain in environment:
                found[int(entry.name)] = command
        return found


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Run]:
    with Run(tmp_path / "demo") as run:
        yield run


def test_a_short_demo_measures_everything_and_leaves_nothing_behind(demo: Run) -> None:
    status = demo.process.wait(90.0)
    report = json.loads((demo.output / "report.json").read_text())
    # The figures depend on the load of the computer, so this test does not check them.
    assert status == (0 if report["passed"] else 1), demo.log
    assert report["passed"] == all(requirement.holds(report) for requirement in REQUIREMENTS)
    assert report["cycles"] > 5000 and report["cycles_unread"] == 0
    assert report["move"]["status"] == "TARGET_REACHED"
    assert report["move"]["error_rad_max"] <= 0.01
    assert report["cancel"]["status"] == "CANCELED"
    assert report["cancel"]["stop_s"] is not None
    assert report["shutdown_exit_code"] == 0
    # Three times 300 ms without a target, and hardly any target lost.
    assert report["targets"]["longest_gap_s"] >= 0.3
    assert 0 < report["targets"]["used"] <= report["targets"]["published"] <= 0.75 * 3.0 * RATE
    assert set(report["response_us"]) == {"mean", "p50", "p99", "p999", "max"}
    assert set(report["setpoint_latency_ms"]) == {"p50", "p99"}
    assert set(report["tracking_mm"]) == {"rms", "max"}
    assert (demo.output / "tracking.png").stat().st_size > 10_000
    assert all(requirement.text in demo.log for requirement in REQUIREMENTS)
    assert wait_until(lambda: not demo.processes())


@pytest.mark.parametrize(
    ("end", "status", "message"),
    [
        (lambda run: run.process.send_signal(signal.SIGINT), 130, "Interrupted."),
        (lambda run: os.kill(run.node(), signal.SIGKILL), 1, "the node was killed by signal 9"),
    ],
    ids=["Ctrl-C", "dead node"],
)
def test_a_demo_that_ends_early_says_why_and_leaves_nothing_behind(
    demo: Run, end: Callable[[Run], None], status: int, message: str
) -> None:
    assert demo.says("a policy draws a circle"), demo.log
    end(demo)
    assert demo.process.wait(100.0) == status, demo.log
    assert message in demo.log
    assert wait_until(lambda: not demo.processes()), demo.processes()
