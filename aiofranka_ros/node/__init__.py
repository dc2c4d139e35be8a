"""The lifecycle node that drives an arm: ``python -m aiofranka_ros.node``.

One process with one thread. It checks what comes from the graph, plans, and tells people what happened; the control
process drives the arm. It uses ``ros`` and ``arm``.
"""
