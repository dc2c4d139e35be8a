"""franka-rs 0.4.0 plays one case with its defaults, in its own environment, see :mod:`bench.policies.franka_rs`.

    python franka_rs_subject.py ADDRESS CASE.npz follow|move_to

It prints when the case began [s, system clock], and at its end how it ended. The arrays in the file are ``home`` (7,),
``duration``, ``dt``; for ``follow`` the ``arrivals`` (n,) and ``rows0``, ``rows1``...; for ``move_to`` ``times`` (n,)
and ``values`` (n, 7).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import franka
import numpy as np

#: Joints closer than this are at home [rad]; how long they may take to get there [s], and stay before a case begins.
_NEAR, _PATIENCE, _PAUSE = 5e-3, 15.0, 0.5


def say(line: str) -> None:
    """For the process that started this one."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def until(due: float) -> None:
    """Wait until ``due`` [s, system clock]."""
    while (left := due - time.time()) > 0.0:
        time.sleep(left)


def go(arm: Any, home: Any) -> None:
    """Move to ``home`` and stay there for a moment."""
    arm.move_to(home)
    deadline = time.time() + _PATIENCE
    while np.abs(arm.state().q - home).max() > _NEAR and time.time() < deadline:
        time.sleep(0.05)
    time.sleep(_PAUSE)


def play(arm: Any, case: Any, how: str) -> None:
    """Play the case."""
    begin = time.time()
    say(f"{begin:.6f}")
    if how == "follow":
        for number, arrival in enumerate(case["arrivals"]):
            until(begin + arrival)
            arm.follow(case[f"rows{number}"], dt=float(case["dt"]))
    else:
        for due, value in zip(case["times"], case["values"], strict=True):
            until(begin + due)
            arm.move_to(value)
    until(begin + float(case["duration"]))


def main() -> int:
    """Play the case of the command line."""
    address, path, how = sys.argv[1:]
    case = np.load(Path(path))
    robot = franka.Robot(address, realtime="ignore")
    robot.automatic_error_recovery()
    # What its documentation asks for: 40 Nm and 40 N at least.
    robot.set_collision_behavior_simple([100.0] * 7, [100.0] * 7, [100.0] * 6, [100.0] * 6)
    try:
        # How far from where it begins a control may lead is limited, so the case has its own.
        with robot.joint_targets(max_deviation=3.0) as arm:
            go(arm, case["home"])
        with robot.joint_targets() as arm:
            play(arm, case, how)
    except franka.ControlException as error:
        say(f"stopped: {error}")
        return 0
    say("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
