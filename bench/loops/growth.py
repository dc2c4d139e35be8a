"""How the cost of a node grows with publish rates, subscribers and arms: ``make bench-growth``.

An active node publishes to processes that subscribe to all its topics. The CPU time of node and control process, the
rates at which the topics arrive, and the lost cycles are written to ``growth.json`` and ``growth.md``. The cost of
publishing is the difference to a node without subscribers. Rates refer to the robot's time, which is slower than the
clock if the computer is too slow for the simulation.

Runs in one process and one thread; nodes, arms and subscribers are separate processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track

from aiofranka_ros.control.records import STATE, Phase, new
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.errors import Interrupted
from aiofranka_ros.processes import StopRequest
from aiofranka_ros.simulation.simulated_arm import SimulatedArm, cpu_for
from aiofranka_ros.testing import Child, isolate, ros_arguments
from bench.loops.own_subject import control_process, shared_memory
from bench.loops.subject import SETTLING, Cpu

#: Largest share of a processor for publishing at the default rates.
LARGEST_SHARE = 0.15
#: Smallest share of the requested rate that must arrive.
_SMALLEST_RATE = 0.99
DEFAULT = {"state_rate": 100.0, "robot_state_rate": 30.0}
RATES = (50, 100, 200, 500, 1000)
SUBSCRIBERS = (0, 1, 2, 4, 8)
ARMS = (1, 2)
#: Neighbours in this list use different processors, if there are two.
_ADDRESSES = ("127.0.0.90", "127.0.0.91")
_NAMES = ("left", "right")
#: How long a node may take to become active, and a subscriber to receive its topics [s].
_PATIENCE = 60.0
_HEAD = (
    "| arms | `state_rate` | `robot_state_rate` | subscribers | node CPU | control process CPU | `~/state` [Hz] "
    "| `~/robot_state` [Hz] | cycles lost | robot time |"
)


class Growth:
    """One run.

    :param output: folder for the results.
    :param seconds: how long each measurement takes.
    :param stop: ends it.
    """

    def __init__(self, output: Path, seconds: float, stop: StopRequest) -> None:
        self._folder = output / "growth"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._seconds, self._stop = seconds, stop

    def measure(self, rates: dict[str, float], subscribers: int, arms: int) -> dict[str, Any]:
        """The figures of one setting; of two arms, the worse ones.

        :raises Interrupted: a stop was requested.
        :raises RuntimeError: an arm stopped; the message includes its node's last log line.
        :raises TimeoutError: a node or a subscriber does not start.
        """
        heard: list[Path] = []
        with contextlib.ExitStack() as stack:
            meters: list[dict[str, Cpu]] = []
            memories: list[SharedMemory] = []
            controls: list[int] = []
            for name, address in zip(_NAMES[:arms], _ADDRESSES, strict=False):
                arm = stack.enter_context(SimulatedArm(address))
                node = stack.enter_context(self._start_node(name, arm.host, rates)).process
                memories.append(stack.enter_context(self._wait(lambda node=node: _memory(node.pid), f"no {name} arm")))
                self._wait(lambda memory=memories[-1]: _active(memory), f"the {name} arm does not become active")
                controls.append(control_process(node.pid))
                meters.append({"cpu_node": Cpu(node.pid), "cpu": Cpu(controls[-1])})
                for number in range(subscribers):
                    heard.append(self._folder / f"{name}-{number}.json")
                    heard[-1].unlink(missing_ok=True)
                    log = self._folder / f"{name}-subscriber-{number}.log"
                    words = ["-m", "bench.loops.subscribers", "--node", name, "--output", str(heard[-1])]
                    stack.enter_context(Child(words, log=log))
                    ready = heard[-1].with_suffix(".ready")
                    self._wait(ready.exists, f"a subscriber of the {name} arm receives nothing")
                    ready.unlink()
            self._stop.sleep(SETTLING)
            self._require_active(controls, memories)
            begin, before = time.monotonic(), [{k: meter.used() for k, meter in one.items()} for one in meters]
            positions = [memory.cycles.count for memory in memories]
            self._stop.sleep(self._seconds)
            passed = time.monotonic() - begin
            self._require_active(controls, memories)
            shares = [
                {k: (meter.used() - used[k]) / passed for k, meter in one.items()}
                for one, used in zip(meters, before, strict=True)
            ]
            cycles = [memory.cycles.since(position)[0] for memory, position in zip(memories, positions, strict=True)]
            # Rates refer to the robot's time, which may be slower than the clock for a simulated robot.
            speed = min(float(np.ptp(one["time"])) / passed for one in cycles)
        received = [json.loads(path.read_text()) for path in heard]
        return {
            "arms": arms,
            "subscribers": subscribers,
            **rates,
            **{name: max(one[name] for one in shares) for name in shares[0]},
            "speed": speed,
            "received_hz": {name: min(rate[name] for rate in received) / speed for name in received[0]}
            if received
            else None,
            "cycles_lost": sum(int(one["lost"].sum()) for one in cycles),
        }

    def _wait(self, condition: Callable[[], Any], what: str) -> Any:
        """The value of ``condition`` once it is true.

        :raises Interrupted: a stop was requested.
        :raises TimeoutError: it does not become true.
        """
        deadline = time.monotonic() + _PATIENCE
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} (waited for {_PATIENCE:.0f} s)")
            self._stop.sleep(0.05)
        return found

    def _require_active(self, controls: Sequence[int], memories: Sequence[SharedMemory]) -> None:
        """Raise RuntimeError if an arm is not active, or if its control process has vanished."""
        for name, control, memory in zip(_NAMES, controls, memories, strict=False):
            if not Path(f"/proc/{control}").exists() or not _active(memory):
                said = (self._folder / f"{name}.log").read_text().splitlines()[-1:]
                raise RuntimeError(f"the {name} arm did not stay active: {' '.join(said)}")

    def _start_node(self, name: str, address: str, rates: dict[str, float]) -> Child:
        options = ros_arguments(
            f"__node:={name}", robot_ip=address, realtime_cpu=cpu_for(address), autostart=True, **rates
        )
        return Child(["-m", "aiofranka_ros.node", *options], log=self._folder / f"{name}.log")


def _memory(node: int) -> SharedMemory | None:
    """The memory that a node shares with its control process, once that runs."""
    try:
        return shared_memory(control_process(node))
    except (RuntimeError, OSError):
        return None


def _active(memory: SharedMemory) -> bool:
    state = new(STATE)
    return memory.state.read(state) and state["phase"][0] == Phase.ACTIVE


def judge(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str, bool]]:
    """The requirements: a sentence, the value found, and whether it is good enough."""
    silent = next(row for row in rows if row["subscribers"] == 0)
    default = next(row for row in rows if row["subscribers"] == 1)
    fastest = max(rows, key=lambda row: float(row["state_rate"]))
    share = default["cpu_node"] - silent["cpu_node"]
    rate = min(fastest["received_hz"][name] for name in ("state", "robot_state"))
    wanted = _SMALLEST_RATE * fastest["state_rate"]
    lost = sum(row["cycles_lost"] for row in rows)
    return [
        (
            f"publishing at the default rates takes the node at most {LARGEST_SHARE:.0%} of a processor",
            f"{share:.1%}",
            share <= LARGEST_SHARE,
        ),
        (
            f"at {fastest['state_rate']:.0f} Hz, at least {wanted:.0f} messages arrive per second of the robot's time",
            f"{rate:.0f}",
            rate >= wanted,
        ),
        ("no cycle is lost", f"{lost}", lost == 0),
    ]


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows in Markdown."""
    lines = [_HEAD, "|---" * (_HEAD.count("|") - 1) + "|"]
    for row in rows:
        state, robot_state = (
            "" if row["received_hz"] is None else f"{row['received_hz'][name]:.0f}" for name in ("state", "robot_state")
        )
        lines.append(
            f"| {row['arms']} | {row['state_rate']:.0f} | {row['robot_state_rate']:.0f} | {row['subscribers']} "
            f"| {row['cpu_node']:.1%} | {row['cpu']:.1%} | {state} | {robot_state} | {row['cycles_lost']} "
            f"| {row['speed']:.2f}x |"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all settings.

    :returns: exit status: 0 if all requirements are met, 1 if not, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bench.loops.growth",
        description="Measure how the cost of a node grows with publish rates, subscribers and arms, on simulated arms.",
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each measurement [%(default)s]")
    parser.add_argument("--output", type=Path, default=Path("build/bench"), metavar="DIR", help="results [%(default)s]")
    options = parser.parse_args(arguments)
    stop = StopRequest()
    stop.install()
    return _run(options, stop)


def _run(options: argparse.Namespace, stop: StopRequest) -> int:
    """Measure, judge and report; returns the exit status."""
    isolate()
    console = Console()
    growth = Growth(options.output.resolve(), options.seconds, stop)
    settings = [(DEFAULT, count, 1) for count in SUBSCRIBERS]
    settings += [(DEFAULT, 1, arms) for arms in ARMS[1:]]
    settings += [({"state_rate": float(rate), "robot_state_rate": float(rate)}, 1, 1) for rate in RATES]
    try:
        shown = track(settings, "measuring", console=console, transient=True)
        rows = [growth.measure(*setting) for setting in shown]
    except Interrupted:
        Console(stderr=True).print("Interrupted.")
        return stop.exit_status
    except (RuntimeError, TimeoutError) as error:
        Console(stderr=True).print(f"Nothing was measured: {error}", markup=False, soft_wrap=True)
        return 1
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
