"""An exception in the middle of a write to shared memory, as by Ctrl-C: the fault, and a tool for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from aiofranka_ros.arm.planning import plan
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.records import Mode, Phase
from aiofranka_ros.control.shared_memory import Block
from bench.faults.catalogue import fault
from bench.faults.processes import STOPPED, check_next_node, check_reflex
from bench.faults.rig import SWING, Findings, Rig


class Interruption(BaseException):
    """Like ``KeyboardInterrupt``, but no signal."""


class _Payload:
    """The payload of a block; the next write to it ends half-way."""

    def __init__(self, block: Block) -> None:
        self._block, self._memory = block, block._payload

    def __len__(self) -> int:
        return len(self._memory)

    def __setitem__(self, key: slice, data: memoryview) -> None:
        self._block._payload = self._memory
        half = len(data) // 2
        self._memory[:half] = data[:half]
        raise Interruption


def interrupt_next_write(block: Block) -> None:
    """Make the next write to ``block`` raise :class:`Interruption` when half of it is written."""
    payload: Any = _Payload(block)
    block._payload = payload


@fault("the next command gets through: the arm is deactivated smoothly, and can be activated again")
def command_interrupted(rig: Rig, findings: Findings) -> None:
    """An exception ends the write of a command half-way, in the middle of a motion of a client without a node."""
    rig.stop_node()
    rig.start_arm()
    with ControlClient() as client:
        client.update({"heartbeat_timeout": 2.0}, mode=Mode.IMPEDANCE)
        client.connect(rig.arm.host)
        for attempt in ("target", "deactivation"):
            client.activate()
            q = rig.arm_q()
            goal = max(SWING, key=lambda end: float(np.abs(end - q).max()))
            client.start_motion(
                plan(client.state()["q"].copy(), goal, max_acceleration=np.full(7, 5.0), max_jerk=np.full(7, 100.0))
            )
            rig.wait(lambda: rig.arm_speed() > 0.3, "the arm does not move")
            rig.mark()
            interrupt_next_write(client.shared.commands)
            try:
                if attempt == "target":
                    client.set_joints(goal.tolist())
                else:
                    client.deactivate()
            except Interruption:
                findings.note(f"the write of a {attempt} is interrupted")
            client.beat()
            client.deactivate()
            findings.within(rig.since_mark(), STOPPED, "the arm was released")
            findings.within(rig.standstill(), STOPPED, "the arm stood still")
            findings.check(client.phase is Phase.CONNECTED, f"the control process is {client.phase.name.lower()}")
            check_reflex(rig, findings)
    check_next_node(rig, findings)
