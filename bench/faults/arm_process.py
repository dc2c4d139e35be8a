"""The process of :class:`bench.faults.arm.FaultyArm`: the simulated arm of this package, recorded at every step.

    python -m bench.faults.arm_process --tape PATH --host 127.0.0.2

This is :mod:`aiofranka_ros.simulation`, with its real-time scheduling, limits, protocol and requests, plus a record of
every step of the physics. It ends with the process that started it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiofranka_ros.simulation import __main__ as simulation
from aiofranka_ros.simulation import touched
from bench.faults.arm import STEP
from bench.faults.tape import Tape


class RecordedPhysics(touched.TouchedPhysics):
    """An arm that is recorded at every step.

    :ivar tape: the record; set before the arm starts.
    """

    tape: Tape
    _received = 0

    def update_torques(self, torques: Any) -> None:
        """A command has arrived."""
        self._received = time.monotonic_ns()
        super().update_torques(torques)

    def _apply_control(self) -> None:
        super()._apply_control()
        fields, index = self.tape.fields, self.tape.next()
        fields["stamp"][index] = time.time_ns()
        fields["steady"][index] = time.monotonic_ns()
        fields["received"][index] = self._received
        fields["q"][index] = self.data.qpos[self.arm_qpos_adr]
        fields["dq"][index] = self.data.qvel[self.arm_dofs_idx]
        fields["tau"][index] = self.latest_torques
        self.tape.commit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the arm until SIGTERM.

    :returns: exit status, as :func:`aiofranka_ros.simulation.__main__.main`.
    """
    parser = argparse.ArgumentParser(description="A simulated arm for fault injection; started by bench.faults.")
    parser.add_argument("--tape", type=Path, required=True, help="tape to record every step on")
    options, rest = parser.parse_known_args(arguments)
    RecordedPhysics.tape = Tape(STEP, options.tape)
    touched.TouchedPhysics = RecordedPhysics  # type: ignore[misc]
    return simulation.main([*rest, "--parent", str(os.getppid())])


if __name__ == "__main__":
    sys.exit(main())
