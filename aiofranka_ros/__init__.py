"""Drive a Franka arm from Python and ROS 2, with a 1 kHz loop that nothing else can starve.

Policies import everything from here::

    from aiofranka_ros import FrankaController, RobotInterface, RosInterface
    from aiofranka_ros import CudaInferenceThread, async_input, asyncify, blocking_ok, guard, mpify
    from aiofranka_ros import sync  # the same calls without await

except for the exceptions, which are in :mod:`aiofranka_ros.errors`. A name is imported when it is first used, so that
each needs only its own dependencies: the offload helpers need numpy, ``RobotInterface`` needs libfranka, and
``RosInterface`` needs ROS.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from aiofranka_ros.api import sync
    from aiofranka_ros.api.controller import FrankaController
    from aiofranka_ros.api.controller import FrankaController as NativeFrankaController
    from aiofranka_ros.api.robot_interface import RobotInterface
    from aiofranka_ros.api.ros_interface import RosInterface
    from aiofranka_ros.api.sync import FrankaController as Controller
    from aiofranka_ros.api.sync import RobotInterface as Robot
    from aiofranka_ros.offload.console import async_input
    from aiofranka_ros.offload.guard import Guard, blocking_ok, guard
    from aiofranka_ros.offload.inference import CudaInferenceThread
    from aiofranka_ros.offload.mpify.isolated import mpify
    from aiofranka_ros.offload.workers import asyncify, set_asyncify_workers

#: Where each name is: a module, and after the colon the name in it if it differs; nothing after it: the module itself.
_MODULES = {
    "sync": "api.sync:",
    # aiofranka's names of these.
    "Controller": "api.sync:FrankaController",
    "NativeFrankaController": "api.controller:FrankaController",
    "Robot": "api.robot_interface:RobotInterface",
    "FrankaController": "api.controller",
    "RobotInterface": "api.robot_interface",
    "RosInterface": "api.ros_interface",
    "asyncify": "offload.workers",
    "set_asyncify_workers": "offload.workers",
    "CudaInferenceThread": "offload.inference",
    "async_input": "offload.console",
    "mpify": "offload.mpify.isolated",
    "Guard": "offload.guard",
    "guard": "offload.guard",
    "blocking_ok": "offload.guard",
}

__all__ = [
    "Controller",
    "CudaInferenceThread",
    "FrankaController",
    "Guard",
    "NativeFrankaController",
    "Robot",
    "RobotInterface",
    "RosInterface",
    "async_input",
    "asyncify",
    "blocking_ok",
    "guard",
    "mpify",
    "set_asyncify_workers",
    "sync",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, colon, original = _MODULES[name].partition(":")
    value = importlib.import_module(f"{__name__}.{module}")
    if original or not colon:
        value = getattr(value, original or name)
    globals()[name] = value
    return value
