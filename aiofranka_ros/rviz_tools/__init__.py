"""RViz's tools: ``python -m aiofranka_ros.rviz_tools`` turns a marker, clicks and menus into goals for the node.

A separate process, an ordinary client of the graph. It uses ``ros`` and ``model``.
"""
