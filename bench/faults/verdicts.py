"""Whether ``explain`` names the cause of a stop: the staged faults that have one, and variants of them.

The variants are other joints, forces, numbers and situations than those of the faults that the rules were written for
(:mod:`aiofranka_ros.explain.rules`). Each check reads the recording that the node wrote by itself.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from aiofranka_ros.explain.evidence import Evidence
from aiofranka_ros.explain.rules import judge
from aiofranka_ros.recording.folder import name_of, recordings
from aiofranka_ros.recording.reader import read
from aiofranka_ros.simulation.simulated_arm import cpu_for
from bench.faults.catalogue import fault
from bench.faults.rig import SWING, Findings, Rig, Skipped
from bench.faults.robot import FOLDED
from bench.faults.system import without_real_time

#: How long a recording may take: it has a low priority [s].
_PATIENCE = 30.0
#: What the first line must say after the faults that the rules were written for.
NAMED = {
    "collision": "A collision: ",
    "joint_velocity": "Too fast",
    "discontinuity": "A torque discontinuity",
    "self_collision": "A self-collision",
    "25_commands_lost": "lost or late on the way to the robot",
    "commands_50_ms_late": "lost or late on the way to the robot",
    "states_lost": "lost or late on the way from the robot",
    "node_stopped": "The node /aiofranka was stopped or hung",
    "node_hung": "The node /aiofranka was stopped or hung",
    "control_process_killed": "The control process was killed (SIGKILL)",
    "control_process_stopped": "The control process was stopped by a signal",
    "user_stop": "A person pressed the user stop",
    "guiding": "A person took the arm by hand",
    "robot_gone": "The robot was lost",
    "network_gone_for_5_s": "The robot was lost",
}
_THRESHOLDS = {
    "collision_torque_thresholds": str([100.0] * 7), "collision_force_thresholds": str([100.0] * 6),
}  # fmt: skip


def check_verdict(rig: Rig, findings: Findings, words: str) -> None:
    """The first recording since the fault must exist, and its verdict must contain ``words``."""

    # Names begin with the time of what was noticed.
    first = name_of(rig.marked, "", "")[: len("20260101T000000.000")]

    def since() -> list[Path]:
        return [path for path in recordings(rig.recordings) if path.name >= first]

    rig.spin_until(since, _PATIENCE, period=0.2)
    paths = since()
    if not findings.check(paths, "it was recorded" if paths else "it was not recorded"):
        return
    sentence = judge(Evidence(read(paths[0]))).sentence
    findings.check(words in sentence, f"verdict: {sentence}")


def _stop(rig: Rig, findings: Findings, provoke: Callable[[], object]) -> None:
    """Cause a stop, and wait until the node has noticed."""
    rig.mark()
    provoke()
    findings.check(rig.spin_until(lambda: rig.last_state_is_inactive, 12.0), f"the node reports: {rig.last_error}")


@contextlib.contextmanager
def _holding(rig: Rig, **parameters: str) -> Iterator[None]:
    rig.ready(**parameters)
    rig.spin_for(0.5)
    yield


@contextlib.contextmanager
def _moving(rig: Rig, **parameters: str) -> Iterator[None]:
    rig.ready(**parameters)
    rig.swing()
    yield


@contextlib.contextmanager
def _streaming(rig: Rig, **parameters: str) -> Iterator[None]:
    rig.ready(**parameters)
    with rig.streaming():
        rig.spin_for(0.7)
        yield


def _variant(
    name: str, situation: Callable[..., contextlib.AbstractContextManager[None]], provoke: Callable[[Rig], object],
    words: str, description: str, **parameters: str,
) -> None:  # fmt: skip
    """Register a variant of a fault."""

    def stage(rig: Rig, findings: Findings) -> None:
        try:
            with situation(rig, **parameters):
                _stop(rig, findings, lambda: provoke(rig))
            check_verdict(rig, findings, words)
        finally:
            rig.arm.let_go()

    stage.__doc__ = description
    fault(f"the verdict's first line says: {words.strip(' :')}", name=f"verdict_{name}")(stage)


def _push(*torque: float, seconds: float = 0.3) -> Callable[[Rig], object]:
    return lambda rig: rig.arm.push(list(torque), seconds)


def _kill(number: signal.Signals) -> Callable[[Rig], object]:
    return lambda rig: os.kill(rig.control_pid, number)


def _suspend_node(seconds: float) -> Callable[[Rig], object]:
    def provoke(rig: Rig) -> None:
        node = rig.node_pid
        os.kill(node, signal.SIGSTOP)
        rig.spin_for(seconds)
        os.kill(node, signal.SIGCONT)

    return provoke


_COLLISION, _FAST, _JUMP, _STOP = (
    "A collision: ",
    "Too fast",
    "A torque discontinuity",
    "A person pressed the user stop",
)
_variant("joint_pushed", _holding, _push(0.0, 32.0, *[0.0] * 5), _COLLISION, "32 Nm at joint 2, while the arm holds.")
_variant(
    "hand_pushed_down", _streaming, lambda rig: rig.arm.touch([0.0, 0.0, -65.0], 0.05), _COLLISION,
    "65 N downwards for 50 ms, while a policy streams.",
)  # fmt: skip
_variant(
    "joint_6_too_fast", _holding, _push(*[0.0] * 5, -75.0, 0.0), _FAST, "-75 Nm at joint 6, while the arm holds.",
    **_THRESHOLDS,
)  # fmt: skip
_variant(
    "joint_5_too_fast", _streaming, _push(*[0.0] * 4, 85.0, 0.0, 0.0, seconds=0.2), _FAST,
    "85 Nm at joint 5, while a policy streams.", **_THRESHOLDS,
)  # fmt: skip
_variant("torque_of_joint_1_jumps", _streaming, lambda rig: rig.proxy.spoil(0, -35.0), _JUMP,
         "The network takes 35 Nm from the torque of joint 1, while a policy streams.")  # fmt: skip
_variant("torque_of_joint_6_jumps", _holding, lambda rig: rig.proxy.spoil(5, 9.0), _JUMP,
         "The network adds 9 Nm to the torque of joint 6, while the arm holds.")  # fmt: skip
_variant("40_commands_lost", _streaming, lambda rig: rig.proxy.lose(40), "lost or late on the way to the robot",
         "Forty commands in a row do not arrive, while a policy streams.")  # fmt: skip
_variant("35_states_lost", _moving, lambda rig: rig.proxy.lose(35, "states"), "lost or late on the way from the robot",
         "Thirty-five states in a row do not arrive, in the middle of a move.")  # fmt: skip
_variant("commands_30_ms_late", _holding, lambda rig: rig.proxy.hold_back(30), "lost or late on the way to the robot",
         "Commands arrive 30 ms of the robot late, while the arm holds.")  # fmt: skip
_variant("commands_150_ms_late", _streaming, lambda rig: rig.proxy.hold_back(150),
         "lost or late on the way to the robot", "Commands arrive 150 ms of the robot late, while a policy streams.",
         )  # fmt: skip
_variant("node_stopped_streaming", _streaming, _suspend_node(1.4), "was stopped or hung",
         "SIGSTOP of the node for 1.4 s, while a policy streams.")  # fmt: skip
_variant("node_stopped_holding", _holding, _suspend_node(2.2), "was stopped or hung",
         "SIGSTOP of the node for 2.2 s, while the arm holds.")  # fmt: skip
_variant("control_killed_streaming", _streaming, _kill(signal.SIGKILL), "The control process was killed (SIGKILL)",
         "SIGKILL of the control process, while a policy streams.")  # fmt: skip
_variant("control_crashed", _holding, _kill(signal.SIGSEGV), "The control process was killed (SIGSEGV)",
         "SIGSEGV of the control process, while the arm holds.")  # fmt: skip
_variant("user_stop_holding", _holding, lambda rig: rig.arm.stop_by_user(), _STOP,
         "The user stop is pressed, while the arm holds.")  # fmt: skip
_variant("user_stop_streaming", _streaming, lambda rig: rig.arm.stop_by_user(), _STOP,
         "The user stop is pressed, while a policy streams.")  # fmt: skip


def _fold(rig: Rig, findings: Findings, goal: np.ndarray) -> None:
    rig.ready()
    try:
        _stop(rig, findings, lambda: rig.move(goal, 0.6))
        check_verdict(rig, findings, "A self-collision")
    finally:
        for _ in range(5):  # The robot may have to recover once more if the arm is still too close.
            rig.activate()
            rig.outcome(rig.move(SWING[0], 0.3))
            if np.abs(rig.arm_q() - SWING[0]).max() < 0.05:
                break


@fault("the verdict's first line says: A self-collision")
def verdict_folded_to_the_left(rig: Rig, findings: Findings) -> None:
    """A move folds the arm, turned to the left, until the hand is too close to the shoulder."""
    _fold(rig, findings, FOLDED + np.array([0.9, 0.0, 0.0, 0.0, 0.0, 0.0, -0.6]))


@fault("the verdict's first line says: A self-collision")
def verdict_folded_to_the_right(rig: Rig, findings: Findings) -> None:
    """A move folds the arm, turned to the right and with another wrist, until the hand is too close to the shoulder."""
    _fold(rig, findings, FOLDED + np.array([-0.7, 0.05, 0.0, -0.02, -0.1, 0.05, 0.5]))


@contextlib.contextmanager
def _computing(count: int, *, niceness: int = 0) -> Iterator[None]:
    """Inside, ``count`` processes compute all the time."""
    code = f"import os\nos.nice({niceness})\nwhile True: pass"
    busy = [subprocess.Popen([sys.executable, "-c", code], start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def _require_root() -> None:
    if os.geteuid() != 0 or resource.getrlimit(resource.RLIMIT_NICE)[1] < 0:
        raise Skipped("raising priorities needs root")


def _preempt(rig: Rig, cpu: int, seconds: float) -> None:
    """A process with a higher real-time priority than the control process computes on its processor."""
    code = (
        f"import os, time\nos.sched_setaffinity(0, {{{cpu}}})\nos.sched_setscheduler(0, os.SCHED_FIFO, "
        f"os.sched_param(95))\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"
    )
    rig.mark()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30.0)


def _other_cpu(rig: Rig) -> int:
    """A processor that the simulated arm does not use: a robot is another computer."""
    _require_root()
    others = os.sched_getaffinity(0) - {cpu_for(rig.arm.host)}
    if not others:
        raise Skipped("the arm and its control process need a processor each")
    return min(others)


@fault("the verdict's first line says: took the processor")
def verdict_processor_taken_in_a_move(rig: Rig, findings: Findings) -> None:
    """A process with a higher real-time priority computes for 80 ms on the control process's processor."""
    rig.start_arm()
    cpu = _other_cpu(rig)
    rig.ready(realtime_cpu=cpu)
    rig.swing()
    _preempt(rig, cpu, 0.08)
    check_verdict(rig, findings, "took the processor")


