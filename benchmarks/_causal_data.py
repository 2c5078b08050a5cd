"""Linear causal graphs with a known answer, and records drawn from them.

A graph is a list of (cause, effect) pairs over its observed variables 0 .. n - 1 and hidden ones
from n on; every variable is the weighted sum of its causes plus unit normal noise.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CausalCase:
    """A graph, and the edges that causal discovery is to find, given the order 0 .. n - 1.

    `n_variables` counts the hidden ones, which come after the `n_observed` observed ones.
    """

    n_observed: int
    n_variables: int
    causes: tuple
    expected: tuple


CASES = {
    "chain": CausalCase(3, 3, ((0, 1), (1, 2)), ("0 o-> 1", "1 --> 2")),
    "fork": CausalCase(3, 3, ((0, 1), (0, 2)), ("0 o-> 1", "0 o-> 2")),
    "collider": CausalCase(3, 3, ((0, 2), (1, 2)), ("0 o-> 2", "1 o-> 2")),
    "latent confounder": CausalCase(
        4, 5, ((0, 2), (1, 3), (4, 2), (4, 3)), ("0 o-> 2", "1 o-> 3", "2 <-> 3")
    ),
}


def draw_coefficients(n, rng, low=0.5, high=1.0):
    """n coefficients, uniform in +-[low, high]."""
    return rng.choice([-1.0, 1.0], size=n) * rng.uniform(low, high, size=n)


def mixing(n_variables, causes, coefficients):
    """Variables as weighted sums of all noises: (n_variables, n_variables)."""
    B = np.zeros((n_variables, n_variables))
    for (cause, effect), coefficient in zip(causes, coefficients, strict=True):
        B[effect, cause] = coefficient
    return np.linalg.inv(np.eye(n_variables) - B)


def population_correlation(n_observed, n_variables, causes, coefficients):
    """Exact correlation matrix (n_observed, n_observed) of the observed variables."""
    A = mixing(n_variables, causes, coefficients)[:n_observed]
    covariance = A @ A.T
    scale = np.sqrt(np.diagonal(covariance))
    return covariance / np.outer(scale, scale)


def simulate(n_observed, n_variables, causes, coefficients, n_records, rng):
    """Records (n_records, n_observed) of the observed variables."""
    A = mixing(n_variables, causes, coefficients)[:n_observed]
    return rng.standard_normal((n_records, n_variables)) @ A.T


def share_recovered(case, *, n_runs=200, n_records=5000, alpha=0.01, random_state=0):
    """Share of the runs, each with new coefficients and records, that find the expected edges."""
    from semi_nmf_concepts.attention import icd

    rng = np.random.default_rng(random_state)
    right = 0
    for _ in range(n_runs):
        coefficients = draw_coefficients(len(case.causes), rng)
        records = simulate(
            case.n_observed, case.n_variables, case.causes, coefficients, n_records, rng
        )
        found = icd(np.corrcoef(records.T), n_records, range(case.n_observed), alpha)
        right += tuple(found.edges()) == case.expected
    return right / n_runs
