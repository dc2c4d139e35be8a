"""The control loops of this project and of aiofranka 0.9.0, measured beside each other; ``make bench``.

One run alternates the subjects, on the same simulated arm with its communication constraints enforced, in several
rounds, and comes back to an idle machine in the middle of each. Each measurement is a process of its own in which the
same policy (50 Hz) makes the same calls, and in which the load is:

    aiofranka_ros_node     the policy talks to this project's node through ROS
    aiofranka_ros_direct   the policy's process owns the arm
    aiofranka_native       the loop in C++, a thread of the policy's process
    aiofranka_python       the loop before that, in the policy's event loop
    libfranka_alone        nothing but libfranka's calls, and a torque of zero: no loop can be faster (idle only)

What is measured where: the response is from ``readOnce`` returning to ``writeOnce`` returning, noted by each loop
itself; cycles lost and the longest gap are those of the robot's time between two states that the loop saw; the success
rate is the robot's; the CPU share is that of the control process, or of the thread that runs the loop. All loops but
the one in Python run with SCHED_FIFO on the processor of the simulator, which waits while they run: beside it, a
virtual machine often stops one of the two. A robot would not take time of that processor as its simulator does, so
their policies keep off it; loads do not. A target's way begins with its time stamp, when the policy makes it. The
start of this project's is from the beginning of the node's process, or of the policy's where there is none, to torque
control, with the kernels compiled already. Robot time is how fast the robot's clock went beside the computer's: a
simulated robot's is slower where the computer is too slow for it, and all that waits for its cycles takes longer.
"""
