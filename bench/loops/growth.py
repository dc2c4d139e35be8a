"""How cost grows with publish rates, subscribers and arms: ``make bench-growth``.

A policy at 50 Hz talks to a node, which publishes to processes that subscribe to all of it. What the node and its
control process take of a processor, how often the topics arrive, how long a target is under way, and whether cycles are
lost, is written to ``growth.json`` and ``growth.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track

from aiofranka_ros.demo import Interrupted, interrupt, isolate
from aiofranka_ros.simulation import SimulatedArm, cpu_for
from bench.loops import environment, figures

#: What the node may take of a processor at the default rates, publishing everything.
LARGEST_SHARE = 0.15
#: Share of the rate that was asked for which has to arrive.
_SMALLEST_RATE = 0.99
RATES = (50, 100, 200, 500, 1000)
SUBSCRIBERS = (1, 2, 4, 8)
ARMS = (1, 2)
#: Neighbours in this list are on different processors, where there are two.
_ADDRESSES = ("127.0.0.90", "127.0.0.91")
_NAMES = ("left", "right")
_MARGIN = 90.0
_HEAD = (
    "| arms | `state_rate` | `robot_state_rate` | subscribers | node CPU | control process CPU | `~/state` [Hz] "
    "| `~/robot_state` [Hz] | target to torque [ms] | cycles lost |"
)


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End a process at the end of the context."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Growth:
    """One run.

    :param output: folder for the results.
    :param seconds: how long each measurement takes.
    """

    def __init__(self, output: Path, seconds: float) -> None:
        self._folder = output / "growth"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._seconds = seconds

    def measure(self, rates: dict[str, float], subscribers: int, arms: int) -> dict[str, Any]:
        """The figures of one setting: those of the arm that is worse."""
        with contextlib.ExitStack() as stack:
            found, rate_files, policies = [], [], []
            for name, address in zip(_NAMES[:arms], _ADDRESSES, strict=False):
                arm = stack.enter_context(SimulatedArm(address))
                for number in range(subscribers):
                    rate_files.append(self._folder / f"{name}-{number}.json")
                    rate_files[-1].unlink(missing_ok=True)
                    words = ["bench.loops.subscribers", "--node", name, "--output", str(rate_files[-1])]
                    stack.enter_context(_ended(self._start(words, f"{name}-subscriber-{number}")))
                found.append(self._folder / f"{name}.npz")
                found[-1].unlink(missing_ok=True)
                words = ["bench.loops.own_subject", "--subject", "aiofranka_ros_node", "--mode", "osc"]
                words += ["--load", "idle", "--seconds", f"{self._seconds}", "--address", arm.host, "--node", name]
                words += ["--cpu", f"{cpu_for(address)}", "--output", str(found[-1])]
                for parameter, value in rates.items():
                    words += ["--parameter", parameter, f"{value:.1f}"]
                policies.append(stack.enter_context(_ended(self._start(words, f"{name}-policy"))))
            for policy in policies:
                policy.wait(self._seconds + _MARGIN)
        measured = [figures.measure(path) for path in found]
        heard = [json.loads(path.read_text()) for path in rate_files]
        return {
            "arms": arms,
            "subscribers": subscribers,
            **rates,
            "cpu_node": max(entry["cpu_node"] for entry in measured),
            "cpu": max(entry["cpu"] for entry in measured),
            "received_hz": {name: min(rate[name] for rate in heard) for name in heard[0]},
            "latency_ms": {
                name: max(entry["latency_ms"][name] for entry in measured) for name in measured[0]["latency_ms"]
            },
            "cycles_lost": sum(entry["cycles_lost"] for entry in measured),
        }

    def _start(self, words: Sequence[str], name: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment.variables(True),
                start_new_session=True,
            )


def judge(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str, bool]]:
    """What is required: a sentence, what was found, and whether that is enough."""
    default, fastest = rows[0], max(rows, key=lambda row: float(row["state_rate"]))
    rate = min(fastest["received_hz"][name] for name in ("state", "robot_state"))
    wanted = _SMALLEST_RATE * fastest["state_rate"]
    lost = sum(row["cycles_lost"] for row in rows)
    return [
        (
            f"publishing at the default rates takes the node at most {LARGEST_SHARE:.0%} of a processor",
            f"{default['cpu_node']:.1%}",
            default["cpu_node"] <= LARGEST_SHARE,
        ),
        (
            f"at {fastest['state_rate']:.0f} Hz, at least {wanted:.0f} messages a second arrive",
            f"{rate:.0f}",
            rate >= wanted,
        ),
        ("no cycle is lost", f"{lost}", lost == 0),
    ]


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows in Markdown."""
    lines = [_HEAD, "|---" * (_HEAD.count("|") - 1) + "|"]
    for row in rows:
        heard, latency = row["received_hz"], row["latency_ms"]
        lines.append(
            f"| {row['arms']} | {row['state_rate']:.0f} | {row['robot_state_rate']:.0f} | {row['subscribers']} "
            f"| {row['cpu_node']:.1%} | {row['cpu']:.1%} | {heard['state']:.0f} | {heard['robot_state']:.0f} "
            f"| {latency['p50']:.2f}, p99 {latency['p99']:.2f} | {row['cycles_lost']} |"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure.

    :returns: exit status: 0 if all is as required, 1 if not, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bench.loops.growth",
        description="Measure how the cost of a node grows with publish rates, subscribers and arms, on simulated arms.",
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each time [%(default)s]")
    parser.add_argument("--output", type=Path, default=Path("build/bench"), metavar="DIR", help="results [%(default)s]")
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    isolate(None)
    console = Console()
    growth = Growth(options.output.resolve(), options.seconds)
    default = {"state_rate": 100.0, "robot_state_rate": 30.0}
    settings = [(default, 1, arms) for arms in ARMS]
    settings += [(default, count, 1) for count in SUBSCRIBERS[1:]]
    settings += [({"state_rate": float(rate), "robot_state_rate": float(rate)}, 1, 1) for rate in RATES]
    try:
        rows = [growth.measure(*setting) for setting in track(settings, "measuring", console=console, transient=True)]
    except Interrupted as interrupted:
        Console(stderr=True).print("Interrupted.")
        return 128 + interrupted.number
    verdicts = judge(rows)
    lines = table(rows)
    lines += ["", "| required | found | |", "|---|---|---|"]
    lines += [f"| {what} | {found} | {'✓' if good else '✗'} |" for what, found, good in verdicts]
    report = {"rows": rows, "verdicts": verdicts}
    (options.output / "growth.json").write_text(json.dumps(report, indent=2) + "\n")
    (options.output / "growth.md").write_text("\n".join(lines) + "\n")
    console.print(Markdown("\n".join(lines)))
    return 0 if all(good for _, _, good in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
