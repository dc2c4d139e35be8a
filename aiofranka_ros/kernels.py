"""Compiled kernels: the decorator, where compiled code is kept, and the types of what kernels work on.

Used by every module that has a kernel, in every process.

A compiled kernel contains kernels and constants of other modules, but numba compares only the kernel's own file with
what it compiled earlier. Therefore each module's compiled code has a folder named by a digest of that module and of all
modules of this package that it imports, directly or not. Another source means another folder, whatever the times of the
files say, and processes with different sources never share a file.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.machinery
import importlib.util
import os
import py_compile
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numba
import numpy as np
import numpy.typing as npt
from numba import njit, typeof
from numba.extending import is_jitted

_PACKAGE = Path(__file__).parent
#: Imports from this package, over several lines too: from where, and what. No module of it has imports of another form.
_IMPORT = re.compile(rf"^[ \t]*from ({_PACKAGE.name}[\w.]*) import (\((?:[^)#]|#.*)*\)|.*)", re.MULTILINE)
#: A folder of other sources is removed after this time [s]; until then, a process may be about to write there.
_ABANDONED = 86400.0
#: Flags of bytecode that Python compares with the content of its source, see PEP 552.
_COMPARED_BY_CONTENT = b"\3\0\0\0"


def kernel(function: Callable[..., Any]) -> Any:
    """Decorator: compile ``function``, and keep the compiled code for later processes.

    A division by zero gives infinity, which the limits catch, instead of an exception in the middle of a cycle.
    """
    folder = _folder(function.__module__)
    if folder is None:
        return njit(error_model="numpy")(function)
    # numba reads this variable here and never again; kernels of other packages must not see it.
    configured, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
    try:
        return njit(cache=True, error_model="numpy")(function)
    finally:
        numba.config.CACHE_DIR = configured


def compiled() -> bool:
    """Whether the cache has compiled code of every kernel of the modules that are loaded."""
    return all(folder is not None and any(folder.glob(f"*.{name}-*.nbi")) for folder, name in _cached_kernels())


def cacheable() -> bool:
    """Whether compiled code can be kept for later processes."""
    return all(folder is not None for folder, _ in _cached_kernels())


def _cached_kernels() -> Iterator[tuple[Path | None, str]]:
    """Folder of the compiled code, if it can be kept, and name of each kernel of the modules that are loaded."""
    modules = [module for name, module in sys.modules.items() if name.startswith(f"{_PACKAGE.name}.")]
    for found in {value for module in modules for value in vars(module).values() if is_jitted(value)}:
        yield found.stats.cache_path and Path(found.stats.cache_path), found.__qualname__


def sources(module: str) -> dict[str, Path]:
    """The modules, by name, whose content goes into the compiled kernels of ``module``: itself, and what it imports."""
    found: dict[str, Path] = {}
    unseen = [module]
    while unseen:
        name = unseen.pop()
        path = _path(name)
        if path is not None and name not in found:
            found[name] = path
            unseen += _imports(path)
    return found


@functools.cache
def _folder(module: str) -> Path | None:
    """Where compiled code of the present sources of ``module`` is; ``None`` if no place can be written to."""
    files = sources(module)
    if not files:  # Not read from a file, so nothing shows when it changes.
        return None
    digest = hashlib.sha256(numba.__version__.encode())
    for name in sorted(files):
        digest.update(f"\0{name}\0".encode() + _content(files[name]))
        _check_bytecode(name, files[name])
    for base in _places():
        folder = base / f"{module}-{digest.hexdigest()[:16]}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        _remove_others(folder, module)
        return folder
    return None


def _places() -> Iterator[Path]:
    """Folders for compiled code, the best one first."""
    own = f"{_PACKAGE.name}-{hashlib.sha256(bytes(_PACKAGE)).hexdigest()[:16]}"  # Installations must not share one.
    if numba.config.CACHE_DIR:
        yield Path(numba.config.CACHE_DIR, own)
    yield _PACKAGE / "__pycache__" / "kernels"
    yield Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), own)


def _remove_others(folder: Path, module: str) -> None:
    """Remove compiled code of other sources of ``module``, without disturbing a process that may still write some."""
    for other in folder.parent.glob(f"{module}-*"):
        if other != folder:
            with contextlib.suppress(OSError):  # Another process was faster, or it is not ours to remove.
                paths = [other, *other.rglob("*")]
                if time.time() - max(path.stat().st_mtime for path in paths) > _ABANDONED:
                    shutil.rmtree(other)
                for path in paths:
                    if path.suffix in (".nbi", ".nbc"):
                        path.unlink(missing_ok=True)


@functools.cache
def _check_bytecode(module: str, file: Path) -> None:
    """Have Python compare a module's bytecode with the content of its source, not with its time and size.

    :raises ImportError: Python has just loaded bytecode of another source.
    """
    with contextlib.suppress(OSError):  # There is no bytecode, or it is not ours to replace.
        bytecode = Path(importlib.util.cache_from_source(str(file)))
        if bytecode.read_bytes()[4:8] == _COMPARED_BY_CONTENT or not os.access(bytecode, os.W_OK):
            return
        loaded = importlib.machinery.SourceFileLoader(module, str(file)).get_code(module)
        py_compile.compile(str(file), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
        if loaded != compile(_content(file), file, "exec", dont_inherit=True):
            raise ImportError(f"{file} was replaced by another of the same time and size: start again to load it")


@functools.cache
def _path(module: str) -> Path | None:
    """The file of a module of this package; ``None`` if there is no such module."""
    path = _PACKAGE.parent.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@functools.cache
def _content(file: Path) -> bytes:
    return file.read_bytes()


@functools.cache
def _imports(file: Path) -> set[str]:
    """Modules of this package that a file imports."""
    found = set()
    for origin, names in _IMPORT.findall(_content(file).decode()):
        for name in re.findall(r"\w+", re.sub("#.*", "", names)):
            found.add(f"{origin}.{name}" if _path(f"{origin}.{name}") else origin)
    return found


def entry_point(dispatcher: Any, *arguments: Any) -> Callable[..., Any]:
    """The compiled code of a ``kernel`` for arguments of the same types as ``arguments``, which are not touched.

    A kernel looks up the types of its arguments in every call. With records, that takes as long as the kernel itself if
    the processor's caches are cold, as they are in every cycle. The compiled code checks only the size of an array's
    elements: an array of another type with elements of that size would be misread.
    """
    signature = tuple(map(typeof, arguments))
    dispatcher.compile(signature)
    found: Callable[..., Any] = dispatcher.get_overload(signature)
    return found


Array: TypeAlias = npt.NDArray[np.float64]
#: Numbers in a fixed order. They may be a tuple because making an array takes too long on the way of a target.
Numbers: TypeAlias = "npt.NDArray[np.float64] | tuple[float, ...]"
#: A numpy record, see :mod:`aiofranka_ros.control.records`.
Record: TypeAlias = Any
