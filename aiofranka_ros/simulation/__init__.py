"""A robot where there is none: ``python -m aiofranka_ros.simulation`` serves a simulated arm that speaks FCI.

``simulated_arm`` starts one as a child process. It uses the ground alone: to everything else it is a robot on the
network.
"""
