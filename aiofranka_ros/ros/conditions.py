"""Everything that the nodes can report as wrong on ``/diagnostics``, and what to do about it.

Used by the arm's node (:mod:`aiofranka_ros.node.diagnostics`) and by the gripper's, in their processes; the tables in
docs/troubleshooting.md are generated from it. In the texts, ``{node}`` is the name of the node that reports; the caller
of :func:`problem` provides all names in braces.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from aiofranka_ros.ros.identity import REMEDY

OK, WARN, ERROR, STALE = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE

#: How long a warning remains after its cause, so that users and slow viewers see it [s].
_RECENT = 3.0

#: The command that looks after a node; with and without the tools of a distribution. Add ``--node NAME``.
CTL = "python3 -m aiofranka_ros.ctl"
_ACTIVATE = CTL + " activate --node {node}"
_RELEASE = CTL + " release --node {node}"
_CLOCKS = "synchronise the clocks (chrony, PTP), use the same use_sim_time for both, or raise max_target_age"
_DOCTOR = "python3 -m aiofranka_ros.doctor --robot-ip {address}"


class Condition(NamedTuple):
    """Something that can be wrong, which a status reports, and what to do about it.

    :ivar level: ``WARN`` if the arm or gripper continues to work, ``ERROR`` if not, ``STALE`` if that is unknown.
    """

    status: str
    level: bytes
    message: str
    remedy: str


CONDITIONS = {
    "silent": Condition(
        "control loop", STALE, "no data from the robot for {age:.1f} s", "check robot and cable; " + _DOCTOR
    ),
    "pushed": Condition(
        "control loop", WARN, "the arm holds: pushed",
        "remove what pushes the arm, then: " + _RELEASE + "; the limits are max_external_force and max_external_torque",
    ),
    "asked": Condition("control loop", WARN, "the arm holds: asked", _RELEASE),
    "node silent": Condition(
        "control loop", WARN, "the arm holds: node silent",
        "run fewer processes on this computer, or raise heartbeat_timeout; a new target ends the hold",
    ),
    "not finite": Condition(
        "control loop", WARN, "the arm holds: not finite",
        "the control law computes torques that are not finite: check gains and control frame, then deactivate and "
        "activate",
    ),
    "torque stale": Condition(
        "control loop", WARN, "the arm holds: torque stale",
        "publish ~/torque_desired within torque_timeout, or: " + CTL + " set mode osc --node {node}",
    ),
    "lost": Condition(
        "control loop", WARN, "robot cycles lost recently: {count}", "run fewer processes on this computer; " + _DOCTOR
    ),
    "slow": Condition(
        "control loop", WARN, "responses are slow: p99 {response} us",
        "run fewer processes on this computer; " + _DOCTOR
    ),
    "not real time": Condition("control loop", WARN, "not in real time: {missing}", _DOCTOR),
    "refused": Condition(
        "targets", WARN, "targets refused recently: {reasons}",
        "depends on the reason, see below; the log has the details"
    ),
    "double": Condition("targets", ERROR, "goals are refused: {message}", REMEDY),
    "approaching": Condition(
        "targets", WARN, "approaching its stream: {left} away",
        "wait, or let streams begin where the arm is (~/ee_pose, joint_states); until it has met its stream, "
        "approach_linear_velocity, approach_angular_velocity, approach_joint_velocity keep it slow",
    ),
    "out of reach": Condition(
        "targets", WARN, "cannot catch up with its stream: {left} away",
        "slow the stream down until the arm has met it, remove what blocks the arm, or raise approach_linear_velocity, "
        "approach_angular_velocity, approach_joint_velocity",
    ),
    "limited": Condition(
        "targets", WARN, "targets limited recently: {reasons}",
        "depends on the limit, see below; the log has the values"
    ),
    "no priority": Condition(
        "targets", WARN,
        "priority_clients has no effect: this ROS distribution does not report who sends a target",
        "use ROS Kilted or later, or ~/hold and ~/release",
    ),
    "blocked": Condition(
        "targets", WARN, "{message}",
        "send targets that the arm can reach, or approach them in another posture: move there with ~/move first"
    ),
    "rejected": Condition(
        "targets", WARN, "goals rejected recently: {reasons}",
        "depends on the reason, see below; the log has the details"
    ),
    "trouble": Condition("robot", ERROR, "{message}", "depends on the error, see below"),
    "user stop": Condition("robot", WARN, "the user stop is pressed", "release it, then: " + _ACTIVATE),
    "reflex": Condition("robot", ERROR, "the robot has stopped with a reflex", "remove the cause, then: " + _ACTIVATE),
    "no arm": Condition("gripper", WARN, "waiting for the arm: {message}", CTL + " configure --node {arm}"),
    "no gripper": Condition(
        "gripper", WARN, "not connected: {message}",
        "the node tries again every second; if there is no gripper: gripper:=false",
    ),
    "gripper lost": Condition(
        "gripper", ERROR, "connection lost: {message}",
        "check the cable and Desk; the node tries again every second",
    ),
    "gripper double": Condition("gripper", ERROR, "goals are refused: {message}", REMEDY),
    "goal rejected": Condition("gripper", WARN, "goals rejected recently: {reasons}", "see the node's log"),
}  # fmt: skip

#: What to do if a target or goal was refused, by the reason.
REFUSALS = {
    "not active": _ACTIVATE,
    "another mode": CTL + " set mode MODE --node {node}, or publish on the topic of the mode",
    "during a move": "wait until the move or trajectory has ended, or cancel it",
    "another publisher": "use one sender at a time: end the other one, or wait until it is silent",
    "overridden": "wait until the priority client has been silent for 0.5 s; its name is in priority_clients",
    "another node": REMEDY,
    "held": _RELEASE,
    "unknown frame": "install tf2_ros, without which only the arm's own frames are known, or use fr3_link0",
    "old": _CLOCKS,
    "in the future": _CLOCKS,
    "out of order": "there are two senders, or one that sends in the wrong order: end one, or correct its order",
    "too late": "send chunks sooner, or with more points: all of them must reach beyond the delay of the policy",
    "stale": "send chunks in the order of the observations that they come from",
    "from the future": "send chunks when they begin, or within max_target_age before; " + _CLOCKS,
    "wrong times": "give each point a later time than the one before, or no point a time",
    "outside the workspace": "stay between workspace_lower and workspace_upper",
    "outside the joint limits": "stay between joint_lower and joint_upper",
    "not finite": "fix the sender: it publishes NaN or infinity",
    "not a unit quaternion": "normalise it; the order is x, y, z, w",
    "frame not known at that time": "publish the frame on /tf or /tf_static, also for the time of the target's stamp",
    "wrong joints": "name fr3_joint1 to fr3_joint7, each once",
    "wrong size": "give seven values",
    "too far away": "plan the trajectory from where the arm is, or move the arm to its first point before",
    "too many points": "use fewer points, or send the trajectory in parts",
    "begins far away": "begin where the arm is (~/ee_pose, joint_states), or: "
    + CTL
    + " set approach_far_streams true --node {node}",
}
#: For all other reasons.
OTHER_REFUSALS = "see the node's log"

_JUMP = "send smaller steps, starting where the arm is; if the jumps are intended, raise {limit}"
_FAST = "send slower targets, or raise {limit}: the arm lags behind targets that are faster"
_BOX = "send targets between workspace_lower and workspace_upper; move a wall only if it is in the wrong place"
_RANGE = "send joint positions between joint_lower and joint_upper, 0.02 rad inside"
#: What to do if a target was limited, by the limit, which is a parameter.
LIMITS = {
    "max_linear_step": _JUMP,
    "max_angular_step": _JUMP,
    "max_joint_step": _JUMP,
    "max_linear_velocity": _FAST,
    "max_angular_velocity": _FAST,
    "max_joint_velocity": _FAST,
    "workspace_lower": _BOX,
    "workspace_upper": _BOX,
    "joint_lower": _RANGE,
    "joint_upper": _RANGE,
}

#: What to do if the robot stopped, by parts of the names of libfranka's errors; the first that fits. Then: activate.
ROBOT_ERRORS = {
    "communication_constraints_violation": _DOCTOR,
    "torque_discontinuity": "lower the gains, or torque_diff_limit",
    "reflex": "remove obstacles; raise collision_force_thresholds, collision_torque_thresholds",
    "collision": "move the arm away by hand (Desk, guiding), or activate and move away with a slow ~/move",
    "position_limits": "leave the limit by hand (Desk, guiding), or activate and leave it with a slow ~/move",
    "velocity": "send slower targets, or lower max_linear_velocity, max_angular_velocity, max_joint_velocity",
    "violation": "send slower targets, or lower the gains; weigh the load (identify_payload)",
}


class Recent:
    """Counts of the last seconds, so that a single event does not vanish with the next message."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._history: deque[tuple[float, Counter[str]]] = deque([(clock(), Counter())])

    def update(self, counts: Counter[str]) -> Counter[str]:
        """The part of ``counts``, which grow, from the last seconds; if they shrink, counting starts again."""
        now = self._clock()
        if self._history[-1][1] - counts:
            self._history = deque([(now, Counter())])
        self._history.append((now, Counter(counts)))
        while len(self._history) > 2 and self._history[1][0] <= now - _RECENT:
            self._history.popleft()
        return counts - self._history[0][1]


