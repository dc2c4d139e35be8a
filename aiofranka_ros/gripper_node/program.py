"""What the process of the gripper's node does, in its one thread; see :mod:`aiofranka_ros.gripper_node.node`.

Called by :mod:`aiofranka_ros.gripper_node.__main__`, which handles signals before it imports this module.
"""

from __future__ import annotations

from collections.abc import Sequence

from rclpy.executors import SingleThreadedExecutor

from aiofranka_ros.arm.gripper.settings import GRIPPER_SETTINGS
from aiofranka_ros.gripper_node.node import GripperNode
from aiofranka_ros.processes import StopRequest
from aiofranka_ros.ros.arguments import checked, read
from aiofranka_ros.ros.running import run, send_last_results


def main(stop: StopRequest, arguments: Sequence[str] | None) -> int:
    """Run the node until ``stop`` is requested; arguments and exit status as :func:`aiofranka_ros.ros.running.run`."""
    read(arguments, "aiofranka_ros.gripper_node", "Drive the Franka Hand of an arm.", GRIPPER_SETTINGS)
    return run("franka_gripper", stop, lambda stop: checked(GripperNode(), arguments), _spin, arguments)


def _spin(node: GripperNode, stop: StopRequest) -> None:
    """Run the node until a signal requests its end, then wait until the last results are sent."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        # The timer of the ticks ends every wait soon enough to notice a signal.
        while not stop.requested:
            executor.spin_once()
        busy = node.abandon("the gripper's node ends")
        send_last_results(busy, lambda: executor.spin_once(timeout_sec=0.01))
    finally:
        executor.shutdown()
