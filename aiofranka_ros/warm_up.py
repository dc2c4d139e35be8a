"""Compile the kernels ahead of time: ``python -m aiofranka_ros.warm_up``.

The control process does the same before it is ready, which takes some twenty seconds the first time and one second from
then on. ``make setup`` calls this, so that not even the first start of a node has to wait.
"""

from __future__ import annotations

import sys

from aiofranka_ros import control_loop, joint_trajectory, trajectory


def main() -> int:
    """Compile everything that is not in the cache yet."""
    control_loop.warm_up()
    trajectory.warm_up()
    joint_trajectory.warm_up()
    return 0


if __name__ == "__main__":
    sys.exit(main())
