"""The demo: a node on a simulated arm, a policy that stalls, a move and a cancelled move; measured, judged and plotted.

Called by :mod:`aiofranka_ros.demo.__main__`, in its one thread, which mostly sleeps. Node and policy are separate
processes, in a ROS domain that only this computer sees, so that no real arm hears them. The demo reads every control
cycle from the shared memory whose address the node publishes on ``/diagnostics``, so nothing it reports contains its
own delay.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticStatus
from franka_msgs.msg import TargetStatus

from aiofranka_ros.demo import evaluation
from aiofranka_ros.demo.policy import RATE, Circle
from aiofranka_ros.errors import COMPILING
from aiofranka_ros.kernels import Array
from aiofranka_ros.model.fr3 import HOME, READY
from aiofranka_ros.testing import Child, Client, CycleRecorder, Failed, NodeProcess

_ROBOT = "/aiofranka"
#: How long the node may take to become active: on the first run, its kernels are compiled [s].
_START_TIMEOUT = 240.0
#: How long a move may take [s].
_MOVE_TIMEOUT = 20.0
#: How long the node may take to exit [s]; less than the sixteen seconds that shared memory keeps.
_STOP_TIMEOUT = 15.0
#: How long the policy may take to start and to find the node [s].
_POLICY_MARGIN = 30.0
#: How long the arm is watched after a move [s].
_HOLD = 0.5
#: ``PR_SET_PDEATHSIG``, ``<linux/prctl.h>``.
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """In a child, between fork and exec: get SIGINT when the parent dies, however that happens."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def run(
    output: Path, duration: float, say: Callable[[str], None], on_wait: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Run everything and write ``report.json`` and ``tracking.png``. At the end, no process of the demo is left.

    :param output: folder for the results; created if it does not exist.
    :param duration: how long the circle is drawn [s].
    :param say: called with the name of each stage.
    :param on_wait: called again and again while the demo waits.
    :returns: the report.
    :raises Failed: the demo could not be completed.
    """
    output.mkdir(parents=True, exist_ok=True)
    targets = output / "targets.json"
    recorder: CycleRecorder | None = None

    def look() -> None:
        node.check()
        if recorder is not None:
            recorder.fetch()
        on_wait()

    with contextlib.ExitStack() as stack:
        say("starting the node and the simulated arm ...")
        # Before anything starts a thread: the node's process runs Python code between fork and exec.
        child = {"preexec_fn": _die_with_parent}
        node = stack.enter_context(NodeProcess(output / "node.log", "", child=child, robot_ip="sim", autostart=True))
        stack.enter_context(_quote_log(node))
        client = stack.enter_context(Client(_ROBOT, measurements=False, on_wait=look))
        # As any policy does, it loads what it needs before the arm is active, and waits for that.
        options = ["--duration", str(duration), "--robot", _ROBOT, "--report", str(targets)]
        arguments = ["-m", "aiofranka_ros.demo.policy", *options]
        policy = stack.enter_context(Child(arguments, log=output / "policy.log", label="policy"))
        recorder = _attach(client, node, say)
        stack.callback(recorder.close)
        system = _describe_system(client)

        say("a policy draws a circle, blocking itself ...")
        patience = duration + _POLICY_MARGIN
        client.wait(lambda: policy.process.poll() is not None, "the policy did not end", patience)
        if policy.process.returncode:
            policy.check()
        drawn = json.loads(targets.read_text())
        circle, stamps = Circle(**drawn["circle"]), np.array(drawn["stamps"], dtype=np.int64)
        gains = evaluation.gains(recorder.commands())

        say("moving home ...")
        home = _move(client, recorder, HOME)
        say("moving again, cancelled half way ...")
        cancelled = _move(client, recorder, READY, cancel=True)
        say("stopping the node ...")
        exit_code = node.end(timeout=_STOP_TIMEOUT)
        cycles, unread = recorder.take(), recorder.unread
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
        "setpoint_latency_ms": evaluation.percentiles(latencies, p50=50, p99=99),
        "tracking_mm": tracking.figures,
        "move": {
            "status": home.status,
            "error_rad_max": evaluation.joint_error(cycles, HOME, home.ended, home.watched),
            "duration_s": round(1e-9 * (home.ended - home.sent), 3),
        },
        "cancel": {
            "status": cancelled.status,
            "stop_s": evaluation.stop_duration(cycles, cancelled.cancelled, cancelled.watched),
        },
        "shutdown_exit_code": exit_code,
        "cycles_unread": unread,
        "targets": {
            "published": len(stamps),
            "used": len(latencies),
            "longest_gap_s": round(float(intervals.max()), 3),
        },
        "gains": gains,
        "system": system,
    }
    report["passed"] = all(requirement.holds(report) for requirement in evaluation.REQUIREMENTS)
    (output / "report.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    # From the last target before a gap to the first one after it.
    since = 1e-9 * (stamps - stamps[0])
    gaps = [(float(since[i]), float(since[i + 1])) for i in np.flatnonzero(intervals > 2.0 / RATE)]
    evaluation.plot(output / "tracking.png", tracking, circle.position(stamps), gaps, report, cycles)
    return report


@contextlib.contextmanager
def _quote_log(node: NodeProcess) -> Iterator[None]:
    """Add the end of the node's log to a failure, whose reason is often there."""
    try:
        yield
    except Failed as failure:
        if node.process.poll() is None:  # Otherwise the failure quotes it already.
            raise Failed(f"{failure}; the end of the node's log:\n{node.end_of_log}") from failure
        raise


