"""The flight recorder: what happened around a stop of the arm, in a file that can be read without ROS.

``notes`` and ``recorder`` run in the process that owns the arm (the node, or a policy that drives it without ROS):
they keep the story and decide when to write it. ``writer`` is a short-lived process that writes one file, so that
nothing that is timed ever waits for it. ``channels`` is what a file contains, ``folder`` where the files are, and
``reader`` reads them. This package uses ``control`` and the modules below it, and knows nothing of ROS.
"""
