"""The node's status on ``/diagnostics``: the control loop, the targets, the robot.

Used by the node, in its process and its one thread, at ``diagnostics_rate`` and whenever something goes wrong. There
are three statuses, because they are fixed in three places: lost cycles on this computer, refused targets at their
sender, and errors of the robot next to it. :mod:`aiofranka_ros.ros.conditions` lists what can be wrong, and what to do
about it; a status names everything that is.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile

from aiofranka_ros.arm.driver import Driver
from aiofranka_ros.arm.settings import ArmSettings
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.law.approach import NEAR_ANGULAR, NEAR_LINEAR
from aiofranka_ros.control.records import Approach, Hold, Phase, TargetKind, TorqueLimit
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.control.snapshot import distance_text
from aiofranka_ros.errors import (
    COMPILING,
    ArmInUse,
    CommandRefused,
    ConnectionFailed,
    ControlProcessDied,
    ControlStopped,
    NameTaken,
    SimulationError,
)
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.node.chunks import ChunkTopics
from aiofranka_ros.node.owners import OwnerTopic
from aiofranka_ros.node.targets import TargetTopics
from aiofranka_ros.ros.actions import Actions
from aiofranka_ros.ros.conditions import (
    CTL,
    OK,
    Problem,
    Recent,
    limit_remedy,
    problem,
    refusal_remedy,
    robot_error_remedy,
    status,
    summary,
)
from aiofranka_ros.ros.identity import REMEDY, Identity

#: Slower responses than this leave the robot's network too little of the millisecond [s].
_SLOW_RESPONSE = 0.5e-3
#: The robot reports its state in every cycle; if none arrives for this long, the robot or the network has failed [s].
_SILENT = 0.3
#: An approach is stalled if the stream has not become nearer for this long [s], by this share of what counts as near.
_STALLED, _PROGRESS = 3.0, 0.1
#: ``franka::RobotMode``, libfranka ``robot_state.h``.
_ROBOT_MODES = ("other", "idle", "move", "guiding", "reflex", "user stopped", "automatic error recovery")


class Trouble(NamedTuple):
    """The last thing that went wrong, and what to do about it.

    :ivar kind: name of the exception's class, see :mod:`aiofranka_ros.errors`.
    :ivar names: libfranka's names of the errors that stopped the robot, if any.
    """

    message: str
    remedy: str
    kind: str
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, error: BaseException, again: str, address: str) -> Trouble:
        """Describe ``error`` to the user; ``again`` is the command to run once the cause is removed."""
        names = tuple(getattr(error, "errors", ()))
        if isinstance(error, ControlStopped):
            remedy = f"{robot_error_remedy(names, address) or 'remove the cause'}, then: {again}"
        elif isinstance(error, NameTaken):
            remedy = f"{REMEDY}; then: {again}"
        elif isinstance(error, (CommandRefused, TimeoutError)):
            remedy = f"see Desk for the robot's state, then: {again}"
        elif isinstance(error, (ConnectionFailed, ArmInUse, ControlProcessDied, SimulationError)):
            remedy = f"when that is settled: {again}"
        else:
            remedy = "see the log"
        kind = type(error).__name__
        return cls(str(error) or kind, remedy, kind, names)


class Progress:
    """Whether the arm gets nearer to the stream that it approaches."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._approach = 0
        self._nearest, self._since = math.inf, 0.0

    def stalled(self, approach: int, left: Array) -> bool:
        """Whether it has not become nearer for a while.

        :param approach: number of the approach.
        :param left: how far the stream is [m], [rad] (2,).
        """
        # In units of what counts as near, so that position and orientation can be added.
        distance, now = float(left[0]) / NEAR_LINEAR + float(left[1]) / NEAR_ANGULAR, self._clock()
        if approach != self._approach or distance < self._nearest - _PROGRESS:
            self._approach, self._nearest, self._since = approach, distance, now
        return now - self._since > _STALLED


