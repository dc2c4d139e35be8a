"""What keeps this computer from driving an arm, or from driving it well, and the commands that fix it.

``ros2 run aiofranka_ros doctor``, or ``python -m aiofranka_ros.doctor``; with ``--json`` for programs. A separate
process, which needs neither ROS nor a robot nor anything else that could be missing. The checks are in
:mod:`aiofranka_ros.doctor.checks`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from aiofranka_ros.doctor.checks import Finding, State, checks

_STYLES = {State.OK: "green", State.WARNING: "yellow", State.MISSING: "bold red"}


@contextlib.contextmanager
def _progress(groups: int) -> Iterator[Callable[[str], None]]:
    """Show on a terminal which group is being checked; yields the function to call before each group."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
    except ImportError:
        yield lambda group: None
        return
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<20}"), BarColumn())
    # Refreshed by hand: a second thread would disturb the measurements.
    bar = Progress(*columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal)
    task = bar.add_task("", total=groups, completed=-1)
    with bar:
        yield lambda group: bar.update(task, advance=1, description=f"checking: {group}", refresh=True)


def _show(groups: list[list[Finding]]) -> None:
    """A table on a terminal, otherwise plain lines."""
    if sys.stdout.isatty():
        with contextlib.suppress(ImportError):  # rich may be what is missing.
            _show_table(groups)
            return
    for finding in (finding for group in groups for finding in group):
        sys.stdout.write(f"{finding.state.value:<8} {finding.name}: {finding.found}\n")
        if finding.remedy:
            sys.stdout.write(f"{'':<8} -> {finding.remedy}\n")


def _show_table(groups: list[list[Finding]]) -> None:
    """One table, then the remedies, each on its own line so that it can be copied."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    table = Table("", "", "found", show_edge=False, pad_edge=False)
    remedies = []
    for group in groups:
        for finding in group:
            style = _STYLES[finding.state]
            table.add_row(f"[{style}]{finding.state.value}[/]", escape(finding.name), escape(finding.found))
            if finding.remedy:
                remedies.append(f"  [{style}]{escape(finding.name)}[/]  {escape(finding.remedy)}")
        table.add_section()
    console.print(table)
    if remedies:
        console.print("\nWhat to do:")
    for remedy in remedies:
        console.print(remedy, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all checks and print what they found; the exit status says whether the arm can be driven."""
    parser = argparse.ArgumentParser(
        prog="doctor",
        description="Find what keeps this computer from driving an arm, and how to fix it.",
        epilog="Exit status: 0 if the arm can be driven, 1 if something that it needs is missing. Warnings do not "
        "count: the arm can be driven, but not as well as it could, and a real one may stop by itself.",
    )
    parser.add_argument(
        "--robot-ip",
        default="sim",
        metavar="ADDRESS",
        help="robot to check, and the network to it; nothing moves. sim: check the simulated arm instead [%(default)s]",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_args(arguments)
    findings = {}
    groups = checks(options.robot_ip)
    with _progress(len(groups)) as on_group:
        for group, group_checks in groups.items():
            on_group(group)
            findings[group] = [finding for check in group_checks for finding in check()]
    drivable = all(finding.state is not State.MISSING for group in findings.values() for finding in group)
    if options.json:
        listed = [{"group": name} | asdict(finding) for name, group in findings.items() for finding in group]
        report = {"robot_ip": options.robot_ip, "drivable": drivable, "checks": listed}
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        _show(list(findings.values()))
    return 0 if drivable else 1


if __name__ == "__main__":
    sys.exit(main())