@fault("the verdict's first line says: took the processor")
def verdict_processor_taken_while_holding(rig: Rig, findings: Findings) -> None:
    """The same for 45 ms, while the arm holds."""
    rig.start_arm()
    cpu = _other_cpu(rig)
    rig.ready(realtime_cpu=cpu)
    rig.spin_for(0.5)
    _preempt(rig, cpu, 0.045)
    check_verdict(rig, findings, "took the processor")


def _crowd(rig: Rig, findings: Findings, count: int, niceness: int) -> None:
    _require_root()
    rig.ready(prepare=without_real_time)
    rig.swing()
    rig.mark()
    try:
        with _computing(count, niceness=niceness):
            rig.spin_for(2.0)
        check_verdict(rig, findings, "took the processor")
    finally:
        rig.stop_node()


@fault("the verdict's first line says: took the processor")
def verdict_crowd_without_real_time(rig: Rig, findings: Findings) -> None:
    """Without real-time scheduling, four processes of the highest priority for each processor compute all the time."""
    _crowd(rig, findings, 4 * (os.cpu_count() or 1), -20)


@fault("the verdict's first line says: took the processor")
def verdict_larger_crowd_without_real_time(rig: Rig, findings: Findings) -> None:
    """The same with six for each processor, of a lower priority."""
    _crowd(rig, findings, 6 * (os.cpu_count() or 1), -12)
