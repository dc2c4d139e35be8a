"""A simulated robot: ``python -m aiofranka_ros.simulation`` serves an arm that speaks FCI.

``simulated_arm`` starts it as a child process. Of the package, the room uses only ``errors`` and ``processes``: to
everything else it is a robot on the network.
"""
