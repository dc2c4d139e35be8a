"""``python -m aiofranka_ros.node``.

See :mod:`aiofranka_ros.node.lifecycle`.
"""

import sys

from aiofranka_ros.node.lifecycle import main

if __name__ == "__main__":
    sys.exit(main())
