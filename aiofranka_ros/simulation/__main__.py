"""``python -m aiofranka_ros.simulation``.

See :mod:`aiofranka_ros.simulation.simulated_arm`.
"""

import sys

from aiofranka_ros.simulation.simulated_arm import main

if __name__ == "__main__":
    sys.exit(main())
