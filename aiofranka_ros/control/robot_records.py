"""The robot itself, as node and control process exchange it: libfranka's whole state, and what can be set in the robot.

Used on both sides of the shared memory; what the control laws need is in :mod:`aiofranka_ros.control.records`.
"""

from __future__ import annotations

import enum

import numpy as np

from aiofranka_ros.control.records import fields

#: libfranka's names of errors, in the order of the flags in :data:`ROBOT_STATE`: the fields of ``franka_msgs/Errors``.
ERROR_NAMES = tuple(
    """
    joint_position_limits_violation cartesian_position_limits_violation self_collision_avoidance_violation
    joint_velocity_violation cartesian_velocity_violation force_control_safety_violation joint_reflex
    cartesian_reflex max_goal_pose_deviation_violation max_path_pose_deviation_violation
    cartesian_velocity_profile_safety_violation joint_position_motion_generator_start_pose_invalid
    joint_motion_generator_position_limits_violation joint_motion_generator_velocity_limits_violation
    joint_motion_generator_velocity_discontinuity joint_motion_generator_acceleration_discontinuity
    cartesian_position_motion_generator_start_pose_invalid cartesian_motion_generator_elbow_limit_violation
    cartesian_motion_generator_velocity_limits_violation cartesian_motion_generator_velocity_discontinuity
    cartesian_motion_generator_acceleration_discontinuity cartesian_motion_generator_elbow_sign_inconsistent
    cartesian_motion_generator_start_elbow_invalid cartesian_motion_generator_joint_position_limits_violation
    cartesian_motion_generator_joint_velocity_limits_violation
    cartesian_motion_generator_joint_velocity_discontinuity
    cartesian_motion_generator_joint_acceleration_discontinuity cartesian_position_motion_generator_invalid_frame
    force_controller_desired_force_tolerance_violation controller_torque_discontinuity start_elbow_sign_inconsistent
    communication_constraints_violation power_limit_violation joint_p2p_insufficient_torque_for_planning
    tau_j_range_violation instability_detected
    """.split()
)


class RobotSetting(enum.Enum):
    """Settings of the robot itself, for when no motion runs; the values are the names of libfranka's commands."""

    LOAD = "set_load"
    END_EFFECTOR = "set_EE"
    STIFFNESS_FRAME = "set_K"
    JOINT_STIFFNESS = "set_joint_impedance"
    CARTESIAN_STIFFNESS = "set_cartesian_impedance"
    COLLISION_BEHAVIOR = "set_collision_behavior"


#: Control process to node, as often as the node asks for it: libfranka's whole state of one cycle. Fields have the
#: names of ``franka::RobotState``, which documents them; matrices are column-major, as there.
ROBOT_STATE = np.dtype(
    [
        ("stamp", "i8"),  # when it was measured [ns, monotonic]
        ("robot_mode", "i8"),  # franka::RobotMode
        ("time", "f8"),  # robot time [s]
        *fields("f8", "m_ee m_load m_total control_command_success_rate"),
        *fields("f8", "elbow elbow_d elbow_c delbow_c ddelbow_c", 2),
        *fields("f8", "F_x_Cee F_x_Cload F_x_Ctotal", 3),
        *fields("f8", "cartesian_contact cartesian_collision", 6),
        *fields("f8", "O_F_ext_hat_K K_F_ext_hat_K O_dP_EE_d O_dP_EE_c O_ddP_EE_c", 6),
        *fields("f8", "q q_d dq dq_d ddq_d theta dtheta tau_J tau_J_d dtau_J tau_ext_hat_filtered", 7),
        *fields("f8", "joint_contact joint_collision", 7),
        *fields("f8", "I_ee I_load I_total", 9),
        *fields("f8", "O_T_EE O_T_EE_d O_T_EE_c F_T_EE EE_T_K", 16),
        *fields("?", "current_errors last_motion_errors", len(ERROR_NAMES)),
    ]
)
