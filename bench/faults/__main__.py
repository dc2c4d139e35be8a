"""Stages the faults and reports their outcomes: ``make faults``, or ``python -m bench.faults``.

Everything runs in this process's one thread; the faults break other processes, see :mod:`bench.faults`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from aiofranka_ros.errors import Interrupted
from aiofranka_ros.processes import StopRequest
from aiofranka_ros.testing import isolate
from bench.faults import system
from bench.faults.catalogue import FAULTS, Fault
from bench.faults.report import Outcome, table, write_page
from bench.faults.rig import Findings, Options, Rig, Skipped
from bench.faults.verdicts import NAMED, check_verdict
from bench.faults.walk import torque_violations

for _module in (
    "processes",
    "starts",
    "robot",
    "network",
    "system",
    "owners",
    "lunge",
    "limits",
    "interruption",
    "gripper",
    "sizes",
    "storm",
    "walk",
    "fuzz",
    "verdicts",
):
    importlib.import_module(f"bench.faults.{_module}")  # Registers its faults.

#: How much time the plots show before and after a fault [s]; for long faults, as much as the tape keeps.
_BEFORE, _AFTER = 0.4, 2.5


def stage(rig: Rig, fault: Fault) -> Outcome:
    """Cause one fault and check its outcome; any exception is an outcome, too, except ``Interrupted``."""
    findings = Findings()
    outcome = Outcome(fault, "", False)
    rig.marked, rig.stop_ms, rig.draw = 0, None, None
    rig.take()
    begin, said = time.monotonic(), len(rig.log)
    try:
        fault.stage(rig, findings)
        if fault.name in NAMED:
            check_verdict(rig, findings, NAMED[fault.name])
    except Skipped as reason:
        outcome.skipped = True
        findings.check(False, f"skipped: {reason}")
    except Interrupted:
        raise
    except Exception as error:  # It is a finding, and the next fault must still run.
        findings.check(False, f"{type(error).__name__}: {error}")
    for violation in torque_violations(rig.take()):
        findings.check(False, violation)
    for remark in rig.remarks:
        findings.note(remark)
    rig.remarks.clear()
    outcome.seen, outcome.passed = findings.text, findings.passed
    outcome.stop_ms, outcome.marked = rig.stop_ms, rig.marked
    outcome.duration_s = time.monotonic() - begin
    if not (outcome.passed or outcome.skipped):
        (rig.folder / f"{fault.name}.node.log").write_text(rig.log[said:])
    outcome.draw = rig.draw
    if rig.marked and outcome.draw is None:
        stop = 1e-3 * (rig.stop_ms or 0.0)
        steps = rig.steps(rig.marked - int(1e9 * _BEFORE))
        shown = steps["stamp"] <= rig.marked + int(1e9 * max(_AFTER, stop + 1.0))
        outcome.steps = steps[shown] if shown.any() else steps
    return outcome


def run(
    faults: Sequence[Fault],
    outcomes: list[Outcome],
    output: Path,
    options: Options,
    console: Console,
    *,
    stop: StopRequest,
    quiet: bool,
) -> None:
    """Stage ``faults``, one after the other, and show the progress; raises ``Interrupted`` if a stop is requested.

    :param outcomes: each outcome is appended to this list.
    """
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # No automatic refresh: that would be a second thread.
    with Progress(
        *columns, console=console, transient=True, auto_refresh=False, disable=quiet or not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=len(faults))

        def on_wait() -> None:
            stop.check()
            bar.refresh()

        with Rig(output, options, on_wait=on_wait) as rig:
            for number, fault in enumerate(faults):

                def show(share: float, number: int = number) -> None:
                    bar.update(task, completed=number + share)

                bar.update(task, description=fault.name, completed=number, refresh=True)
                rig.progress = show
                outcome = stage(rig, fault)
                outcomes.append(outcome)
                sign, _ = outcome.verdict
                if not quiet:
                    console.print(f"{sign} {fault.name} ({outcome.duration_s:.0f} s)", highlight=False)


def write(output: Path, outcomes: Sequence[Outcome], options: Options) -> None:
    """Write ``report.json`` and ``report.html``."""
    machine = f"{platform.machine()}, {os.cpu_count()} processors, Linux {platform.release()}, seed {options.seed}"
    text = json.dumps([outcome.entry for outcome in outcomes], indent=2, allow_nan=False, ensure_ascii=False)
    (output / "report.json").write_text(text + "\n")
    write_page(output / "report.html", outcomes, machine)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.faults",
        description="Break things around a simulated arm, with communication constraints and motion limits enforced, "
        "and check the outcome of each. The exit status is 0 if every outcome is as expected.",
    )
    parser.add_argument("--list", action="store_true", help="list the faults and their expected outcomes")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(FAULTS), help="stage only these")
    parser.add_argument(
        "--output", type=Path, default=Path("build/faults"), metavar="DIR", help="folder for the results [%(default)s]"
    )
    defaults = Options()
    parser.add_argument("--seed", type=int, default=defaults.seed, help="seed of all random choices [%(default)s]")
    parser.add_argument(
        "--transitions",
        type=int,
        default=defaults.transitions,
        help="how many transitions the lifecycle storm requests [%(default)s]",
    )
    parser.add_argument(
        "--messages", type=int, default=defaults.messages, help="how many messages the fuzz test sends [%(default)s]"
    )
    parser.add_argument(
        "--starts", type=int, default=defaults.starts, help="how many starts are interrupted, e.g. 300 [%(default)s]"
    )
    parser.add_argument(
        "--minutes", type=float, default=defaults.minutes, help="how long the random walk takes [%(default)s]"
    )
    parser.add_argument(
        "--allow-skipped", action="store_true", help="a fault that this computer does not permit is not a failure"
    )
    parser.add_argument("--domain-id", type=int, choices=range(102), metavar="ID", help="ROS domain to use")
    parser.add_argument("--quiet", action="store_true", help="show only what is not as expected")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Stage the faults.

    :returns: exit status: 0 if all is as expected, 1 if not, 130 after Ctrl-C and 143 after SIGTERM.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    console = Console()
    if options.list:
        for fault in FAULTS.values():
            console.print(f"[bold]{fault.name}[/]  {fault.expected}", highlight=False, soft_wrap=True)
        return 0
    system.enter_namespace(arguments)
    stop = StopRequest()
    stop.install()
    return _run(options, stop)


def _run(options: argparse.Namespace, stop: StopRequest) -> int:
    """Stage the faults and report; returns the exit status."""
    console = Console()
    isolate(options.domain_id)
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    for log in output.glob("*.node.log"):  # of failures in an earlier run
        log.unlink()
    amounts = Options(options.seed, options.transitions, options.messages, options.minutes, options.starts)
    faults = [FAULTS[name] for name in options.only] if options.only else list(FAULTS.values())
    outcomes: list[Outcome] = []
    try:
        run(faults, outcomes, output, amounts, console, stop=stop, quiet=options.quiet)
    except Interrupted:
        write(output, outcomes, amounts)
        Console(stderr=True).print(
            f"Interrupted; the outcomes of the first {len(outcomes)} faults are in {options.output}."
        )
        return stop.exit_status
    write(output, outcomes, amounts)
    good = [outcome.passed or (outcome.skipped and options.allow_skipped) for outcome in outcomes]
    if not options.quiet or not all(good):
        shown = [outcome for outcome, fine in zip(outcomes, good, strict=True) if not (options.quiet and fine)]
        console.print(table(shown))
        console.print(f"{int(np.sum(good))} of {len(good)} as expected; {options.output}/report.html", highlight=False)
        if not all(good):
            console.print(f"the node's log of the others: {options.output}/*.node.log", highlight=False)
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
