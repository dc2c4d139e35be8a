"""franka-rs 0.4.0 as a player: its ``follow`` and ``move_to``, in an environment with nothing else.

Called by :mod:`bench.policies.mix` in its thread, which waits for the process of each case.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import numpy as np

from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.processes import WAIT_STEP, StopRequest
from bench.faults.arm import FaultyArm
from bench.loops import environment
from bench.policies.arm_level import recorded
from bench.policies.chunks import Case
from bench.policies.rules import by_index
from bench.policies.seams import Played

REQUIREMENTS = ("franka-rs==0.4.0",)
_SUBJECT = Path(__file__).resolve().parent / "franka_rs_subject.py"
#: How long a case may take beyond its duration [s].
_MARGIN = 40.0


class FrankaRs:
    """franka-rs, playing cases one by one on an arm that no other client uses.

    :param folder: of its environment, which is made if it does not exist.
    :ivar ended: why it ended cases early, as sentences.
    """

    def __init__(self, folder: Path, stop: StopRequest) -> None:
        self._python = environment.make(folder, REQUIREMENTS, ros=False)
        self._folder, self._stop = folder, stop
        self.ended: list[str] = []

    def play(self, arm: FaultyArm, case: Case, how: str) -> Played:
        """Play a case with ``how``: ``follow``, or ``move_to`` with the row of each step.

        :raises RuntimeError: nothing was played.
        :raises Interrupted: a stop was requested.
        """
        arrays = {"home": HOME, "duration": case.meant.duration, "dt": case.dt}
        if how == "follow":
            arrays |= {"arrivals": np.array([chunk.arrives for chunk in case.sent])}
            arrays |= {f"rows{number}": chunk.rows for number, chunk in enumerate(case.sent)}
        else:
            targets = by_index(case)
            arrays |= {"times": targets.times, "values": targets.values}
        path = self._folder / "case.npz"
        np.savez(path, **arrays)
        process = subprocess.Popen(
            [self._python, str(_SUBJECT), arm.host, str(path), how],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=environment.variables(), start_new_session=True, text=False,
        )  # fmt: skip
        deadline = time.monotonic() + case.meant.duration + _MARGIN
        try:
            while process.poll() is None and time.monotonic() < deadline:
                self._stop.sleep(WAIT_STEP)
        finally:
            environment.end(process)
        assert process.stdout is not None  # A pipe.
        said = process.stdout.read().decode(errors="replace").split("\n")
        process.stdout.close()
        try:
            begin = float(said[0])
        except ValueError:
            raise RuntimeError(f"franka-rs played nothing: {' '.join(said)}") from None
        stopped = said[1].startswith("stopped")
        if stopped:
            self.ended.append(f"{how}, {case.name}: {said[1]}")
        return recorded(arm, case, begin, int(stopped))
