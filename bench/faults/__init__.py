"""Faults on purpose: what they are, how they are made, and what has to come of them; ``make faults``.

The parts, from the bottom up:

    tape       records that one process writes at 1 kHz and another one reads along
    helper     processes that are asked for things over their standard input
    arm        the simulated arm, recorded, that can be pushed and stopped (``arm_process`` is its process)
    proxy      a network between libfranka and the arm that loses, delays and spoils packets
    policy     a policy that streams targets and comes to grief
    node       the node, in an interpreter that can be made to hang
    rig        all of them together, with a client of the node: what the faults below are written with
    processes, robot, network, system, owners, storm, fuzz, walk    the faults themselves
    report     what came of them, for people
"""
