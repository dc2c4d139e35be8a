"""What the process of RViz's tools does, in its one thread; see :mod:`aiofranka_ros.rviz_tools.node`.

Called by :mod:`aiofranka_ros.rviz_tools.__main__`, which handles signals before it imports this module.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiofranka_ros.control.compilation import compile_kernels
from aiofranka_ros.processes import StopRequest
from aiofranka_ros.ros.arguments import checked, read
from aiofranka_ros.ros.executor import UrgentFirstExecutor
from aiofranka_ros.ros.running import run
from aiofranka_ros.rviz_tools.node import RVIZ_SETTINGS, RvizTools


def main(stop: StopRequest, arguments: Sequence[str] | None) -> int:
    """Run the node until ``stop`` is requested; arguments and exit status as :func:`aiofranka_ros.ros.running.run`."""
    read(arguments, "aiofranka_ros.rviz_tools", "Move the arm from RViz: a marker, clicks and a menu.", RVIZ_SETTINGS)
    return run("rviz_tools", stop, lambda stop: checked(_create(stop), arguments), _spin, arguments)


def _create(stop: StopRequest) -> RvizTools:
    compile_kernels(stop)
    return RvizTools()


def _spin(node: RvizTools, stop: StopRequest) -> None:
    executor = UrgentFirstExecutor(node)
    try:
        while not stop.requested:
            executor.spin_turn()
    finally:
        executor.shutdown()
