"""What a forked child must leave to its parent: an arm belongs to the process that started it.

Used by :mod:`aiofranka_ros.control.client`, in every process that drives an arm.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class _Owned(Protocol):
    def abandon(self) -> None:
        """In a forked child: forget what belongs to the parent."""


_owned: weakref.WeakSet[_Owned] = weakref.WeakSet()


def belongs_to_this_process(owned: _Owned) -> None:
    """Have ``owned.abandon()`` called in every forked child of this process."""
    _owned.add(owned)


def _after_fork() -> None:
    for owned in list(_owned):
        owned.abandon()
    _owned.clear()


os.register_at_fork(after_in_child=_after_fork)
