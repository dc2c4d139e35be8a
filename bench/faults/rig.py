"""A simulated arm that can be made to fail, a network that loses packets, the node, and a client of it.

The faults are written with it. Everything runs in the one thread of the caller; arm, network, node and policies are
separate processes. A fault reuses what the previous one left working, because starting a node takes seconds, and
starts the rest again.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.time import Time
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from aiofranka_ros.control.records import CYCLE_RECORD
from aiofranka_ros.kernels import Array
from aiofranka_ros.model.fr3 import JOINT_NAMES
from aiofranka_ros.simulation.simulated_arm import cpu_for
from aiofranka_ros.testing import Child, Client, CycleRecorder, Failed, NodeProcess
from bench.faults.arm import STANDSTILL, FaultyArm
from bench.faults.proxy import Proxy
from bench.faults.tape import Tape

#: How many policies are started until one of them streams, and how long each of them gets [s].
_POLICIES, _POLICY_PATIENCE = 3, 20.0
#: How long a node may take to answer for the first time: its kernels may still have to be compiled [s].
_START_TIMEOUT = 120.0
#: Between these two the arm swings [rad] (7,): far from every limit, and 0.7 rad apart.
SWING = (
    np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785]),
    np.array([0.7, -0.485, 0.3, -2.056, 0.3, 1.871, 0.085]),
)
#: Velocity of an ordinary swing [rad/s]: it takes two seconds.
_VELOCITY = 0.5
#: Share of its velocity at which a swing counts as under way. A computer that is too slow for the simulated arm slows
#: the whole motion down, so it is far from 1.
_MOVING = 0.5
_rigs = itertools.count()


class Skipped(Exception):
    """A fault that cannot be caused on this computer; the message says why."""


@dataclass(frozen=True)
class Options:
    """The amounts of the long faults.

    :ivar seed: seed of all random choices.
    :ivar transitions: how many transitions the lifecycle storm requests.
    :ivar messages: how many messages the fuzz test sends.
    :ivar minutes: how long the random walk takes.
    :ivar starts: how many starts of a node are interrupted.
    """

    seed: int = 1
    transitions: int = 1000
    messages: int = 100_000
    minutes: float = 2.0
    starts: int = 30


class Findings:
    """The findings about a fault, and whether all of them are as expected."""

    def __init__(self) -> None:
        self._statements: list[tuple[bool, str]] = []

    def note(self, text: str) -> None:
        """Add information that does not decide the outcome."""
        self._statements.append((True, text))

    def check(self, good: Any, text: str) -> bool:
        """Add a finding, which is as expected if ``good`` is true; return that."""
        self._statements.append((bool(good), text))
        return bool(good)

    def within(self, value: float | None, limit: float, text: str) -> None:
        """``value`` [s] must be known and at most ``limit``."""
        said = "never" if value is None else f"after {1e3 * value:.0f} ms"
        self.check(value is not None and value <= limit, f"{text} {said} (at most {1e3 * limit:.0f})")

    @property
    def passed(self) -> bool:
        """Whether there are findings, and all are as expected."""
        return bool(self._statements) and all(good for good, _ in self._statements)

    @property
    def text(self) -> str:
        """All findings; a cross marks those that are not as expected."""
        return "; ".join(text if good else f"✗ {text}" for good, text in self._statements)


class Rig(Client):
    """A client of the node, and the processes around it. At its end, none of its processes is left.

    :param folder: for logs.
    :param on_wait: called several times a second during any wait.
    """

    def __init__(
        self, folder: Path, options: Options | None = None, on_wait: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__("/aiofranka", on_wait=self._housekeeping)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.options = options or Options()
        #: Reports how far a long fault is, from 0 to 1; the caller may replace it.
        self.progress: Callable[[float], None] = lambda share: None
        self._on_pause = on_wait
        self._waited = 0.0
        net = f"127.{1 + os.getpid() % 200}.{os.getpid() // 200 % 200}"
        number = 4 * (next(_rigs) % 60)
        # Of the same parity as the arm's default: two rigs, or a rig and a demo, may use different processors.
        self._arm_host, self._proxy_host = f"{net}.{number + 1}", f"{net}.{number + 2}"
        #: Loopback address for a hand without an arm.
        self.hand_host = f"{net}.{number + 3}"
        self._arm: FaultyArm | None = None
        self._tapes: list[Tape] = []
        self._proxy: Proxy | None = None
        self._observer: CycleRecorder | None = None
        self._node: NodeProcess | None = None
        self._parameters: dict[str, Any] = {}
        self._log = folder / "node.log"
        self._log.write_bytes(b"")  # Without the nodes of an earlier run.
        #: The folder of what the nodes record.
        self.recordings = folder / "recordings"
        self._policies: list[Child] = []
        #: Oddities that the fault did not cause; the caller clears the list.
        self.remarks: list[str] = []
        #: When the fault happened [ns, system clock]; set by :meth:`mark`.
        self.marked = 0
        #: Time from the fault to standstill [ms]; ``None`` if it was not measured, or if the arm keeps moving.
        self.stop_ms: float | None = None
        #: Draws the fault on a figure, if not torques and velocities show it best; set by the fault.
        self.draw: Callable[[Any], None] | None = None
        self._release = self.node.create_client(Trigger, f"{self.name}/release")

    # Its processes.

    @property
    def arm(self) -> FaultyArm:
        """The simulated arm."""
        assert self._arm is not None
        return self._arm

    @property
    def proxy(self) -> Proxy:
        """The network between node and arm."""
        assert self._proxy is not None
        return self._proxy

    @property
    def observer(self) -> CycleRecorder:
        """The recorder of the control process that was active last."""
        assert self._observer is not None
        return self._observer

    def take(self) -> npt.NDArray[Any]:
        """The control cycles since the last call; empty before the arm was first active."""
        return np.zeros(0, CYCLE_RECORD) if self._observer is None else self._observer.take()

    def ready(
        self,
        *,
        burdened: bool = False,
        prepare: Callable[[], None] | None = None,
        options: Sequence[str] = (),
        **parameters: Any,
    ) -> None:
        """Ensure that a node with ``parameters`` is active and that its arm stands still.

        :param burdened: run the node of :mod:`bench.faults.node`, with ``options``.
        :param prepare: called in the node's process before it begins; such a node is not used again.
        """
        key = {"burdened": burdened, "prepare": prepare, "options": options, **parameters}
        self.start_arm()
        if not self.node_alive or key != self._parameters:
            self.stop_node()
        if self._node is None:
            self.start_node(**key)
            self._parameters = key
        self.release()
        self.activate()
        self.settle()

    def release(self) -> None:
        """Release the arm if a client holds it."""
        if self._release.service_is_ready():
            self.call(self._release, Trigger.Request())

    def start_arm(self) -> None:
        """Start the arm and its network unless they run, and undo what faults did to them."""
        if self._arm is None or self.arm.process.poll() is not None:
            self._arm = FaultyArm(self._arm_host, self.folder)
            self._tapes.append(self.arm.tape)
        else:
            self.arm.let_go()
        if self._proxy is None or self.proxy.process.poll() is not None:
            self._proxy = Proxy(self._proxy_host, self._arm_host, self.folder)
        self.proxy.heal()

    def start_node(
        self,
        *,
        burdened: bool = False,
        prepare: Callable[[], None] | None = None,
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        **parameters: Any,
    ) -> None:
        """Start a node and wait until it answers; its state is then unconfigured."""
        self.statuses.clear()
        child = {"append": True, "env": env, "preexec_fn": prepare}
        module = "bench.faults.node" if burdened else ""
        defaults = {
            "robot_ip": self._proxy_host,
            "realtime_cpu": cpu_for(self._arm_host),
            "diagnostics_rate": 20.0,
            "discovery_time": 0.0,
            "recording_folder": str(self.recordings),
        }
        self._node = NodeProcess(
            self._log, "", module=module, options=options, child=child, **{**defaults, **parameters}
        )
        self.wait(lambda: self.state_or_none() == "unconfigured", "the node does not answer", _START_TIMEOUT)

    def stop_node(self) -> int | None:
        """End the node; return its exit status, or ``None`` if there was none."""
        node, self._node = self._node, None
        self._parameters = {}
        if node is None:
            return None
        node.process.send_signal(signal.SIGCONT)
        status = node.end()
        # Wait until the graph has forgotten the node, so that the next one does not get its last messages.
        self.spin_until(lambda: not self._get_state.service_is_ready(), 5.0)
        self.statuses.clear()
        return status

    def kill_node(self) -> None:
        """Kill the node."""
        assert self._node is not None
        self._node.kill()
        self._node, self._parameters = None, {}

    def start_policy(self, *options: str, module: str = "bench.faults.policy", begun: str = "streaming") -> Child:
        """Start a policy, or another client, and wait until it streams, or says ``begun``.

        If policies are killed often, Fast DDS sometimes does not connect a new one for minutes
        (https://github.com/eProsima/Fast-DDS/issues/5469). That is not the fault under test, so the rig then starts
        another policy, and the findings mention it.

        :raises Failed: no policy streams.
        """
        for _ in range(_POLICIES):
            policy = Child(["-m", module, "--robot", self.name, *options], log=self.folder / "policy.log")
            self._policies.append(policy)
            if self.spin_until(lambda policy=policy: begun in policy.log, _POLICY_PATIENCE):
                return policy
            self.remarks.append(f"DDS did not connect a new policy within {_POLICY_PATIENCE:.0f} s")
            policy.kill()
        raise Failed("no policy streams")

    @property
    def node_pid(self) -> int:
        """Process id of the node."""
        assert self._node is not None
        return self._node.process.pid

    @property
    def node_alive(self) -> bool:
        """Whether the node's process runs."""
        return self._node is not None and self._node.process.poll() is None

    @property
    def control_pid(self) -> int:
        """Process id of the control process."""
        return int(self.value("control loop", "control process"))

    @property
    def log(self) -> str:
        """All output of all nodes so far."""
        return self._log.read_text(errors="replace")

    def activate(self) -> None:
        """Bring the node from any state to active.

        :raises Failed: that is not possible.
        """
        if self.state == "unconfigured" and not self.change("configure"):
            raise Failed(f"the node could not be configured: {self.last_error}")
        if self.state == "inactive" and not self.change("activate"):
            raise Failed(f"the node could not be activated: {self.last_error}")
        self.wait(lambda: self.value("control loop", "phase") == "active", "the arm is not active")
        self.refresh()
        address = self.value("control loop", "shared memory")
        if self._observer is None or not self._observer.reads(address):
            if self._observer is not None:
                self._observer.close()
            self._observer = CycleRecorder(address)

    @property
    def last_error(self) -> str:
        """The last error in the diagnostics."""
        return self.value("robot", "last error") or "(no error in the diagnostics)"

    # Motion.

    def settle(self) -> None:
        """Wait until the arm stands still."""
        self.wait(lambda: self.arm_speed() < STANDSTILL, "the arm does not stop")

    def arm_speed(self) -> float:
        """Largest joint velocity [rad/s], from the arm's own record."""
        return float(np.abs(self._newest("dq")).max())

    def arm_q(self) -> Array:
        """Joint positions [rad] (7,), from the arm's own record."""
        return self._newest("q").copy()

    def _newest(self, field: str) -> Array:
        tape = self.arm.tape
        return tape.fields[field][(tape.count - 1) % len(tape.fields[field])]

    def swing(self, velocity: float = _VELOCITY) -> Any:
        """Start a move to the far end of :data:`SWING` and wait until the arm moves; return its goal handle."""
        q = self.arm_q()
        goal = max(SWING, key=lambda end: float(np.abs(end - q).max()))
        handle = self.move(goal, velocity)
        if not handle.accepted:
            raise Failed("the node rejected an ordinary move")
        self.wait(lambda: self.arm_speed() > _MOVING * velocity, "the arm does not move")
        return handle

    def move(self, goal: Array, velocity: float = 0.0) -> Any:
        """Send a goal of ``~/move``; return its handle.

        :param velocity: [rad/s]; 0: the node's default.
        """
        return self.send_goal(goal, velocities=[velocity] * 7 if velocity else ())

    def joints(self, q: Array) -> JointState:
        """A joint target."""
        message = JointState(name=list(JOINT_NAMES), position=[float(x) for x in q])
        message.header.stamp = self.node.get_clock().now().to_msg()
        return message

    # Time.

    def mark(self) -> int:
        """Record that the fault happens now; return the time [ns, system clock]."""
        self.marked, self.stop_ms = time.time_ns(), None
        return self.marked

    def since_mark(self) -> float:
        """Seconds since :meth:`mark`."""
        return 1e-9 * (time.time_ns() - self.marked)

    def delay_of(self, condition: Callable[[], Any], timeout: float = 3.0) -> float | None:
        """How long after the fault ``condition`` came true [s], checked every millisecond; ``None``: never."""
        return self.since_mark() if self.spin_until(condition, timeout, period=0.001) else None

    def standstill(self, timeout: float = 5.0) -> float | None:
        """How long after the fault the arm stood still [s]; ``None``: it still moves."""
        arm = self.arm
        # From the arm's own record: when its client disconnects, the simulated arm pauses for some tenths of a second.
        self.spin_until(lambda: self.since_mark() > 0.3 and arm.standstill(self.marked) is not None, timeout)
        self.spin_for(0.3)  # Make sure that it stays still.
        stood = arm.standstill(self.marked)
        self.stop_ms = None if stood is None else 1e3 * stood
        return stood

    @property
    def last_state_is_inactive(self) -> bool:
        """Whether the node has noticed that the arm is not active any more, if it answers."""
        return self.value("robot", "last error") != "" and self.state_or_none() in ("inactive", "unconfigured")

    @property
    def target_age(self) -> float:
        """Age of the newest target in the control process [s]."""
        return float(self.observer.state()["target_age"])

    def steps(self, stamp: int) -> npt.NDArray[Any]:
        """The recorded steps since ``stamp`` [ns, system clock], of arms that have ended, too."""
        steps = np.concatenate([tape.since(0)[0] for tape in self._tapes])
        return steps[steps["stamp"] >= stamp]

    @contextlib.contextmanager
    def streaming(self, *, reach: float = 0.05, clock: Callable[[], int] = time.time_ns) -> Iterator[None]:
        """Inside this context, the rig streams poses at 50 Hz: along y, by ``reach`` [m] and back within two seconds.

        :param clock: the source of their stamps [ns].
        """
        start = self.pose
        y, begin = start.pose.position.y, time.monotonic()

        def publish() -> None:
            elapsed = time.monotonic() - begin
            start.pose.position.y = y + 0.5 * reach * (1.0 - np.cos(np.pi * elapsed))
            start.header.stamp = Time(nanoseconds=clock()).to_msg()
            self.publishers["ee_desired"].publish(start)

        timer = self.node.create_timer(0.02, publish)
        try:
            yield
        finally:
            self.node.destroy_timer(timer)

    # Inside.

    def _housekeeping(self) -> None:
        now = time.monotonic()
        if now - self._waited > 0.2:
            self._waited = now
            self._on_pause()
            if self._observer is not None:
                self._observer.fetch()

    def __exit__(self, *error: object) -> None:
        self._on_pause = lambda: None  # It may raise, but this must not be interrupted.
        for policy in self._policies:
            policy.kill()
        self.stop_node()
        for part in (self._proxy, self._arm, self._observer):
            if part is not None:
                part.close()
        self.close()
