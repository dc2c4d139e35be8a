"""Small systems of linear equations, solved without allocating memory.

Compiled kernels, called by the control laws and limits in the control process, for symmetric positive definite
matrices: the mass matrix (7, 7) and the inverse of the task's inertia (6, 6).
"""

from __future__ import annotations

import math

from aiofranka_ros.kernels import Array, kernel


@kernel
def factorize(matrix: Array, n: int, factor: Array) -> None:
    """Cholesky factor of the symmetric positive definite ``matrix`` (n, n) into the lower triangle of ``factor``."""
    for j in range(n):
        total = matrix[j, j]
        for k in range(j):
            total -= factor[j, k] * factor[j, k]
        pivot = math.sqrt(max(total, 1e-12))
        factor[j, j] = pivot
        for i in range(j + 1, n):
            total = matrix[i, j]
            for k in range(j):
                total -= factor[i, k] * factor[j, k]
            factor[i, j] = total / pivot


@kernel
def solve(factor: Array, n: int, vector: Array) -> None:
    """Solve ``L Lᵀ x = vector`` in place, given the Cholesky factor L in the lower triangle of ``factor``."""
    for i in range(n):
        total = vector[i]
        for k in range(i):
            total -= factor[i, k] * vector[k]
        vector[i] = total / factor[i, i]
    for i in range(n - 1, -1, -1):
        total = vector[i]
        for k in range(i + 1, n):
            total -= factor[k, i] * vector[k]
        vector[i] = total / factor[i, i]
