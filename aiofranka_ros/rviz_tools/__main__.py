"""``python -m aiofranka_ros.rviz_tools``.

See :mod:`aiofranka_ros.rviz_tools.node`.
"""

import sys

from aiofranka_ros.rviz_tools.node import main

if __name__ == "__main__":
    sys.exit(main())
