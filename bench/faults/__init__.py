"""Deliberate faults: what they are, how they are caused, and the outcome they must have; ``make faults``.

The parts, from the bottom up:

    tape       records that one process writes at 1 kHz while another one reads them
    helper     processes that carry out requests from their standard input
    arm        the simulated arm, recorded, that can be pushed and stopped (``arm_process`` is its process)
    proxy      a network between libfranka and the arm that loses, delays and corrupts packets
    hand       the simulated hand without an arm, recorded
    policy     a policy that streams targets until it is killed, stopped or out of memory
    node       the node, in an interpreter that can be made to hang
    heartbeats watches how long the node is silent
    rig        all of them together, with a client of the node; the faults below use it
    processes, robot, network, system, owners, limits, interruption, gripper, sizes, storm, fuzz, walk    the faults
    verdicts   whether ``explain`` names their causes, and variants of them
    report     the outcomes, as a table and a page
"""
