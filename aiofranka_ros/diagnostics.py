"""What the node says about itself on ``/diagnostics``: the control loop, the targets, the robot.

Used by the node, in its process and its one thread, at ``diagnostics_rate``. Three statuses, because they
have three remedies: a loop that loses cycles is this computer's matter, refused targets are their sender's,
and an error of the robot is that of whoever stands beside it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from aiofranka_ros.control_client import ControlClient
from aiofranka_ros.errors import (
    ArmInUse,
    CommandRefused,
    ConnectionFailed,
    ControlProcessDied,
    ControlStopped,
    SimulationError,
)
from aiofranka_ros.records import Hold, Mode, Phase, Record
from aiofranka_ros.shared_memory import SharedMemory

#: Responses slower than this leave the robot's network little of the millisecond [s].
_SLOW_RESPONSE = 0.5e-3
#: ``franka::RobotMode``, libfranka ``robot_state.h``.
_ROBOT_MODES = ("other", "idle", "move", "guiding", "reflex", "user stopped", "automatic error recovery")

_OK, _WARN, _ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


@dataclass(frozen=True)
class Trouble:
    """The last thing that went wrong.

    :ivar message: what happened.
    :ivar remedy: what to do about it.
    :ivar kind: name of the exception's class, see :mod:`aiofranka_ros.errors`.
    :ivar names: libfranka's names of what stopped the robot, where there are any.
    """

    message: str
    remedy: str
    kind: str
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, error: BaseException, again: str) -> Trouble:
        """What ``error`` means for whoever runs the node.

        :param again: the command that leads back once the cause is removed.
        """
        if isinstance(error, ControlStopped):
            remedy = f"remove the cause, then: {again}"
        elif isinstance(error, (CommandRefused, TimeoutError)):
            remedy = f"see Desk for the robot's state, then: {again}"
        elif isinstance(error, (ConnectionFailed, ArmInUse, ControlProcessDied, SimulationError)):
            remedy = f"when that is settled: {again}"
        else:
            remedy = "see the log"
        kind = type(error).__name__
        return cls(str(error) or kind, remedy, kind, getattr(error, "errors", ()))


class LoopStatistics:
    """Statistics of the control cycles since they were last asked for, from the ring in shared memory."""

    def __init__(self) -> None:
        self._position = 0
        self._memory: SharedMemory | None = None

    def collect(self, memory: SharedMemory) -> dict[str, Any]:
        """What happened since the last call, as keys and values for people."""
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


def loop_status(client: ControlClient | None, state: Record | None, statistics: dict[str, Any]) -> DiagnosticStatus:
    """The control loop.

    :param client: ``None`` while the node is unconfigured, and then ``state`` as well.
    :param statistics: from :meth:`LoopStatistics.collect`.
    """
    if client is None or state is None:
        return DiagnosticStatus(level=_OK, message="not configured")
    phase, hold = Phase(int(state["phase"])), Hold(int(state["hold"]))
    values = {
        "phase": phase.name.lower(),
        "mode": Mode(int(client.commands["mode"])).name.lower(),
        "control process": client.pid,
        "shared memory": client.shared.address,
        "cycles": state["cycles"],
        "cycles lost": state["cycles_lost"],
        "longest gap [cycles]": state["longest_gap"],
        "success rate": f"{state['success_rate']:.3f}",
        "success rate min": f"{state['success_rate_min']:.3f}",
        "torques limited": state["limited_torques"],
        "torques not finite": state["not_finite"],
        "holds for lack of signs of life": state["silent_holds"],
        "hold": _flags(hold),
        "missing for real time": "; ".join(client.missing),
        **statistics,
    }
    level, message = _OK, phase.name.lower()
    if phase is Phase.ACTIVE:
        if statistics.get("cycles lost in the last period"):
            level, message = (
                _WARN,
                "robot cycles are lost: see the README on real-time scheduling and the network",
            )
        elif int(statistics.get("response p99 [us]", 0)) > 1e6 * _SLOW_RESPONSE:
            level, message = _WARN, "responses are slow: see the README on real-time scheduling"
        if hold & (Hold.NODE_SILENT | Hold.NOT_FINITE | Hold.TORQUE_STALE):
            level, message = _WARN, f"the arm holds: {_flags(hold)}"
    return _status(level, message, values)


def targets_status(
    state: Record | None,
    active: bool,
    *,
    owner: str,
    accepted: int,
    refused: Counter[str],
    limited: int,
    rejected: Counter[str],
) -> DiagnosticStatus:
    """Targets and goals.

    :param owner: who has the arm.
    :param accepted: targets that were passed on.
    :param refused: targets that were not, by reason.
    :param limited: targets that were cut off.
    :param rejected: goals and trajectories that were rejected, by reason.
    """
    values: dict[str, Any] = {
        "owner": owner,
        "accepted": accepted,
        "limited": limited,
        "refused": sum(refused.values()),
    }
    if state is not None and active and np.isfinite(state["target_age"]):
        values["age of the newest [s]"] = f"{state['target_age']:.3f}"
    values |= {f"refused: {reason}": count for reason, count in sorted(refused.items())}
    values |= {f"goal rejected: {reason}": count for reason, count in sorted(rejected.items())}
    return _status(_OK, "none refused" if not refused else "some were refused", values)


def robot_status(
    state: Record | None, *, address: str, versions: dict[str, Any], trouble: Trouble | None
) -> DiagnosticStatus:
    """The robot, and what went wrong last.

    :param versions: of libfranka and its protocol, once they are known.
    """
    values: dict[str, Any] = {"robot_ip": address, **versions}
    if state is not None:
        mode = int(state["robot_mode"])
        values["robot mode"] = _ROBOT_MODES[mode] if 0 <= mode < len(_ROBOT_MODES) else mode
    if trouble is None:
        return _status(_OK, "not connected" if state is None else "connected", values)
    values |= {
        "last error": trouble.message,
        "kind of error": trouble.kind,
        "libfranka errors": " ".join(trouble.names),
        "what to do": trouble.remedy,
    }
    return _status(_ERROR, trouble.message, values)


def _flags(hold: Hold) -> str:
    names = [flag.name.lower().replace("_", " ") for flag in Hold if flag and flag in hold and flag.name]
    return ", ".join(names) or "none"


def _status(level: bytes, message: str, values: dict[str, Any]) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=level,
        message=message,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )
