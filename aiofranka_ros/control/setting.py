"""A setting: its default, unit, range and meaning, and which values it accepts.

Used by the tables of settings (:mod:`aiofranka_ros.arm.setting_table`, :mod:`aiofranka_ros.arm.gripper.settings`),
in every process. It imports nothing that takes long, because the gripper's node needs nothing that drives an arm.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from aiofranka_ros.errors import ConfigurationError, brief, nearest

#: Most elements of a wrong value that are looked at for a message.
_MOST_QUOTED = 100

#: What names of nodes are like, with their namespace or without; or nothing.
_NODE_NAME = r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*|"

Value: TypeAlias = "bool | str | int | float | tuple[float, ...] | tuple[str, ...]"
#: A bound for a scalar or for all elements of an array, or one bound for each element.
Bound: TypeAlias = "float | tuple[float, ...]"


def plain(value: Any) -> Any:
    """``value`` as numbers and lists of numbers, if it is made of arrays; otherwise as it is.

    For arrays and tensors of any library, on any device, of any type, with or without gradients; numpy cannot convert
    all of them.
    """
    if hasattr(value, "tolist"):
        return value.tolist()
    return [plain(element) for element in value] if isinstance(value, (list, tuple)) else value


class Stage(enum.IntEnum):
    """How far a node has come: from some stage on, some of its parameters can no longer change."""

    STARTED = 0
    CONFIGURED = 1
    ACTIVE = 2


#: When a parameter can change that a running node cannot change.
AT_THE_START = "only at the start: in the configuration file or with --ros-args -p"
#: When a parameter can change that is locked from a stage on, and what to do to change it.
_BEFORE = {
    Stage.STARTED: AT_THE_START,
    Stage.CONFIGURED: "only while the node is unconfigured: clean it up first",
    Stage.ACTIVE: "only while the node is not active: deactivate it first",
}


class Effect(enum.Enum):
    """What a changed setting does in the control process."""

    NONE = "nothing: the node reads it when it needs it"
    COMMAND = "a field of the commands"
    LAW = "a field of the commands that changes torques: blended in"
    FRAME = "the control frame"
    MODE = "the control law"
    COLLISION = "the robot's thresholds of contact and collision"


@dataclass(frozen=True)
class Setting:
    """A setting."""

    name: str
    #: A ``tuple`` of numbers for an array, whose values must have the same length; an empty one for a list of names of
    #: nodes, one of strings for a list of ``choices``.
    default: Value
    text: str  #: what it does, in a sentence
    unit: str = ""  #: SI; empty if it has none
    low: Bound = -math.inf  #: smallest value; for arrays the bound of all elements, or one for each
    high: Bound = math.inf  #: largest value, likewise
    choices: tuple[str, ...] = ()  #: the allowed values of a string, or of each string of a list
    source: str = ""  #: where default and range come from
    locked_from: Stage | None = None  #: the stage from which on it cannot change; ``None``: it can change at any time
    effect: Effect = Effect.NONE  #: what a change does in the control process
    field: str = ""  #: name of the field of the commands that it sets, if it differs from its own
    is_name: bool = False  #: whether a string becomes part of names of joints and frames; empty only if the default is
    may_be_empty: bool = False  #: whether any other string may be empty

    @property
    def size(self) -> int:
        """Number of elements; 0 for a scalar."""
        return len(self.default) if isinstance(self.default, tuple) and not self.is_list else 0

    @property
    def is_list(self) -> bool:
        """Whether it is a list of strings: of ``choices``, or of names of nodes."""
        return self.default == () or isinstance(self.default, tuple) and isinstance(self.default[0], str)

    @property
    def range(self) -> str:
        """The allowed values, with their unit."""
        if self.choices:
            return ("any of " if self.is_list else "one of ") + ", ".join(self.choices)
        if isinstance(self.default, bool):
            return "true or false"
        if self.is_name:
            return "a letter, then letters, digits and _" + ("" if self.default else "; or empty")
        if isinstance(self.default, str):
            return "any text, or empty" if self.may_be_empty else "not empty"
        if self.is_list:
            return "any number of names of nodes; a relative one is in the node's namespace"
        count = f"{self.size} values, each " if self.size else ""
        return f"{count}in [{_bound(self.low)}, {_bound(self.high)}]{self._unit}"

    @property
    def changeable(self) -> str:
        """When it can change, and what to do to change it."""
        return "at any time" if self.locked_from is None else _BEFORE[self.locked_from]

    @property
    def terms(self) -> str:
        """Which values are allowed, when they can change and where they come from."""
        sentences = [self.range[0].upper() + self.range[1:]]
        if self.locked_from is not None:
            sentences.append(f"Can be changed {self.changeable}")
        if self.source:
            sentences.append(f"Source: {self.source}")
        return ". ".join(sentences) + "."

    @property
    def _unit(self) -> str:
        return f" {self.unit}" if self.unit else ""

    def parse(self, value: Any) -> Any:
        """``value`` as it is used: ``bool``, ``str``, ``int``, ``float``, an array of floats or a tuple of names.

        Integers are accepted as floats, because YAML reads ``400`` as an integer.

        :raises ConfigurationError: it has the wrong type, size, sign or range.
        """
        value = plain(value)
        if self.is_list:
            return self._parse_names(value)
        if self.size:
            return self._parse_array(value)
        if isinstance(self.default, bool):
            valid = isinstance(value, bool)
        elif isinstance(self.default, str):
            valid = isinstance(value, str) and self._allows(value)
        else:
            valid = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not valid:
            near = nearest(value, self.choices) if isinstance(value, str) else None
            raise self._refusal(f"is {_quoted(value)}" + (f" (did you mean {near!r}?)" if near else ""))
        if isinstance(self.default, (bool, str)):
            return value
        if not math.isfinite(value) or not self.low <= value <= self.high:  # type: ignore[operator]
            raise self._refusal(f"is {value:g}{self._unit}")
        if isinstance(self.default, int) and value != int(value):
            raise self._refusal(f"is {value:g}, which is not whole")
        return type(self.default)(value)  # type: ignore[arg-type]

    def _allows(self, text: str) -> bool:
        if self.is_name:
            return re.fullmatch(r"[A-Za-z]\w*", text, re.ASCII) is not None or text == self.default == ""
        return (bool(text.strip()) or self.may_be_empty) and (not self.choices or text in self.choices)

    def _parse_names(self, value: Any) -> tuple[str, ...]:
        if not isinstance(value, (list, tuple)):
            raise self._refusal(f"is {_quoted(value)}")
        for name in value:
            if self.choices and name and name not in self.choices:
                near = nearest(name, self.choices) if isinstance(name, str) else None
                raise self._refusal(f"has {_quoted(name)}" + (f" (did you mean {near!r}?)" if near else ""))
            if not isinstance(name, str) or not re.fullmatch(_NODE_NAME, name, re.ASCII):
                raise self._refusal(f"has {_quoted(name)}, which is not a name of a node")
        return tuple(name for name in value if name)

    def _parse_array(self, value: Any) -> np.ndarray:
        if isinstance(value, (str, bytes)) or not isinstance(value, Sized) or not isinstance(value, Iterable):
            raise self._refusal(f"is {_quoted(value)}")
        if len(value) != self.size:
            raise self._refusal(f"has {len(value)} values")
        elements = list(value)
        if any(isinstance(element, bool) or not isinstance(element, (int, float)) for element in elements):
            raise self._refusal(f"is {_quoted(elements)}")
        array = np.array(elements, dtype=float)
        low, high = np.broadcast_to(self.low, self.size), np.broadcast_to(self.high, self.size)
        for index in np.flatnonzero(~np.isfinite(array) | (array < low) | (array > high)):
            raise self._refusal(f"is {array[index]:g}{self._unit} at index {index}")
        return array

    def _refusal(self, what: str) -> ConfigurationError:
        return ConfigurationError(f"{self.name} {what}; allowed: {self.range}")


def _quoted(value: Any) -> str:
    """What it is, for a message; brief, whatever a client has sent."""
    if isinstance(value, str):
        return repr(brief(value))
    return brief(repr(value[:_MOST_QUOTED] if isinstance(value, (bytes, Sequence)) else value))


def _bound(value: Bound) -> str:
    if isinstance(value, tuple):
        return "(" + " ".join(f"{element:g}" for element in value) + ")"
    return f"{value:g}"
