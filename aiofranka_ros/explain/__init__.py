"""``explain``: what stopped the arm, from a recording: the verdict, who was late, what was asked for, what to try.

A program in its own process, which reads a file and needs neither ROS nor an arm.
"""
