"""What the nodes can say of themselves on ``/diagnostics`` where not all is well, and what to do about each of it.

Used by the node of the arm (:mod:`aiofranka_ros.node.diagnostics`) and by the gripper's, in their processes; the table
in docs/troubleshooting.md follows from it. In the texts, ``{node}`` is the name of the node that says so; other names
in braces are filled in by whoever says it.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

OK, WARN, ERROR, STALE = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE

#: How long a warning stays after what it warns of, so that people and slow viewers see it [s].
_RECENT = 3.0

_ACTIVATE = "ros2 lifecycle set {node} activate"
_DOCTOR = "ros2 run aiofranka_ros doctor --robot-ip {address}"


@dataclass(frozen=True)
class Condition:
    """One way in which a status is not well.

    :ivar status: the status that says so.
    :ivar level: ``WARN`` where the arm or gripper goes on, ``ERROR`` where it does not, ``STALE`` where nobody knows.
    :ivar message: what is the matter.
    :ivar remedy: what to do about it.
    """

    status: str
    level: bytes
    message: str
    remedy: str


CONDITIONS = {
    "silent": Condition(
        "control loop", STALE, "nothing was heard of the robot for {age:.1f} s", "look at robot and cable; " + _DOCTOR
    ),
    "pushed": Condition(
        "control loop", WARN, "the arm holds: pushed",
        "remove what pushes it, then: ros2 service call {node}/release std_srvs/srv/Trigger; the limits are "
        "max_external_force and max_external_torque",
    ),
    "asked": Condition(
        "control loop", WARN, "the arm holds: asked", "ros2 service call {node}/release std_srvs/srv/Trigger"
    ),
    "node silent": Condition(
        "control loop", WARN, "the arm holds: node silent",
        "fewer processes on this computer, or a larger heartbeat_timeout; a new target ends it",
    ),
    "not finite": Condition(
        "control loop", WARN, "the arm holds: not finite",
        "the control law gives no finite torques: check gains and control frame, then deactivate and activate",
    ),
    "torque stale": Condition(
        "control loop", WARN, "the arm holds: torque stale",
        "publish ~/torque_desired within torque_timeout, or: ros2 param set {node} mode osc",
    ),
    "lost": Condition(
        "control loop", WARN, "robot cycles are lost: {count} lately", "fewer processes on this computer; " + _DOCTOR
    ),
    "slow": Condition(
        "control loop", WARN, "responses are slow: p99 {response} us", "fewer processes on this computer; " + _DOCTOR
    ),
    "not real time": Condition("control loop", WARN, "not in real time: {missing}", _DOCTOR),
    "refused": Condition(
        "targets", WARN, "targets refused lately: {reasons}", "as the reason says, see below; the log quotes the target"
    ),
    "limited": Condition(
        "targets", WARN, "targets limited lately: {count}",
        "begin where ~/ee_pose says; raise max_linear_step, max_angular_step, max_joint_step if the jumps are meant",
    ),
    "rejected": Condition(
        "targets", WARN, "goals rejected lately: {reasons}", "as the reason says, see below; the log has the details"
    ),
    "trouble": Condition("robot", ERROR, "{message}", "as the error says, see below"),
    "user stop": Condition("robot", WARN, "the user stop is pressed", "release it, then: " + _ACTIVATE),
    "reflex": Condition("robot", ERROR, "the robot has stopped by itself", "remove the cause, then: " + _ACTIVATE),
    "no arm": Condition("gripper", WARN, "waiting for the arm: {message}", "ros2 lifecycle set {arm} configure"),
    "no gripper": Condition(
        "gripper", WARN, "not connected: {message}",
        "the node tries again every second; where there is no gripper: gripper:=false",
    ),
    "gripper lost": Condition(
        "gripper", ERROR, "connection lost: {message}",
        "look at the cable and at Desk; the node tries again every second",
    ),
    "goal rejected": Condition("gripper", WARN, "goals rejected lately: {reasons}", "see the node's log"),
}  # fmt: skip

#: What to do where a target or goal was refused, by its reason.
REFUSALS = {
    "not active": _ACTIVATE,
    "another mode": "ros2 param set {node} mode MODE, or publish on the topic of the mode",
    "during a move": "wait until the move or trajectory has ended, or cancel it",
    "another publisher": "one sender at a time: end the other one, or wait until it is silent",
    "held": "ros2 service call {node}/release std_srvs/srv/Trigger",
    "unknown frame": "install tf2_ros, without which only the arm's own frames are known, or give it in fr3_link0",
    "old": "synchronise the clocks (chrony, PTP), same use_sim_time for both, or a larger max_target_age",
    "in the future": "synchronise the clocks (chrony, PTP), same use_sim_time for both, or a larger max_target_age",
    "out of order": "two senders, or one that sends in the wrong order: end one of them",
    "outside the workspace": "stay inside of workspace_lower and workspace_upper",
    "outside the joint limits": "stay inside of joint_lower and joint_upper",
    "not finite": "look at the sender: it publishes what is not a number",
    "not a unit quaternion": "normalise it; the order is x, y, z, w",
    "frame not known at that time": "ros2 run tf2_ros tf2_echo fr3_link0 FRAME; is somebody publishing it?",
    "wrong joints": "name fr3_joint1 to fr3_joint7, each once",
    "wrong size": "give seven values",
}
#: For reasons that have no line above.
OTHER_REFUSALS = "see the node's log"

#: What to do where libfranka says why the robot stopped, by parts of its names; the first that fits. Then: activate.
ROBOT_ERRORS = {
    "communication_constraints_violation": _DOCTOR,
    "torque_discontinuity": "lower the gains, or torque_diff_limit",
    "reflex": "clear the way; raise collision_force_thresholds, collision_torque_thresholds",
    "collision": "move the arm away by hand (Desk, guiding), or activate and leave with a slow ~/move",
    "violation": "slower targets; leave the limit by hand (Desk, guiding), or activate and leave it with a slow ~/move",
}


class Recent:
    """What was counted within the last seconds: what happened once is not gone with the next message.

    :param clock: the time [s].
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._history: deque[tuple[float, Counter[str]]] = deque([(clock(), Counter())])

    def update(self, counts: Counter[str]) -> Counter[str]:
        """How much of ``counts``, which grow, came within the last seconds; where they shrink, they began anew."""
        now = self._clock()
        if self._history[-1][1] - counts:
            self._history = deque([(now, Counter())])
        self._history.append((now, Counter(counts)))
        while len(self._history) > 2 and self._history[1][0] <= now - _RECENT:
            self._history.popleft()
        return counts - self._history[0][1]