def refusal_remedy(reasons: list[str], node: str) -> str:
    """What to do if targets or goals were refused for ``reasons``."""
    remedies = dict.fromkeys(REFUSALS.get(reason, OTHER_REFUSALS).format(node=node) for reason in reasons)
    return "; ".join(remedies)


def limit_remedy(limits: list[str]) -> str:
    """What to do if targets were limited by ``limits``."""
    return "; ".join(dict.fromkeys(LIMITS[limit].format(limit=limit) for limit in limits))


def robot_error_remedy(names: tuple[str, ...], address: str) -> str:
    """What to do if the robot stopped with errors of these ``names``, before activating it again."""
    remedies = [next((ROBOT_ERRORS[part] for part in ROBOT_ERRORS if part in name), "") for name in names]
    return "; ".join(dict.fromkeys(text.format(address=address) for text in remedies if text))


class Problem(NamedTuple):
    """One of :data:`CONDITIONS` that holds now, with what to do about it.

    :ivar level: as in :class:`Condition`.
    """

    level: bytes
    message: str
    remedy: str


def problem(name: str, *, remedy: str = "", **details: Any) -> Problem:
    """One of :data:`CONDITIONS`.

    :param remedy: what to do, instead of the condition's own remedy.
    :param details: values for the names in braces.
    """
    found = CONDITIONS[name]
    return Problem(found.level, found.message.format(**details), remedy or found.remedy.format(**details))


def summary(problems: list[Problem], otherwise: str, values: dict[str, Any]) -> DiagnosticStatus:
    """A status that names all ``problems``, with other ``values``: the gravest first, then in their order.

    :param otherwise: what it says without a problem.
    """
    if not problems:
        return status(OK, otherwise, values)
    problems = sorted(problems, key=lambda problem: problem.level, reverse=True)  # Keeps the order of equals.
    remedy = "; ".join(dict.fromkeys(problem.remedy for problem in problems))
    message = "; ".join(problem.message for problem in problems)
    return status(problems[0].level, message, {"what to do": remedy, **values})


def status(level: bytes, message: str, values: dict[str, Any]) -> DiagnosticStatus:
    """A status without its name and hardware."""
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(level=level, message=message, values=pairs)
