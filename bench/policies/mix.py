"""The adversarial mix of chunks, played by this project and by others to the same simulated arm.

Called by :mod:`bench.policies.__main__` in its thread. This project plays all cases, the others
some of them, from the first to the last because a shared computer has bad minutes, and all are compared there.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aiofranka_ros.processes import StopRequest
from bench.faults.arm import FaultyArm
from bench.policies import chunks
from bench.policies.arm_level import ArmPlayer, Reports
from bench.policies.chunks import Case
from bench.policies.franka_rs import FrankaRs
from bench.policies.rules import RULES
from bench.policies.seams import Played, combined, figures

OURS = "this project"
FRANKA_RS = ("follow", "move_to")
#: How long a case is [s].
_DURATION = 10.0
#: Every so many cases of this project, the others play one; at least so many.
_SHARE, _FEWEST = 10, 3
#: Addresses of the arms; no other simulated arm of this project uses them by default.
_HOST, _OTHER_HOST = "127.0.0.92", "127.0.0.93"
#: Requirements: of the best other player's jerk and torque rate at seams, error of the reported delay [s], median time
#: to the first torque [s], and how much longer than with single targets a cycle may take.
_SHARE_OF_BEST, _DELAY, _TO_TORQUE, _RESPONSE = 0.7, 1e-3, 2e-3, 1.05
_COMPARED = ("jerk [rad/s³]", "peak jerk [rad/s³]", "torque rate [Nm/s]", "peak torque rate [Nm/s]")
_ERROR = "rms error [mrad]"

Figures = Mapping[str, float]


@dataclass
class Found:
    """What was found.

    :ivar cases: all cases.
    :ivar figures: by player and number of the case; of the others only some.
    :ivar example: what each player did in the first case.
    :ivar remarks: on the other players: which is missing, or ended cases early, and why.
    """

    cases: Sequence[Case]
    figures: dict[str, dict[int, Figures]] = field(default_factory=dict)
    example: dict[str, Played] = field(default_factory=dict)
    reports: Reports = field(default_factory=Reports)
    remarks: list[str] = field(default_factory=list)

    def add(self, player: str, number: int, played: Played) -> None:
        """The case of a number."""
        self.figures.setdefault(player, {})[number] = figures(played, self.cases[number])
        self.example.setdefault(player, played)

    @property
    def common(self) -> list[int]:
        """Numbers of the cases that all players played."""
        return sorted(set.intersection(*map(set, self.figures.values())))

    def table(self) -> dict[str, Figures]:
        """Of each player over the cases that all played."""
        return {player: combined([found[number] for number in self.common]) for player, found in self.figures.items()}


def players() -> int:
    """How many others there are."""
    return len(RULES) + len(FRANKA_RS)


def selection(minutes: float) -> tuple[int, range]:
    """How many cases this project plays in ``minutes``, and the numbers of those that the others play."""
    own = max(_FEWEST, round(60.0 * minutes / _DURATION))
    return own, range(0, own, max(1, own // max(_FEWEST, own // _SHARE)))


def run(output: Path, minutes: float, stop: StopRequest, advance: Callable[[str], None]) -> Found:
    """Play everything.

    :param output: folder for logs and for franka-rs.
    :param advance: called before each case with what is played.
    :raises Interrupted: a stop was requested.
    """
    own, others = selection(minutes)
    found = Found(chunks.mix(own, duration=_DURATION))
    try:
        franka_rs = FrankaRs(output / "franka-rs", stop)
    except subprocess.CalledProcessError:
        franka_rs = None
        found.remarks.append("franka-rs could not be installed")
    asyncio.run(_through_this_project(found, output, others, stop, advance))
    if franka_rs is None:
        return found
    with contextlib.closing(FaultyArm(_OTHER_HOST, output)) as arm:
        for how in FRANKA_RS:
            for number in others:
                advance(f"franka-rs {how}")
                found.add(f"franka-rs {how}", number, franka_rs.play(arm, found.cases[number], how))
    found.remarks += [f"franka-rs {ended}" for ended in franka_rs.ended]
    return found


async def _through_this_project(
    found: Found, output: Path, others: range, stop: StopRequest, advance: Callable[[str], None]
) -> None:
    async with ArmPlayer(_HOST, output, stop) as player:
        found.reports = player.reports
        for number, case in enumerate(found.cases):
            advance(OURS)
            await _aside(found.add, OURS, number, await player.chunks(case))
            if number in others:
                for rule, targets in RULES.items():
                    advance(rule)
                    await _aside(found.add, rule, number, await player.targets(await _aside(targets, case), case))


#: Figures take a while, and would delay everything else in the event loop.
_aside = asyncio.to_thread


def verdicts(found: Found) -> list[tuple[str, str, bool]]:
    """What is required, what was found, and whether that is good."""
    table, reports = found.table(), found.reports
    ours, others = table[OURS], {rule: table[rule] for rule in RULES}
    reflexes = sum(values["reflexes"] for values in found.figures[OURS].values())
    minutes = len(found.cases) * _DURATION / 60.0
    result = [
        (f"reflexes in {minutes:.1f} minutes", f"{reflexes:.0f}", reflexes == 0),
        ("violations of the robot's limits", "; ".join(reports.violations) or "0", not reports.violations),
        ("chunks refused", "; ".join(reports.refused[:3]) or "0", not reports.refused),
    ]
    for name in _COMPARED:
        best = min(others, key=lambda player: others[player][name])
        share = ours[name] / max(others[best][name], 1e-9)
        result.append(
            (f"{name} at seams at most {_SHARE_OF_BEST:g} of the best rule's ({best})", f"{share:.2f}",
             share <= _SHARE_OF_BEST)
        )  # fmt: skip
        error = ours[_ERROR] / others[best][_ERROR]
        result.append((f"and the error not larger than there ({best})", f"{error:.2f}", error <= 1.0))
    wrong = np.abs(reports.wrong or [np.inf])
    result.append(("reported delay, error at most 1 ms", f"{1e3 * wrong.max():.2f} ms", bool(wrong.max() <= _DELAY)))
    median = float(np.median(reports.to_torque or [np.inf]))
    result.append(("chunk to first torque, median at most 2 ms", f"{1e3 * median:.2f} ms", median <= _TO_TORQUE))
    slow = {kind: float(np.percentile(np.concatenate(parts), 99.9)) for kind, parts in reports.response.items()}
    ratio = slow.get("chunks", np.inf) / slow.get("targets", np.inf)
    result.append(
        (f"response (99.9 %) with chunks at most {_RESPONSE:g} times that with single targets", f"{ratio:.2f}",
         ratio <= _RESPONSE)
    )  # fmt: skip
    return list(dict.fromkeys(result))
