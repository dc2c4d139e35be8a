"""How many points a chunk may have.

Used by everything that makes, reads or checks chunks, in every process; it imports nothing that takes long.
"""

from __future__ import annotations

from aiofranka_ros.errors import InvalidTarget

#: Most points of a chunk: with what is frozen of the chunk before, and with the seam, so many fit into the memory that
#: the control process has for a path. Chunks of the usual policies have 8 to 50.
MOST_POINTS = 128


def check_size(count: int) -> None:
    """:raises InvalidTarget: a chunk of ``count`` points is too long."""
    if count > MOST_POINTS:
        raise InvalidTarget(
            f"it has {count} points, but a chunk may have {MOST_POINTS}: send what is due next, and the rest later",
            reason="too many points",
        )
