"""The Franka Hand of an arm, without ROS: its connection, its commands, and which of several commands counts.

Used by the gripper's node and by ``RobotInterface``, each in one thread of its process. It uses ``errors``, ``kernels``
and ``control.setting`` and nothing that drives an arm, so the two cannot disturb each other.
"""
