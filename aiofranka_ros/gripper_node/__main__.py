"""The process of the gripper's node, see :mod:`aiofranka_ros.gripper_node.node`.

``ros2 run aiofranka_ros gripper_node``, or ``python -m aiofranka_ros.gripper_node``.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Sequence

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from aiofranka_ros.gripper_node.node import GripperNode
from aiofranka_ros.processes import StopRequest

#: How long the results of aborted goals may take to be sent at the end [s].
_LAST_RESULTS = 0.8


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until Ctrl-C or SIGTERM.

    :returns: exit status: 0 after a signal, 1 if the node could not start or failed.
    """
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    stop = StopRequest()
    stop.install()
    try:
        node = GripperNode()
        try:
            _spin(node, stop)
        finally:
            node.close()
    except ParameterException as error:
        rclpy.logging.get_logger("franka_gripper").fatal(f"cannot start: {error}")
        return 1
    except Exception:
        rclpy.logging.get_logger("franka_gripper").fatal(f"the node failed:\n{traceback.format_exc()}")
        return 1
    finally:
        rclpy.try_shutdown()
    return 0


def _spin(node: GripperNode, stop: StopRequest) -> None:
    """Run the node until a signal requests its end, then wait until the last results are sent."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        # The timer of the ticks ends every wait soon enough to notice a signal.
        while not stop.requested:
            executor.spin_once()
        # Ending a goal, sending its result and delivering it take several rounds; rclpy does not say how many.
        deadline = time.monotonic() + (_LAST_RESULTS if node.busy else 0.0)
        node.abandon("the gripper's node ends")
        while time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.01)
    finally:
        executor.shutdown()


if __name__ == "__main__":
    sys.exit(main())
