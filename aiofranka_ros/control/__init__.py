"""The control process, which answers the robot every millisecond, and its client.

``client`` and ``process_handle`` run in the process that owns the arm (the node, or a policy that drives the arm
without ROS). ``process``, ``loop``, ``libfranka`` and ``law`` run in the control process. ``shared_memory`` and
``records`` connect the two; ``setting`` is what any of their settings is made of. This package uses ``model`` and the
modules below it, and knows nothing of ROS.
"""
