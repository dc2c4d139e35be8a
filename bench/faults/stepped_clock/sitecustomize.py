"""Steps Python's system clock in every process that finds this file first on its path.

For the fault ``system_clock_step`` alone: the clock of this computer must not be touched. ``time.time`` and
``time.time_ns`` are shifted by the nanoseconds at the beginning of the file that ``AIOFRANKA_CLOCK_OFFSET`` names; what
ROS and DDS ask the system themselves is not.
"""

import mmap
import os
import struct
import time

with open(os.environ["AIOFRANKA_CLOCK_OFFSET"], "rb") as _file:
    _offset = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)
_time_ns, _unpack = time.time_ns, struct.Struct("<q").unpack_from


def _stepped_time_ns() -> int:
    return _time_ns() + _unpack(_offset)[0]


time.time_ns = _stepped_time_ns
time.time = lambda: 1e-9 * _stepped_time_ns()
