"""What a recording contains: its channels, their JSON schemas, and how records become messages and arrays again.

Used by :mod:`aiofranka_ros.recording.writer` and :mod:`aiofranka_ros.recording.reader`. A file is MCAP with JSON
messages, which Foxglove reads without ROS: it has a schema for each channel, and plots fields such as ``/cycles.q[3]``.
Times of messages are by the system's clock [ns]. Numbers have nine decimals, which is more than anything is measured
with; what is not finite is ``null``.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from aiofranka_ros.control.records import CYCLE_RECORD, STATE, Approach, Law, Mode, MotionStatus, Phase, TargetKind
from aiofranka_ros.control.robot_records import ROBOT_STATE

#: Of the metadata in each file: the summary and the parameters, as JSON. Its version changes with the channels.
METADATA, VERSION = "aiofranka_ros recording", 1
_DECIMALS = 9
#: Fields that are names in a message, and numbers in the records.
ENUMS: Mapping[str, type[enum.IntEnum]] = {
    "mode": Mode,
    "law": Law,
    "motion_status": MotionStatus,
    "approach": Approach,
    "phase": Phase,
    "target_kind": TargetKind,
}
#: What is kept of each cycle; its stamp is the time of its message.
CYCLE_FIELDS = tuple(name for name in CYCLE_RECORD.names or () if name != "stamp")
#: What is kept of the state at each tick of the owner, which the cycles do not have.
TICK_FIELDS = tuple(
    """
    activation phase robot_mode hold tau_measured tau_external external_wrench twist target_age target_kind
    velocity_left approach_left stream_period stream_lateness stream_delay interpolating repetitions motion_time
    chunk_seen chunk_end blocked behind_linear behind_angular limited_targets limited_torques approaches far_targets
    velocity_timeouts not_finite silent_holds cycles cycles_lost longest_gap success_rate success_rate_min
    """.split()
)
#: What the owner measures of itself and the control process at each tick, see :data:`.notes.TICK`: how old the state
#: is, how long the process has run and waited for a processor, and the owner's thread has waited, since they started
#: [s]; and the state of the process in proc_pid_stat(5), if no cycle came.
TICK_OWN = ("state_age", "control_ran", "control_waited", "owner_waited", "control_code")
ROBOT_FIELDS = tuple(name for name in ROBOT_STATE.names or () if name != "stamp")

_NUMBER, _TEXT, _OBJECT = {"type": "number"}, {"type": "string"}, {"type": "object"}
_NUMBERS = {"type": "array", "items": _NUMBER}


def _fields(dtype: np.dtype[Any], names: Iterable[str]) -> dict[str, Any]:
    """JSON schemas of fields of a record."""

    def schema(name: str) -> dict[str, Any]:
        if name in ENUMS:
            return _TEXT
        shape = dtype[name].shape
        return {"type": "array", "items": _NUMBERS} if len(shape) > 1 else _NUMBERS if shape else _NUMBER

    return {name: schema(name) for name in names}


class Channel(NamedTuple):
    """One kind of message: its schema's name, and the JSON schemas of its fields."""

    schema: str
    fields: Mapping[str, Any]

    @property
    def json_schema(self) -> dict[str, Any]:
        """The JSON schema of a message."""
        return {"type": "object", "title": self.schema, "properties": dict(self.fields)}


#: Every channel by its topic.
CHANNELS: dict[str, Channel] = {
    "/recording": Channel("Recording", {"trigger": _TEXT, "message": _TEXT, "owner": _TEXT}),
    "/parameters": Channel("Parameters", {"values": _OBJECT}),
    "/cycles": Channel("Cycle", _fields(CYCLE_RECORD, CYCLE_FIELDS)),
    "/ticks": Channel("Tick", {**dict.fromkeys(TICK_OWN, _NUMBER), **_fields(STATE, TICK_FIELDS)}),
    "/robot_states": Channel("RobotState", _fields(ROBOT_STATE, ROBOT_FIELDS)),
    "/targets": Channel("Target", {"topic": _TEXT, "sender": _TEXT, "made": _NUMBER, "values": _NUMBERS}),
    "/events": Channel("Event", {"kind": _TEXT, "message": _TEXT, "data": _OBJECT}),
    # Of a schema that Foxglove shows in its panel of logs.
    "/log": Channel(
        "foxglove.Log",
        {
            "timestamp": {"type": "object", "properties": {"sec": {"type": "integer"}, "nsec": {"type": "integer"}}},
            "level": {"type": "integer"}, "message": _TEXT, "name": _TEXT,
        },
    ),
}  # fmt: skip
#: Levels of foxglove.Log.
LEVELS = {"debug": 1, "info": 2, "warning": 3, "error": 4, "fatal": 5}


def messages_of(columns: Mapping[str, npt.NDArray[Any]]) -> list[dict[str, Any]]:
    """A dictionary for each row, as JSON has it."""
    lists = [_plain(name, values) for name, values in columns.items()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def _plain(name: str, values: npt.NDArray[Any]) -> list[Any]:
    if name in ENUMS:
        names = {int(member): member.name.lower() for member in ENUMS[name]}
        return [names.get(value, str(value)) for value in values.tolist()]
    if values.dtype.kind != "f":
        return values.tolist()
    rounded = np.round(values, _DECIMALS)
    if np.isfinite(rounded).all():
        return rounded.tolist()
    objects = rounded.astype(object)
    objects[~np.isfinite(rounded)] = None
    return objects.tolist()


def column(name: str, values: Sequence[Any], like: np.dtype[Any] | None) -> npt.NDArray[Any]:
    """The array of what :func:`messages_of` made of it.

    :param like: type and shape of an element; ``None``: a number.
    """
    base, shape = (np.dtype("f8"), ()) if like is None else (like.base, like.shape)
    if name in ENUMS:
        numbers = {member.name.lower(): int(member) for member in ENUMS[name]}
        return np.array([numbers.get(value, -1) for value in values], dtype="i8")
    if base.kind == "f":
        # None becomes NaN.
        return np.array(values, dtype=float).reshape(len(values), *shape)
    return np.array(values, dtype=base).reshape(len(values), *shape)


def type_of(topic: str, name: str) -> np.dtype[Any] | None:
    """Type and shape of a field of cycles, ticks or robot states; ``None``: a number."""
    dtype = {"/cycles": CYCLE_RECORD, "/ticks": STATE, "/robot_states": ROBOT_STATE}[topic]
    return dtype[name] if dtype.names is not None and name in dtype.names else None
