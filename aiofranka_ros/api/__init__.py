"""The asyncio API: ``FrankaController`` and its two links, ``RobotInterface`` and ``RosInterface``.

Runs in the user's process. It uses ``arm`` (to own an arm), ``ros`` (to reach a node) and ``offload``.
"""
