"""``ctl``, the command line that looks after a running node, with or without the tools of a ROS distribution.

It is an ordinary client of the graph, in its own process, and imports nothing of the nodes. It may use ``ros`` and
below; :mod:`aiofranka_ros.testing` builds on its ``client``, which uses nothing of this package.
"""
