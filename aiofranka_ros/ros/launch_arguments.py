"""Arguments of launch files: those that do not exist are refused, and not ignored.

Called by the launch files in ``launch/``, in the process of ``ros2 launch``; it needs neither launch nor rclpy.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from aiofranka_ros.errors import ConfigurationError, nearest, unknown

#: How similar a name must be to an argument's to count as a misspelling if another launch file includes this one: then
#: the name may be an argument of that file.
_MISSPELT = 0.85


def check(file: str, given: Iterable[str], declared: Iterable[str], parameters: Iterable[str]) -> None:
    """Refuse arguments that a launch file does not declare.

    :param file: the launch file. If it is the one on the command line, nothing else can declare an argument.
    :param given: names of the launch configurations: arguments of this file, and of files that include it.
    :param parameters: of the node; launch files have other arguments.
    :raises ConfigurationError: there are such arguments; it names the nearest ones that exist.
    """
    known, alone = list(declared), any(Path(word).name == Path(file).name for word in sys.argv)
    for name in sorted(set(given) - set(known)):
        if alone and name in parameters and nearest(name, known) is None:
            raise ConfigurationError(
                f"{name} is a parameter of the node, not an argument of {Path(file).name}: set it in a file, and give "
                "that as config_file"
            )
        if alone or nearest(name, known, _MISSPELT):
            raise ConfigurationError(unknown(f"argument of {Path(file).name} called", name, known))
