"""RViz's tools: ``python -m aiofranka_ros.rviz_tools`` turns a marker, clicks and menus into goals for the node.

It runs in a separate process, as an ordinary client of the ROS graph. It uses ``ros`` and ``model``.
"""
