"""``python -m aiofranka_ros.demo``.

See :mod:`aiofranka_ros.demo.run`.
"""

import sys

from aiofranka_ros.demo.run import main

if __name__ == "__main__":
    sys.exit(main())
