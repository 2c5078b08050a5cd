"""The generated data of the solver benchmark are what their descriptions say."""

import numpy as np
import pytest

from benchmarks.solver_data import CASES, atoms_in_groups, coloured_noise, sparse_codes, states


@pytest.mark.parametrize("hard", [False, True])
def test_states_depend_on_the_seed_only(hard):
    first, again, other = (states(50, 20, 8, hard=hard, seed=seed) for seed in (3, 3, 4))
    assert first.shape == (50, 20) and first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_a_case_draws_data_of_its_shape():
    case = CASES["A"]
    X = case.X(0)
    assert X.shape == (case.n_samples, case.n_features)
    np.testing.assert_array_equal(X, case.X(0))


@pytest.mark.parametrize("hard", [False, True])
def test_three_to_six_atoms_are_active(hard):
    codes = sparse_codes(2_000, 40, hard=hard, rng=np.random.default_rng(0))
    n_active = np.count_nonzero(codes, axis=1)
    assert (codes >= 0).all()
    assert set(n_active) == {3, 4, 5, 6}
    assert n_active.mean() == pytest.approx(4.5, abs=0.1)


def test_hard_codes_use_atoms_unequally_and_have_heavy_tails():
    easy, hard = (
        sparse_codes(20_000, 40, hard=hard, rng=np.random.default_rng(0)) for hard in (False, True)
    )
    use = [np.count_nonzero(codes, axis=0) for codes in (easy, hard)]
    assert use[0].max() < 1.2 * use[0].min()
    assert use[1].max() > 8 * use[1].min()

    def tail(codes):
        sizes = codes[codes > 0]
        return np.quantile(sizes, 0.999) / np.median(sizes)

    assert tail(hard) > 1.5 * tail(easy)


@pytest.mark.parametrize("cohesion", [0.3, 0.6])
def test_atoms_of_a_group_are_correlated_and_others_are_not(cohesion):
    atoms = atoms_in_groups(40, 2_000, cohesion, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1.0)
    cosines = atoms @ atoms.T
    group = np.arange(40) // 4
    same = (group[:, None] == group) & ~np.eye(40, dtype=bool)
    np.testing.assert_allclose(cosines[same], cohesion, atol=0.1)
    assert np.abs(cosines[group[:, None] != group]).max() < 0.15


def test_the_noise_has_the_energy_asked_for_in_few_directions():
    noise = coloured_noise(500, 100, 2.0, np.random.default_rng(0))
    assert np.mean(np.sum(noise**2, axis=1)) == pytest.approx(2.0)
    variances = np.linalg.svd(noise, compute_uv=False) ** 2
    assert variances[:10].sum() > 0.25 * variances.sum()


def test_about_four_atoms_are_active_at_the_penalty_of_the_benchmark():
    from semi_nmf_concepts.decomposition import SemiNMFConcepts

    X = states(600, 128, 20, seed=0)
    V = SemiNMFConcepts(20, alpha=CASES["A"].alpha, random_state=0).fit_transform(X)
    assert 3.0 < np.count_nonzero(V) / len(V) < 6.0
