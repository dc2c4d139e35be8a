"""What an FR3 is: its names, constants, kinematics, dynamics and inverse kinematics.

Pure functions and data without state, for every process. It uses only ``errors`` and ``kernels``.
"""
