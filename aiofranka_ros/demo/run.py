"""The demo: the node on a simulated arm, a policy that hiccups, a move, a cancelled move; measured, judged and plotted.

``make demo``, or ``python -m aiofranka_ros.demo --output DIR``, is run by people and by tests. It is an ordinary user
of the node: it starts it as one would by hand, talks to it through topics and actions, and learns where the control
process keeps its records from ``/diagnostics``. It reads along in that shared memory, cycle by cycle, so that nothing
it reports is its own delay.

Everything here runs in one process and one thread that mostly sleeps; node and policy are processes of their own, in
a ROS domain of their own that is visible on this machine only, so that no arm of yours hears them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import rclpy
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from franka_msgs.action import PTPMotion
from franka_msgs.msg import TargetStatus
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from rich.console import Console

from aiofranka_ros.control.records import COMMANDS, STATE, new
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.demo import evaluation
from aiofranka_ros.demo.evaluation import REQUIREMENTS, Cycles, Stamps
from aiofranka_ros.demo.policy import RATE, Circle
from aiofranka_ros.demo.screen import Screen, verdict_table
from aiofranka_ros.kernels import Array
from aiofranka_ros.model.fr3 import HOME, READY
from aiofranka_ros.processes import postponed

_ROBOT = "/aiofranka"
#: How long the node may take to be active: on the first run, its kernels are compiled [s].
_START_TIMEOUT = 240.0
#: How long a move, and everything else that is asked of the node, may take [s].
_MOVE_TIMEOUT = 20.0
#: How long the node may take to exit; what the control process and the simulated arm get is in it [s].
_STOP_TIMEOUT = 15.0
#: How long the policy may take to start and to find the node [s].
_POLICY_MARGIN = 30.0
#: How often the recorded cycles are fetched, of the sixteen seconds that shared memory keeps [s].
_FETCH_PERIOD = 0.25
#: How long the arm is watched holding after a move [s].
_HOLD = 0.5
#: Lines of a log that a failure shows.
_LOG_LINES = 12
#: ``PR_SET_PDEATHSIG``, ``<linux/prctl.h>``.
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None)


class DemoFailed(Exception):
    """The demo could not be carried to its end; the message says why."""


class Interrupted(BaseException):
    """A signal asked the demo to end.

    :ivar number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Child:
    """A process that the demo started, with everything it says in a file.

    It gets a session of its own, because a terminal's Ctrl-C is meant for the demo, which then ends it in order.

    :param name: of it, in messages.
    :param module: what to run with ``python -m``.
    :param bound: interrupt it when this process dies, however that happens. Only while this process has one thread:
        it takes code of Python's between fork and exec.
    """

    def __init__(self, name: str, module: str, options: Sequence[str], log: Path, *, bound: bool = False) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,
                preexec_fn=_die_with_parent if bound else None,
            )

    def check(self) -> None:
        """:raises DemoFailed: it ended, and with what last words."""
        code = self.process.poll()
        if code is not None:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise DemoFailed(f"the {self.name} {how}; its last words:\n{self.last_words()}")

    def last_words(self) -> str:
        """The last lines of its log."""
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n".join(f"  {line}" for line in lines) or "  (it said nothing)"

    def stop(self, update: Callable[[], None] = lambda: None) -> int:
        """Interrupt it and wait for its end; where that takes too long, kill it.

        :param update: called now and then meanwhile.
        :returns: its exit code, as :attr:`subprocess.Popen.returncode`.
        """
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + _STOP_TIMEOUT
        while True:
            try:
                return self.process.wait(0.1)
            except subprocess.TimeoutExpired:
                update()
            if time.monotonic() > deadline:
                self.process.kill()
                return self.process.wait()


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


