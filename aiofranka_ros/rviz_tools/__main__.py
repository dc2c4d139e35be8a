"""The process of RViz's tools: ``python -m aiofranka_ros.rviz_tools``, or ``ros2 run aiofranka_ros rviz_tools``.

Handles signals before the imports of :mod:`aiofranka_ros.rviz_tools.program`, which take a second.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from aiofranka_ros.processes import StopRequest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until Ctrl-C, SIGTERM or the end of its terminal.

    :returns: exit status: 0 after any of these signals, 1 if the node could not start or failed. A wrong command line
        exits with 2.
    """
    stop = StopRequest()
    stop.install()
    from aiofranka_ros.rviz_tools import program

    return program.main(stop, arguments)


if __name__ == "__main__":
    sys.exit(main())
