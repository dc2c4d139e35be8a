"""What was found about a stream, in words, and what to set.

Pure functions, called by :mod:`aiofranka_ros.streams.__main__` after the watch. The words and the advice are those of
``docs/policies.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aiofranka_ros.control.law.stream import SHORTEST_LEAD
from aiofranka_ros.streams.analysis import DENSE, Analysis, Kind
from aiofranka_ros.streams.chunks import ChunkFigures
from aiofranka_ros.streams.recording import Quantity
from aiofranka_ros.streams.response import Response

#: Larger differences between stamps and arrivals are from another kind of clock, not from one that is set wrong [s].
_ANOTHER_CLOCK = 86400.0
#: Noise that is worth a filter, as a share of what is near: 0.3 mm, 0.75 mrad.
_MUCH_NOISE = 0.015
#: Speeds outside of these shares of the meant one, and longer ways back [m] or [rad], are not smooth.
_SMOOTH, _BACK = (0.7, 1.3), 1e-3
#: An arm that follows is less late, whatever the stream [s].
_NOT_MET = 1.1
#: Velocities of the reference: the parameters for each part of a step, and their largest values, all in SI units.
_LARGEST_VELOCITY = {"max_linear_velocity": 3.0, "max_angular_velocity": 2.5}
_SYNCHRONISE = "synchronise the clocks of the computers (chrony, PTP), or leave the stamps empty"
#: Largest values of the timeouts [s].
_LONGEST_TIMEOUT = {"torque_timeout": 1.0, "velocity_timeout": 2.0}
#: The longest gap that extrapolation can usefully bridge [s], and by which share a gap must be longer than what is set.
_LONGEST_BRIDGE, _MUCH_LONGER = 0.4, 1.3


@dataclass(frozen=True)
class Finding:
    """Something that the reader should know.

    :ivar text: what it is, in a sentence.
    :ivar remedy: what to do about it; empty: nothing has to be done.
    :ivar settings: parameters that would help, and their values.
    :ivar serious: whether targets are refused, or the arm moves badly.
    """

    text: str
    remedy: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    serious: bool = False


def describe(found: Analysis) -> str:
    """Which kind of stream it is, in a line."""
    rhythm, gaps, kind = found.rhythm, found.gaps, found.kind
    if kind is Kind.NOTHING:
        return kind.value
    policy = f"{1.0 / rhythm.period:.3g} Hz" if rhythm.period > 0.0 else ""
    repeated = f", each target sent {rhythm.repeats:.2g} times" if rhythm.repeats > 1.15 else ""
    if kind is Kind.RESTING:
        return f"{kind.value}: {rhythm.rate:.3g} Hz, but nothing moves"
    if kind is Kind.SINGLE:
        return f"{kind.value}: less than one a second"
    if kind is Kind.THINKING:
        return f"{kind.value}: {policy}{repeated}, and {_several(gaps.thought, 'pause')}"
    if kind is Kind.BURST:
        return (
            f"{kind.value}: {policy}, {_several(gaps.held, 'gap')}, and after each up to {gaps.bursts.max()} messages "
            "at once"
        )
    if kind is Kind.AHEAD:
        return f"{kind.value}: {policy}, several at once, up to {_time(-found.stamps.youngest)} before they are due"
    return f"{kind.value}: {policy}{repeated}"


def _several(lengths: Any, what: str) -> str:
    low, high = float(np.min(lengths)), float(np.max(lengths))
    span = _time(high) if high < 1.2 * low + 0.01 else f"{_time(low)} to {_time(high)}"
    return f"{len(lengths)} {what}{'s' if len(lengths) != 1 else ''} of {span}"


def _time(seconds: float) -> str:
    return f"{seconds:.2g} s" if abs(seconds) >= 1.0 else f"{1e3 * seconds:.0f} ms"


def length(value: float, unit: str) -> str:
    """A length or an angle, or a velocity, in a readable unit."""
    if unit.startswith("m") and value < 1.0:
        return f"{1e3 * value:.3g} m{unit}"
    if unit.startswith("rad") and value < 0.1:
        return f"{1e3 * value:.3g} m{unit}"
    return f"{value:.3g} {unit}"


def stream_findings(found: Analysis, response: Response | None, settings: Mapping[str, Any]) -> list[Finding]:
    """What to know about a stream of single targets.

    :param settings: parameters of the node, by name; those that it does not have are left out.
    """
    findings = [*_of_stamps(found, settings)]
    if found.quantity.is_place:
        findings += [*_of_movement(found, settings), *_of_interpolation(found, settings)]
    else:
        findings += _of_timeouts(found, settings)
    refused = any(finding.serious for finding in findings)
    if response is not None and (response.follows or not refused):
        goes_back = found.noisy or found.gaps.outliers > 0 or len(found.gaps.jumps) > 0
        findings += _of_response(response, goes_back=goes_back)
    return findings


def _of_stamps(found: Analysis, settings: Mapping[str, Any]) -> list[Finding]:
    stamps, limit = found.stamps, settings.get("max_target_age", math.inf)
    empty = "leave header.stamp empty, or set it to the time of each target"
    if stamps.given == 0.0:
        return []
    findings = []
    if stamps.given < 1.0:
        findings.append(Finding(f"{100 * (1 - stamps.given):.0f} % of the messages have an empty stamp", empty))
    if stamps.constant:
        return [
            *findings,
            Finding("all stamps are the same, so the targets become too old and are refused", empty, serious=True),
        ]
    if stamps.backwards:
        findings.append(
            Finding(
                f"{stamps.backwards} of the stamps are earlier than one before: these targets are refused as out of "
                "order",
                "publish in the order of the stamps, from one sender",
                serious=True,
            )
        )
    if abs(stamps.age) > _ANOTHER_CLOCK:
        text = "the stamps are from another kind of clock: the targets are refused"
        return [
            *findings,
            Finding(text, "give both sides the same use_sim_time, or leave the stamps empty", serious=True),
        ]
    if stamps.age > limit:
        text = f"the targets arrive {_time(stamps.age)} after their stamps; from {_time(limit)} on they are refused"
        remedy = f"{_SYNCHRONISE}; if the targets really are as old, allow it"
        enough = math.ceil(11.0 * stamps.oldest) / 10.0
        findings.append(Finding(text, remedy, {"max_target_age": enough} if enough <= 10.0 else {}, serious=True))
    elif stamps.oldest > limit:
        text = f"some targets arrive {_time(stamps.oldest)} after their stamps; from {_time(limit)} on they are refused"
        findings.append(Finding(text, "look for what delays them: a busy policy, or the network", serious=True))
    elif -stamps.youngest > limit and found.kind is Kind.AHEAD:
        text = f"targets come {_time(-stamps.youngest)} before they are due; from {_time(limit)} on they are refused"
        enough = math.ceil(-11.0 * stamps.youngest) / 10.0
        remedy = "send them later, or in a chunk; or allow it"
        findings.append(Finding(text, remedy, {"max_target_age": enough} if enough <= 10.0 else {}, serious=True))
    elif -stamps.age > limit:
        text = f"the stamps are {_time(-stamps.age)} in the future; from {_time(limit)} on targets are refused"
        remedy = _SYNCHRONISE
        findings.append(Finding(text, remedy, serious=True))
    elif -stamps.age > SHORTEST_LEAD and found.kind is not Kind.AHEAD:
        text = f"the stamps are {_time(-stamps.age)} in the future, and the arm waits for each target that long"
        remedy = "if that is not meant, synchronise the clocks of the computers, or leave the stamps empty"
        findings.append(Finding(text, remedy))
    return findings


def _of_movement(found: Analysis, settings: Mapping[str, Any]) -> list[Finding]:
    movement, gaps, units = found.movement, found.gaps, found.quantity.units
    findings = []
    if found.noisy:
        shares = [noise / near for noise, near in zip(movement.noise, found.quantity.near, strict=True)]
        worst = int(np.argmax(shares))
        text = f"the targets are noisy: {length(movement.noise[worst], units[worst])} from one to the next"
        filtered = {"interpolation": "interpolate", "reference_bandwidth": 10.0}
        if shares[worst] > _MUCH_NOISE and any(settings.get(name, value) != value for name, value in filtered.items()):
            remedy = "filter them in the policy; or let the arm do it, for some 150 ms more of lag"
            findings.append(Finding(text, remedy, {name: filtered[name] for name in filtered if name in settings}))
        else:
            findings.append(Finding(text))
    if gaps.outliers:
        remedy = "leave such targets out in the policy; the arm starts towards each of them"
        findings.append(Finding(f"{gaps.outliers} targets jump away and back", remedy, serious=True))
    if len(gaps.jumps):
        size = " and ".join(
            length(float(value), unit) for value, unit in zip(gaps.jumps.max(axis=0), units, strict=True)
        )
        text = f"it jumps {len(gaps.jumps)} times, by up to {size}: a stream that resumes elsewhere"
        if settings.get("approach_far_streams", True):
            text += ", which the arm follows within its limits, and approaches slowly after a pause"
        findings.append(Finding(text, "if that is not meant, begin where the arm is (~/ee_pose, joint_states)"))
    names = dict(zip(("max_linear_velocity", "max_angular_velocity"), movement.fastest, strict=False))
    for name, fastest in names.items() if found.quantity is Quantity.POSE and not found.noisy else ():
        limit = settings.get(name, math.inf)
        if fastest > limit:
            unit = "m/s" if name == "max_linear_velocity" else "rad/s"
            text = f"the targets move at up to {fastest:.2g} {unit}, the arm at most at {limit:g}: it lags behind"
            enough = math.ceil(11.0 * fastest) / 10.0
            possible = {name: enough} if enough <= _LARGEST_VELOCITY[name] else {}
            findings.append(
                Finding(text, "send slower targets" + (", or allow it" if possible else ""), possible, serious=True)
            )
    return findings


def _of_interpolation(found: Analysis, settings: Mapping[str, Any]) -> list[Finding]:
    choice, kind, period, findings = settings.get("interpolation"), found.kind, found.rhythm.period, []
    moves = kind not in (Kind.NOTHING, Kind.RESTING, Kind.SINGLE)
    slow = moves and (period > DENSE or kind is Kind.THINKING)
    if choice == "extrapolate" and slow:
        text = (
            "interpolation is extrapolate: the arm runs ahead of such a stream, and overshoots when it stops or turns"
        )
        findings.append(Finding(text, "let the node choose", {"interpolation": "auto"}, serious=True))
    if choice == "interpolate" and moves and not slow and not found.noisy:
        text = f"interpolation is interpolate: the arm is some {_time(period + 0.03)} later than it has to be"
        findings.append(Finding(text, "if the lag matters, let the node choose", {"interpolation": "auto"}))
    if settings.get("smooth_targets") is False and moves:
        text = "smooth_targets is false: the arm gets each target as a step"
        findings.append(Finding(text, "", {"smooth_targets": True}, serious=True))
    time, missing = settings.get("extrapolation_time", math.inf), np.concatenate([found.gaps.lost, found.gaps.held])
    if len(missing) and kind in (Kind.DENSE, Kind.REPEATED, Kind.BURST) and period < DENSE:
        text, longest = _several(missing, "gap"), float(missing.max())
        if longest <= _MUCH_LONGER * time:
            findings.append(Finding(f"{text} without targets, which the arm bridges (extrapolation_time)"))
        else:
            enough = math.ceil(20.0 * longest) / 20.0
            remedy = "look for what delays messages; or let the arm continue for longer, also when the stream ends"
            settings_ = {"extrapolation_time": enough} if enough <= _LONGEST_BRIDGE else {}
            findings.append(
                Finding(
                    f"{text} without targets: after {_time(time)} (extrapolation_time) the arm slows down",
                    remedy,
                    settings_,
                )
            )
    if kind is Kind.BURST and found.stamps.given == 0.0:
        findings.append(
            Finding(
                "the messages come in bursts, and have no stamps",
                "set header.stamp to the time at which each was made: then the arm knows how far they are apart",
            )
        )
    if kind is Kind.SINGLE and found.rhythm.messages > 1:
        text = "the arm goes to each target as fast as its limits allow, at approach_linear_velocity if it is far"
        findings.append(Finding(text, "use ~/move, or send points in between"))
    return findings


def _of_timeouts(found: Analysis, settings: Mapping[str, Any]) -> list[Finding]:
    name = "torque_timeout" if found.quantity is Quantity.TORQUE else "velocity_timeout"
    limit, longest = settings.get(name, math.inf), found.rhythm.longest
    if not longest > limit:
        return []
    text = f"the longest gap between two messages is {_time(longest)}: after {_time(limit)} ({name}) the arm stops"
    enough = math.ceil(15.0 * longest - 1e-6) / 10.0
    return [
        Finding(
            text,
            "send evenly, or wait for longer",
            {name: enough} if enough <= _LONGEST_TIMEOUT[name] else {},
            serious=True,
        )
    ]


def _of_response(response: Response, *, goes_back: bool = False) -> list[Finding]:
    """What the arm does badly.

    :param goes_back: whether the targets themselves go back and forth.
    """
    if not response.follows:
        text = "the arm does not follow these targets"
        return [Finding(text, "python3 -m aiofranka_ros.ctl status says why", serious=True)]
    if response.lag > _NOT_MET:
        text = f"the arm is {_time(response.lag)} behind or more: it has not met its stream yet, or cannot"
        return [Finding(text, "watch again; python3 -m aiofranka_ros.ctl status says what keeps it", serious=True)]
    findings = []
    if response.slowest < _SMOOTH[0] or response.fastest > _SMOOTH[1]:
        text = f"the arm moves unevenly: {response.slowest:.2f} to {response.fastest:.2f} of the meant speed"
        findings.append(Finding(text, serious=True))
    if response.reversal > _BACK and not goes_back:
        findings.append(Finding(f"the arm goes back by up to {length(response.reversal, response.unit)}", serious=True))
    return findings


def describe_chunks(found: ChunkFigures) -> str:
    """How chunks come, in a line."""
    each = f"{found.points:.0f} points {_time(found.step)} apart"
    every = "" if math.isnan(found.period) else f", one every {_time(found.period)}"
    return f"chunks: {found.chunks} of {each}{every}"


def chunk_findings(found: ChunkFigures, response: Response | None, settings: Mapping[str, Any]) -> list[Finding]:
    """What to know about a stream of chunks."""
    findings = []
    frequency = settings.get("chunk_frequency")
    if found.untimed > 0.0 and frequency is not None:
        text = f"the points have no times: they are due 1/{frequency:g} s after one another (chunk_frequency)"
        remedy = "if that is not the rate of your policy, fill in time_from_start, or set chunk_frequency to the rate"
        findings.append(Finding(text, remedy))
    if found.stamped == 0.0:
        text = "the chunks have no stamp: they begin when they arrive, however long they took to compute"
        findings.append(
            Finding(text, "set header.stamp to the time of the observation that the chunk was computed from")
        )
    elif found.age < -SHORTEST_LEAD:
        findings.append(Finding(f"the chunks begin {_time(-found.age)} after they arrive, by their stamps"))
    elif found.age > max(found.length, 0.0):
        text = f"the chunks arrive {_time(found.age)} after their stamps, with all points past, and are refused"
        findings.append(
            Finding(text, "send longer chunks, or synchronise the clocks of the computers (chrony, PTP)", serious=True)
        )
    elif found.past > 0.5:
        text = f"{100 * found.past:.0f} % of the points are past when they arrive, and are left out"
        findings.append(Finding(text, "compute faster, or send longer chunks"))
    if found.starved:
        text = (
            f"{found.starved} times the next chunk came after the last one had ended, by up to {_time(found.starving)}"
        )
        remedy = "begin to compute the next chunk earlier (docs/policies.md), or send longer ones"
        findings.append(Finding(f"{text}: the arm stops in between", remedy, serious=True))
    refused = any(finding.serious for finding in findings)
    if response is not None and (response.follows or not refused):
        findings += _of_response(response)
    return findings


def node_findings(
    modes: Sequence[str], settings: Mapping[str, Any], state: str | None, others: int, publishers: Sequence[str]
) -> list[Finding]:
    """What keeps a topic's targets from the arm.

    :param modes: that use the topic; empty: every one.
    :param state: the node's lifecycle state, if it is known.
    :param others: how many messages came from other publishers than the one that is described.
    """
    findings = []
    if state is not None and state != "active":
        steps = "" if state == "inactive" else "configure, then "
        text = f"the node is {state}: it refuses all targets"
        findings.append(Finding(text, f"python3 -m aiofranka_ros.ctl {steps}activate", serious=True))
    mode = settings.get("mode")
    if modes and mode is not None and mode not in modes:
        findings.append(Finding(f"the mode is {mode}: targets on this topic are refused", "", {"mode": modes[0]}, True))
    if others:
        text = (
            f"{others} messages came from another publisher; one at a time controls the arm ({', '.join(publishers)})"
        )
        findings.append(Finding(text, "end one of them", serious=True))
    return findings
