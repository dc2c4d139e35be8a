"""Compare the loops: ``make bench``, ``make bench-quick``; the package's docstring explains the figures.

One process and one thread, which mostly waits for the process of the current measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from aiofranka_ros.errors import Interrupted, SimulationError
from aiofranka_ros.processes import WAIT_STEP, StopRequest
from aiofranka_ros.simulation.simulated_arm import SimulatedArm, cpu_for
from aiofranka_ros.testing import isolate
from bench.loops import environment, figures
from bench.loops.loads import LOADS

#: The subjects that run with this interpreter, and their modules.
_MODULES = {
    "aiofranka_ros_node": "bench.loops.own_subject",
    "aiofranka_ros_direct": "bench.loops.own_subject",
    "libfranka_alone": "bench.loops.libfranka_subject",
}
SUBJECTS = ("aiofranka_ros_node", "aiofranka_ros_direct", "aiofranka_native", "aiofranka_python", "libfranka_alone")
MODES = ("impedance", "osc")
#: The loads of ``--quick``, once each: those that show most.
QUICK_LOADS = ("idle", "blocked", "spinning")
#: How many other loads are measured between two measurements of the idle computer: most requirements are about those,
#: and a shared computer has bad minutes.
_BETWEEN_IDLE = 3
PLOTS = {"mean": "mean response [us]", "p999": "response, 99.9 % [us]", "cycles_lost": "cycles lost"}
#: How much longer than its measurement a subject may take to start, to prepare its load and to end [s].
_MARGIN = 30.0
#: The arm's address; no other simulated arm of this project uses it by default.
_ADDRESS = "127.0.0.90"
_HERE = Path(__file__).resolve().parent


class Bench:
    """One run.

    :param output: folder for the results.
    :param python: the interpreter of the other project's environment.
    :param stop: ends it.
    """

    def __init__(self, output: Path, python: Path, seconds: float, stop: StopRequest) -> None:
        self._output, self._python, self._seconds, self._stop = output, python, seconds, stop

    def measure(self, subject: str, mode: str, load: str, number: int) -> dict[str, Any]:
        """Measure one subject on a fresh arm; raises ``Interrupted`` if a stop is requested."""
        name = f"{subject}-{mode}-{load}-{number}"
        found = self._output / "measurements" / f"{name}.npz"
        found.unlink(missing_ok=True)
        own = subject in _MODULES
        words = ["-m", _MODULES[subject]] if own else [str(_HERE / "aiofranka_subject.py")]
        options = ["--subject", subject, "--mode", mode, "--load", load, "--seconds", f"{self._seconds}"]
        # On a robot a loop would have its own processor. Here it shares one with the simulator, which waits while it
        # runs: with two processors, a virtual machine often stops one of them.
        options += ["--cpu", f"{cpu_for(_ADDRESS)}"]
        more = {"OPENBLAS_NUM_THREADS": "20"} if load == "blas" else {}
        with (
            SimulatedArm(_ADDRESS) as arm,
            (self._output / "measurements" / f"{name}.log").open("wb") as log,
        ):
            process = subprocess.Popen(
                [
                    sys.executable if own else self._python,
                    *words, *options, "--address", arm.host, "--output", str(found),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment.variables(own, **more),
                start_new_session=True,
            )  # fmt: skip
            deadline = time.monotonic() + self._seconds + _MARGIN
            try:
                while process.poll() is None and time.monotonic() < deadline:
                    self._stop.sleep(WAIT_STEP)
            finally:
                environment.end(process)
        if not found.exists():
            said = (self._output / "measurements" / f"{name}.log").read_text(errors="replace").strip().splitlines()
            return {"ended": f"nothing was measured: {said[-1] if said else 'the log is empty'}", "cycles": 0}
        return figures.measure(found)

    def run(
        self, subjects: Sequence[str], modes: Sequence[str], loads: Sequence[str], rounds: int, console: Console
    ) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
        """All measurements, by subject, mode and load."""
        entries: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        order = [(number, load, mode) for number in range(rounds) for load in turns(loads) for mode in modes]
        # Nothing competes with a loop that has no policy. Every other round is in reverse order, so that no subject is
        # always the first.
        settings = [
            (subject, mode, load)
            for number, load, mode in order
            for subject in subjects[:: 1 if number % 2 == 0 else -1]
            if subject != "libfranka_alone" or load == "idle"
        ]
        columns = TextColumn("{task.description:<44}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, auto_refresh=False) as bar:
            task = bar.add_task("", total=len(settings))
            for setting in settings:
                bar.update(task, description=", ".join(setting), refresh=True)
                measured = entries.setdefault(setting, [])
                measured.append(self.measure(*setting, len(measured)))
                bar.advance(task)
        return entries


def turns(loads: Sequence[str]) -> list[str]:
    """The loads of one round in order; among many, the idle computer is measured several times."""
    others = [load for load in loads if load != "idle"]
    if len(others) == len(loads):
        return others
    groups = [others[begin : begin + _BETWEEN_IDLE] for begin in range(0, max(1, len(others)), _BETWEEN_IDLE)]
    return [load for group in groups for load in ("idle", *group)]


def _write(output: Path, report: dict[str, Any]) -> None:
    (output / "report.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    lines = ["# The loops compared", ""]
    lines.append(
        f"{report['rounds']} rounds of {report['seconds']:g} s per measurement, the idle computer after every "
        f"{_BETWEEN_IDLE} loads. Medians, in brackets the smallest and largest mean; see `bench/loops/__init__.py`."
    )
    lines += ["", "Response, mean / 99.9 % [µs], cycles lost in all rounds, longest gap [cycles]:"]
    lines += figures.summary(report["subjects"])
    lines += figures.table(report["subjects"])
    lines += ["", "| required | found | |", "|---|---|---|"]
    lines += [f"| {what} | {found} | {'✓' if good else '✗'} |" for what, found, good in report["verdicts"]]
    for name, title in PLOTS.items():
        figures.plot(output / f"{name}.png", report["subjects"], name, title)
        lines += ["", f"![{title}]({name}.png)"]
    (output / "report.md").write_text("\n".join(lines) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all subjects.

    :returns: exit status: 0 if this project meets all requirements, 1 if not, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bench.loops",
        description="Compare the control loops of this project and of aiofranka 0.9.0, on a "
        "simulated arm. The exit status is 0 if this project's are as fast and as steady as they have to be.",
    )
    parser.add_argument("--rounds", type=int, help="how often all of them are measured [3]")
    parser.add_argument("--seconds", type=float, help="how long each time, at most 15 [4]")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=SUBJECTS, metavar="NAME")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, metavar="MODE")
    parser.add_argument("--loads", nargs="+", choices=LOADS, metavar="LOAD", help=", ".join(LOADS))
    parser.add_argument("--quick", action="store_true", help="less of everything, in under five minutes")
    parser.add_argument("--output", type=Path, default=Path("build/bench"), metavar="DIR", help="results [%(default)s]")
    options = parser.parse_args(arguments)
    rounds = options.rounds or (1 if options.quick else 3)
    seconds = min(15.0, options.seconds or (3.0 if options.quick else 4.0))
    loads = options.loads or (QUICK_LOADS if options.quick else tuple(LOADS))
    stop = StopRequest()
    stop.install()
    return _run(options, rounds, seconds, loads, stop)


def _run(options: argparse.Namespace, rounds: int, seconds: float, loads: Sequence[str], stop: StopRequest) -> int:
    """Measure, judge and report; returns the exit status."""
    isolate()
    output = options.output.resolve()
    (output / "measurements").mkdir(parents=True, exist_ok=True)
    console = Console()
    try:
        console.print("installing aiofranka ...", highlight=False)
        bench = Bench(output, environment.make(output / "aiofranka"), seconds, stop)
        entries = bench.run(options.subjects, options.modes, loads, rounds, console)
    except (SimulationError, subprocess.CalledProcessError) as error:
        Console(stderr=True).print(f"The bench failed: {error}", markup=False)
        return 1
    except Interrupted:
        Console(stderr=True).print("Interrupted.")
        return stop.exit_status
    subjects: dict[str, Any] = {name: {} for name in options.subjects}
    for (subject, mode, load), found in entries.items():
        subjects[subject].setdefault(mode, {})[load] = figures.combine(found)
    verdicts = figures.judge(subjects)
    report = {
        "subjects": subjects,
        "verdicts": verdicts,
        "rounds": rounds,
        "seconds": seconds,
        "system": {"processors": os.cpu_count(), "machine": platform.machine(), "kernel": platform.release(),
                   "python": platform.python_version()},
    }  # fmt: skip
    _write(output, report)
    for what, value, good in verdicts:
        if not good:
            console.print(f"not as required: {what}: {value}", highlight=False)
    console.print(f"{options.output}/report.md", highlight=False)
    return 0 if all(good for _, _, good in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
