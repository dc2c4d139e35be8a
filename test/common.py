"""What only the tests of this package share; everything else they use is in :mod:`aiofranka_ros.testing`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

#: The repository.
ROOT = Path(__file__).resolve().parents[1]


def lose_packets(control: int) -> None:
    """Stop a control process for more than the twenty cycles that the robot tolerates without a torque.

    The pause is too short for the node to notice.
    """
    os.kill(control, signal.SIGSTOP)
    try:
        time.sleep(0.04)
    finally:
        os.kill(control, signal.SIGCONT)
