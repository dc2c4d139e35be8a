"""The node of a Franka Hand: ``python -m aiofranka_ros.gripper_node``.

A separate process, so that a blocking command of the gripper keeps nothing else waiting. It uses ``ros`` and the
ground.
"""
