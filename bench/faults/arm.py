"""The simulated arm that is recorded at every step, and that can be pushed, stopped and guided.

:class:`FaultyArm` is the handle of the process that stages faults; the arm's own process is
:mod:`bench.faults.arm_process`. It records what the arm *does*, so it shows the effect of a fault even if everything
that controlled the arm is dead.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aiofranka_ros.simulation.remote import ask
from bench.faults.helper import Helper
from bench.faults.tape import Tape

#: One step of the physics.
STEP = np.dtype(
    [
        ("stamp", "i8"),  # [ns, system clock]
        ("steady", "i8"),  # [ns, monotonic clock]
        ("received", "i8"),  # when the newest command arrived [ns, monotonic clock]
        ("q", "f8", (7,)),  # [rad]
        ("dq", "f8", (7,)),  # [rad/s]
        ("tau", "f8", (7,)),  # [Nm], commanded, gravity excluded; 0 while the arm's own controller holds
    ]
)
#: An arm stands still if all joints stay slower than this [rad/s].
STANDSTILL = 0.01


class FaultyArm(Helper):
    """A simulated arm, running until it is closed.

    :param host: loopback address to serve at.
    :param folder: for its log.
    """

    def __init__(self, host: str, folder: Path) -> None:
        self.host = host
        self.tape = Tape(STEP)
        options = ["--tape", str(self.tape.path), "--host", host]
        super().__init__("bench.faults.arm_process", options, folder / "arm.log")

    def push(self, torque: Sequence[float], duration: float) -> None:
        """Push the arm with ``torque`` [Nm] (7,) at its joints for ``duration`` [s], as a person might."""
        ask(self.host, "push", force=[0.0] * 3, torque=list(torque), duration=duration)

    def touch(self, force: Sequence[float], duration: float) -> None:
        """Push the flange with ``force`` [N] (3,), in the base, for ``duration`` [s]."""
        ask(self.host, "push", force=list(force), torque=[0.0] * 7, duration=duration)

    def stop_by_user(self) -> None:
        """Press the user stop."""
        ask(self.host, "stop")

    def guide(self) -> None:
        """Press the guiding buttons at the hand."""
        ask(self.host, "guide")

    def let_go(self) -> None:
        """Release all buttons."""
        ask(self.host, "release")

    @property
    def in_reflex(self) -> bool:
        """Whether an error is latched."""
        return bool(ask(self.host, "status")["errors"])

    def since(self, stamp: int) -> npt.NDArray[Any]:
        """The steps since ``stamp`` [ns, system clock], of the last minute."""
        steps, _ = self.tape.since(0)
        return steps[steps["stamp"] >= stamp]

    def standstill(self, stamp: int) -> float | None:
        """How long after ``stamp`` [ns, system clock] the arm stood still [s], if it does so now."""
        steps = self.since(stamp)
        moving = np.flatnonzero(np.abs(steps["dq"]).max(axis=1) >= STANDSTILL) if len(steps) else []
        if len(steps) == 0 or (len(moving) and moving[-1] > len(steps) - 100):
            return None
        return 1e-9 * float(steps["stamp"][moving[-1]] - stamp) if len(moving) else 0.0
