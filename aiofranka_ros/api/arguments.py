"""Numbers that a program gives to the API: checked, and made plain, whatever library they come from.

Used by the controller and by runs of policies, in the policy's process. Each function returns the number as Python has
it, so that only here a scalar of numpy, or a tensor, is something else.
"""

from __future__ import annotations

import math
from typing import Any

from aiofranka_ros.control.setting import plain
from aiofranka_ros.errors import ConfigurationError

#: Messages can carry times before this one [ns].
_LAST_STAMP = 2**31 * 1_000_000_000


def positive(name: str, value: Any, unit: str) -> float:
    """``value`` as a number.

    :raises ConfigurationError: it is not a positive, finite number.
    """
    number = plain(value)
    if not _is_number(number) or not 0.0 < number < math.inf:
        raise ConfigurationError(f"{name} is {number!r}, but must be a positive number [{unit}]")
    return float(number)


def share(name: str, value: Any) -> float:
    """``value`` as a share, 0 to 1.

    :raises ConfigurationError: it is none.
    """
    number = plain(value)
    if not _is_number(number) or not 0.0 <= number <= 1.0:
        raise ConfigurationError(f"{name} is {number!r}, but must be a share, 0 to 1")
    return float(number)


def whole(name: str, value: Any, low: int, high: int) -> int:
    """``value`` as a whole number from ``low`` to ``high``.

    :raises ConfigurationError: it is none.
    """
    number = plain(value)
    if not _is_number(number) or not isinstance(number, int) or not low <= number <= high:
        raise ConfigurationError(f"{name} is {number!r}, but must be a whole number, {low} to {high}")
    return number


def stamp_of(name: str, value: Any) -> int:
    """``value`` as a stamp [ns].

    :raises ConfigurationError: it is none.
    """
    number = plain(value)
    if not _is_number(number) or not isinstance(number, int) or abs(number) >= _LAST_STAMP:
        raise ConfigurationError(f"{name} is {number!r}, but must be a whole number [ns], as state['stamp'] is")
    return number


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
