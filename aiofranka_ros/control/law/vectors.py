"""Three numbers, mostly the elements of a vector: what several kernels need.

Compiled kernels, called by the others of this folder in the control process.
"""

from __future__ import annotations

import math

from aiofranka_ros.kernels import Array, kernel


@kernel
def length(vector: Array) -> float:
    """Norm of ``vector`` (3,)."""
    return math.sqrt(vector[0] ** 2 + vector[1] ** 2 + vector[2] ** 2)


@kernel
def limit_norm(vector: Array, limit: float) -> bool:
    """Shorten ``vector`` (3,), in place, to at most ``limit``; return whether it was longer."""
    norm = length(vector)
    longer = norm > limit
    if longer:
        for i in range(3):
            vector[i] *= limit / norm
    return longer


@kernel
def median(a: float, b: float, c: float) -> float:
    """The one between the other two."""
    return max(min(a, b), min(max(a, b), c))