class Diagnosis:
    """The statuses of one node, by its full name, and the history that they need."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._memory: SharedMemory | None = None
        self._position = 0  # In the ring of cycles.
        self._lost, self._refused, self._limited, self._rejected = Recent(), Recent(), Recent(), Recent()
        self._stamp, self._heard = 0, time.monotonic()
        self._progress = Progress()

    def loop(self, client: ControlClient | None, state: Record | None, address: str) -> DiagnosticStatus:
        """Status of the control loop.

        :param client: ``None`` while the node is unconfigured, and then ``state`` is too.
        :param address: of the connected robot.
        """
        if client is None or state is None:
            self._heard = time.monotonic()
            return status(OK, "not configured", {})
        if client.compiling:
            return status(OK, COMPILING, {})
        statistics = self._statistics(client.shared)
        lost = self._lost.update(Counter(cycles=int(state["cycles_lost"])))["cycles"]
        phase, hold = Phase(int(state["phase"])), Hold(int(state["hold"]))
        values = {
            "phase": phase.name.lower(),
            "mode": client.mode.name.lower(),
            "control process": client.pid,
            "shared memory": client.shared.address,
            "cycles": state["cycles"],
            "cycles lost": state["cycles_lost"],
            "longest gap [cycles]": state["longest_gap"],
            "response mean [us]": f"{1e6 * state['response_total'] / max(int(state['cycles']), 1):.1f}",
            "response longest [us]": f"{1e6 * state['response_longest']:.0f}",
            "success rate": f"{state['success_rate']:.3f}",
            "success rate min": f"{state['success_rate_min']:.3f}",
            **{f"torques limited: {limit.name.lower()}": state["limited_torques"][limit] for limit in TorqueLimit},
            "torques not finite": state["not_finite"],
            "holds for lack of heartbeats": state["silent_holds"],
            "hold": _flags(hold),
            "missing for real time": "; ".join(client.missing),
            **statistics,
        }
        details = {"node": self._node, "address": address}
        problems: list[Problem] = []
        if (silence := self._silence(int(state["stamp"]))) > _SILENT:
            problems.append(problem("silent", age=silence, **details))
        if phase is Phase.ACTIVE:
            for flag in (Hold.PUSHED, Hold.ASKED, Hold.NODE_SILENT, Hold.NOT_FINITE, Hold.TORQUE_STALE):
                if hold & flag:
                    problems.append(problem(_flags(flag), **details))
            # A simulated arm does not need real time. A cause of the two that follow.
            if client.missing and not address.startswith("127."):
                missing = ", ".join(text.partition(":")[0] for text in client.missing)
                problems.append(problem("not real time", missing=missing, **details))
            if lost:
                problems.append(problem("lost", count=lost, **details))
            response = int(statistics.get("response p99 [us]", 0))
            if response > 1e6 * _SLOW_RESPONSE:
                problems.append(problem("slow", response=response, **details))
        return summary(problems, phase.name.lower(), values)

    def targets(
        self,
        state: Record | None,
        active: bool,
        *,
        owner: str,
        targets: TargetTopics,
        rejected: Counter[str],
        conflict: str = "",
        chunks: Mapping[str, str] = MappingProxyType({}),
    ) -> DiagnosticStatus:
        """Status of targets and goals.

        :param owner: the client or interface that controls the arm.
        :param rejected: number of goals and trajectories that were rejected, by reason.
        :param conflict: which other node has this node's names, if there is one.
        :param chunks: what there is to say about chunks.
        """
        refused = targets.refused
        values: dict[str, Any] = {"owner": owner, "accepted": targets.accepted, "limited": targets.limited.total()}
        if targets.owners.present:
            values["in control for [s]"] = f"{targets.owners.in_control:.1f}"
        if waiting := targets.owners.waiting:
            values["waiting"] = waiting
        values["refused"] = refused.total()
        if state is not None and active and np.isfinite(state["target_age"]):
            values["age of the newest [s]"] = f"{state['target_age']:.3f}"
        if state is not None and active and state["stream_period"] > 0.0:
            values["stream"] = describe_stream(state)
            if targets.ahead > 0.0:
                values["stamps ahead of this computer's clock [s]"] = f"{targets.ahead:.3f}"
        if state is not None and active and state["target_kind"] != TargetKind.POSITION:
            values["driven by"] = describe_driving(state)
            values["velocities timed out"] = state["velocity_timeouts"]
        values |= chunks
        values |= {f"limited: {limit}": count for limit, count in sorted(targets.limited.items())}
        values |= {f"refused: {reason}": count for reason, count in sorted(refused.items())}
        values |= {f"goal rejected: {reason}": count for reason, count in sorted(rejected.items())}
        # First what is wrong now, causes before their effects, then what was wrong recently.
        problems = [problem("double", message=conflict)] if conflict else []
        if targets.without_priority:
            problems.append(problem("no priority"))
        if targets.blocked:
            problems.append(problem("blocked", message=targets.blocked))
        if state is not None and active and state["approach"] == Approach.APPROACHING:
            left = state["approach_left"]
            name = "out of reach" if self._progress.stalled(int(state["approaches"]), left) else "approaching"
            problems.append(problem(name, left=distance_text(left)))
        recently = {"refused": self._refused.update(refused), "rejected": self._rejected.update(rejected)}
        for name, counts in recently.items():
            if counts:
                remedy = refusal_remedy(sorted(counts), self._node)
                problems.append(problem(name, reasons=", ".join(sorted(counts)), remedy=remedy))
        if limited := sorted(self._limited.update(targets.limited)):
            problems.append(problem("limited", reasons=", ".join(limited), remedy=limit_remedy(limited)))
        return summary(problems, "none refused recently", values)

    def robot(
        self, state: Record | None, *, address: str, versions: dict[str, Any], trouble: Trouble | None
    ) -> DiagnosticStatus:
        """Status of the robot, the versions of libfranka and its protocol, and what went wrong last."""
        values: dict[str, Any] = {"robot_ip": address, **versions}
        problems: list[Problem] = []
        mode = "unknown"
        if state is not None:
            number = int(state["robot_mode"])
            values["robot mode"] = mode = _ROBOT_MODES[number] if 0 <= number < len(_ROBOT_MODES) else str(number)
        if trouble is not None:
            values |= {
                "last error": trouble.message,
                "kind of error": trouble.kind,
                "libfranka errors": " ".join(trouble.names),
            }
            problems.append(problem("trouble", message=trouble.message, remedy=trouble.remedy))
        if mode == "user stopped":
            problems.append(problem("user stop", node=self._node))
        elif mode == "reflex":
            problems.append(problem("reflex", node=self._node))
        return summary(problems, "not connected" if state is None else "connected", values)

    def _statistics(self, memory: SharedMemory) -> dict[str, Any]:
        """Statistics of the control cycles since the last call."""
        if memory is not self._memory:
            self._memory, self._position = memory, 0
        records, self._position, _ = memory.cycles.since(self._position)
        if len(records) == 0:
            return {}
        response = 1e6 * records["response"]
        p50, p99 = np.percentile(response, (50, 99))
        return {
            "response p50 [us]": f"{p50:.0f}",
            "response p99 [us]": f"{p99:.0f}",
            "response max [us]": f"{response.max():.0f}",
            "cycles lost in the last period": int(records["lost"].sum()),
        }

    def _silence(self, stamp: int) -> float:
        """How long the state has not changed [s]."""
        if stamp != self._stamp:
            self._stamp, self._heard = stamp, time.monotonic()
        return time.monotonic() - self._heard


class DiagnosticsTopic:
    """The publisher of ``/diagnostics``, which also keeps the last thing that went wrong."""

    def __init__(
        self,
        node: LifecycleNode,
        driver: Driver,
        settings: ArmSettings,
        targets: TargetTopics,
        chunks: ChunkTopics,
        owner: OwnerTopic,
        actions: Actions,
        identity: Identity,
    ) -> None:
        self._node = node
        self._name = node.get_fully_qualified_name()
        self._driver, self._settings, self._targets, self._chunks = driver, settings, targets, chunks
        self._owner, self._actions, self._identity = owner, actions, identity
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=10))
        self._diagnosis = Diagnosis(self._name)
        #: The last thing that went wrong since the arm was activated.
        self.trouble: Trouble | None = None
        #: Called with the name and the content of every status that is published.
        self.on_status: Callable[[str, DiagnosticStatus], object] = lambda name, status: None

    def report(self, error: BaseException, *, again: str = "activate") -> None:
        """Log and publish what went wrong; ``again`` is the transition to request once the cause is removed."""
        command = f"{CTL} {again} --node {self._name}"
        self.trouble = Trouble.of(error, command, self._settings["robot_ip"])
        self._node.get_logger().error(f"{self.trouble.message} ({self.trouble.remedy})")
        self.publish()  # A client that now finds the arm inactive looks for the reason.

    def publish(self) -> None:
        """Publish all statuses."""
        driver, settings = self._driver, self._settings
        client = driver.client
        state = None if client is None else client.state()
        statuses = {
            "control loop": self._diagnosis.loop(client, state, driver.address),
            "targets": self._diagnosis.targets(
                state,
                driver.active,
                owner=self._owner.present.owner,
                targets=self._targets,
                rejected=self._actions.rejected,
                conflict=self._identity.conflict,
                chunks=self._chunks.status,
            ),
            "robot": self._diagnosis.robot(
                state, address=settings["robot_ip"], versions=driver.versions, trouble=self.trouble
            ),
        }
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        for name, said in statuses.items():
            self.on_status(name, said)
            # With the namespace, because viewers tell statuses apart by their names.
            said.name = f"{self._name.lstrip('/')}{self._identity.suffix}: {name}"
            said.hardware_id = f"{driver.address or settings['robot_ip']} {self._name}"
            message.status.append(said)
        self._publisher.publish(message)


def describe_stream(state: Record) -> str:
    """What kind of stream the targets are, and what is made of it, in a line."""
    period, late = float(state["stream_period"]), float(state["stream_lateness"])
    text = f"{1.0 / period:.0f} Hz, up to {1e3 * late:.0f} ms late, {int(state['repetitions'])} repetitions: "
    if state["interpolating"]:
        return f"{text}interpolated, {1e3 * state['stream_delay']:.0f} ms behind"
    return f"{text}extrapolated"


def describe_driving(state: Record) -> str:
    """What drives the arm, if it is not the kind of target that its mode usually follows."""
    if state["target_kind"] == TargetKind.SERVO:
        return "a stream of short trajectories, as from MoveIt Servo"
    left = float(state["velocity_left"])
    if left == 0.0:
        return "no velocity: the last one has timed out (velocity_timeout), or the arm was held; the arm holds"
    return f"a velocity, for another {left:.2f} s at most"


def _flags(hold: Hold) -> str:
    names = [flag.name.lower().replace("_", " ") for flag in Hold if flag and flag in hold and flag.name]
    return ", ".join(names) or "none"
