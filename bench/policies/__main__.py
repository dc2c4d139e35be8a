"""Plays streams as policies send them to a node with a simulated arm: ``make bench-policies``.

Runs in one process and one thread, which publishes; the node and the arm are separate processes. The parameters of the
node are the defaults. Then chunks are played to an arm, by this project and by others: :mod:`bench.policies.mix`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from aiofranka_ros.errors import Interrupted
from aiofranka_ros.kernels import Array
from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.processes import StopRequest
from aiofranka_ros.testing import Client, CycleRecorder, isolate, started
from bench.policies import mix, report
from bench.policies.figures import Result, draw, figures, result, table
from bench.policies.senders import Sender, pose
from bench.policies.streams import DURATION, KINDS, SPEED, Kind, Message

#: Where lines begin, from where the arm starts: half of the way to the side, so that both ends are within reach [m].
_SIDE = np.array([0.0, -0.5 * SPEED * DURATION, 0.0])
#: The arm is at the beginning if it is this near [m], [rad].
_NEAR, _ALIGNED = 1e-3, 0.02
#: How long it may take to get there [s].
_PATIENCE = 30.0
#: How long a publisher must be silent before the node accepts another, with a margin [s].
_SILENCE = 0.7
#: How long the arm may move after the last message [s].
_REST = 0.7
#: The record keeps sixteen seconds, so it is read after every so many messages.
_FETCHED = 100
#: Name of the part that plays chunks.
_CHUNKS = "chunks"


@dataclass
class Found:
    """What was found: results by name, and a row of the report for each."""

    results: dict[str, Result] = field(default_factory=dict)
    rows: list[tuple[str, dict[str, float], list[str]]] = field(default_factory=list)


class Bench:
    """One node, its client, and the record of its cycles."""

    def __init__(self, client: Client, recorder: CycleRecorder, stop: StopRequest) -> None:
        self._client, self._recorder, self._stop = client, recorder, stop
        self._home_joints()
        turn = client.pose.pose.orientation
        self._orientation = np.array([turn.x, turn.y, turn.z, turn.w])
        self._home = client.position

    def play(self, kind: Kind, sent: Sequence[Message]) -> Result:
        """Play a stream from its beginning, and return what the arm did."""
        origin = self._home + (_SIDE if kind.straight else 0.0)
        self._go(origin)
        self._stop.sleep(_SILENCE)
        with contextlib.closing(Sender(self._client, kind, sent, origin, self._orientation)) as sender:
            self._recorder.take()
            begin = time.time() + 0.05
            for number, message in enumerate(sent):
                self._wait(begin + message.sent)
                sender.send(message, begin)
                if number % _FETCHED == 0:
                    self._recorder.fetch()
            self._wait(begin + sent[-1].sent + _REST)
            return result(kind, self._recorder.take(), begin, origin)

    def _go(self, position: Array) -> None:
        self._home_joints()
        publisher, goal = self._client.publishers["ee_desired"], pose(position, self._orientation)
        deadline = time.monotonic() + _PATIENCE
        state = self._recorder.state()
        while np.linalg.norm(state["position"] - position) > _NEAR or self._turned(state["orientation"]) > _ALIGNED:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the arm did not go back to where streams begin within {_PATIENCE:g} s")
            publisher.publish(goal)
            self._stop.sleep(0.02)
            state = self._recorder.state()
        self._recorder.take()

    def _home_joints(self) -> None:
        """Move the joints home: only so is the posture always the same."""
        self._client.wait(self._client.send_goal(HOME).get_result_async().done, "a move does not end")

    def _turned(self, orientation: Array) -> float:
        """How far the hand is turned from its first orientation [rad]."""
        return 2.0 * math.acos(min(1.0, abs(float(orientation @ self._orientation))))

    def _wait(self, until: float) -> None:
        while (left := until - time.time()) > 0.0:
            self._stop.sleep(left)


def play_streams(output: Path, kinds: Sequence[Kind], stop: StopRequest, advance: Callable[[str], None]) -> Found:
    """Play ``kinds`` to a node.

    :param output: folder for logs.
    :raises Interrupted: a stop was requested.
    """
    found = Found()
    with contextlib.ExitStack() as stack:
        # A test of motion, not of heartbeats: started() gives the node a longer timeout, everything else is default.
        process, client = stack.enter_context(started(output, autostart=True))
        if not client.becomes("active"):
            raise RuntimeError(f"the node does not become active: {process.end_of_log}")
        client.wait(lambda: client.value("control loop", "shared memory"), "no diagnostics")
        address = client.value("control loop", "shared memory")
        bench = Bench(client, stack.enter_context(contextlib.closing(CycleRecorder(address))), stop)
        for kind in kinds:
            advance(kind.name)
            sent = kind.messages()
            found.results[kind.name] = bench.play(kind, sent)
            found.rows.append((kind.name, *figures(found.results[kind.name], sent, found.results)))
    return found


def run(output: Path, kinds: Sequence[Kind], minutes: float, stop: StopRequest, console: Console) -> list[str]:
    """Play everything, write the report, and return what does not meet the requirements.

    :param minutes: of chunks; 0: none.
    :raises Interrupted: a stop was requested.
    """
    output.mkdir(parents=True, exist_ok=True)
    lines, failed = ["# Policies: what the arm does with their targets", ""], list[str]()
    data: dict[str, Any] = {}
    columns = TextColumn("{task.description:<44}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        own, others = mix.selection(minutes)
        task = bar.add_task("", total=len(kinds) + (own + len(others) * mix.players() if minutes else 0))
        done = itertools.count()

        def advance(what: str) -> None:
            bar.update(task, description=what, completed=next(done))

        if kinds:
            streams = play_streams(output, kinds, stop, advance)
            lines += ["## Streams of single targets", "", *table(streams.rows), ""]
            failed += [name for name, _, wrong in streams.rows if wrong]
            data["streams"] = {name: [values, wrong] for name, values, wrong in streams.rows}
            with contextlib.suppress(ImportError):
                draw(list(streams.results.values()), output / "policies.png")
                lines += ["![Speed of the hand for each stream](policies.png)", ""]
        if minutes:
            chunks = mix.run(output, minutes, stop, advance)
            lines += report.lines(chunks)
            failed += [what for what, _, good in mix.verdicts(chunks) if not good]
            data["chunks"] = {"figures": chunks.figures, "verdicts": mix.verdicts(chunks)}
            with contextlib.suppress(ImportError):
                report.draw(chunks, output / "policies-chunks.png")
                lines += ["", "![Velocity of a joint for each player](policies-chunks.png)"]
    (output / "policies.md").write_text("\n".join(lines) + "\n")
    (output / "policies.json").write_text(json.dumps(data, indent=1))
    console.print(Markdown("\n".join(lines)))
    return failed


def main() -> int:
    """Run the command line.

    :returns: exit status: 0 if everything is as required, 1 if not, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="make bench-policies", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/bench"), help="folder for the results (%(default)s)")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", default=[],
        help=f"streams whose names contain one of these, or {_CHUNKS!r}",
    )  # fmt: skip
    parser.add_argument("--minutes", type=float, default=10.0, help="how long this project plays chunks (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="half a minute of chunks")
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if not options.only or any(part in kind.name for part in options.only)]
    minutes = (0.5 if options.quick else options.minutes) if not options.only or _CHUNKS in options.only else 0.0
    if not kinds and not minutes:
        parser.error(f"no such stream; there are: {', '.join(kind.name for kind in KINDS)}, {_CHUNKS}")
    console, stop = Console(), StopRequest()
    stop.install()
    isolate()
    try:
        failed = run(options.output, kinds, minutes, stop, console)
    except Interrupted:
        Console(stderr=True).print("Interrupted.")
        return stop.exit_status
    for what in failed:
        console.print(f"not as required: {what}", highlight=False)
    console.print(f"written to {options.output}/policies.md", highlight=False)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