class Recorder:
    """Keeps every control cycle that the control process records.

    :param address: of the shared memory, as the node's diagnostics give it.
    :raises OSError: the node is gone.
    """

    def __init__(self, address: str) -> None:
        self._memory = SharedMemory.observe(address)
        self._state = new(STATE)
        self._parts: list[Cycles] = []
        self._position = 0
        #: Cycles that were overwritten before they were fetched.
        self.unread = 0

    def fetch(self) -> None:
        """Copy what was recorded since the last time; due every few seconds."""
        part, self._position, unread = self._memory.cycles.since(self._position)
        self.unread += unread
        if len(part):
            self._parts.append(part)

    @property
    def cycles(self) -> Cycles:
        """All that was fetched."""
        if not self._parts:
            raise DemoFailed("no control cycle was recorded")
        return np.concatenate(self._parts)

    def q(self) -> Array:
        """Measured joint positions [rad] (7,), as they are now."""
        while not self._memory.state.read(self._state):
            time.sleep(0.0)  # The writer was just at it.
        return self._state["q"][0].copy()

    def gains(self) -> dict[str, float]:
        """The gains in use, see :func:`~aiofranka_ros.demo.evaluation.gains`."""
        commands = new(COMMANDS)
        while not self._memory.commands.read(commands):
            time.sleep(0.0)
        return evaluation.gains(commands[0])

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()


@dataclass
class Move:
    """What became of a goal of ``~/move``; times on the system clock [ns].

    :ivar status: ``TARGET_REACHED``, or the name of the goal's final state; ``REJECTED`` where it was not accepted.
    :ivar cancelled: when its cancelling was asked for; 0: never.
    :ivar watched: until when the arm was watched holding afterwards.
    """

    status: str
    sent: int
    ended: int
    cancelled: int = 0
    watched: int = 0


