"""Weigh what the arm of a running node carries, and tell the robot.

A client of the graph, in its own process, as the rest of :mod:`aiofranka_ros.ctl`.
"""
