"""Mass matrix and coriolis torques, compared with kinetic energy; `test_simulation` compares with libfranka's model."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_kinematics import configurations

from aiofranka_ros.model import dynamics, fr3
from aiofranka_ros.model.kinematics import link_pose

pytestmark = pytest.mark.unit

velocities = st.tuples(*(st.floats(-limit, limit) for limit in fr3.VELOCITY_LIMIT)).map(np.array)

#: Slanted rods and plates, so that no two entries of an inertia are equal: mass, center of mass, inertia about it.
PARTS = [
    (
        3.0 - 0.3 * number,
        np.array([0.01 * number, -0.03, 0.08 - 0.02 * number]),
        np.array([[9, 1, -2], [1, 7, 3], [-2, 3, 5.0]]) * 1e-3 * (1.0 + 0.1 * number),
    )
    for number in range(dynamics.BODIES)
]
ALL = np.array([dynamics.body(mass, center, inertia.ravel()) for mass, center, inertia in PARTS])


def dynamics_at(q: np.ndarray, dq: np.ndarray, bodies: np.ndarray = ALL) -> tuple[np.ndarray, np.ndarray]:
    mass, coriolis = np.full(49, np.nan), np.full(7, np.nan)
    dynamics.mass_and_coriolis(q, dq, bodies, dynamics.working_memory(), mass, coriolis)
    return mass.reshape(7, 7), coriolis


def kinetic_energy(q: np.ndarray, dq: np.ndarray) -> float:
    """Kinetic energy [J] of all links and the load, by differences of their poses."""
    step, energy = 1e-5, 0.0
    for link, (mass, center, inertia) in enumerate(PARTS, start=1):
        before, now, after = (link_pose(q + sign * step * dq, link) for sign in (-1, 0, 1))
        velocity = ((after - before) @ np.append(center, 1.0))[:3] / (2 * step)
        turning = now[:3, :3].T @ (after - before)[:3, :3] / (2 * step)
        spin = np.array([turning[2, 1], turning[0, 2], turning[1, 0]])
        energy += 0.5 * mass * velocity @ velocity + 0.5 * spin @ inertia @ spin
    return energy


@given(configurations, velocities)
def test_the_mass_matrix_gives_the_kinetic_energy_of_all_links_and_the_load(q, dq):
    mass, _ = dynamics_at(q, dq)
    # Differences over 1e-5 s, of at most 20 rad/s: exact to (2e-4)² / 6.
    np.testing.assert_allclose(0.5 * dq @ mass @ dq, kinetic_energy(q, dq), rtol=1e-7, atol=1e-9)


@given(configurations)
def test_the_mass_matrix_is_symmetric_and_positive_definite(q):
    mass, _ = dynamics_at(q, np.zeros(7))
    np.testing.assert_array_equal(mass, mass.T)
    assert np.linalg.eigvalsh(mass).min() > 0.0


@given(configurations, velocities)
def test_coriolis_torques_are_those_of_lagranges_equations(q, dq):
    _, coriolis = dynamics_at(q, dq)
    step = 1e-5
    # c = dM/dt dq - d(dqᵀ M dq / 2)/dq, both by differences: any mistake would be larger than their error.
    change = dynamics_at(q + step * dq, dq)[0] - dynamics_at(q - step * dq, dq)[0]
    expected = change @ dq / (2 * step)
    for joint in range(7):
        aside = step * np.eye(7)[joint]
        energies = [0.5 * dq @ dynamics_at(q + sign * aside, dq)[0] @ dq for sign in (1, -1)]
        expected[joint] -= (energies[0] - energies[1]) / (2 * step)
    np.testing.assert_allclose(coriolis, expected, atol=1e-5, rtol=1e-6)


@given(configurations, velocities)
def test_links_that_were_identified_from_mass_matrices_move_like_the_real_ones(q, dq):
    found = np.vstack((identified(), ALL[7]))
    for ours, theirs in zip(dynamics_at(q, dq, found), dynamics_at(q, dq), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9, rtol=0.0)


def test_no_links_are_found_for_a_mass_matrix_of_another_geometry():
    def mass_matrix(q: np.ndarray) -> np.ndarray:
        return without_load(q) + 0.01 * np.cos(q[1]) ** 3

    links = np.vstack((dynamics.identify(mass_matrix), np.zeros(10)))
    mass, _ = dynamics_at(fr3.READY, np.zeros(7), links)
    assert np.abs(mass.ravel() - mass_matrix(fr3.READY)).max() > 1e-4


def without_load(q: np.ndarray) -> np.ndarray:
    return dynamics_at(q, np.zeros(7), np.vstack((ALL[:7], np.zeros(10))))[0].ravel()


@functools.cache
def identified() -> np.ndarray:
    return dynamics.identify(without_load)
