"""The control loops of this project and of aiofranka 0.9.0, compared under load; ``make bench``.

One run alternates the subjects, on the same simulated arm with its communication constraints enforced, in several
rounds, and measures the idle computer several times in each round. Each measurement is a separate process in which the
same policy (50 Hz) makes the same calls, and which also runs the load:

    aiofranka_ros_node     the policy talks to this project's node through ROS
    aiofranka_ros_direct   the policy's process drives the arm itself
    aiofranka_native       the C++ loop, a thread of the policy's process
    aiofranka_python       the older Python loop, in the policy's event loop
    libfranka_alone        only libfranka's calls, with zero torque: no loop can be faster (idle only)

The figures:

- Response: from the return of ``readOnce`` to the return of ``writeOnce``, recorded by each loop itself.
- Cycles lost and longest gap: from the robot's time in consecutive states that the loop received.
- Success rate: reported by the robot.
- CPU: of the control process, or of the thread that runs the loop. All loops except the Python one run with SCHED_FIFO
  on the simulator's processor, and the simulator waits while they run: with two processors, a virtual machine often
  stops one of them. A robot would not use that processor as its simulator does, so the policies avoid it; the loads do
  not.
- Target to torque: begins with the target's time stamp, when the policy creates it.
- Start: from the start of the node's process, or of the policy's if there is no node, to torque control, with compiled
  kernels.
- Robot time: the speed of the robot's clock relative to the computer's. A simulated robot's clock is slower if the
  computer is too slow for it, and everything that waits for its cycles takes longer.
"""
