"""What a computer does to those who run on it: no memory, no disk, no processor, another time."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.faults.catalogue import fault
from bench.faults.helper import ROOT
from bench.faults.processes import check_next_node, check_ordinary_move, check_reflex
from bench.faults.rig import Findings, Rig, Skipped

#: Set in a process that has its own mounts, see :func:`enter_namespace`.
_NAMESPACE = "AIOFRANKA_FAULTS_NAMESPACE"
_SHARED_MEMORY = Path("/dev/shm")
#: ``<linux/prctl.h>``, ``<linux/capability.h>``, ``<sys/mount.h>``.
_PR_CAPBSET_DROP, _CAP_SYS_NICE, _CAP_IPC_LOCK, _MNT_DETACH = 24, 23, 14, 2

_libc = ctypes.CDLL(None, use_errno=True)


def enter_namespace(arguments: Sequence[str]) -> None:
    """Run this program again with its own mounts, if that is permitted, so that no other program sees the full disks.

    Returns in the process that has its own mounts and ``/dev/shm``, or if they are not permitted.
    """
    if os.environ.get(_NAMESPACE):
        _mount(_SHARED_MEMORY, "256m")
        return
    allowed = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    if os.geteuid() == 0 and allowed.returncode == 0:
        os.environ[_NAMESPACE] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, "-m", "bench.faults", *arguments])


def _mount(where: Path, size: str) -> None:
    options = f"size={size},mode=1777".encode()
    if _libc.mount(b"tmpfs", str(where).encode(), b"tmpfs", 0, options) != 0:
        raise OSError(ctypes.get_errno(), f"cannot mount a tmpfs at {where}")


@contextlib.contextmanager
def _filled(folder: Path) -> Iterator[None]:
    """Inside, there is no space left in ``folder``."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size):
                    pass
    try:
        yield
    finally:
        ballast.unlink()


def _require_mounts() -> None:
    if not os.environ.get(_NAMESPACE):
        raise Skipped("separate mounts need root and unshare(1)")


@fault("the last target is held, the policy's own error names the cause, and the node survives")
def policy_out_of_memory(rig: Rig, findings: Findings) -> None:
    """A policy fills its limited memory while it streams."""
    rig.ready()
    policy = rig.start_policy("--hoard", "1.5")
    rig.wait(lambda: rig.target_age < 0.1, "the policy's targets do not arrive")
    # A process takes a while to end, so the fault counts from its last target.
    rig.wait(lambda: rig.target_age > 0.2, "the policy does not run out of memory")
    rig.mark()
    findings.within(rig.standstill(), 1.0, "the arm stood still")
    rig.wait(lambda: policy.process.poll() is not None, "the policy does not end")
    findings.check("MemoryError" in policy.log, "the policy said MemoryError")
    rig.refresh()
    age = rig.value("targets", "age of the newest [s]")
    findings.check(age and float(age) > 0.2, f"diagnostics: age of the newest target {age or '?'} s")
    findings.check(rig.state == "active", f"the node is {rig.state}")


@fault("everything works, and the log names the cause")
def full_disk(rig: Rig, findings: Findings) -> None:
    """The folders for ROS's log files and for temporary files are on a full disk."""
    _require_mounts()
    disk = rig.folder / "disk"
    disk.mkdir(exist_ok=True)
    _mount(disk, "64k")
    try:
        with _filled(disk):
            rig.stop_node()
            said = len(rig.log)
            rig.start_arm()
            rig.start_node(env={"ROS_LOG_DIR": str(disk), "TMPDIR": str(disk)})
            rig.activate()
            rig.mark()
            check_ordinary_move(rig, findings)
            rig.stop_node()  # Some libraries report it only when they close their files.
            cause = os.strerror(errno.ENOSPC)
            findings.check(cause in rig.log[said:], f"{cause!r} {'' if cause in rig.log[said:] else 'not '}in the log")
    finally:
        rig.stop_node()
        _libc.umount2(str(disk).encode(), _MNT_DETACH)


