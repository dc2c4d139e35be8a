"""``python -m aiofranka_ros.gripper_node``.

See :mod:`aiofranka_ros.gripper_node.node`.
"""

import sys

from aiofranka_ros.gripper_node.node import main

if __name__ == "__main__":
    sys.exit(main())
