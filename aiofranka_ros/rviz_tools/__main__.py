"""The process of RViz's tools, see :mod:`aiofranka_ros.rviz_tools.node`.

``ros2 run aiofranka_ros rviz_tools``, or ``python -m aiofranka_ros.rviz_tools``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import rclpy
from rclpy.signals import SignalHandlerOptions

from aiofranka_ros.processes import StopRequest
from aiofranka_ros.ros.executor import UrgentFirstExecutor
from aiofranka_ros.rviz_tools.node import RvizTools


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until Ctrl-C or SIGTERM.

    :returns: exit status, 0.
    """
    # The handlers of rclpy would end the context before the marker is removed.
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    stop = StopRequest()
    stop.install()
    node = RvizTools()
    executor = UrgentFirstExecutor(node)
    try:
        while not stop.requested:
            executor.spin_turn()
    finally:
        executor.shutdown()
        node.close()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
