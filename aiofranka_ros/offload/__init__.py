"""Blocking work off the event loop: ``asyncify``, ``CudaInferenceThread``, ``async_input``, ``mpify`` and the guard.

Runs in the user's process. It knows no arm and no ROS: it uses only the standard library, numpy and ``errors``.
"""
