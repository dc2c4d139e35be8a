"""The control process, which answers the robot every millisecond, and the one handle on it.

``client`` runs in the process that owns the arm (the node, or a policy that drives the arm without ROS). ``process``,
``loop``, ``libfranka`` and ``law`` run in the control process. ``shared_memory`` and ``records`` are what lies between.
It uses ``model`` and the ground, and knows nothing of ROS.
"""
