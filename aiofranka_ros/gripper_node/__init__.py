"""The node of a Franka Hand: ``python -m aiofranka_ros.gripper_node``.

It runs in a separate process, so that a blocking command of the gripper delays nothing else. It uses ``ros`` and
``model``.
"""