class Demo:
    """One run of the demo. A context manager: at its end, no process of the demo is left.

    :param output: folder for the results; made if it isn't there.
    :param duration: how long the circle is drawn [s].
    """

    def __init__(self, output: Path, duration: float, screen: Screen) -> None:
        self._output = output
        self._targets = output / "targets.json"
        self._duration = duration
        self._screen = screen
        self._children: list[Child] = []
        self._recorder: Recorder | None = None
        self._diagnostics: dict[str, DiagnosticStatus] = {}
        self._fetched = 0.0
        self._ros: Node | None = None

    @staticmethod
    def expected_duration(duration: float) -> float:
        """About how long it all takes with a circle of ``duration`` [s]."""
        return _STAGES["start"] + duration + _STAGES["circle"] + _STAGES["move"] + _STAGES["cancel"] + _STAGES["stop"]

    def run(self) -> dict[str, Any]:
        """Carry everything out and write ``report.json`` and ``tracking.png``.

        :returns: the report.
        :raises DemoFailed: it could not be carried to its end.
        """
        self._output.mkdir(parents=True, exist_ok=True)
        stage = self._screen.stage
        with stage("starting the node and the simulated arm", _STAGES["start"]):
            node = self._start_node()
            # As with any policy: it loads what it needs before the arm is active, and waits for that.
            policy = self._start_policy()
            recorder = self._recorder = self._attach(node)
            system = self._describe_system()
        with stage("a policy draws a circle, blocking itself", self._duration + _STAGES["circle"]):
            circle, stamps = self._draw_circle(policy)
        gains = recorder.gains()
        with stage("moving home", _STAGES["move"]):
            home = self._move(HOME)
        with stage("moving again, cancelled half way", _STAGES["cancel"]):
            cancelled = self._move(READY, cancel=True)
        with stage("stopping the node", _STAGES["stop"]):
            exit_code = node.stop(self._housekeeping)
            recorder.fetch()
        cycles = recorder.cycles
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

    def _start_node(self) -> Child:
        """Start the node as one would by hand, then this process's own part of ROS."""
        options = ["--ros-args", "-p", "robot_ip:=sim", "-p", "autostart:=true"]
        child = Child("node", "aiofranka_ros.node", options, self._output / "node.log", bound=True)
        self._children.append(child)
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self._ros = Node("demo")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._ros)
        self._ros.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._moves = ActionClient(self._ros, PTPMotion, f"{_ROBOT}/move")
        return child

    def _attach(self, node: Child) -> Recorder:
        """Wait until the arm is active, and record its control cycles from the first one on."""

        def active() -> bool:
            robot = self._diagnostics.get("robot")
            if robot is not None and robot.level == DiagnosticStatus.ERROR:
                raise DemoFailed(f"the node says: {robot.message}")
            return self._value("control loop", "phase") == "active"

        self._wait(active, _START_TIMEOUT, "the node did not become active")
        address = self._value("control loop", "shared memory")
        if not address.startswith(f"/proc/{node.process.pid}/"):
            raise DemoFailed(
                f"another node {_ROBOT} is in ROS domain {os.environ['ROS_DOMAIN_ID']}: choose one with --domain-id"
            )
        return Recorder(address)

    def _describe_system(self) -> dict[str, Any]:
        """What the figures depend on besides this package."""
        scheduler = os.sched_getscheduler(int(self._value("control loop", "control process")))
        return {
            "real_time_scheduling": scheduler in (os.SCHED_FIFO, os.SCHED_RR),
            "processors": os.cpu_count(),
            "machine": platform.machine(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "libfranka": self._value("robot", "libfranka"),
        }

    def _start_policy(self) -> Child:
        self._targets.unlink(missing_ok=True)
        options = ["--duration", str(self._duration), "--robot", _ROBOT, "--report", str(self._targets)]
        policy = Child("policy", "aiofranka_ros.demo.policy", options, self._output / "policy.log")
        self._children.append(policy)
        return policy

    def _draw_circle(self, policy: Child) -> tuple[Circle, Stamps]:
        """Wait until the policy has drawn its circle.

        :returns: the circle, and when targets were published on it [ns, system clock].
        """

        def finished() -> bool:
            if policy.process.poll() not in (None, 0):
                policy.check()
            return policy.process.poll() == 0

        self._wait(finished, self._duration + _POLICY_MARGIN, "the policy did not end")
        self._children.remove(policy)
        said = json.loads(self._targets.read_text())
        circle = Circle(**said["circle"])
        return circle, np.array(said["stamps"], dtype=np.int64)

    def _move(self, goal: Array, *, cancel: bool = False) -> Move:
        """Send a goal and wait for its result, then watch the arm holding for a moment.

        :param goal: [rad] (7,).
        :param cancel: cancel it half way.
        """
        assert self._recorder is not None
        self._wait(self._moves.server_is_ready, _MOVE_TIMEOUT, f"the action {_ROBOT}/move is not there")
        start = self._recorder.q()
        move = Move("REJECTED", sent=time.time_ns(), ended=0)
        request = self._moves.send_goal_async(PTPMotion.Goal(goal_joint_configuration=goal.tolist()))
        handle = self._result(request, "the goal of a move was not answered")
        if not handle.accepted:
            move.ended = move.watched = time.time_ns()
            return move
        end = handle.get_result_async()
        if cancel:
            way = goal - start
            half = 0.5 * float(way @ way)
            recorder = self._recorder
            self._wait(
                lambda: end.done() or float((recorder.q() - start) @ way) >= half,
                _MOVE_TIMEOUT,
                "a move did not end",
                period=0.01,
            )
            move.cancelled = time.time_ns()
            handle.cancel_goal_async()
        response = self._result(end, "a move did not end")
        move.ended = time.time_ns()
        if response.status == GoalStatus.STATUS_SUCCEEDED:
            move.status = _constant(TargetStatus, "", response.result.target_status.status)
        else:
            move.status = _constant(GoalStatus, "STATUS_", response.status)
        until = time.monotonic() + _HOLD
        self._wait(lambda: time.monotonic() >= until, _MOVE_TIMEOUT, "")
        move.watched = time.time_ns()
        return move

    def _result(self, future: Future, failure: str) -> Any:
        self._wait(future.done, _MOVE_TIMEOUT, failure)
        return future.result()

    def _wait(self, condition: Callable[[], bool], timeout: float, failure: str, *, period: float = 0.1) -> None:
        """Wait for ``condition``, recording and looking after the other processes meanwhile.

        :param period: how often to look where nothing comes from ROS [s]; seldom, because the arm's processes need
            the machine more.
        :raises DemoFailed: it does not become true within ``timeout`` [s], or the node died.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            for child in self._children[:1]:  # The node; the policy may end.
                child.check()
            if time.monotonic() > deadline:
                raise DemoFailed(
                    f"{failure} within {timeout:.0f} s; last words of the node:\n{self._children[0].last_words()}"
                )
            self._executor.spin_once(timeout_sec=period)
            self._housekeeping()

    def _housekeeping(self) -> None:
        """Record and show what happened; due several times a second."""
        now = time.monotonic()
        if now - self._fetched < _FETCH_PERIOD:
            return
        self._fetched = now
        self._screen.update()
        if self._recorder is not None:
            self._recorder.fetch()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self._diagnostics[status.name.partition(": ")[2]] = status

    def _value(self, status: str, key: str) -> str:
        """A value of the newest diagnostics; empty where they do not have it."""
        if status not in self._diagnostics:
            return ""
        return next((item.value for item in self._diagnostics[status].values if item.key == key), "")

    def __enter__(self) -> Demo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self._children):
            child.stop()
        if self._recorder is not None:
            self._recorder.close()
        if self._ros is not None:
            self._executor.shutdown()
            self._ros.destroy_node()
            rclpy.try_shutdown()


#: How long the parts take, for the bar alone [s]; the circle's own duration comes on top of its part.
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


def isolate(domain: int | None) -> int:
    """Give this process and its children a ROS domain of their own that other machines do not see; return it."""
    # Up to 101, no port of a domain is one that Linux gives out by itself.
    domain = 1 + os.getpid() % 100 if domain is None else domain
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    if os.environ.get("ROS_DISTRO") == "humble":
        os.environ["ROS_LOCALHOST_ONLY"] = "1"
    else:
        # Where it is set, the newer variable would be ignored.
        os.environ.pop("ROS_LOCALHOST_ONLY", None)
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return domain


def interrupt(number: int, frame: FrameType | None) -> None:
    """Turn the first signal into an exception; later ones must not interrupt the cleaning up."""
    if postponed(number, frame):
        return
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(number)


def _duration(text: str) -> float:
    """An argparse type: how long to draw [s]."""
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from error
    if not 2.0 <= value <= 600.0:
        raise argparse.ArgumentTypeError(f"{text} s is not between 2 and 600 s")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aiofranka_ros.demo",
        description="Drive a simulated arm through the node: a policy that blocks itself for 300 ms of every second "
        "draws a circle, then the arm moves home, then a move is cancelled half way. The exit status is 0 if every "
        "figure in the table is as required.",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("demo"), metavar="DIR",
        help="folder for report.json, tracking.png, targets.json and the logs [%(default)s]",
    )  # fmt: skip
    parser.add_argument(
        "--duration", type=_duration, default=10.0, metavar="S", help="how long to draw the circle [%(default)s s]"
    )
    parser.add_argument(
        "--domain-id", type=int, choices=range(102), metavar="ID",
        help="ROS domain to use, for watching with ros2; by default one that is not used by much else",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="show only what went wrong")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo.

    :returns: exit status: 0 if all is as required, 1 if not, 130 after Ctrl-C and 143 after SIGTERM.
    """
    options = _parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    console, complaints = Console(), Console(stderr=True)
    domain = isolate(options.domain_id)
    screen = Screen(console, Demo.expected_duration(options.duration), quiet=options.quiet)
    try:
        with screen, Demo(options.output, options.duration, screen) as demo:
            screen.say(f"In ROS domain {domain}; to look around meanwhile: export ROS_DOMAIN_ID={domain}")
            report = demo.run()
    except DemoFailed as failure:
        complaints.print(f"The demo failed: {failure}", markup=False, highlight=False, soft_wrap=True)
        return 1
    except OSError as error:
        complaints.print(f"The demo failed: {error}", markup=False, highlight=False, soft_wrap=True)
        return 1
    except Interrupted as interrupted:
        complaints.print("Interrupted.")
        return 128 + interrupted.number
    if not options.quiet:
        console.print(verdict_table(report))
        for name in ("tracking.png", "report.json"):
            console.print(f"{options.output / name}", highlight=False)
    if not report["system"]["real_time_scheduling"]:
        complaints.print("Without real-time scheduling: see the README, 'Real-time limits'.", highlight=False)
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
