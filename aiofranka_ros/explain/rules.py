"""The verdict: rules over the evidence, in the order in which they are tried; the first one that holds decides.

Used by :mod:`aiofranka_ros.explain`. A rule is data: when it holds, what it says, and what to try. ``{e.name}`` in its
texts is the :class:`~aiofranka_ros.explain.evidence.Evidence`, ``{late}`` the sentence of the rule of :data:`LATE` that
holds, and ``{words}`` libfranka's errors in plain words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiofranka_ros.explain.evidence import GUIDING, USER_STOPPED, Evidence
from aiofranka_ros.explain.names import DOCTOR, MEANINGS

#: What counts as most of a gap.
_MOST = 0.5
#: A robot that stopped for lack of answers has missed about this many [1], [ms].
_MISSED = 15


@dataclass(frozen=True)
class Rule:
    """One conclusion."""

    name: str
    holds: Callable[[Evidence], bool]
    says: str
    tries: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What stopped the arm."""

    rule: str  #: name of the rule that decided
    sentence: str  #: the first line
    tries: tuple[str, ...]  #: what to do, the most promising first


def _names(*names: str) -> Callable[[Evidence], bool]:
    return lambda e: any(name in e.errors for name in names)


def _contains(part: str) -> Callable[[Evidence], bool]:
    return lambda e: any(part in name for name in e.errors)


_FEWER = "run fewer programs on this computer{busy}"
_NICE = "let the control process run in real time: " + DOCTOR
_CABLE = "connect the robot directly to this computer, without a switch and without Wi-Fi, and check the cable"
_ACTIVATE = "activate again: the arm holds where it is"

#: Who was late, if the robot and this computer missed each other. All of them say what happened to the answers.
LATE: Sequence[Rule] = (
    Rule(
        "control process suspended",
        lambda e: _suspended(e),
        "a signal or a debugger had stopped the control process for {e.gap_ms:.0f} ms",
        ("find out who sends SIGSTOP to the processes of this package, or debugs them",),
    ),
    Rule(
        "computer stood still",
        lambda e: e.gaps_overlap and e.gap_ms >= _MISSED and e.control_waited_ms < _MOST * e.gap_ms,
        "the whole computer stood still for {e.gap_ms:.0f} ms: {e.owner} was silent at the same time",
        ("switch off power saving, suspend and virtual machines on this computer: " + DOCTOR,),
    ),
    Rule(
        "processors taken",
        lambda e: e.missing_ms > 1.5 and e.control_waited_ms >= _MOST * e.missing_ms,
        "other programs took the processor: the control process waited for one for {e.control_waited_ms:.0f} ms",
        (_NICE, _FEWER),
    ),
    Rule(
        "answers computed late",
        lambda e: e.late_answers >= 1 and e.unanswered + e.lost > 0,
        "{e.late_answers} answers left too late, up to {e.response[2]:.0f} us after their state: the control process "
        "was interrupted while it computed",
        (_NICE, _FEWER),
    ),
    Rule(
        "states lost",
        lambda e: e.gap_ms >= _MISSED or (e.gap_ms > 1.5 and e.unanswered < _MISSED),
        "no state of the robot arrived for {e.gap_ms:.0f} ms: packets were lost or late on the way from the robot to "
        "this computer",
        (_CABLE, DOCTOR),
    ),
    Rule(
        "answers lost",
        lambda e: e.unanswered > 1,
        "{e.unanswered} answers in a row left this computer in time, but did not reach the robot: packets were lost or "
        "late on the way to the robot",
        (_CABLE, DOCTOR),
    ),
    Rule("unknown", lambda e: True, "the recording does not show which packets were lost or late", (_CABLE, DOCTOR)),
)

