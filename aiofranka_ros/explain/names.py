"""libfranka's names of errors in plain words, and what to try.

Used by the rules of :mod:`aiofranka_ros.explain`. Source: Franka's FCI documentation, "Troubleshooting" and "Robot and
interface specifications", and libfranka's ``errors.h``.
"""

from __future__ import annotations

from typing import NamedTuple

from aiofranka_ros.control.robot_records import ERROR_NAMES

DOCTOR = "python3 -m aiofranka_ros.doctor --robot-ip {address}"


class Meaning(NamedTuple):
    """What an error means: a sentence about the arm without its full stop, and what to try."""

    words: str
    tries: tuple[str, ...]


_SLOWER = "send slower and smoother targets, or lower max_linear_velocity, max_angular_velocity, max_joint_velocity"
_GAINS = "lower the gains (kp, ee_kp), or weigh the load (identify_payload)"
_AWAY = "move the arm away by hand (Desk, guiding), or activate and move away with a slow ~/move"
_OWN = "report it: this package commands torques only, for which the robot does not check that"


def _motion_generator(what: str) -> Meaning:
    """Errors of libfranka's own motion generators, which torque control does not use."""
    return Meaning(f"the robot refused a motion command: {what}", (_OWN,))


MEANINGS: dict[str, Meaning] = {
    "joint_position_limits_violation": Meaning(
        "a joint came to the end of its range", (_AWAY, "set joint_lower and joint_upper further inside")
    ),
    "cartesian_position_limits_violation": Meaning(
        "the hand left the space that Desk allows", (_AWAY, "set workspace_lower and workspace_upper inside that space")
    ),
    "self_collision_avoidance_violation": Meaning(
        "the arm came too close to itself", (_AWAY, "choose a goal or a path on which the arm folds less")
    ),
    "joint_velocity_violation": Meaning("a joint was too fast", (_SLOWER, "keep away from where a joint's range ends")),
    "cartesian_velocity_violation": Meaning("the hand was too fast", (_SLOWER,)),
    "force_control_safety_violation": Meaning("the robot's force control left its safe range", (_GAINS,)),
    "joint_reflex": Meaning(
        "something pushed a joint harder than allowed: a collision",
        ("remove what was in the way", "if the contact is wanted, raise collision_torque_thresholds"),
    ),
    "cartesian_reflex": Meaning(
        "something pushed the hand harder than allowed: a collision",
        ("remove what was in the way", "if the contact is wanted, raise collision_force_thresholds"),
    ),
    "max_goal_pose_deviation_violation": _motion_generator("the arm was too far from its goal"),
    "max_path_pose_deviation_violation": _motion_generator("the arm was too far from its path"),
    "cartesian_velocity_profile_safety_violation": Meaning("the hand was too fast for the robot's safety", (_SLOWER,)),
    "joint_position_motion_generator_start_pose_invalid": _motion_generator("it began elsewhere"),
    "joint_motion_generator_position_limits_violation": _motion_generator("a joint position was out of range"),
    "joint_motion_generator_velocity_limits_violation": _motion_generator("a joint velocity was too high"),
    "joint_motion_generator_velocity_discontinuity": _motion_generator("a joint velocity jumped"),
    "joint_motion_generator_acceleration_discontinuity": _motion_generator("a joint acceleration jumped"),
    "cartesian_position_motion_generator_start_pose_invalid": _motion_generator("it began elsewhere"),
    "cartesian_motion_generator_elbow_limit_violation": _motion_generator("the elbow was out of range"),
    "cartesian_motion_generator_velocity_limits_violation": _motion_generator("a velocity was too high"),
    "cartesian_motion_generator_velocity_discontinuity": _motion_generator("a velocity jumped"),
    "cartesian_motion_generator_acceleration_discontinuity": _motion_generator("an acceleration jumped"),
    "cartesian_motion_generator_elbow_sign_inconsistent": _motion_generator("the elbow was on the wrong side"),
    "cartesian_motion_generator_start_elbow_invalid": _motion_generator("the elbow began elsewhere"),
    "cartesian_motion_generator_joint_position_limits_violation": _motion_generator("a joint would leave its range"),
    "cartesian_motion_generator_joint_velocity_limits_violation": _motion_generator("a joint would be too fast"),
    "cartesian_motion_generator_joint_velocity_discontinuity": _motion_generator("a joint velocity would jump"),
    "cartesian_motion_generator_joint_acceleration_discontinuity": _motion_generator("a joint acceleration would jump"),
    "cartesian_position_motion_generator_invalid_frame": _motion_generator("a pose was not a pose"),
    "force_controller_desired_force_tolerance_violation": Meaning(
        "a wanted force was too far from the real one", (_GAINS,)
    ),
    "controller_torque_discontinuity": Meaning(
        "the commanded torque jumped",
        ("lower the gains, or torque_diff_limit", "check the network cable and its switch"),
    ),
    "start_elbow_sign_inconsistent": _motion_generator("the elbow was on the wrong side"),
    "communication_constraints_violation": Meaning(
        "the robot got no answers for too long",
        (DOCTOR, "connect the robot directly to this computer, without a switch and without Wi-Fi"),
    ),
    "power_limit_violation": Meaning("the arm needed more power than it may", (_SLOWER, _GAINS)),
    "joint_p2p_insufficient_torque_for_planning": Meaning(
        "the arm is too weak for the load", ("check the load in Desk",)
    ),
    "tau_j_range_violation": Meaning("a measured joint torque was out of range", (_GAINS, "check the load in Desk")),
    "instability_detected": Meaning("the arm began to oscillate", (_GAINS,)),
}
assert MEANINGS.keys() == set(ERROR_NAMES)
