"""The clock of a node, for stamps.

Used by the arm's node, in its process and its one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.node import Node


def node_time(node: Node) -> Callable[[], int]:
    """A function that reads the node's clock [ns]: the system's, or with ``use_sim_time`` the simulated one.

    Without a message on ``/clock``, simulated time is 0.
    """
    clock = node.get_clock()
    # The system's without rclpy, which would take longer than everything else that a stamp needs.
    return lambda: int(clock.now().nanoseconds) if clock.ros_time_is_active else time.time_ns()
