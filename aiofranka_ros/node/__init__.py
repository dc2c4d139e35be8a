"""The lifecycle node that drives an arm: ``python -m aiofranka_ros.node``.

One process with one thread. It checks requests from the graph, plans motions, and reports what happened; the control
process drives the arm. It uses ``ros`` and ``arm``.
"""
