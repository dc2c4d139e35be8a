"""libfranka's calls alone, as a subject: a loop that reads a state and writes a torque of zero, which holds the arm.

What is between the two is nothing, so this is what the network and the system take, and no loop can be faster.
"""

from __future__ import annotations

import os
import time

import numpy as np
import pylibfranka

from aiofranka_ros.control import realtime
from bench.loops.subject import SETTLING, Cpu, arguments, write


def main() -> None:
    """Drive the arm."""
    options = arguments()
    if options.cpu >= 0:
        os.sched_setaffinity(0, {options.cpu})
    robot = pylibfranka.Robot(options.address, pylibfranka.RealtimeConfig.kIgnore)
    realtime.prefer_real_time(realtime.PRIORITY)
    torques = pylibfranka.Torques([0.0] * 7)
    settling, count = (int(1e3 * seconds) for seconds in (SETTLING, options.seconds))
    rows = np.zeros((settling + count, 4))
    meter = Cpu(os.getpid())
    used = since = 0.0
    with realtime.real_time(realtime.PRIORITY):
        control = robot.start_torque_control()
        for cycle, row in enumerate(rows):
            if cycle == settling:
                used, since = meter.used(), time.monotonic()
            state, _ = control.readOnce()
            arrived = time.perf_counter_ns()
            control.writeOnce(torques)
            departed = time.perf_counter_ns()
            row[:] = state.time.to_sec(), 1e-9 * (departed - arrived), state.control_command_success_rate, time.time()
        share = (meter.used() - used) / (time.monotonic() - since)
        control.readOnce()
        torques.motion_finished = True
        control.writeOnce(torques)
    names = ("time", "response", "success_rate", "written")
    write(options.output, dict(zip(names, rows[settling:].T, strict=True)), {"cpu": share}, "")


if __name__ == "__main__":
    main()
