"""This project as a subject: the policy's process drives the arm itself, or through a node in a separate process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np

from aiofranka_ros import FrankaController, RobotInterface, RosInterface
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.control.stamps import offset_to
from aiofranka_ros.errors import FrankaError
from bench.loops.subject import Cpu, keep_off, measure, run

#: How often a policy reads the state [s]; not a multiple of any other period.
_LOOK_PERIOD = 0.0137


def control_process(owner: int) -> int:
    """Process id of the control process that ``owner`` has started."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as stat, open(f"/proc/{name}/cmdline") as command:
                    mine = int(stat.read().rpartition(")")[2].split()[1]) == owner
                    if mine and "aiofranka_ros.control.process" in command.read():
                        return int(name)
            except OSError:
                continue
    raise RuntimeError("there is no control process")


def shared_memory(process: int) -> SharedMemory:
    """The memory that a control process shares with its owner."""
    with open(f"/proc/{process}/cmdline") as command:
        words = command.read().split("\0")
    return SharedMemory.observe(f"/proc/{process}/fd/{words[words.index('--shared-memory') + 1]}")


def age() -> float:
    """How long this process has existed [s], including the start of its interpreter and its imports."""
    with open("/proc/self/stat") as stat:
        ticks = int(stat.read().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


async def main(options: Any) -> None:
    """Drive the arm."""
    node: subprocess.Popen[bytes] | None = None
    before = 0.0
    if options.subject == "aiofranka_ros_node":
        command = [sys.executable, "-m", "aiofranka_ros.node", "--ros-args", "-p", f"robot_ip:={options.address}"]
        command += ["-p", f"realtime_cpu:={options.cpu}"]
        before = age()
        node = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    link = RobotInterface(options.address, realtime_cpu=options.cpu) if node is None else RosInterface("aiofranka")
    controller = FrankaController(link)
    try:
        await controller.start()
        start = age() - before
        keep_off(options.cpu)
        process = control_process(os.getpid() if node is None else node.pid)
        with shared_memory(process) as memory:
            position, errors, ages = [0], [], []
            controller.error_callback = lambda error: errors.append(str(error))

            async def look() -> None:
                while True:
                    await asyncio.sleep(_LOOK_PERIOD)
                    ages.append(1e-9 * (time.time_ns() - link.snapshot().stamp))

            def begin() -> None:
                position[0] = memory.cycles.count
                looking.append(asyncio.ensure_future(look()))

            def cycles() -> dict[str, Any]:
                found, _, unread = memory.cycles.since(position[0])
                if unread:
                    raise RuntimeError(f"{unread} cycles were overwritten before they were read")
                names = ("time", "response", "success_rate")
                # Cycles have the monotonic clock; targets, too, unless they are messages.
                offset = offset_to()
                fresh = np.flatnonzero(np.diff(found["target_id"].astype(np.int64)) > 0) + 1
                return {
                    **{name: found[name].copy() for name in names},
                    "written": 1e-9 * (found["stamp"] + offset),
                    # From the start of the node's process, or of the policy's if there is no node, to torque control.
                    "start": start,
                    # From the policy's call to the first torque that was computed with its target.
                    "latency": 1e-9 * (found["stamp"] - found["target_stamp"] + (offset if node else 0))[fresh],
                    # The age of the state that a policy gets at an arbitrary time.
                    "state_age": np.array(ages),
                }

            def meters() -> dict[str, Cpu]:
                return {"cpu": Cpu(process)} | ({} if node is None else {"cpu_node": Cpu(node.pid)})

            looking: list[asyncio.Future[None]] = []
            await measure(options, controller, meters, begin, cycles, lambda: errors[0] if errors else "")
            looking[0].cancel()
        try:
            await controller.stop()
        except FrankaError:
            pass  # It has already ended, which the file reports.
    finally:
        if node is not None:
            node.send_signal(signal.SIGINT)
            await asyncio.to_thread(node.wait)


if __name__ == "__main__":
    run(main)
