"""What keeps this computer from driving an arm, or from driving it well, and the commands that mend it.

``ros2 run aiofranka_ros doctor``, or ``python -m aiofranka_ros.doctor``; with ``--json`` for programs. A process of its
own, which needs neither ROS nor a robot nor anything that could be missing. What it looks at stands in
:mod:`aiofranka_ros.doctor.checks`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence

from aiofranka_ros.doctor.checks import Finding, State, as_json, checks, drivable

_STYLES = {State.OK: "green", State.WARNING: "yellow", State.MISSING: "bold red"}


def examine(address: str, tell: Callable[[str], None] = lambda group: None) -> dict[str, list[Finding]]:
    """Look at everything.

    :param address: of the robot; ``sim``: the simulated one.
    :param tell: called with the name of every group before it is looked at.
    """
    findings: dict[str, list[Finding]] = {}
    for group, of_group in checks(address).items():
        tell(group)
        findings[group] = [finding for check in of_group for finding in check()]
    return findings


@contextlib.contextmanager
def _progress(groups: int) -> Iterator[Callable[[str], None]]:
    """Show in a terminal what is being looked at, and how much of it was."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
    except ImportError:
        yield lambda group: None
        return
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<20}"), BarColumn())
    # Refreshed by hand: a second thread would disturb what is measured.
    bar = Progress(*columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal)
    task = bar.add_task("", total=groups, completed=-1)
    with bar:
        yield lambda group: bar.update(task, advance=1, description=f"examining: {group}", refresh=True)


def _show(findings: dict[str, list[Finding]]) -> None:
    """One table, then the remedies, each on a line of its own to be copied; plain lines where it is no terminal."""
    if sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            _show_table(findings)
            return
    for finding in (finding for of_group in findings.values() for finding in of_group):
        sys.stdout.write(f"{finding.state.value:<8} {finding.name}: {finding.found}\n")
        if finding.remedy:
            sys.stdout.write(f"{'':<8} -> {finding.remedy}\n")


def _show_table(findings: dict[str, list[Finding]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    table = Table("", "", "found", show_edge=False, pad_edge=False)
    for of_group in findings.values():
        for finding in of_group:
            state = f"[{_STYLES[finding.state]}]{finding.state.value}[/]"
            table.add_row(state, escape(finding.name), escape(finding.found))
        table.add_section()
    console.print(table)
    remedies = [finding for of_group in findings.values() for finding in of_group if finding.remedy]
    if remedies:
        console.print("\nWhat to do:")
    for finding in remedies:
        console.print(
            f"  [{_STYLES[finding.state]}]{escape(finding.name)}[/]  {escape(finding.remedy)}", soft_wrap=True
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine, tell, and say with the exit status whether the arm can be driven."""
    parser = argparse.ArgumentParser(
        prog="doctor",
        description="Find out what keeps this computer from driving an arm, and how to mend it.",
        epilog="Exit status: 0 if the arm can be driven, 1 if something is missing that it needs. Warnings do not "
        "count: with them the arm can be driven, but not as well as it could, and a real one may stop by itself.",
    )
    parser.add_argument(
        "--robot-ip",
        default="sim",
        metavar="ADDRESS",
        help="robot to examine, and the way to it; nothing moves. sim: none, the simulated arm's parts [%(default)s]",
    )
    parser.add_argument("--json", action="store_true", help="write what was found as JSON")
    options = parser.parse_args(arguments)
    with _progress(len(checks(options.robot_ip))) as tell:
        findings = examine(options.robot_ip, tell)
    if options.json:
        sys.stdout.write(json.dumps(as_json(options.robot_ip, findings), indent=2) + "\n")
    else:
        _show(findings)
    return 0 if drivable(findings) else 1


if __name__ == "__main__":
    sys.exit(main())
