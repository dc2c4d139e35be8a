"""Is this computer ready to drive an arm? ``python -m aiofranka_ros.doctor`` answers, with the commands that fix it.

A separate process that moves nothing. From ``control`` it knows about real time, the FCI and versions.
"""
