"""Plays streams as policies send them to a node with a simulated arm: ``make bench-policies``.

Runs in one process and one thread, which publishes; the node and the arm are separate processes. The parameters of the
node are the defaults.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track

from aiofranka_ros.errors import Interrupted
from aiofranka_ros.kernels import Array
from aiofranka_ros.model.names import FR3
from aiofranka_ros.processes import StopRequest
from aiofranka_ros.testing import Client, CycleRecorder, isolate, started
from bench.policies.figures import Result, draw, figures, result, table
from bench.policies.streams import DURATION, KINDS, SPEED, Kind, Message

#: Where lines begin, from where the arm starts: half of the way to the side, so that both ends are within reach [m].
_SIDE = np.array([0.0, -0.5 * SPEED * DURATION, 0.0])
#: The arm is at the beginning if it is this near [m].
_NEAR = 1e-3
#: How long a publisher must be silent before the node accepts another, with a margin [s].
_SILENCE = 0.7
#: How long the arm may move after the last message [s].
_REST = 0.7


class Bench:
    """One node, its client, and the record of its cycles."""

    def __init__(self, client: Client, recorder: CycleRecorder, stop: StopRequest) -> None:
        self._client, self._recorder, self._stop = client, recorder, stop
        pose = client.pose.pose
        self._orientation = pose.orientation
        self._home = client.position

    def play(self, kind: Kind, sent: Sequence[Message]) -> Result:
        """Play a stream from its beginning, and return what the arm did."""
        origin = self._home + (_SIDE if kind.straight else 0.0)
        self._go(origin)
        self._stop.sleep(_SILENCE)
        # A new publisher, because the node knows the last one's rate.
        client = self._client
        publisher = client.node.create_publisher(PoseStamped, f"{client.name}/ee_desired", 1)
        client.wait(lambda: publisher.get_subscription_count() > 0, "the node does not listen")
        self._recorder.take()
        begin = time.time() + 0.05
        for message in sent:
            self._wait(begin + message.sent)
            publisher.publish(self._pose(origin + message.offset, message.stamp, begin))
        self._wait(begin + sent[-1].sent + _REST)
        cycles = self._recorder.take()
        client.node.destroy_publisher(publisher)
        return result(kind, cycles, begin, origin)

    def _go(self, position: Array) -> None:
        publisher = self._client.publishers["ee_desired"]
        while np.linalg.norm(self._recorder.state()["position"] - position) > _NEAR:
            publisher.publish(self._pose(position, None, 0.0))
            self._stop.sleep(0.02)
        self._recorder.take()

    def _wait(self, until: float) -> None:
        while (left := until - time.time()) > 0.0:
            self._stop.sleep(left)

    def _pose(self, position: Array, stamp: float | None, begin: float) -> PoseStamped:
        message = PoseStamped()
        message.header.frame_id = FR3.base
        if stamp is not None:
            seconds, rest = divmod(begin + stamp, 1.0)
            message.header.stamp = Time(sec=int(seconds), nanosec=int(1e9 * rest))
        point = message.pose.position
        point.x, point.y, point.z = (float(value) for value in position)
        message.pose.orientation = self._orientation
        return message


def run(output: Path, kinds: Sequence[Kind], stop: StopRequest, console: Console) -> list[str]:
    """Play ``kinds``, write the report, and return the names of those that do not meet the requirements.

    :raises Interrupted: a stop was requested.
    """
    output.mkdir(parents=True, exist_ok=True)
    results: dict[str, Result] = {}
    rows = []
    with contextlib.ExitStack() as stack:
        # A test of motion, not of heartbeats: started() gives the node a longer timeout, everything else is default.
        process, client = stack.enter_context(started(output, autostart=True))
        if not client.becomes("active"):
            raise RuntimeError(f"the node does not become active: {process.end_of_log}")
        client.wait(lambda: client.value("control loop", "shared memory"), "no diagnostics")
        address = client.value("control loop", "shared memory")
        bench = Bench(client, stack.enter_context(contextlib.closing(CycleRecorder(address))), stop)
        for kind in track(kinds, "streams", console=console):
            sent = kind.messages()
            results[kind.name] = bench.play(kind, sent)
            rows.append((kind.name, *figures(results[kind.name], sent, results)))
    lines = table(rows)
    (output / "policies.md").write_text("\n".join(lines) + "\n")
    (output / "policies.json").write_text(json.dumps({name: [values, wrong] for name, values, wrong in rows}, indent=1))
    with contextlib.suppress(ImportError):
        draw(list(results.values()), output / "policies.png")
    console.print(Markdown("\n".join(lines)))
    return [name for name, _, wrong in rows if wrong]


def main() -> int:
    """Run the command line.

    :returns: exit status: 0 if all streams are followed as required, 1 if not, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="make bench-policies", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/bench"), help="folder for the results (%(default)s)")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", default=[], help="streams whose names contain one of these"
    )
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if not options.only or any(part in kind.name for part in options.only)]
    if not kinds:
        parser.error(f"no such stream; there are: {', '.join(kind.name for kind in KINDS)}")
    console, stop = Console(), StopRequest()
    stop.install()
    isolate()
    try:
        failed = run(options.output, kinds, stop, console)
    except Interrupted:
        Console(stderr=True).print("Interrupted.")
        return stop.exit_status
    console.print(f"{len(kinds) - len(failed)} of {len(kinds)} as required; written to {options.output}/policies.md")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
