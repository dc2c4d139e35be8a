"""One arm without ROS: its settings, its processes, and the planning of its moves.

Used by the node and by ``RobotInterface``, in the process that owns the arm. It uses ``control`` and ``simulation``.
"""
