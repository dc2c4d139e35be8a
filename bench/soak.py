"""Everything at once for a long time: who is late, and what grows; ``make soak MINUTES=60``.

A node whose interpreter also runs four spinning threads, the gripper's node and a client use a simulated arm:
streaming in every mode, moves, mode switches, grasps. A simulated network between node and arm
(:mod:`bench.faults.proxy`) records when every state passed and when it was answered. A late answer may be the fault of
this software, of the simulator, or of the computer, which stopped all of them. A witness on the same CPU that none of
them can delay (:mod:`bench.witness`) records when the computer stopped or was slow. This software is to blame for an
answer that is still late after subtracting the stops and scaling to the computer's usual pace, and for one that never
came. The other CPUs have witnesses, too: for each problem they report how long the computer had stopped the node. The
report also contains the counts of libfranka and of the control process.

Everything here runs in one process and one thread that mostly sleeps.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from franka_msgs.action import Grasp
from franka_msgs.action import Move as GripperMove
from rclpy.action import ActionClient
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from aiofranka_ros.errors import Interrupted
from aiofranka_ros.processes import StopRequest
from aiofranka_ros.simulation.simulated_arm import cpu_for
from aiofranka_ros.testing import Child, Failed, isolate, ros_arguments
from bench.faults.rig import SWING, Rig
from bench.ledger import BINS, Ledger
from bench.witness import Witness

SPINNING_THREADS = 4
#: How often the records are evaluated [s].
_PERIOD = 1.0
#: How often the memory of the processes is sampled [s], and the share of the time that does not count, because caches
#: fill first.
_MEMORY_PERIOD, _SETTLING = 5.0, 0.2
#: How long before a problem the computer's stops may have caused it [s].
_BEFORE = 2.0


class Soak:
    """One run. A context manager: at its end, none of its processes is left."""

    def __init__(self, output: Path, minutes: float, progress: Progress, stop: StopRequest) -> None:
        self._output, self._duration = output, 60.0 * minutes
        self._bar, self._stop = progress, stop
        self._task = progress.add_task("starting", total=self._duration)
        self._rig = Rig(output, on_wait=self._look)
        self._gripper: Child | None = None
        self._grasp = ActionClient(self._rig.node, Grasp, "/franka_gripper/grasp")
        self._open = ActionClient(self._rig.node, GripperMove, "/franka_gripper/move")
        self._begin = self._looked = self._remembered = 0.0
        #: One for each processor; that of arm and control process is the first.
        self._witnesses: list[Witness] = []
        self._position = 0
        self.ledger = Ledger()
        #: Time since the beginning [s], and anonymous memory [MB], by process.
        self._memory: dict[str, list[tuple[float, float]]] = {}
        #: Per period: time [s], late states, late answers, cycles lost.
        self._history: list[tuple[float, int, int, int]] = []
        self.done: dict[str, int] = {}
        self.troubles: list[str] = []

    def run(self) -> dict[str, Any]:
        """Run the soak.

        :returns: the contents of ``report.json``.
        """
        rig = self._rig
        rig.ready(burdened=True, options=("--spinning-threads", str(SPINNING_THREADS)))
        self._gripper = Child(
            ["-m", "aiofranka_ros.gripper_node", *ros_arguments(robot_ip=rig.arm.host)],
            log=self._output / "gripper.log",
        )
        rig.wait(self._grasp.server_is_ready, "the gripper's node does not answer")
        of_arm = cpu_for(rig.arm.host)
        for cpu in sorted(os.sched_getaffinity(0), key=lambda cpu: cpu != of_arm):
            self._witnesses.append(Witness(cpu, self._output))
        control = int(rig.value("control loop", "control process"))
        others = (control, rig.proxy.process.pid, rig.arm.process.pid)
        if self._witnesses[0].credible and not all(map(self._witnesses[0].outranks, others)):
            raise Failed("the witness does not have a higher priority than the processes that it watches")
        rig.take()
        self._position = rig.proxy.tape.count
        self._begin = time.monotonic()
        for name, work in self._works():
            if self._elapsed >= self._duration:
                break
            self._bar.update(self._task, description=name)
            try:
                work()
            except Failed as trouble:
                self.troubles.append(f"{self._elapsed:.0f} s, {name}: {trouble} {self._stopped_before()}")
                try:
                    rig.activate()
                except Failed as end:
                    self.troubles.append(f"{self._elapsed:.0f} s, the end: {end}")
                    break
            self.done[name] = self.done.get(name, 0) + 1
        self._look(last=True)
        return self._report()

    def _stopped_before(self) -> str:
        """What the witnesses observed just before a problem."""
        now = time.monotonic_ns()
        begin = now - int(1e9 * _BEFORE)
        said = []
        for witness in self._witnesses:
            evidence = witness.evidence()
            stopped, slowness = float(evidence.stopped(begin, now)), evidence.slowness(begin, now)
            said.append(f"CPU {witness.cpu} for {stopped:.0f} ms (pace: 1/{slowness:.1f} of the usual one)")
        return f"[In the {_BEFORE:.0f} s before, the computer stopped {', '.join(said)}.]"

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._begin

    def _works(self) -> Iterator[tuple[str, Any]]:
        works = {
            "streaming poses": lambda: self._stream("osc"),
            "closing the gripper": lambda: self._use_gripper(self._grasp, Grasp.Goal(width=0.02, force=20.0)),
            "moving": self._move,
            "streaming joint positions": lambda: self._stream("impedance"),
            "streaming under pid": lambda: self._stream("pid"),
            "opening the gripper": lambda: self._use_gripper(self._open, GripperMove.Goal(width=0.07, speed=0.1)),
            "moving, cancelled": lambda: self._move(cancel=True),
            "streaming torques": lambda: self._stream("torque"),
        }
        return itertools.cycle(works.items())

    def _stream(self, mode: str) -> None:
        rig = self._rig
        if reason := rig.set(mode=mode):
            self.troubles.append(f"mode {mode}: {reason}")
        if mode == "osc":
            with rig.streaming():
                rig.spin_for(6.0)
        else:
            q, begin = rig.arm_q(), time.monotonic()

            def publish() -> None:
                target = q + 0.05 * (1.0 - np.cos(2.0 * (time.monotonic() - begin)))
                if mode == "torque":
                    message = rig.joints(rig.arm_q())
                    message.position = []
                    message.effort = np.clip(20.0 * (q - rig.arm_q()), -4.0, 4.0).tolist()
                    rig.publishers["torque_desired"].publish(message)
                else:
                    rig.publishers["q_desired"].publish(rig.joints(target))

            timer = rig.node.create_timer(0.02, publish)
            rig.spin_for(4.0)
            rig.node.destroy_timer(timer)
        rig.set(mode="osc")

    def _move(self, *, cancel: bool = False) -> None:
        rig = self._rig
        q = rig.arm_q()
        handle = rig.move(max(SWING, key=lambda end: float(np.abs(end - q).max())), 0.5)
        if not handle.accepted:
            raise Failed(f"a move was rejected: {rig.last_error}")
        if cancel:
            rig.spin_for(0.7)
            rig.result(handle.cancel_goal_async(), "a cancel request was not answered")
        status = rig.outcome(handle).status
        if status != (5 if cancel else 4):
            raise Failed(f"a move ended with status {status}: {rig.last_error}")

    def _use_gripper(self, client: ActionClient, goal: Any) -> None:
        rig = self._rig
        handle = rig.result(client.send_goal_async(goal), "the gripper does not answer")
        if handle.accepted:
            rig.outcome(handle)

    def _look(self, *, last: bool = False) -> None:
        """Add everything since the last call to the ledger; raises ``Interrupted`` if a stop is requested."""
        self._stop.check()
        rig, now = self._rig, time.monotonic()
        if self._begin == 0.0:
            return
        if now - self._looked < _PERIOD and not last:
            return
        self._looked = now
        self._bar.update(self._task, completed=min(self._elapsed, self._duration), refresh=True)
        before = (self.ledger.late_states, self.ledger.late_answers, self.ledger.cycles_lost)
        # The newest ones may still get an answer.
        passed, end = rig.proxy.tape.since(max(0, self._position - 3))
        if len(passed) > 40:
            evidence = [witness.evidence() for witness in self._witnesses]
            self.ledger.add_packets(passed[:-30], evidence[0])
            self._position = end - 30
        self.ledger.add_cycles(rig.take())
        self.ledger.unread = rig.observer.unread
        after = (self.ledger.late_states, self.ledger.late_answers, self.ledger.cycles_lost)
        self._history.append((self._elapsed, *(new - old for new, old in zip(after, before, strict=True))))
        if now - self._remembered > _MEMORY_PERIOD and rig.node_alive:
            self._remembered = now
            control = rig.value("control loop", "control process")
            for name, pid in (("node", rig.node_pid), ("control process", control)):
                if pid:
                    self._memory.setdefault(name, []).append((self._elapsed, _anonymous_memory(int(pid))))

    def _report(self) -> dict[str, Any]:
        books, rig = self.ledger, self._rig
        memory = {}
        for name, samples in self._memory.items():
            since, used = np.array(samples).T
            settled = since >= _SETTLING * since[-1]
            slope = float(np.polyfit(since[settled], used[settled], 1)[0]) if settled.sum() > 2 else 0.0
            memory[name] = {
                "first_mb": round(float(used[0]), 2),
                "last_mb": round(float(used[-1]), 2),
                "growth_mb_per_hour": round(3600.0 * slope, 2),
            }
        report = {
            "minutes": round(self._elapsed / 60.0, 2),
            "done": self.done,
            "troubles": self.troubles,
            "simulator": {
                "states": books.states,
                "late_states": books.late_states,
                "late_states_by_stops_of_the_computer": books.late_states_by_stops,
                "late_ms_together": round(books.late_ms, 1),
            },
            "witnesses": [
                {
                    "cpu": w.cpu,
                    "credible": w.credible,
                    "stops": w.stops,
                    "longest_ms": round(w.longest, 1),
                    "work_us": round(1e-3 * w.usual, 2),
                    "slowest_second": round(w.slowest, 2),
                }
                for w in self._witnesses
            ],
            "this_software": {
                "late_answers": books.late_answers,
                "late_answers_by_stops_of_the_computer": books.late_answers_by_stops,
                "late_answers_by_its_slowness": books.late_answers_by_slowness,
                "late_answers_listed": [
                    {
                        "at_s": round(1e-9 * at - self._begin, 3),
                        "delay_ms": round(delay, 3),
                        "stops_of_the_computer_ms": round(by_stops, 3),
                        "its_slowness": round(slowness, 2),
                    }
                    for at, delay, by_stops, slowness in books.listed
                ],
                "longest_run_of_late_answers": books.worst,
                "limits_exceeded": books.exceeded,
            },
            "control_process": {
                "cycles": books.cycles,
                "cycles_lost": books.cycles_lost,
                "cycles_unread": books.unread,
                "success_rate_min": round(books.success_rate_min, 3),
                "response_us": {
                    **{name: books.response(share) for name, share in _SHARES.items()},
                    "max": round(books.response_max, 1),
                },
            },
            "memory": memory,
            "node": {"state": rig.state_or_none(), "spinning_threads": SPINNING_THREADS, "last_error": rig.last_error},
            "system": {"processors": os.cpu_count(), "machine": platform.machine(), "kernel": platform.release()},
        }
        failed = self.troubles or books.exceeded or books.late_answers
        report["passed"] = not failed and report["node"]["state"] == "active"
        return report

    def write(self, report: dict[str, Any]) -> None:
        """Write ``report.json`` and ``report.md``, and its plots."""
        (self._output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        self._plot()
        lines = [f"# Soak of {report['minutes']} minutes", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in rows(report)]
        lines += ["", "How late answers are attributed: see the beginning of `bench/soak.py`.", ""]
        lines += [f"![{name}]({name}.png)" for name in ("lateness", "memory", "response")]
        lines += ["", *(f"- {trouble}" for trouble in report["troubles"])]
        lines += [
            f"- {late['at_s']:.3f} s: an answer after {late['delay_ms']:.2f} ms; in it, the computer was stopped for "
            f"{late['stops_of_the_computer_ms']:.2f} ms and {late['its_slowness']:.1f} times as slow as usual"
            for late in report["this_software"]["late_answers_listed"]
        ]
        (self._output / "report.md").write_text("\n".join(lines) + "\n")

    def _plot(self) -> None:
        from matplotlib.figure import Figure

        def plot(name: str, draw: Callable[[Any], object], x: str, y: str) -> None:
            figure = Figure(figsize=(8, 2.6), dpi=100, layout="constrained")
            axes = figure.subplots()
            draw(axes)
            axes.set(xlabel=x, ylabel=y)
            if axes.get_legend_handles_labels()[1]:
                axes.legend(fontsize=8)
            figure.savefig(self._output / f"{name}.png")

        def lateness(axes: Any) -> None:
            history = np.array(self._history).reshape(-1, 4)
            for column, label in ((1, "late states"), (2, "late answers"), (3, "cycles lost")):
                axes.plot(history[:, 0] / 60.0, history[:, column], label=label, linewidth=0.9)

        def memory(axes: Any) -> None:
            for name, samples in self._memory.items():
                since, used = np.array(samples).T
                axes.plot(since / 60.0, used - used[0], label=f"{name}, relative to {used[0]:.0f} MB")

        def response(axes: Any) -> None:
            axes.stairs(self.ledger.responses[:-1], BINS, fill=True)
            axes.set(yscale="log", xlim=(0.0, 600.0))

        plot("lateness", lateness, "time [min]", "per second")
        plot("memory", memory, "time [min]", "anonymous memory [MB]")
        plot("response", response, "response of the loop [us]", "cycles")

    def __enter__(self) -> Soak:
        return self

    def __exit__(self, *error: object) -> None:
        for witness in self._witnesses:
            witness.close()
        if self._gripper is not None:
            self._gripper.end()
        self._grasp.destroy()
        self._open.destroy()
        self._rig.__exit__(*error)


_SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


def _anonymous_memory(pid: int) -> float:
    """Anonymous memory of a process [MB]."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024.0


def rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The summary of a report: names and values."""
    simulator, software, control = report["simulator"], report["this_software"], report["control_process"]
    response = ", ".join(f"{name} {value:.0f}" for name, value in control["response_us"].items())
    by_computer = simulator["late_states_by_stops_of_the_computer"]
    return [
        ("states of the arm", f"{simulator['states']}"),
        *(
            (
                f"CPU {w['cpu']}: stops by the computer, longest; slowest second",
                f"{w['stops']}, {w['longest_ms']:.0f} ms; {w['slowest_second']:.1f} times as slow as usual"
                if w["credible"]
                else "unknown: no real-time priority",
            )
            for w in report["witnesses"]
        ),
        ("late states, by stops of the computer", f"{by_computer}"),
        ("late states, otherwise", f"{simulator['late_states'] - by_computer}"),
        ("late answers, by stops of the computer", f"{software['late_answers_by_stops_of_the_computer']}"),
        ("late answers, by its slowness", f"{software['late_answers_by_its_slowness']}"),
        ("late answers of this software", f"{software['late_answers']}"),
        ("longest run of late answers", f"{software['longest_run_of_late_answers']}"),
        ("control cycles, lost by libfranka's count", f"{control['cycles']}, {control['cycles_lost']}"),
        ("cycles that were not recorded", f"{control['cycles_unread']}"),
        ("lowest success rate", f"{control['success_rate_min']}"),
        ("response [us]", response),
        *(
            (f"memory of the {name}", f"{m['last_mb']:.0f} MB, {m['growth_mb_per_hour']:+.1f} MB an hour")
            for name, m in report["memory"].items()
        ),
        ("limits exceeded", ", ".join(software["limits_exceeded"]) or "none"),
        ("troubles", f"{len(report['troubles'])}"),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak from the command line.

    :returns: exit status: 0 if nothing failed and this software was never late, 1 if not, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak",
        description="Use a simulated arm for a long time, with four threads that compete with the node. The exit "
        "status is 0 if nothing failed and this software was never late.",
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="how long [%(default)s]")
    parser.add_argument("--output", type=Path, default=Path("build/soak"), metavar="DIR", help="results [%(default)s]")
    parser.add_argument("--domain-id", type=int, choices=range(102), metavar="ID", help="ROS domain to use")
    options = parser.parse_args(arguments)
    stop = StopRequest()
    stop.install()
    return _run(options, stop)


def _run(options: argparse.Namespace, stop: StopRequest) -> int:
    """Run the soak and report; returns the exit status."""
    isolate(options.domain_id)
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    console = Console()
    columns = TextColumn("{task.description:<26}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    try:
        # No automatic refresh: that would be a second thread.
        with (
            Progress(*columns, console=console, transient=True, auto_refresh=False) as bar,
            Soak(output, options.minutes, bar, stop) as soak,
        ):
            report = soak.run()
            soak.write(report)
    except Failed as failure:
        Console(stderr=True).print(f"The soak failed: {failure}", markup=False)
        return 1
    except Interrupted:
        Console(stderr=True).print("Interrupted.")
        return stop.exit_status
    table = Table(show_edge=False, pad_edge=False, show_header=False)
    for row in rows(report):
        table.add_row(*map(escape, row))
    console.print(table)
    for trouble in report["troubles"]:
        console.print(trouble, highlight=False)
    console.print(f"{options.output}/report.md", highlight=False)
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
