"""What the arm makes of streams as policies send them: ``make bench-policies``.

:mod:`~bench.policies.streams` has the streams, :mod:`~bench.policies.figures` what is computed from the record of every
control cycle, and :mod:`~bench.policies.__main__` plays one after the other to a node with a simulated arm.
"""
