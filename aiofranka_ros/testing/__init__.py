"""Test your own code against a real node and a simulated arm: start them, drive them, and read every control cycle.

The tests, benchmarks and demo of this package use it, and so can yours::

    from aiofranka_ros.testing import isolate, started

    isolate()  # once per process, before anything starts: a ROS domain that only this computer sees

    def test_my_policy_reaches_its_goal(tmp_path):
        with started(tmp_path, autostart=True, mode="impedance") as (process, client):
            assert client.becomes("active"), process.log
            ...  # start the policy
            assert client.spin_until(lambda: abs(client.q[0] - 0.5) < 0.01)

Everything runs in the caller's thread. Nothing here reaches into a node: these are clients of the ROS graph that also
read the shared memory of the control process.
"""

from aiofranka_ros.ctl.client import PATIENCE, Failed, NodeClient
from aiofranka_ros.testing.client import Client, started
from aiofranka_ros.testing.process import (
    Child,
    NodeProcess,
    alive,
    descendant,
    descendants,
    environment,
    isolate,
    ros_arguments,
    wait_until,
)
from aiofranka_ros.testing.recorder import CycleRecorder

__all__ = [
    "PATIENCE",
    "Child",
    "Client",
    "CycleRecorder",
    "Failed",
    "NodeClient",
    "NodeProcess",
    "alive",
    "descendant",
    "descendants",
    "environment",
    "isolate",
    "ros_arguments",
    "started",
    "wait_until",
]
