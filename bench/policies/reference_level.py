"""Plays chunks without an arm: what the reference that the laws follow would do. Deterministic, and fast.

Called by :mod:`bench.policies.mix` and by tests, in their thread.
"""

from __future__ import annotations

import numpy as np

from aiofranka_ros.control.defaults import default_commands
from aiofranka_ros.control.law import reference
from aiofranka_ros.control.records import MEMORY, SCRATCH, new
from aiofranka_ros.kernels import Array, Record, kernel
from aiofranka_ros.model import fr3
from bench.policies.chunks import Case
from bench.policies.rules import Targets
from bench.policies.seams import CYCLE, Played

#: Stamps must not be 0, which is unknown [ns].
_FIRST_STAMP = 10**18


@kernel
def _play(memory: Record, commands: Record, scratch: Record, times: Array, values: Array, q: Array) -> None:
    """Send every target in its cycle, and record the reference in ``q`` (n, 7)."""
    sent = 0
    for cycle in range(len(q)):
        now = cycle * CYCLE
        while sent < len(times) and times[sent] <= now + 1e-9:
            for j in range(7):
                commands.target_q[j] = values[sent, j]
            commands.target_stamp = _FIRST_STAMP + int(times[sent] * 1e9)
            reference.accept_joints(memory, commands, scratch, now)
            sent += 1
        reference.advance_joints(memory, commands, True, CYCLE)
        for j in range(7):
            q[cycle, j] = memory.ref_q[j]


def play(targets: Targets, case: Case) -> Played:
    """Play single targets, with the defaults of all parameters."""
    commands, memory, scratch = default_commands(), new(MEMORY), new(SCRATCH)
    memory["workspace_lower"], memory["workspace_upper"] = -10.0, 10.0
    memory["spring_lower"] = fr3.POSITION_LOWER + fr3.JOINT_MARGIN
    memory["spring_upper"] = fr3.POSITION_UPPER - fr3.JOINT_MARGIN
    start = case.meant.at(np.zeros(1))[0]
    reference.seed(memory[0], commands[0], start, np.zeros(7))
    times = np.arange(0.0, case.meant.duration, CYCLE)
    q = np.empty((len(times), 7))
    _play(memory[0], commands[0], scratch[0], targets.times, targets.values, q)
    return Played(times, q)
