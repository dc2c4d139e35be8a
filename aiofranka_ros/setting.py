"""One thing that can be set: its default, unit, range and meaning, and what a value must be to be used.

Used by the tables of settings (:mod:`aiofranka_ros.arm.settings`, :mod:`aiofranka_ros.gripper_node.parameters`), in
every process. It imports nothing that takes long: the gripper's node has no use for what drives an arm.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from aiofranka_ros.errors import ConfigurationError

Value: TypeAlias = "bool | str | int | float | tuple[float, ...]"
#: One bound for a scalar or for all elements, or one for each of them.
Bound: TypeAlias = "float | tuple[float, ...]"


class Lock(enum.IntEnum):
    """From which state of the node on a parameter cannot be changed any more, and what to do about it."""

    STARTED = 0
    CONFIGURED = 1
    ACTIVE = 2
    NEVER = 3

    @property
    def remedy(self) -> str:
        """How to change it nevertheless."""
        return {
            Lock.NEVER: "at any time",
            Lock.ACTIVE: "only while the node is not active: deactivate it first",
            Lock.CONFIGURED: "only while the node is unconfigured: clean it up first",
            Lock.STARTED: "only at the start: in the configuration file or with --ros-args -p",
        }[self]


class Effect(enum.Enum):
    """What a changed parameter means for the control process."""

    NONE = "read by the node where it is needed"
    COMMAND = "a field of the commands"
    LAW = "a field of the commands that changes torques: blended in"
    FRAME = "the control frame"
    MODE = "the control law"
    COLLISION = "the robot's thresholds of contact and collision"


@dataclass(frozen=True)
class Setting:
    """One parameter.

    :ivar default: a ``tuple`` for an array, whose length is the only one allowed.
    :ivar text: what it does, in a sentence.
    :ivar unit: SI; empty where it has none.
    :ivar low: smallest value; for arrays of every element, or one for each.
    :ivar high: largest value.
    :ivar choices: the only values of a string.
    :ivar is_name: whether a string is to be part of names of joints and frames; empty only if the default is.
    :ivar source: where default and range come from.
    :ivar field: name of the field of the commands that it sets, where that differs from its own.
    """

    name: str
    default: Value
    text: str
    unit: str = ""
    low: Bound = -math.inf
    high: Bound = math.inf
    choices: tuple[str, ...] = ()
    source: str = ""
    lock: Lock = Lock.NEVER
    effect: Effect = Effect.NONE
    field: str = ""
    is_name: bool = False

    @property
    def size(self) -> int:
        """Number of elements; 0 for a scalar."""
        return len(self.default) if isinstance(self.default, tuple) else 0

    @property
    def range(self) -> str:
        """The allowed values, with their unit."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if isinstance(self.default, bool):
            return "true or false"
        if self.is_name:
            return "a letter, then letters, digits and _" + ("" if self.default else "; or empty")
        if isinstance(self.default, str):
            return "not empty"
        count = f"{self.size} values, each " if self.size else ""
        return f"{count}in [{_bound(self.low)}, {_bound(self.high)}]{self._unit}"

    @property
    def terms(self) -> str:
        """Everything to know about its values: range, when it can be changed, where it comes from."""
        sentences = [self.range[0].upper() + self.range[1:]]
        if self.lock is not Lock.NEVER:
            sentences.append(f"Can be changed {self.lock.remedy}")
        if self.source:
            sentences.append(f"Source: {self.source}")
        return ". ".join(sentences) + "."

    @property
    def _unit(self) -> str:
        return f" {self.unit}" if self.unit else ""

    def parse(self, value: Any) -> Any:
        """``value`` as it is used: ``bool``, ``str``, ``int``, ``float`` or an array of floats.

        Integers are taken for floats: YAML and ``ros2 param set`` make them of ``400``.

        :raises ConfigurationError: it has the wrong type, size, sign or range.
        """
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise self._refusal(f"is {value!r}")
            return value
        if isinstance(self.default, str):
            if not isinstance(value, str) or not self._allows(value):
                raise self._refusal(f"is {value!r}")
            return value
        if not self.size:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise self._refusal(f"is {value!r}")
            if not math.isfinite(value) or not self.low <= value <= self.high:  # type: ignore[operator]
                raise self._refusal(f"is {value:g}{self._unit}")
            if isinstance(self.default, int) and value != int(value):
                raise self._refusal(f"is {value:g}, which is not whole")
            return type(self.default)(value)  # type: ignore[arg-type]
        return self._parse_array(value)

    def _allows(self, text: str) -> bool:
        if self.is_name:
            return re.fullmatch(r"[A-Za-z]\w*", text, re.ASCII) is not None or text == self.default == ""
        return bool(text.strip()) and (not self.choices or text in self.choices)

    def _parse_array(self, value: Any) -> np.ndarray:
        if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
            raise self._refusal(f"is {value!r}")
        elements = list(value)
        if any(isinstance(element, bool) or not isinstance(element, (int, float)) for element in elements):
            raise self._refusal(f"is {elements!r}")
        if len(elements) != self.size:
            raise self._refusal(f"has {len(elements)} values")
        array = np.array(elements, dtype=float)
        low, high = np.broadcast_to(self.low, self.size), np.broadcast_to(self.high, self.size)
        for index in np.flatnonzero(~np.isfinite(array) | (array < low) | (array > high)):
            raise self._refusal(f"is {array[index]:g}{self._unit} at index {index}")
        return array

    def _refusal(self, what: str) -> ConfigurationError:
        return ConfigurationError(f"{self.name} {what}; allowed: {self.range}")


def _bound(value: Bound) -> str:
    if isinstance(value, tuple):
        return "(" + " ".join(f"{element:g}" for element in value) + ")"
    return f"{value:g}"
