"""The doctor's checks of ROS: ``python -m aiofranka_ros.doctor.ros``, started only by the doctor.

A separate process, because a middleware that fails to load may crash its process. It prints its findings as JSON: a
list of :class:`~aiofranka_ros.doctor.checks.Finding`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from dataclasses import asdict

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String

from aiofranka_ros.doctor.checks import Finding, missing, ok, warning

#: Interface packages that the nodes use besides the common ones, each with a class that it must have.
_INTERFACES = {
    "franka_msgs": ("action", "PTPMotion"),
    "control_msgs": ("action", "FollowJointTrajectory"),
    "tf2_msgs": ("msg", "TFMessage"),
}
#: How long a message may take to arrive, discovery included [s].
_TIMEOUT = 10.0
#: Above this, the ports of DDS collide with those that Linux gives to programs (ROS 2 documentation, "The
#: ROS_DOMAIN_ID").
_LARGEST_DOMAIN = 101


def interfaces() -> Finding:
    """Whether the interface packages can be imported and are new enough."""
    absent = []
    for name, (module, interface) in _INTERFACES.items():
        try:
            getattr(importlib.import_module(f"{name}.{module}"), interface)
        except (ImportError, AttributeError):
            absent.append(name)
    if not absent:
        return ok("interfaces", " ".join(_INTERFACES))
    packages = " ".join(f"ros-$ROS_DISTRO-{name.replace('_', '-')}" for name in absent)
    remedy = f"make setup, then . build/setup.sh; with a distribution: sudo apt install {packages}"
    return missing("interfaces", f"not found, or too old: {' '.join(absent)}", remedy)


def domain() -> Finding:
    """The settings that decide which nodes discover each other."""
    number = os.environ.get("ROS_DOMAIN_ID") or "0"
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "")
    local = os.environ.get("ROS_LOCALHOST_ONLY") == "1"
    # If the newer variable is set, ROS ignores the older one.
    found = f"domain {number}, discovery: {reach.lower() or ('localhost' if local else 'subnet')}"
    if reach == "OFF":
        return warning("discovery", f"{found}: no node finds another", "unset ROS_AUTOMATIC_DISCOVERY_RANGE")
    if not number.isdecimal() or int(number) > _LARGEST_DOMAIN:
        remedy = f"export ROS_DOMAIN_ID=0, or another number up to {_LARGEST_DOMAIN}"
        return warning("discovery", f"{found}: its ports may be in use", remedy)
    return ok("discovery", found)


def messages() -> Finding:
    """Whether a message gets from one participant to another, which must discover each other first."""
    contexts = [Context(), Context()]
    topic, arrived = f"/aiofranka_doctor_{os.getpid()}", []
    try:
        for context in contexts:
            rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
        sender, receiver = (
            rclpy.create_node("aiofranka_doctor", context=context, use_global_arguments=False) for context in contexts
        )
        publisher = sender.create_publisher(String, topic, 1)
        receiver.create_subscription(String, topic, lambda message: arrived.append(time.perf_counter()), 1)
        executor = SingleThreadedExecutor(context=contexts[1])
        executor.add_node(receiver)
        deadline, sent = time.monotonic() + _TIMEOUT, 0.0
        while not arrived and time.monotonic() < deadline:
            if publisher.get_subscription_count():
                sent = time.perf_counter()
                publisher.publish(String(data="how are you?"))
            executor.spin_once(timeout_sec=0.1)
        executor.shutdown()
    finally:
        for context in contexts:
            context.try_shutdown()
    middleware = rclpy.get_rmw_implementation_identifier()
    if arrived:
        return ok("messages", f"{middleware}: arrive after {1e3 * (arrived[0] - sent):.1f} ms")
    remedy = (
        "check the firewall, a VPN, ROS_DOMAIN_ID, ROS_LOCALHOST_ONLY, RMW_IMPLEMENTATION; sudo ip link set lo "
        "multicast on; for rmw_zenoh_cpp: ros2 run rmw_zenoh_cpp rmw_zenohd"
    )
    return missing("messages", f"{middleware}: no message arrives within {_TIMEOUT:.0f} s", remedy)


if __name__ == "__main__":
    sys.stdout.write(json.dumps([asdict(finding) for finding in (interfaces(), domain(), messages())]) + "\n")
