"""The process of RViz's tools, see :mod:`aiofranka_ros.rviz_tools.node`.

``ros2 run aiofranka_ros rviz_tools``, or ``python -m aiofranka_ros.rviz_tools``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from aiofranka_ros.processes import StopRequest
from aiofranka_ros.ros.arguments import checked, read
from aiofranka_ros.ros.executor import UrgentFirstExecutor
from aiofranka_ros.ros.running import run
from aiofranka_ros.rviz_tools.node import RVIZ_SETTINGS, RvizTools


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until Ctrl-C or SIGTERM.

    :returns: exit status: 0 after a signal, 1 if the node could not start or failed. A wrong command line exits with 2.
    """
    read(arguments, "aiofranka_ros.rviz_tools", "Move the arm from RViz: a marker, clicks and a menu.", RVIZ_SETTINGS)
    return run("rviz_tools", lambda stop: checked(RvizTools(), arguments), _spin, arguments)


def _spin(node: RvizTools, stop: StopRequest) -> None:
    executor = UrgentFirstExecutor(node)
    try:
        while not stop.requested:
            executor.spin_turn()
    finally:
        executor.shutdown()


if __name__ == "__main__":
    sys.exit(main())
