"""Starts that are interrupted at random moments: the node ends with the promised exit status and leaves nothing."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from pathlib import Path

from aiofranka_ros.simulation.simulated_arm import is_taken
from aiofranka_ros.testing import Child, NodeProcess, alive, descendants, wait_until
from bench.faults.catalogue import fault
from bench.faults.rig import Findings, Rig

#: Moments of the signal after the start of the process: spread evenly over their orders of magnitude [s].
_EARLIEST, _LATEST = 1e-5, 20.0
#: How long a node may take to end [s]; an arm that moves has to stop, and a busy computer explains most of it.
_PATIENCE = 40.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: The nodes, the arm's most often, and their parameters.
_NODES = (
    *[("aiofranka_ros.node", {"autostart": True, "discovery_time": 0.0})] * 4,
    ("aiofranka_ros.gripper_node", {}),
    ("aiofranka_ros.rviz_tools", {}),
)
#: Bit mask of the signals that a process handles, ``/proc/PID/status``.
_CAUGHT = "SigCgt:"


def _handles_signals(process: Child) -> bool:
    """Whether the process handles SIGHUP, which it does last: before, Python's and the system's handlers end it."""
    status = ""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{process.process.pid}/status").read_text()
    mask = status.partition(_CAUGHT)[2].partition("\n")[0].strip() or "0"
    return bool(int(mask, 16) >> (signal.SIGHUP - 1) & 1)


@fault("each node ends with status 0, or by the signal if it came before the node's first lines, and leaves nothing")
def interrupted_starts(rig: Rig, findings: Findings) -> None:
    """SIGINT, SIGTERM, SIGHUP, or several of them, 10 µs to 20 s after the start of a node, mostly the arm's."""
    generator = random.Random(rig.options.seed)
    rig.stop_node()
    early, wrong = 0, []
    count = rig.options.starts
    for number in range(count):
        rig.progress(number / count)
        delay = _EARLIEST * (_LATEST / _EARLIEST) ** generator.random()
        signals = generator.choices(_SIGNALS, k=generator.choice((1, 1, 2, 3)))
        module, parameters = generator.choice(_NODES)
        what = f"{module}, {'+'.join(one.name for one in signals)} after {1e3 * delay:.3g} ms"
        log = rig.folder / "interrupted.log"
        with NodeProcess(log, f"start{number}", module=module, **parameters) as node:
            began = time.monotonic()
            if delay < 0.01:
                time.sleep(delay)
            else:
                rig.spin_for(delay)
            handled = _handles_signals(node)
            children = descendants(node.process.pid)
            for one in signals:
                node.process.send_signal(one)
            if not rig.spin_until(lambda: node.process.poll() is not None, _PATIENCE):
                wrong.append(f"{what}: it does not end")
                continue
            took, status = time.monotonic() - began - delay, node.process.returncode
        early += not handled
        if not (status == 0 if handled else status in (0, 1, *(-one for one in signals))):
            wrong.append(f"{what}: exit status {status} after {took:.1f} s: {node.end_of_log.splitlines()[-1].strip()}")
        if handled and "Traceback" in node.log:
            wrong.append(f"{what}: a traceback in its log")
        if not wait_until(lambda children=children: not any(map(alive, children)), 5.0):
            wrong.append(f"{what}: processes are left")  # With them, their shared memory, too.
        address = node.log.partition("connected to the robot at ")[2].partition(",")[0]
        if address and not wait_until(lambda address=address: not is_taken(address), 5.0):
            wrong.append(f"{what}: the port at {address} is left")
    findings.check(not wrong, f"{count - len(wrong)} of {count} starts ended as they must, {early} before any handler")
    for text in wrong[:5]:
        findings.check(False, text)
