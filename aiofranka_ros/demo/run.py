"""The demo: the node on a simulated arm, a policy that hiccups, a move, a cancelled move; measured, judged and plotted.

Called by :mod:`aiofranka_ros.demo.__main__`. The demo is an ordinary user of the node: it starts the node from a
command line and talks to it through topics and actions. It reads every control cycle from the shared memory whose
address the node publishes on ``/diagnostics``, so nothing it reports contains its own delay.

Everything here runs in one process and one thread that mostly sleeps; node and policy are separate processes, in a ROS
domain that only this computer sees, so that no real arm hears them.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticStatus
from franka_msgs.msg import TargetStatus

from aiofranka_ros.demo import evaluation
from aiofranka_ros.demo.evaluation import REQUIREMENTS, Stamps
from aiofranka_ros.demo.policy import RATE, Circle
from aiofranka_ros.demo.screen import Screen
from aiofranka_ros.kernels import Array
from aiofranka_ros.model.fr3 import HOME, READY
from aiofranka_ros.testing import Child, Client, CycleRecorder, Failed, NodeProcess

_ROBOT = "/aiofranka"
#: How long the node may take to become active: on the first run, its kernels are compiled [s].
_START_TIMEOUT = 240.0
#: How long a move may take [s].
_MOVE_TIMEOUT = 20.0
#: How long the node may take to exit, including the control process and the simulated arm [s].
_STOP_TIMEOUT = 15.0
#: How long the policy may take to start and to find the node [s].
_POLICY_MARGIN = 30.0
#: How often the recorded cycles are fetched; shared memory keeps sixteen seconds [s].
_FETCH_PERIOD = 0.25
#: How long the arm is watched after a move [s].
_HOLD = 0.5
#: How often a condition is checked while no message arrives [s]; seldom, because the arm's processes need the computer
#: more.
_PERIOD = 0.1
#: ``PR_SET_PDEATHSIG``, ``<linux/prctl.h>``.
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """In a child, between fork and exec: get SIGINT when the parent dies, however that happens."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


@dataclass
class FinishedMove:
    """The outcome of a goal of ``~/move``; times on the system clock [ns].

    :ivar status: ``TARGET_REACHED``, or the name of the goal's final state; ``REJECTED`` if it was not accepted.
    :ivar cancelled: when its cancellation was requested; 0: never.
    :ivar watched: until when the arm was watched afterwards.
    """

    status: str
    sent: int
    ended: int
    cancelled: int = 0
    watched: int = 0


