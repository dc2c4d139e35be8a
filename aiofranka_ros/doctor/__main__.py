"""What keeps this computer from driving an arm, or from driving it well, and the commands that fix it.

``ros2 run aiofranka_ros doctor``, or ``python -m aiofranka_ros.doctor``. A separate process, which needs neither ROS
nor a robot nor anything else that could be missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from aiofranka_ros.doctor.checks import Finding, State, checks

#: Green, yellow and bold red, as ANSI escape codes (ECMA-48, SGR).
_COLORS = {State.OK: "32", State.WARNING: "33", State.MISSING: "1;31"}


def _show(finding: Finding) -> None:
    """One line for what was found, coloured on a terminal; the remedy on its own line, so that it can be copied."""
    state = f"{finding.state.value:<8}"
    if sys.stdout.isatty():
        state = f"\033[{_COLORS[finding.state]}m{state}\033[0m"
    sys.stdout.write(f"{state} {finding.name}: {finding.found}\n")
    if finding.remedy:
        sys.stdout.write(f"{'':<8} -> {finding.remedy}\n")
    sys.stdout.flush()


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
    found = []
    for group, group_checks in checks(options.robot_ip).items():
        for finding in (finding for check in group_checks for finding in check()):
            found.append({"group": group} | asdict(finding))
            if not options.json:
                _show(finding)
    drivable = all(finding["state"] is not State.MISSING for finding in found)
    if options.json:
        report = {"robot_ip": options.robot_ip, "drivable": drivable, "checks": found}
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0 if drivable else 1


if __name__ == "__main__":
    sys.exit(main())
