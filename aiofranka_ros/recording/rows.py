"""Writes rows of control cycles, columns by name, as MCAP: what ``controller.record(path="run.mcap")`` saves.

Used by :mod:`aiofranka_ros.api.recording`, in the policy's process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

import numpy.typing as npt
from mcap.writer import Writer

from aiofranka_ros.recording.channels import ENUMS, Channel, messages_of

_TOPIC = "/cycles"


def write_rows(file: IO[bytes], columns: Mapping[str, npt.NDArray[Any]], stamps: npt.NDArray[Any]) -> None:
    """Write a message for each row; ``stamps``: their times [ns] (n,)."""
    writer = Writer(file)
    writer.start(library="aiofranka_ros")
    kinds: dict[int, Any] = {1: {"type": "number"}}
    for depth in (2, 3):
        kinds[depth] = {"type": "array", "items": kinds[depth - 1]}
    fields = {name: {"type": "string"} if name in ENUMS else kinds[values.ndim] for name, values in columns.items()}
    schema = Channel("Cycle", fields).json_schema
    channel = writer.register_channel(
        _TOPIC, "json", writer.register_schema("Cycle", "jsonschema", json.dumps(schema).encode())
    )
    for stamp, message in zip(stamps.tolist(), messages_of(columns), strict=True):
        data = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
        writer.add_message(channel, max(stamp, 0), data, max(stamp, 0))
    writer.finish()
