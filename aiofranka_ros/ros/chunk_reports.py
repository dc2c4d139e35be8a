"""The topic ``~/chunk_status``: what became of each chunk, for people and for the client that sent it.

The nodes publish it in their one thread; ``RosInterface`` reads it in the policy's process. A chunk is reported when it
is accepted or refused, when the first torque was computed from it, and when it has ended.
"""

from __future__ import annotations

import enum
import math
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.qos import QoSProfile

from aiofranka_ros.ros.cdr import NANOSECONDS
from aiofranka_ros.ros.conditions import OK, WARN, refusal_remedy

TOPIC = "chunk_status"
QOS = QoSProfile(depth=50)


class ChunkState(enum.Enum):
    """What a report says about a chunk."""

    ACCEPTED = "accepted"
    FOLLOWED = "followed"  #: the first torque was computed from it
    ENDED = "ended"
    REFUSED = "refused"


class ChunkReport(NamedTuple):
    """What a node says about one chunk; times are by its clock [ns], 0: not yet, or unknown."""

    topic: str  #: after ``~/``
    state: ChunkState
    message: str = ""  #: for people
    reason: str = ""  #: of a refusal, or how it ended, in a word or two
    publisher: str = ""  #: full name of the node that sent it; empty: unknown
    number: int = 0  #: counts accepted chunks
    stamp: int = 0  #: as it was sent
    arrival: int = 0
    begin: int = 0  #: when its first point that is not past is due
    first_torque: int = 0
    points: int = 0
    dropped: int = 0  #: how many of them were past at its arrival
    clipped: int = 0  #: how many were cut to a limit
    seam: tuple[float, float] = (0.0, 0.0)  #: how far it was from what was followed, before blending [m], [rad]
    delay: float = math.nan  #: from the stamp, or the arrival without one, to the first torque [s]
    steps: int = 0  #: the same in periods of the chunk, rounded up

    def message_of(self, node: str) -> DiagnosticStatus:
        """The report as a status of ``node``."""
        values = {"state": self.state.value, "reason": self.reason, "publisher": self.publisher}
        values |= {"number": str(self.number) if self.number else ""}
        values |= {name: _text(getattr(self, field)) for name, field in _TIMES.items()}
        if self.points:
            values |= {"points": str(self.points), "points dropped": str(self.dropped)}
            values |= {"points clipped": str(self.clipped)}
        if self.state is not ChunkState.REFUSED:
            values |= {"seam [m]": f"{self.seam[0]:.6f}", "seam [rad]": f"{self.seam[1]:.6f}"}
        if math.isfinite(self.delay):
            values |= {"delay [s]": f"{self.delay:.6f}", "delay [steps]": str(self.steps)}
        refused = self.state is ChunkState.REFUSED
        if refused:
            values["what to do"] = refusal_remedy([self.reason], node)
        return DiagnosticStatus(
            level=WARN if refused else OK,
            name=self.topic,
            message=self.message,
            hardware_id=node,
            values=[KeyValue(key=key, value=value) for key, value in values.items() if value],
        )

    @classmethod
    def of(cls, status: DiagnosticStatus) -> ChunkReport:
        """The report in ``status``.

        :raises ValueError: it is something else.
        """
        values = {pair.key: pair.value for pair in status.values}
        return cls(
            topic=status.name,
            state=ChunkState(values.get("state", "")),
            message=status.message,
            reason=values.get("reason", ""),
            publisher=values.get("publisher", ""),
            number=int(values.get("number", 0)),
            points=int(values.get("points", 0)),
            dropped=int(values.get("points dropped", 0)),
            clipped=int(values.get("points clipped", 0)),
            seam=(float(values.get("seam [m]", 0.0)), float(values.get("seam [rad]", 0.0))),
            delay=float(values.get("delay [s]", math.nan)),
            steps=int(values.get("delay [steps]", 0)),
            **{field: _time(values.get(name, "")) for name, field in _TIMES.items()},
        )


_TIMES = {"stamp [s]": "stamp", "arrival [s]": "arrival", "begin [s]": "begin", "first torque [s]": "first_torque"}


def reports_of(message: DiagnosticArray) -> list[ChunkReport]:
    """The reports in a message of the topic.

    :raises ValueError: it is something else.
    """
    return [ChunkReport.of(status) for status in message.status]


def _text(time: int) -> str:
    seconds, rest = divmod(time, NANOSECONDS)
    return f"{seconds}.{rest:09d}" if time else ""


def _time(text: str) -> int:
    seconds, _, rest = text.partition(".")
    return int(seconds) * NANOSECONDS + int(rest) if text else 0