RULES: Sequence[Rule] = (
    # The owner of the arm, and the process that controls it.
    Rule(
        "control process killed",
        lambda e: e.trigger == "control process died" and e.signal_name != "",
        "The control process was killed ({e.signal_name}): the arm was left without torques, and the robot stopped it.",
        (
            "find out who killed it: a person, a script, or the kernel because memory ran out (dmesg | grep -i oom)",
            _ACTIVATE,
        ),
    ),
    Rule(
        "control process suspended",
        lambda e: e.trigger == "control process died" and e.exit_code is None and _suspended(e),
        "The control process was stopped by a signal or a debugger, so the robot got no torques: {e.message}.",
        ("find out who sends SIGSTOP to the processes of this package, or debugs them", _ACTIVATE),
    ),
    Rule(
        "control process hung",
        lambda e: e.trigger == "control process died" and e.exit_code is None,
        "The control process did not answer any more: {e.message}.",
        ("run fewer programs on this computer{busy}", "report it, with this recording and the log", _ACTIVATE),
    ),
    Rule(
        "control process ended",
        lambda e: e.trigger == "control process died",
        "The control process ended by itself, which it never should: {e.message}.",
        ("report it, with this recording and the log", _ACTIVATE),
    ),
    Rule(
        "user stop",
        lambda e: e.trigger == "robot stopped" and e.robot_mode == USER_STOPPED,
        "A person pressed the user stop.",
        ("release the user stop, then activate again",),
    ),
    Rule(
        "guided",
        lambda e: e.trigger == "robot stopped" and e.robot_mode == GUIDING,
        "A person took the arm by hand: its guiding buttons were pressed.",
        ("let go of the buttons, then activate again",),
    ),
    Rule(
        "owner starved",
        lambda e: not e.errors and e.silent_holds > 0 and e.owner_waited_ms > _MOST * e.owner_gap_ms,
        "Other programs kept {e.owner} from a processor for {e.owner_waited_ms:.0f} ms, so it sent no heartbeat: the "
        "control process stopped the arm smoothly.",
        (_FEWER, "raise heartbeat_timeout"),
    ),
    Rule(
        "owner silent",
        lambda e: not e.errors and e.silent_holds > 0,
        "{owner} was stopped or hung for {e.owner_gap_ms:.0f} ms and sent no heartbeat: the control process stopped "
        "the arm smoothly.",
        (
            "find out what stopped it: a signal (SIGSTOP, a debugger), or code that blocks its thread",
            "a program that may block for long can raise heartbeat_timeout",
            _ACTIVATE,
        ),
    ),
    # What the robot detected.
    Rule(
        "packets",
        _names("communication_constraints_violation"),
        "The robot got no answers for too long, because {late}.",
    ),
    Rule(
        "collision",
        lambda e: _contains("reflex")(e) and e.push.share >= 0.8,
        "A collision: something pushed the arm harder than allowed ({e.push}).",
        (
            "remove what was in the way, then activate again",
            "if the contact is wanted, raise collision_torque_thresholds and collision_force_thresholds",
        ),
    ),
    Rule(
        "collision",
        _contains("reflex"),
        "A collision, or a wrong load: the robot measured an external force beyond its threshold ({words}).",
        (
            "remove what was in the way, then activate again",
            "weigh the load (python3 -m aiofranka_ros.ctl.identify_payload): a wrong one looks like a push",
            "if the contact is wanted, raise collision_torque_thresholds and collision_force_thresholds",
        ),
    ),
    Rule(
        "velocity by a push",
        lambda e: _names("joint_velocity_violation", "cartesian_velocity_violation")(e) and bool(e) and e.pushed,
        "Too fast (velocity violation): {e.velocity}. It was not asked to be that fast: something pushed or pulled it.",
        ("remove what pushed the arm", "if it was the arm's own load, check its mass in Desk"),
    ),
    Rule(
        "velocity",
        lambda e: _contains("velocity")(e) and _motion_free(e),
        "Too fast (velocity violation): {e.velocity}.",
        (
            "send slower and smoother targets, or lower max_linear_velocity, max_angular_velocity, max_joint_velocity",
            "keep away from where a joint's range ends: the robot allows less there",
        ),
    ),
    Rule(
        "discontinuity sent",
        lambda e: _names("controller_torque_discontinuity")(e) and e.torque_rate.share > 1.0,
        "A torque discontinuity: the commanded torque jumped ({e.torque_rate}).",
        ("lower torque_diff_limit or the gains",),
    ),
    Rule(
        "discontinuity after losses",
        lambda e: _names("controller_torque_discontinuity")(e) and e.unanswered + int(e.lost) > 1,
        "A torque discontinuity as the robot saw it, because {late}.",
    ),
    Rule(
        "discontinuity on the way",
        _names("controller_torque_discontinuity"),
        "A torque discontinuity that was not sent: the torques that left changed by {e.torque_rate.percent:.0f} % of "
        "what is allowed at most, so a command was altered or lost on its way to the robot.",
        (_CABLE, "look for another program that sends to this robot", DOCTOR),
    ),
    Rule(
        "self-collision",
        _names("self_collision_avoidance_violation"),
        "A self-collision: the arm came too close to itself{request}.",
        (
            "activate, and move away with a slow ~/move; or move the arm away by hand (Desk, guiding)",
            "choose goals and paths on which the arm folds less",
        ),
    ),
    Rule(
        "end of a range",
        lambda e: _names("joint_position_limits_violation")(e) and bool(e),
        "A joint came to the end of its range: {e.position.what}, {e.room:.3f} rad before it.",
        (
            "leave the limit by hand (Desk, guiding), or activate and leave it with a slow ~/move",
            "set joint_lower and joint_upper further inside",
        ),
    ),
    Rule("other errors", lambda e: bool(e.errors), "The robot stopped by itself: {words}."),
    # Without an error of the robot.
    Rule(
        "connection lost",
        lambda e: e.trigger == "connection lost" or (e.trigger == "robot stopped" and e.gap_ms > 500.0),
        "The robot was lost: nothing came from it for {e.gap_ms:.0f} ms. Cable, switch, power, or its own restart.",
        ("check that the robot is on, and the cable; " + DOCTOR, _ACTIVATE),
    ),
    Rule(
        "cycles lost",
        lambda e: e.trigger == "cycles lost" and e.lost > 0,
        "The arm did not stop, but {e.lost} cycles were lost, because {late}.",
    ),
    Rule(
        "asked",
        lambda e: e.trigger == "asked" and e.lost > 0,
        "Nothing stopped the arm: recorded on request. {e.lost} cycles were lost, because {late}.",
    ),
    Rule(
        "asked", lambda e: e.trigger == "asked", "Nothing stopped the arm: recorded on request, and no cycle was lost."
    ),
    Rule("stopped", lambda e: True, "The arm stopped: {e.message}.", (_ACTIVATE,)),
)


def _suspended(e: Evidence) -> bool:
    """Whether the control process was seen to be stopped by a signal, or by a debugger."""
    return "T" in e.control_code or "t" in e.control_code


def _motion_free(e: Evidence) -> bool:
    """Whether the error is not one of libfranka's own motion generators."""
    return bool(e) and not any("motion_generator" in name for name in e.errors)


def judge(evidence: Evidence) -> Verdict:
    """The verdict about a recording."""
    rule = next(rule for rule in RULES if rule.holds(evidence))
    late = next(one for one in LATE if one.holds(evidence))
    words = "; ".join(f"{MEANINGS[name].words} ({name})" if name in MEANINGS else name for name in evidence.errors)
    request = evidence.last_request
    details = {
        "e": evidence,
        "late": late.says.format(e=evidence),
        "words": words,
        "owner": evidence.owner[0].upper() + evidence.owner[1:],
        "request": f", on the way of {request['message']}" if request is not None and evidence.moving else "",
        "busy": f": {evidence.busy}" if evidence.busy else "",
        "address": evidence.summary.get("address", "ADDRESS"),
    }
    uses_late = "{late}" in rule.says
    own = late.tries if uses_late else rule.tries
    if not own:
        own = tuple(text for name in evidence.errors if name in MEANINGS for text in MEANINGS[name].tries)
    tries = tuple(dict.fromkeys(text.format(**details) for text in own))
    name = f"{rule.name}: {late.name}" if uses_late else rule.name
    return Verdict(name, rule.says.format(**details), tries)