def _attach(client: Client, node: NodeProcess, say: Callable[[str], None]) -> CycleRecorder:
    """Wait until the arm is active, and record its control cycles from the first one on."""
    said: list[str] = []

    def active() -> bool:
        loop = client.statuses.get("control loop")
        if loop is not None and loop.message == COMPILING and not said:
            said.append(COMPILING)
            say(f"{COMPILING} ...")
        robot = client.statuses.get("robot")
        if robot is not None and robot.level == DiagnosticStatus.ERROR:
            raise Failed(f"the node reports: {robot.message}")
        return client.value("control loop", "phase") == "active"

    client.wait(active, "the node did not become active", _START_TIMEOUT)
    address = client.value("control loop", "shared memory")
    if not address.startswith(f"/proc/{node.process.pid}/"):
        raise Failed(
            f"another node {_ROBOT} is in ROS domain {os.environ['ROS_DOMAIN_ID']}: choose one with --domain-id"
        )
    return CycleRecorder(address, history=True)


class _Move(NamedTuple):
    """The outcome of a goal of ``~/move``; times on the system clock [ns].

    ``status`` is ``TARGET_REACHED`` or the name of the goal's final state. The arm was watched from ``ended`` to
    ``watched``.
    """

    status: str
    sent: int
    cancelled: int
    ended: int
    watched: int


def _move(client: Client, recorder: CycleRecorder, goal: Array, *, cancel: bool = False) -> _Move:
    """Send ``goal`` [rad] (7,) and wait for its result, then watch the arm for a moment.

    :param cancel: cancel it half way.
    :raises Failed: the node rejected it, or it did not end.
    """
    start = recorder.state()["q"].copy()
    sent = cancelled = time.time_ns()
    handle = client.send_goal(goal)
    if not handle.accepted:
        raise Failed("the node rejected a move")
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
        cancelled = time.time_ns()
        handle.cancel_goal_async()
    response = client.result(end, "a move did not end", _MOVE_TIMEOUT)
    ended = time.time_ns()
    if response.status == GoalStatus.STATUS_SUCCEEDED:
        status = _constant(TargetStatus, "", response.result.target_status.status)
    else:
        status = _constant(GoalStatus, "STATUS_", response.status)
    client.spin_for(_HOLD)
    return _Move(status, sent, cancelled, ended, time.time_ns())


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
