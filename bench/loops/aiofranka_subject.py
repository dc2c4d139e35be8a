"""aiofranka 0.9.0 as a subject, in a separate environment: its C++ loop, and its older Python loop.

The C++ loop records its cycles itself (``record``, with ``busy`` from ``readOnce`` to ``writeOnce``). The Python loop
has no record, so its torque controller is wrapped, which costs it two clock readings per cycle.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from aiofranka import FrankaController, NativeFrankaController, RobotInterface
from subject import Cpu, keep_off, measure, run

#: The gains in aiofranka's benchmark and examples, see ``aiofranka rt-benchmark``.
GAINS = {
    "impedance": {"kp": 80.0, "kd": 4.0},
    "osc": {"ee_kp": 100.0, "ee_kd": 20.0, "null_kp": 9.0, "null_kd": 6.0},
}


class Wrapped:
    """A torque controller that records its states and torques."""

    def __init__(self, control: Any) -> None:
        self._control = control
        self.rows: list[tuple[float, float, float, float]] = []
        self._state: tuple[float, float, int] | None = None

    def readOnce(self) -> Any:
        """As libfranka's."""
        state, duration = self._control.readOnce()
        self._state = state.time.to_sec(), state.control_command_success_rate, time.perf_counter_ns()
        return state, duration

    def writeOnce(self, command: Any) -> None:
        """As libfranka's."""
        self._control.writeOnce(command)
        if self._state is not None:
            robot_time, success, read = self._state
            self.rows.append((robot_time, 1e-9 * (time.perf_counter_ns() - read), success, time.time()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._control, name)


def loop_thread() -> int | None:
    """The thread that runs the loop in C++: the one with a real-time policy."""
    threads = [int(name) for name in os.listdir("/proc/self/task") if int(name) != os.getpid()]
    return next((thread for thread in threads if os.sched_getscheduler(thread) == os.SCHED_FIFO), None)


async def main(options: Any) -> None:
    """Drive the arm."""
    # Desk is a web page of the robot that the simulated arm does not have.
    robot = RobotInterface(options.address, read_tool=False)
    # libfranka gave this thread the highest real-time priority. Whatever is started from here on would inherit it.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    native = options.subject == "aiofranka_native"
    controller = (NativeFrankaController if native else FrankaController)(robot)
    if native and options.cpu >= 0:
        controller.realtime_cpu = options.cpu
        keep_off(options.cpu)
    errors: list[str] = []
    controller.error_callback = errors.append
    if not native:
        # As the legacy loop runs best: with the priority that libfranka gave its thread.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(os.sched_get_priority_max(os.SCHED_FIFO)))
    for name, value in GAINS[options.mode].items():
        setattr(controller, name, np.full(len(getattr(controller, name)), value))
    await controller.start()
    if native:
        await _measure_native(options, controller, errors)
    else:
        await _measure_python(options, controller, robot, errors)
    if not errors:
        await controller.stop()


async def _measure_native(options: Any, controller: Any, errors: list[str]) -> None:
    fields = ["time", "busy", "control_command_success_rate", "wall_time"]
    recordings: list[Any] = []

    def begin() -> None:
        recordings.append(controller.record(fields, seconds=options.seconds + 60.0))

    def cycles() -> dict[str, Any]:
        data = recordings[0].data()
        recordings[0].stop()
        return {
            "time": data["time"],
            "response": data["busy"],
            "success_rate": data["control_command_success_rate"],
            "written": data["wall_time"] + data["busy"],
        }

    thread = loop_thread()
    await measure(
        options, controller, lambda: {"cpu": Cpu(os.getpid(), thread)}, begin, cycles,
        lambda: errors[0] if errors else "",
    )  # fmt: skip


async def _measure_python(options: Any, controller: Any, robot: Any, errors: list[str]) -> None:
    wrapped = robot.torque_controller = Wrapped(robot.torque_controller)

    def cycles() -> dict[str, Any]:
        rows = np.array(wrapped.rows).reshape(-1, 4)
        return dict(zip(("time", "response", "success_rate", "written"), rows.T, strict=True))

    await measure(
        options, controller, lambda: {"cpu": Cpu(os.getpid(), os.getpid())}, wrapped.rows.clear, cycles,
        lambda: errors[0] if errors else "",
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
