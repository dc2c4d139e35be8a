"""Drive a Franka arm from Python and ROS 2, with a 1 kHz loop that nothing else can starve.

Policies import everything from here::

    from aiofranka_ros import FrankaController, RobotInterface, RosInterface
    from aiofranka_ros import CudaInferenceThread, async_input, asyncify, blocking_ok, guard, mpify

except for the exceptions, which are in :mod:`aiofranka_ros.errors`. A name is imported when it is first used, so that
each needs only its own dependencies: the offload helpers need numpy, ``RobotInterface`` needs libfranka, and
``RosInterface`` needs ROS.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from aiofranka_ros.api.controller import FrankaController
    from aiofranka_ros.api.robot_interface import RobotInterface
    from aiofranka_ros.api.ros_interface import RosInterface
    from aiofranka_ros.offload.console import async_input
    from aiofranka_ros.offload.guard import Guard, blocking_ok, guard
    from aiofranka_ros.offload.inference import CudaInferenceThread
    from aiofranka_ros.offload.mpify.isolated import mpify
    from aiofranka_ros.offload.workers import asyncify, set_asyncify_workers

_MODULES = {
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
    "CudaInferenceThread",
    "FrankaController",
    "Guard",
    "RobotInterface",
    "RosInterface",
    "async_input",
    "asyncify",
    "blocking_ok",
    "guard",
    "mpify",
    "set_asyncify_workers",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
