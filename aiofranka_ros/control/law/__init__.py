"""The compiled kernels of one control cycle: from a measured state and a target to a torque.

``cycle`` calls the others in order: ``reference`` or ``motion``, ``laws``, ``limits``. They run in the control process,
1,000 times a second: no allocation, no exception, no Python object.
"""