def refusal_remedy(reasons: list[str], node: str) -> str:
    """What to do where targets or goals were refused for ``reasons``."""
    remedies = dict.fromkeys(REFUSALS.get(reason, OTHER_REFUSALS).format(node=node) for reason in reasons)
    return "; ".join(remedies)


def robot_error_remedy(names: tuple[str, ...], address: str) -> str:
    """What to do where the robot stopped with libfranka's ``names``, up to activating it again."""
    remedies = [next((ROBOT_ERRORS[part] for part in ROBOT_ERRORS if part in name), "") for name in names]
    return "; ".join(dict.fromkeys(text.format(address=address) for text in remedies if text))


def told(name: str, values: dict[str, Any], *, remedy: str = "", **details: Any) -> DiagnosticStatus:
    """A status that tells of a condition.

    :param name: of the condition.
    :param values: what else the status shows.
    :param remedy: what to do, where there is something better than what the condition says.
    :param details: what its texts have in braces.
    """
    condition = CONDITIONS[name]
    remedy = remedy or condition.remedy.format(**details)
    return status(condition.level, condition.message.format(**details), {"what to do": remedy, **values})


def status(level: bytes, message: str, values: dict[str, Any]) -> DiagnosticStatus:
    """A status, its name and hardware still to be filled in."""
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(level=level, message=message, values=pairs)
