"""The program behind :mod:`aiofranka_ros.streams.__main__`: find the node, watch, report.

Runs in the main thread of its process, the only one. It publishes nothing. Of the node, it asks its parameters and its
state, once.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticStatus
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from aiofranka_ros.ctl import commands
from aiofranka_ros.ctl.client import Failed, NodeClient
from aiofranka_ros.ctl.ending import ended_by
from aiofranka_ros.errors import Interrupted
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.processes import StopRequest
from aiofranka_ros.streams.report import TopicReport, examine, show
from aiofranka_ros.streams.watch import Watch

#: The exit status after Ctrl-C, which only ends the watch.
_CTRL_C = 130
#: How long to wait for the diagnostics from before the watch [s]: a little longer than their usual period.
_DIAGNOSTICS = 1.2
#: How long the first target is waited for [s].
_FIRST = 5.0
#: Parameters that have to do with targets.
_SETTINGS = (
    "mode", "arm_prefix", "interpolation", "extrapolation_time", "smooth_targets", "reference_bandwidth",
    "max_target_age", "torque_timeout", "velocity_timeout", "approach_far_streams", "max_linear_velocity",
    "max_angular_velocity", "chunk_frequency",
)  # fmt: skip


def main(options: argparse.Namespace, stop: StopRequest) -> int:
    """Watch and report; return the exit status."""
    out, errors = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)
    watching = False

    def on_wait() -> None:
        if not watching:
            stop.check()

    try:
        with NodeClient(options.node, own_name=f"aiofranka_streams_{os.getpid()}", on_wait=on_wait) as client:
            commands.discover(client)
            watch = Watch(client)
            names = set(client.parameter_names())
            settings = client.get_all([name for name in _SETTINGS if name in names])
            state = client.state if client.has_lifecycle(_DIAGNOSTICS) else None
            client.spin_until(lambda: "targets" in client.statuses, _DIAGNOSTICS)
            before = _counts(client)
            watch.start()
            watching = True  # From now on, Ctrl-C ends the watch, and nothing else.
            seconds = _listen(client, watch, options.seconds, stop, errors)
            joints = ArmNames(settings.get("arm_prefix", ""))
            received = watch.received(joints.joints)
            reports = [examine(each, watch, joints, settings, state) for each in received]
            said = _said(client, before)
            why = "" if any(each.messages for each in received) else watch.why_nothing(received)
    except (Failed, Interrupted) as error:
        return ended_by(error, stop, errors)
    if options.json:
        found = {"node": client.name, "seconds": round(seconds, 3), "node says": said}
        found["topics"] = [report.values(client.name) for report in reports]
        out.print(json.dumps(found, indent=2), markup=False)
    else:
        for report in reports:
            if report.received.messages:
                show(out, report, client.name, seconds, said)
    if why:
        errors.print("[bold red]nothing came:[/] ", end="")
        errors.print(why, markup=False)
    elif options.output is not None and not _draw(reports, options, errors):
        return 1
    if stop.requested and stop.exit_status != _CTRL_C:
        return stop.exit_status
    return 1 if why else 0


def _listen(client: NodeClient, watch: Watch, seconds: float, stop: StopRequest, console: Console) -> float:
    """Receive for ``seconds`` [s], or until a stop is requested; return how long it was [s].

    They begin with the first message, if one comes soon: discovery may take some seconds.
    """

    def count() -> int:
        return sum(len(heard.data) for heard in watch.heard.values())

    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]} messages")
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(f"watching {client.name}", total=seconds, count=0)
        client.spin_until(lambda: stop.requested or count() > 0, _FIRST)
        begin = time.monotonic()

        def over() -> bool:
            passed = time.monotonic() - begin
            progress.update(task, completed=passed, count=count())
            return stop.requested or passed >= seconds

        client.spin_until(over, seconds + 1.0)
    return time.monotonic() - begin


def _counts(client: NodeClient) -> dict[str, int]:
    """How many targets the node has refused and limited, by reason."""
    found = client.statuses.get("targets")
    values: Mapping[str, str] = {item.key: item.value for item in found.values} if found else {}
    return {key: int(value) for key, value in values.items() if key.startswith(("refused: ", "limited: "))}


def _said(client: NodeClient, before: Mapping[str, int]) -> list[str]:
    """What the node says about its targets: the stream, and what it refused and limited during the watch."""
    lines = []
    if stream := client.value("targets", "stream"):
        lines.append(stream)
    more = {key: count - before.get(key, 0) for key, count in _counts(client).items() if count > before.get(key, 0)}
    for verb in ("refused", "limited"):
        parts = [f"{count} {key.partition(': ')[2]}" for key, count in more.items() if key.startswith(verb)]
        if parts:
            lines.append(f"{verb}: {', '.join(parts)}")
    status = client.statuses.get("targets")
    if status is not None and status.level != DiagnosticStatus.OK:
        lines += [*(() if more else (status.message,)), f"-> {client.value('targets', 'what to do')}"]
    return lines


def _draw(reports: list[TopicReport], options: argparse.Namespace, errors: Console) -> bool:
    """Plot the reports; return whether that was possible."""
    try:
        from aiofranka_ros.streams import plot

        plot.draw(reports, options.output)
    except (ImportError, OSError) as error:
        errors.print("[bold red]no plot:[/] ", end="")
        errors.print(str(error), markup=False)
        return False
    errors.print(f"written to {options.output}", markup=False)
    return True
