"""Compiled kernels: the decorator, where compiled code is kept, and the types of what kernels work on.

Used by every module that has a kernel, in every process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit, typeof


def _forget_stale_kernels() -> None:
    """Remove compiled code that is older than any source that has kernels.

    numba looks at the file of a kernel alone; code that was compiled into it from another file would stay as it was.
    """
    package = Path(__file__).parent
    with contextlib.suppress(OSError):  # Not ours to remove: then it was not compiled here either.
        sources = [source for source in package.rglob("*.py") if b"@kernel" in source.read_bytes()]
        newest = max(source.stat().st_mtime for source in sources)
        for index in package.rglob("__pycache__/*.nbi"):
            if index.stat().st_mtime < newest:
                index.unlink(missing_ok=True)


_forget_stale_kernels()

#: Decorator of the compiled kernels. Compiled code is cached beside the source (or in the user's cache directory); a
#: division by zero gives infinity, which the limits catch, instead of an exception in the middle of a cycle.
kernel = njit(cache=True, error_model="numpy")


def entry_point(dispatcher: Any, *arguments: Any) -> Callable[..., Any]:
    """The compiled code of a ``kernel`` for arguments of the same types as ``arguments``, which are not touched.

    A kernel looks up the types of its arguments whenever it is called. With records, that takes as long as the kernel
    itself where nothing is in the processor's caches any more, as in every cycle. Here, nobody looks at more than the
    size of an array's elements: one of another type would be taken for what it is not.
    """
    signature = tuple(map(typeof, arguments))
    dispatcher.compile(signature)
    found: Callable[..., Any] = dispatcher.get_overload(signature)
    return found


Array: TypeAlias = npt.NDArray[np.float64]
#: Numbers whose order says what they are, of which some come from where numpy would take too long.
Numbers: TypeAlias = "npt.NDArray[np.float64] | tuple[float, ...]"
#: A numpy record of one of the dtypes below.
Record: TypeAlias = Any
