"""The demo: ``python -m aiofranka_ros.demo`` starts a node and a policy and measures every control cycle.

It is an ordinary user of the package and talks to the node through the ROS graph.
"""
