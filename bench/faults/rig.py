"""A simulated arm that can be made to fail, a network that loses packets, the node, and a client of it.

What the faults are written with. Everything runs in the one thread of whoever stages them; arm, network, node and
policies are processes of their own. What is alive and well after a fault is used by the next one, because starting a
node takes seconds; what is not is started anew.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import rclpy
from control_msgs.action import FollowJointTrajectory
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from franka_msgs.action import PTPMotion
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import TransitionEvent
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from rclpy.time import Time
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from aiofranka_ros.control.records import STATE, Phase, new
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.model.fr3 import JOINT_NAMES
from aiofranka_ros.ros.executor import with_info
from aiofranka_ros.simulation.simulated_arm import cpu_for
from bench.faults.arm import STANDSTILL, FaultyArm
from bench.faults.helper import HelperFailed, environment
from bench.faults.proxy import Proxy
from bench.faults.tape import Tape

#: Longest that anything may take that is waited for [s]; ten times what it takes on an idle machine.
PATIENCE = 20.0
#: How many policies are started until one of them streams.
_POLICIES = 3
#: How long a node may take to answer for the first time: its kernels may still have to be compiled [s].
_START_TIMEOUT = 120.0
#: Between these two the arm swings [rad] (7,): far from every limit, and 0.7 rad apart.
SWING = (
    np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785]),
    np.array([0.7, -0.485, 0.3, -2.056, 0.3, 1.871, 0.085]),
)
#: Velocity of an ordinary swing [rad/s]: it takes two seconds.
_VELOCITY = 0.5
#: Share of its velocity at which a swing is on its way. A computer that is too slow for the simulated arm slows the
#: whole motion down, so it is far from 1.
_MOVING = 0.5
_rigs = itertools.count()


class Failed(Exception):
    """Something did not happen that a fault needs before it can be judged; the message says what."""


class Skipped(Exception):
    """A fault that cannot be made on this machine; the message says why."""


@dataclass(frozen=True)
class Options:
    """How much of what takes long.

    :ivar seed: of everything random.
    :ivar transitions: of the lifecycle storm.
    :ivar messages: of the fuzz.
    :ivar minutes: of the random walk.
    """

    seed: int = 1
    transitions: int = 1000
    messages: int = 100_000
    minutes: float = 2.0


class Findings:
    """What was seen of a fault, statement by statement, and whether all of it is as expected."""

    def __init__(self) -> None:
        self._statements: list[tuple[bool, str]] = []

    def note(self, text: str) -> None:
        """Something worth knowing that decides nothing."""
        self._statements.append((True, text))

    def check(self, good: Any, text: str) -> bool:
        """A statement that has to be true, ``text`` what was seen; return whether it is."""
        self._statements.append((bool(good), text))
        return bool(good)

    def within(self, value: float | None, limit: float, text: str) -> None:
        """``value`` [s] has to be known and at most ``limit``."""
        said = "never" if value is None else f"after {1e3 * value:.0f} ms"
        self.check(value is not None and value <= limit, f"{text} {said} (at most {1e3 * limit:.0f})")

    @property
    def passed(self) -> bool:
        """Whether there are statements, and all are true."""
        return bool(self._statements) and all(good for good, _ in self._statements)

    @property
    def text(self) -> str:
        """All of them, those that are not as expected marked."""
        return "; ".join(text if good else f"✗ {text}" for good, text in self._statements)


class Observer:
    """Reads along in the memory that node and control process share, also after both are dead.

    :param address: of the memory, as the node's diagnostics give it.
    """

    def __init__(self, address: str) -> None:
        self._file = os.stat(address).st_ino
        self._memory = SharedMemory.observe(address)
        self._state = new(STATE)
        self._position = self._memory.cycles.count
        self._parts: list[npt.NDArray[Any]] = []
        #: Cycles that were overwritten before they were fetched.
        self.unread = 0

    def reads(self, address: str) -> bool:
        """Whether it is this memory that it reads; the next control process may get another one of the same address."""
        return os.stat(address).st_ino == self._file

    def state(self) -> Record:
        """The newest measured state; changes with the next call."""
        while not self._memory.state.read(self._state):
            time.sleep(0.0)  # The writer was just at it.
        return self._state[0]

    @property
    def beats(self) -> int:
        """Signs of life that the node has given."""
        return self._memory.heartbeat

    def fetch(self) -> None:
        """Copy the cycles recorded since the last time; due every few seconds."""
        part, self._position, unread = self._memory.cycles.since(self._position)
        self.unread += unread
        if len(part):
            self._parts.append(part)

    def take(self) -> npt.NDArray[Any]:
        """All cycles that were fetched, once."""
        self.fetch()
        parts, self._parts = self._parts, []
        return np.concatenate(parts) if parts else self._memory.cycles.records[:0].copy()

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()


class Rig:
    """A context manager: at its end, none of its processes is left.

    :param folder: for logs.
    :param on_wait: called several times a second while something is waited for.
    """

    def __init__(
        self, folder: Path, options: Options | None = None, on_wait: Callable[[], None] = lambda: None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.options = options or Options()
        #: How far a fault that takes long is, from 0 to 1; to be replaced by whoever shows it.
        self.progress: Callable[[float], None] = lambda share: None
        self._on_wait = on_wait
        self._waited = 0.0
        net = f"127.{1 + os.getpid() % 200}.{os.getpid() // 200 % 200}"
        number = 4 * (next(_rigs) % 60)
        # Of the same parity as the arm's default: two rigs, or a rig and a demo, may use different processors.
        self._arm_host, self._proxy_host = f"{net}.{number + 1}", f"{net}.{number + 2}"
        self.arm: FaultyArm | None = None
        self._tapes: list[Tape] = []
        self.proxy: Proxy | None = None
        self.observer: Observer | None = None
        self._node: subprocess.Popen[bytes] | None = None
        self._parameters: dict[str, Any] = {}
        self._log = folder / "node.log"
        self._log.write_bytes(b"")  # What nodes of an earlier run said is of no interest.
        self._children: list[subprocess.Popen[bytes]] = []
        #: What is odd, but none of the fault's doing; to be taken away by whoever stages it.
        self.remarks: list[str] = []
        #: When the fault happened [ns, system clock]; set by :meth:`mark`.
        self.marked = 0
        #: From the fault to standstill [ms]; ``None`` where nobody asked, or the arm moves on.
        self.stop_ms: float | None = None
        self.diagnostics: dict[str, DiagnosticStatus] = {}
        self._asked = 0
        #: When the lifecycle state that the node is in now was heard of [ns, system clock], and its name.
        self.transitions: list[tuple[int, str]] = []
        self.poses: PoseStamped | None = None
        self._context = Context()
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.name = "/aiofranka"
        self.ros = rclpy.create_node("faults", context=self._context, use_global_arguments=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.ros)
        self.ros.create_subscription(DiagnosticArray, "/diagnostics", with_info(self._on_diagnostics), 20)
        self.ros.create_subscription(TransitionEvent, f"{self.name}/transition_event", self._on_transition, 20)
        self.ros.create_subscription(PoseStamped, f"{self.name}/ee_pose", self._on_pose, qos_profile_sensor_data)
        self.pose_targets = self.ros.create_publisher(PoseStamped, f"{self.name}/ee_desired", 1)
        self.torque_targets = self.ros.create_publisher(JointState, f"{self.name}/torque_desired", 1)
        self.joint_targets = self.ros.create_publisher(JointState, f"{self.name}/q_desired", 1)
        self._change_state = self.ros.create_client(ChangeState, f"{self.name}/change_state")
        self._get_state = self.ros.create_client(GetState, f"{self.name}/get_state")
        self._set_parameters = self.ros.create_client(SetParametersAtomically, f"{self.name}/set_parameters_atomically")
        self._release = self.ros.create_client(Trigger, f"{self.name}/release")
        self._move = ActionClient(self.ros, PTPMotion, f"{self.name}/move")
        self._follow = ActionClient(self.ros, FollowJointTrajectory, "fr3_arm_controller/follow_joint_trajectory")

    # Its processes.

    def ready(
        self,
        *,
        burdened: bool = False,
        prepare: Callable[[], None] | None = None,
        options: Sequence[str] = (),
        **parameters: Any,
    ) -> None:
        """See to it that a node with ``parameters`` is active and that its arm rests.

        :param burdened: run the node of :mod:`bench.faults.node`, with ``options``.
        :param prepare: called in the node's process before it begins; such a node is not used again.
        """
        key = {"burdened": burdened, "prepare": prepare, "options": options, **parameters}
        self.start_arm()
        if self._node is not None and (self._node.poll() is not None or key != self._parameters):
            self.stop_node()
        if self._node is None:
            self.start_node(**key)
            self._parameters = key
        self.release()
        self.activate()
        self.settle()

    def release(self) -> None:
        """Give an arm back that somebody holds."""
        if self._release.service_is_ready():
            self.call(self._release, Trigger.Request())

    def start_arm(self) -> None:
        """Start the arm and the network before it, unless they run; let go of both."""
        if self.arm is None or self.arm.process.poll() is not None:
            self.arm = FaultyArm(self._arm_host, self.folder)
            self._tapes.append(self.arm.tape)
        else:
            self.arm.let_go()
        if self.proxy is None or self.proxy.process.poll() is not None:
            self.proxy = Proxy(self._proxy_host, self._arm_host, self.folder)
        self.proxy.heal()

    def start_node(
        self,
        *,
        burdened: bool = False,
        prepare: Callable[[], None] | None = None,
        env: dict[str, str] | None = None,
        options: Sequence[str] = (),
        **parameters: Any,
    ) -> None:
        """Start a node and wait until it answers; it is unconfigured then."""
        cpu = cpu_for(self._arm_host)
        settings = {"robot_ip": self._proxy_host, "realtime_cpu": cpu, "diagnostics_rate": 20.0, **parameters}
        command = [sys.executable, "-m", "bench.faults.node" if burdened else "aiofranka_ros.node", *options]
        command += ["--ros-args"]
        for name, value in settings.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ["-p", f"{name}:={text}"]
        self.diagnostics.clear()
        self.transitions.clear()
        with self._log.open("ab") as log:
            self._node = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(**(env or {})),
                start_new_session=True,
                preexec_fn=prepare,
            )
        self.wait(lambda: self.state_or_none() == "unconfigured", "the node does not answer", _START_TIMEOUT)

    def stop_node(self) -> int | None:
        """End the node; return its exit status, ``None`` where there was none."""
        node, self._node = self._node, None
        self._parameters = {}
        if node is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            node.send_signal(signal.SIGCONT)
            node.send_signal(signal.SIGINT)
        try:
            status = node.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            node.kill()
            status = node.wait()
        self._wait_until_gone()
        return status

    def kill_node(self) -> None:
        """Kill the node, now."""
        assert self._node is not None
        self._node.kill()
        self._node.wait()
        self._node, self._parameters = None, {}

    def start_policy(self, *options: str) -> subprocess.Popen[bytes]:
        """Start a policy and wait until it streams.

        Where policies are killed all the time, Fast DDS now and then does not connect a new one for minutes
        (https://github.com/eProsima/Fast-DDS/issues/5469). That is not what is staged here, so another one is started
        then, and the finding says so.
        """
        for _ in range(_POLICIES):
            policy = self._start_policy(*options)
            if self.until(lambda: "streaming" in self.policy_log):
                return policy
            self.remarks.append(f"DDS did not connect a new policy within {PATIENCE:.0f} s")
            self.end(policy)
        raise Failed("no policy streams")

    def _start_policy(self, *options: str) -> subprocess.Popen[bytes]:
        with (self.folder / "policy.log").open("wb") as log:
            policy = subprocess.Popen(
                [sys.executable, "-m", "bench.faults.policy", "--robot", self.name, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                start_new_session=True,
            )
        self._children.append(policy)
        return policy

    @property
    def policy_log(self) -> str:
        """All that the newest policy said."""
        return (self.folder / "policy.log").read_text(errors="replace")

    def end(self, child: subprocess.Popen[bytes]) -> None:
        """Kill a process that was started here."""
        child.kill()
        child.wait()
        if child in self._children:
            self._children.remove(child)

    @property
    def node_pid(self) -> int:
        """Process id of the node."""
        assert self._node is not None
        return self._node.pid

    @property
    def node_alive(self) -> bool:
        """Whether the node's process runs."""
        return self._node is not None and self._node.poll() is None

    @property
    def control_pid(self) -> int:
        """Process id of the control process."""
        return int(self.value("control loop", "control process"))

    @property
    def log(self) -> str:
        """All that the nodes said so far."""
        return self._log.read_text(errors="replace")

    # What the node says.

    def value(self, status: str, key: str) -> str:
        """A value of the newest diagnostics; empty where they do not have it."""
        found = self.diagnostics.get(status)
        return next((item.value for item in found.values if item.key == key), "") if found else ""

    def fresh_diagnostics(self) -> None:
        """Wait for diagnostics that were published from now on."""
        self.diagnostics.clear()
        self._asked = time.time_ns()
        self.wait(lambda: len(self.diagnostics) >= 3, "no diagnostics")

    def state_or_none(self, timeout: float = 1.0) -> str | None:
        """The node's lifecycle state; ``None`` where it does not answer in time."""
        if not self._get_state.service_is_ready():
            self.spin(0.05)
            return None
        answer = self._get_state.call_async(GetState.Request())
        if not self.until(answer.done, timeout):
            self._get_state.remove_pending_request(answer)
            return None
        return str(answer.result().current_state.label)

    @property
    def state(self) -> str:
        """The node's lifecycle state.

        :raises Failed: it does not answer.
        """
        state = self.state_or_none(PATIENCE)
        if state is None:
            raise Failed("the node does not answer")
        return state

    def change(self, transition: str, number: int = 0) -> bool:
        """Ask for a transition, by its label or, where that is empty, its number; return whether it succeeded."""
        request = ChangeState.Request()
        request.transition.label, request.transition.id = transition, number
        self.wait(self._change_state.service_is_ready, "no service change_state")
        answer = self._change_state.call_async(request)
        return bool(self.result(answer, f"the node does not {transition or number}", _START_TIMEOUT).success)

    def activate(self) -> None:
        """Bring the node from wherever it is to being active.

        :raises Failed: that is not possible.
        """
        if self.state == "unconfigured" and not self.change("configure"):
            raise Failed(f"the node could not be configured: {self.last_error}")
        if self.state == "inactive" and not self.change("activate"):
            raise Failed(f"the node could not be activated: {self.last_error}")
        self.wait(lambda: self.value("control loop", "phase") == "active", "the arm is not active")
        self._observe()

    @property
    def last_error(self) -> str:
        """The last error on the diagnostics."""
        return self.value("robot", "last error") or "(no error on the diagnostics)"

    def set(self, **values: Any) -> str:
        """Set parameters together; return the reason why they were refused, or an empty string."""
        parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        request = SetParametersAtomically.Request(parameters=parameters)
        return str(self.call(self._set_parameters, request).result.reason)

    def trigger(self, service: str) -> Trigger.Response:
        """Call one of the node's ``std_srvs/Trigger`` services.

        :raises Failed: the node has no such service.
        """
        client = self.ros.create_client(Trigger, f"{self.name}/{service}")
        try:
            if not self.until(client.service_is_ready, 2.0):
                raise Failed(f"the node has no service ~/{service}")
            return self.call(client, Trigger.Request())
        finally:
            self.ros.destroy_client(client)

    def call(self, client: Any, request: Any) -> Any:
        """The answer of a service."""
        self.wait(client.service_is_ready, f"no service {client.srv_name}")
        return self.result(client.call_async(request), f"no answer from {client.srv_name}")

    def result(self, future: Future, failure: str = "no answer", timeout: float = PATIENCE) -> Any:
        """The result of a future of rclpy."""
        self.wait(future.done, failure, timeout)
        return future.result()

    # Motion.

    def settle(self) -> None:
        """Wait until the arm rests."""
        self.wait(lambda: self.speed() < STANDSTILL, "the arm does not come to rest")

    def speed(self) -> float:
        """Fastest joint, as the arm itself knows it [rad/s]."""
        assert self.arm is not None
        tape = self.arm.tape
        return float(np.abs(tape.fields["dq"][(tape.count - 1) % len(tape.fields["dq"])]).max())

    def q(self) -> Array:
        """Joint positions, as the arm itself knows them [rad] (7,)."""
        assert self.arm is not None
        tape = self.arm.tape
        return tape.fields["q"][(tape.count - 1) % len(tape.fields["q"])].copy()

    def swing(self, velocity: float = _VELOCITY) -> Any:
        """Begin a move to the further end of :data:`SWING`, and wait until it is on its way; return its goal handle."""
        q = self.q()
        goal = max(SWING, key=lambda end: float(np.abs(end - q).max()))
        handle = self.move(goal, velocity)
        if not handle.accepted:
            raise Failed("the node rejected an ordinary move")
        self.wait(lambda: self.speed() > _MOVING * velocity, "the arm does not move")
        return handle

    def move(self, goal: Array, velocity: float = 0.0) -> Any:
        """Send a goal of ``~/move``; return its handle.

        :param velocity: [rad/s]; 0: the node's default.
        """
        self.wait(self._move.server_is_ready, "the action ~/move is not there")
        request = PTPMotion.Goal(goal_joint_configuration=[float(x) for x in goal])
        if velocity:
            request.maximum_joint_velocities = [velocity] * 7
        return self.result(self._move.send_goal_async(request), "a goal was not answered")

    def follow(self, trajectory: Any) -> Any:
        """Send a trajectory, as MoveIt does; return the goal's handle."""
        self.wait(self._follow.server_is_ready, "the trajectory action is not there")
        request = FollowJointTrajectory.Goal(trajectory=trajectory)
        return self.result(self._follow.send_goal_async(request), "a trajectory was not answered")

    def outcome(self, handle: Any, timeout: float = PATIENCE) -> Any:
        """Status and result of an accepted goal."""
        return self.result(handle.get_result_async(), "a goal has no result", timeout)

    def measured_pose(self) -> PoseStamped:
        """A pose of the control frame measured after this call."""
        self.poses = None
        self.wait(lambda: self.poses is not None, "no poses")
        assert self.poses is not None
        return self.poses

    def joints(self, q: Array) -> JointState:
        """A joint target."""
        message = JointState(name=list(JOINT_NAMES), position=[float(x) for x in q])
        message.header.stamp = self.ros.get_clock().now().to_msg()
        return message

    # Time.

    def mark(self) -> int:
        """The fault happens now; return the time [ns, system clock]."""
        self.marked, self.stop_ms = time.time_ns(), None
        return self.marked

    def since_mark(self) -> float:
        """Seconds since :meth:`mark`."""
        return 1e-9 * (time.time_ns() - self.marked)

    def spin(self, duration: float) -> None:
        """Receive what comes within ``duration`` [s]."""
        self.until(lambda: False, duration)

    def until(self, condition: Callable[[], Any], timeout: float = PATIENCE, *, period: float = 0.02) -> bool:
        """Whether ``condition`` came true within ``timeout`` [s]."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                return False
            self._executor.spin_once(timeout_sec=period)
            self._housekeeping()
        return True

    def wait(self, condition: Callable[[], Any], failure: str, timeout: float = PATIENCE) -> None:
        """Wait for ``condition``.

        :raises Failed: it does not come true in time; the message is ``failure``.
        """
        if not self.until(condition, timeout):
            raise Failed(f"{failure} (waited for {timeout:.0f} s)")

    def delay_of(self, condition: Callable[[], Any], timeout: float = 3.0) -> float | None:
        """How long after the fault ``condition`` came true [s], looked at every millisecond; ``None``: never."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                return None
            self._executor.spin_once(timeout_sec=0.001)
        return self.since_mark()

    def standstill(self, timeout: float = 5.0) -> float | None:
        """How long after the fault the arm stood still [s]; ``None``: it moves on."""
        arm = self.arm
        assert arm is not None
        # By the arm's own record: when its client goes away, the simulated arm pauses for some tenths of a second.
        self.until(lambda: self.since_mark() > 0.3 and arm.standstill(self.marked) is not None, timeout)
        self.spin(0.3)  # Whether it stays so.
        stood = arm.standstill(self.marked)
        self.stop_ms = None if stood is None else 1e3 * stood
        return stood

    @property
    def target_age(self) -> float:
        """How old the newest target is that the control process has [s]."""
        assert self.observer is not None
        return float(self.observer.state()["target_age"])

    def steps(self, stamp: int) -> npt.NDArray[Any]:
        """What the arms did since ``stamp`` [ns, system clock], those that are gone as well."""
        steps = np.concatenate([tape.since(0)[0] for tape in self._tapes])
        return steps[steps["stamp"] >= stamp]

    @contextlib.contextmanager
    def streaming(self, *, reach: float = 0.05, clock: Callable[[], int] = time.time_ns) -> Iterator[None]:
        """Inside, this process streams poses at 50 Hz: along y, forth and back by ``reach`` [m] within two seconds.

        :param clock: what the poses are stamped with [ns].
        """
        start = self.measured_pose()
        y, begin = start.pose.position.y, time.monotonic()

        def publish() -> None:
            elapsed = time.monotonic() - begin
            start.pose.position.y = y + 0.5 * reach * (1.0 - np.cos(np.pi * elapsed))
            start.header.stamp = Time(nanoseconds=clock()).to_msg()
            self.pose_targets.publish(start)

        timer = self.ros.create_timer(0.02, publish)
        try:
            yield
        finally:
            self.ros.destroy_timer(timer)

    # Inside.

    def _observe(self) -> None:
        self.fresh_diagnostics()
        address = self.value("control loop", "shared memory")
        if self.observer is None or not self.observer.reads(address):
            if self.observer is not None:
                self.observer.close()
            self.observer = Observer(address)

    def _housekeeping(self) -> None:
        now = time.monotonic()
        if now - self._waited > 0.2:
            self._waited = now
            self._on_wait()
            if self.observer is not None:
                self.observer.fetch()

    def _wait_until_gone(self) -> None:
        """Until the graph has forgotten the node, so that nothing is taken for the next one's."""
        self.until(lambda: not self._get_state.service_is_ready(), 5.0)
        self.diagnostics.clear()

    def _on_diagnostics(self, message: DiagnosticArray, info: Mapping[str, Any]) -> None:
        if info.get("source_timestamp", self._asked) < self._asked:
            return  # It was under way already.
        for status in message.status:
            node, _, name = status.name.partition(": ")
            if node == self.name.lstrip("/"):
                self.diagnostics[name] = status

    def _on_transition(self, message: TransitionEvent) -> None:
        self.transitions.append((time.time_ns(), str(message.goal_state.label)))

    def _on_pose(self, message: PoseStamped) -> None:
        self.poses = message

    def __enter__(self) -> Rig:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in list(self._children):
            self.end(child)
        self.stop_node()
        for helper in (self.proxy, self.arm):
            if helper is not None:
                helper.close()
        if self.observer is not None:
            self.observer.close()
        for action in (self._move, self._follow):
            action.destroy()
        self._executor.shutdown()
        self.ros.destroy_node()
        self._context.try_shutdown()


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


__all__ = ["SWING", "Failed", "Findings", "HelperFailed", "Observer", "Options", "Phase", "Rig", "Skipped", "alive"]
