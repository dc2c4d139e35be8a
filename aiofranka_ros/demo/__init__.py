"""The demo: ``python -m aiofranka_ros.demo`` starts a node and a policy and measures every control cycle.

An ordinary user of the package: it talks to the node through the graph.
"""
