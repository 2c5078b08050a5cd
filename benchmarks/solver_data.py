"""Data for the solver benchmarks: synthetic residual-stream states and those of the bundled model.

The synthetic states have what real ones have and what makes dictionary learning hard: a common
offset with a few outlier dimensions, groups of correlated atoms, a few active atoms per sample,
coloured noise. The scale is such that alpha = 1 leaves about four atoms active.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Mean square of the noise of a sample, about a seventh of the energy around the mean: a few tens
#: of atoms never explain hidden states to the last per cent.
NOISE = 8.0


@dataclass(frozen=True)
class Case:
    """Shape and kind of one synthetic data set; ``X(seed)`` draws it."""

    name: str
    n_samples: int
    n_features: int
    n_components: int
    hard: bool = False
    alpha: float = 1.0

    def X(self, seed):
        """The data (n_samples, n_features), float32."""
        return states(self.n_samples, self.n_features, self.n_components, hard=self.hard, seed=seed)


#: A, B and C have atoms in groups, codes of similar size and atoms in equal use. D is hard: tighter
#: groups, heavy-tailed codes, unequal use.
CASES = {
    case.name: case
    for case in (
        Case("A", 2_000, 1_024, 20),
        Case("B", 5_000, 4_096, 20),
        Case("C", 20_000, 512, 128),
        Case("D", 12_000, 384, 96, hard=True),
        Case("K1024", 6_000, 1_024, 1_024),
    )
}


def atoms_in_groups(n_components, n_features, cohesion, rng):
    """Unit atoms in groups of four that share a direction; (n_components, n_features).

    `cohesion` is the squared cosine of an atom with the direction of its group, hence the expected
    cosine of two atoms of one group.
    """
    centres = _unit_rows(rng.standard_normal((-(-n_components // 4), n_features)))
    own = _unit_rows(rng.standard_normal((n_components, n_features)))
    group = np.arange(n_components) // 4
    return _unit_rows(np.sqrt(cohesion) * centres[group] + np.sqrt(1 - cohesion) * own)


def sparse_codes(n_samples, n_components, *, hard, rng):
    """Three to six active atoms per sample, non-negative; (n_samples, n_components).

    Gamma codes and atoms in equal use, or (`hard`) log-normal codes and use that falls like
    ``1 / rank``: the rarest atoms are some tens of times rarer than the most frequent ones.
    """
    use = 1.0 / (np.arange(n_components) + 3.0) if hard else np.ones(n_components)
    # The smallest of exponential waiting times are draws without replacement by these weights.
    waiting = rng.exponential(size=(n_samples, n_components)) / use
    rank = waiting.argsort(axis=1).argsort(axis=1)
    active = rank < rng.integers(3, 7, size=(n_samples, 1))
    if hard:
        sizes = rng.lognormal(0.8, 0.8, (n_samples, n_components))
    else:
        sizes = rng.gamma(3.0, 1.0, (n_samples, n_components))
    return np.where(active, sizes, 0.0)


def coloured_noise(n_samples, n_features, energy, rng):
    """Gaussian noise with a falling spectrum in a random basis; rows of mean square `energy`."""
    rank = min(n_features, 256)
    spectrum = 1.0 / np.sqrt(1.0 + np.arange(rank))
    basis = rng.standard_normal((rank, n_features)) / np.sqrt(n_features)
    noise = (rng.standard_normal((n_samples, rank)) * spectrum) @ basis
    noise += 0.3 * rng.standard_normal((n_samples, n_features)) / np.sqrt(n_features)
    return noise * np.sqrt(energy / np.mean(np.sum(noise**2, axis=1)))


def states(n_samples, n_features, n_components, *, hard=False, seed=0):
    """Synthetic residual-stream states (n_samples, n_features), float32."""
    rng = np.random.default_rng(seed)
    atoms = atoms_in_groups(n_components, n_features, 0.6 if hard else 0.3, rng)
    codes = sparse_codes(n_samples, n_components, hard=hard, rng=rng)
    offset = rng.standard_normal(n_features) / np.sqrt(n_features)
    outliers = rng.choice(n_features, 3, replace=False)
    offset[outliers] += rng.choice([-1.0, 1.0], 3) * 2.0
    X = codes @ atoms + coloured_noise(n_samples, n_features, NOISE, rng) + offset
    return X.astype(np.float32)


def bundled_states(token="dog"):
    """Z of the bundled model: hidden states at `token`, one per kept training scene, float32."""
    from semi_nmf_concepts.datasets import load_scenes
    from semi_nmf_concepts.lmm import LMMTokenFeaturizer

    scenes = load_scenes(split="train", token=token)
    return LMMTokenFeaturizer(token=token).extract(scenes.images, scenes.captions).Z


def _unit_rows(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