@fault("everything works, and the log names the cause")
def full_shared_memory(rig: Rig, findings: Findings) -> None:
    """``/dev/shm``, which DDS uses for its messages, is full before the node starts.

    It fills up after another ROS program has run: the first one has to create a file there for LTTng, whose library
    ends the program with a bus error if it cannot, before a line of the node's code runs.
    """
    _require_mounts()
    rig.ready()
    rig.stop_node()
    said = len(rig.log)
    with _filled(_SHARED_MEMORY):
        rig.ready()
        rig.mark()
        check_ordinary_move(rig, findings)
        reported = f"{_SHARED_MEMORY} is full" in rig.log[said:]
        findings.check(reported, f"the log {'says' if reported else 'does not say'} that {_SHARED_MEMORY} is full")
    rig.stop_node()


@fault("the arm is unaffected, and targets are accepted before and after, in both directions")
def system_clock_step(rig: Rig, findings: Findings) -> None:
    """The clock of node, control process and policy jumps by an hour, forward and back (see ``stepped_clock``)."""
    step = 0
    offset = rig.folder / "clock_offset"
    offset.write_bytes(struct.pack("<q", 0))
    stepped = Path(__file__).parent / "stepped_clock"
    path = os.pathsep.join((str(stepped), str(ROOT), os.environ.get("PYTHONPATH", "")))
    rig.stop_node()
    rig.start_arm()
    rig.start_node(env={"AIOFRANKA_CLOCK_OFFSET": str(offset), "PYTHONPATH": path})
    rig.activate()
    try:
        with rig.streaming(clock=lambda: time.time_ns() + step * 1_000_000_000):
            rig.spin_for(1.0)
            for step in (3600, 0):
                rig.mark()
                with offset.open("r+b") as file:
                    file.write(struct.pack("<q", step * 1_000_000_000))
                before = int(rig.value("targets", "accepted"))
                rig.spin_for(1.5)
                rig.refresh()
                accepted = int(rig.value("targets", "accepted")) - before
                findings.check(accepted > 40, f"{accepted} targets accepted at {step:+d} s")
                follows = rig.spin_until(lambda: rig.arm_speed() > 0.005, 0.5)  # It changes direction once a second.
                findings.check(follows, "the arm follows" if follows else "the arm rests")
        findings.check(rig.state == "active", f"the node is {rig.state}")
        check_reflex(rig, findings)
    finally:
        rig.stop_node()


def without_real_time() -> None:
    """In the node's process, before it starts: drop the permissions for SCHED_FIFO and locked memory."""
    resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    for capability in (_CAP_SYS_NICE, _CAP_IPC_LOCK):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


@fault("everything works as well as possible, and log and diagnostics name what is missing")
def no_real_time_scheduling(rig: Rig, findings: Findings) -> None:
    """A node without permission for SCHED_FIFO."""
    said = len(rig.log)
    rig.ready(prepare=without_real_time)
    rig.mark()
    findings.check("SCHED_FIFO" in rig.log[said:], "the log names SCHED_FIFO")
    missing = rig.value("control loop", "missing for real time")
    findings.check("SCHED_FIFO" in missing, f"in the diagnostics: {missing or 'nothing'}")
    check_ordinary_move(rig, findings)
    rig.stop_node()
    check_next_node(rig, findings)


@fault("the motion continues; if cycles are lost, the diagnostics report it")
def processors_taken(rig: Rig, findings: Findings) -> None:
    """Two ordinary processes for each processor compute all the time."""
    rig.ready()
    rig.take()
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
        for _ in range(2 * (os.cpu_count() or 1))
    ]
    try:
        rig.mark()
        for _ in range(2):
            check_ordinary_move(rig, findings)
        cycles = rig.take()
        lost = int(cycles["lost"].sum())
        findings.note(f"{lost} of {len(cycles)} cycles lost")
        rig.refresh()
        said = int(rig.value("control loop", "cycles lost") or 0)
        findings.check(said >= lost, f"diagnostics: {said} cycles lost since activation")
    finally:
        for process in busy:
            process.kill()
            process.wait()
    check_reflex(rig, findings)
