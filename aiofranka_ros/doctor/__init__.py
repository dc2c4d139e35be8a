"""Is this computer ready to drive an arm? ``python -m aiofranka_ros.doctor`` answers, with the commands that help.

A separate process that moves nothing. It uses ``control`` for what it knows of real time, FCI and versions.
"""
