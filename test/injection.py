"""Faults that several tests inject."""

from __future__ import annotations

import os
import signal
import time


def lose_packets(control: int) -> None:
    """The fault: a control process sends nothing for more than the twenty cycles that the robot goes without a torque.

    It is over before anybody notices that the process was stopped.
    """
    os.kill(control, signal.SIGSTOP)
    try:
        time.sleep(0.04)
    finally:
        os.kill(control, signal.SIGCONT)
