"""The boundary to ROS that all nodes and clients share: messages, the executor, parameter descriptors, diagnostics.

Used by the nodes and by ``RosInterface``. It uses ``control`` for the records that messages are made from, and
``model``.
"""