class Demo:
    """One run of the demo. A context manager: at its end, no process of the demo is left.

    :param output: folder for the results; created if it does not exist.
    :param duration: how long the circle is drawn [s].
    """

    def __init__(self, output: Path, duration: float, screen: Screen) -> None:
        self._output = output
        self._targets = output / "targets.json"
        self._duration = duration
        self._screen = screen
        self._node: Child | None = None
        self._policy: Child | None = None
        self._client: Client | None = None
        self._recorder: CycleRecorder | None = None
        self._fetched = 0.0

    @staticmethod
    def expected_duration(duration: float) -> float:
        """About how long everything takes with a circle of ``duration`` [s]."""
        return duration + sum(_STAGES.values())

    def run(self) -> dict[str, Any]:
        """Run everything and write ``report.json`` and ``tracking.png``.

        :returns: the report.
        :raises Failed: the demo could not be completed.
        """
        self._output.mkdir(parents=True, exist_ok=True)
        stage = self._screen.stage
        with stage("starting the node and the simulated arm", _STAGES["start"]):
            # Without other threads yet: the node's process runs Python code between fork and exec.
            node = self._node = NodeProcess(
                self._output / "node.log",
                "",
                child={"preexec_fn": _die_with_parent},
                robot_ip="sim",
                autostart=True,
            )
            client = self._client = Client(_ROBOT, measurements=False, on_wait=self._on_wait)
            # As any policy does, it loads what it needs before the arm is active, and waits for that.
            policy = self._policy = self._start_policy()
            recorder = self._recorder = self._attach(client, node)
            system = _describe_system(client)
        with stage("a policy draws a circle, blocking itself", self._duration + _STAGES["circle"]):
            circle, stamps = self._draw_circle(client, policy)
        gains = evaluation.gains(recorder.commands())
        with stage("moving home", _STAGES["move"]):
            home = self._move(client, recorder, HOME)
        with stage("moving again, cancelled half way", _STAGES["cancel"]):
            cancelled = self._move(client, recorder, READY, cancel=True)
        with stage("stopping the node", _STAGES["stop"]):
            exit_code = node.end(timeout=_STOP_TIMEOUT, update=self._housekeeping)
        cycles = recorder.take()
        if not len(cycles):
            raise Failed("no control cycle was recorded")
        tracking = evaluation.track(cycles, circle.position, stamps)
        latencies = evaluation.setpoint_latencies(cycles, stamps)
        intervals = 1e-9 * np.diff(stamps)
        report = {
            "cycles": len(cycles),
            "cycles_lost": int(cycles["lost"].sum()),
            "success_rate_min": evaluation.success_rate_min(cycles),
            "response_us": evaluation.response_times(cycles),
            "setpoint_latency_ms": _percentiles(latencies),
            "tracking_mm": tracking.figures,
            "move": {
                "status": home.status,
                "error_rad_max": evaluation.joint_error(cycles, HOME, home.ended, home.watched),
                "duration_s": round(1e-9 * (home.ended - home.sent), 3),
            },
            "cancel": {
                "status": cancelled.status,
                "stop_s": evaluation.stop_duration(cycles, cancelled.cancelled, cancelled.watched)
                if cancelled.cancelled
                else None,
            },
            "shutdown_exit_code": exit_code,
            "cycles_unread": recorder.unread,
            "targets": {
                "published": len(stamps),
                "used": len(latencies),
                "longest_gap_s": round(float(intervals.max()), 3),
            },
            "gains": gains,
            "system": system,
        }
        report["passed"] = all(requirement.holds(report) for requirement in REQUIREMENTS)
        text = json.dumps(report, indent=2, allow_nan=False)
        (self._output / "report.json").write_text(text + "\n")
        # The last target before a gap and the first one after it.
        starts = np.flatnonzero(intervals > 2.0 / RATE)
        since = 1e-9 * (stamps - stamps[0])
        gaps = [(float(since[i]), float(since[i + 1])) for i in starts]
        evaluation.plot(self._output / "tracking.png", tracking, circle.position(stamps), gaps, report, cycles)
        return report

    def _attach(self, client: Client, node: Child) -> CycleRecorder:
        """Wait until the arm is active, and record its control cycles from the first one on."""

        def active() -> bool:
            robot = client.statuses.get("robot")
            if robot is not None and robot.level == DiagnosticStatus.ERROR:
                raise Failed(f"the node reports: {robot.message}")
            return client.value("control loop", "phase") == "active"

        self._wait(client, active, _START_TIMEOUT, "the node did not become active")
        address = client.value("control loop", "shared memory")
        if not address.startswith(f"/proc/{node.process.pid}/"):
            raise Failed(
                f"another node {_ROBOT} is in ROS domain {os.environ['ROS_DOMAIN_ID']}: choose one with --domain-id"
            )
        return CycleRecorder(address, history=True)

    def _start_policy(self) -> Child:
        self._targets.unlink(missing_ok=True)
        options = ["--duration", str(self._duration), "--robot", _ROBOT, "--report", str(self._targets)]
        arguments = ["-m", "aiofranka_ros.demo.policy", *options]
        return Child(arguments, log=self._output / "policy.log", label="policy")

    def _draw_circle(self, client: Client, policy: Child) -> tuple[Circle, Stamps]:
        """Wait until the policy has drawn its circle.

        :returns: the circle, and when targets on it were published [ns, system clock].
        """

        def finished() -> bool:
            if policy.process.poll() not in (None, 0):
                policy.check()
            return policy.process.poll() == 0

        self._wait(client, finished, self._duration + _POLICY_MARGIN, "the policy did not end")
        report = json.loads(self._targets.read_text())
        return Circle(**report["circle"]), np.array(report["stamps"], dtype=np.int64)

    def _move(self, client: Client, recorder: CycleRecorder, goal: Array, *, cancel: bool = False) -> FinishedMove:
        """Send a goal and wait for its result, then watch the arm for a moment.

        :param goal: [rad] (7,).
        :param cancel: cancel it half way.
        """
        start = recorder.state()["q"].copy()
        move = FinishedMove("REJECTED", sent=time.time_ns(), ended=0)
        handle = client.send_goal(goal)
        if not handle.accepted:
            move.ended = move.watched = time.time_ns()
            return move
        end = handle.get_result_async()
        if cancel:
            way = goal - start
            half = 0.5 * float(way @ way)
            client.wait(
                lambda: end.done() or float((recorder.state()["q"] - start) @ way) >= half,
                "a move did not end",
                _MOVE_TIMEOUT,
                period=0.01,
            )
            move.cancelled = time.time_ns()
            handle.cancel_goal_async()
        response = client.result(end, "a move did not end", _MOVE_TIMEOUT)
        move.ended = time.time_ns()
        if response.status == GoalStatus.STATUS_SUCCEEDED:
            move.status = _constant(TargetStatus, "", response.result.target_status.status)
        else:
            move.status = _constant(GoalStatus, "STATUS_", response.status)
        client.spin_for(_HOLD)
        move.watched = time.time_ns()
        return move

    def _wait(self, client: Client, condition: Callable[[], bool], timeout: float, failure: str) -> None:
        if not client.spin_until(condition, timeout, period=_PERIOD):
            log = self._node.tail() if self._node is not None else ""
            raise Failed(f"{failure} within {timeout:.0f} s; the end of the node's log:\n{log}")

    def _on_wait(self) -> None:
        """Record, update the screen, and notice if the node has died."""
        if self._node is not None:
            self._node.check()
        self._housekeeping()

    def _housekeeping(self) -> None:
        """Called several times a second."""
        now = time.monotonic()
        if now - self._fetched < _FETCH_PERIOD:
            return
        self._fetched = now
        self._screen.update()
        if self._recorder is not None:
            self._recorder.fetch()

    def __enter__(self) -> Demo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in (self._policy, self._node):
            if child is not None:
                child.end(timeout=_STOP_TIMEOUT)
        if self._recorder is not None:
            self._recorder.close()
        if self._client is not None:
            self._client.close()


#: How long the stages take, for the progress bar only [s]; the circle's duration is added to its stage.
_STAGES = {"start": 5.0, "circle": 1.5, "move": 3.0, "cancel": 3.0, "stop": 1.5}


def _percentiles(values: Array) -> dict[str, float | None]:
    if len(values) == 0:
        return {"p50": None, "p99": None}
    p50, p99 = np.percentile(values, (50, 99))
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def _constant(message: Any, prefix: str, value: int) -> str:
    """Name of a constant of a message class, without its prefix."""
    names = [name for name in dir(message) if name.startswith(prefix) and name.isupper()]
    return next((name[len(prefix) :] for name in names if getattr(message, name) == value), str(value))


def _describe_system(client: Client) -> dict[str, Any]:
    """What the figures depend on besides this package."""
    scheduler = os.sched_getscheduler(int(client.value("control loop", "control process")))
    return {
        "real_time_scheduling": scheduler in (os.SCHED_FIFO, os.SCHED_RR),
        "processors": os.cpu_count(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libfranka": client.value("robot", "libfranka"),
    }
