"""Compare a decomposer of your own with those of the package.

All that is asked of it: a scikit-learn transformer with the parameter `n_components` and, once
fitted, `components_`, the directions of its concepts in the space of the states, one per row. Where
activations mean presence, they should not be negative: a concept counts as active above 0.

Here independent component analysis. A source has no sign of its own, so each gives two concepts:
one for its positive and one for its negative part.
"""

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import FastICA

from semi_nmf_concepts import LMMTokenFeaturizer, SemiNMFConcepts, evaluate
from semi_nmf_concepts.datasets import load_scenes
from semi_nmf_concepts.decomposition import recommended_setting


class HalfICA(TransformerMixin, BaseEstimator):
    """Positive and negative parts of independent components (an even number of concepts)."""

    def __init__(self, n_components=10, random_state=None):
        self.n_components = n_components
        self.random_state = random_state

    def fit(self, Z, y=None):
        self.ica_ = FastICA(
            self.n_components // 2,
            whiten="unit-variance",
            tol=1e-2,
            max_iter=1000,
            random_state=self.random_state,
        ).fit(Z)
        # Directions that the sources add to a state, not the filters that find them.
        mixing = self.ica_.mixing_.T
        self.components_ = np.vstack([mixing, -mixing])
        return self

    def transform(self, Z):
        sources = self.ica_.transform(Z)
        return np.maximum(np.hstack([sources, -sources]), 0)

    def inverse_transform(self, V):
        return V @ self.components_ + self.ica_.mean_


K = 10
methods = {"Semi-NMF": SemiNMFConcepts(**recommended_setting(K)), "ICA, halves": HalfICA()}
tokens = ["dog", "bus"]
result = evaluate(
    LMMTokenFeaturizer("bundled", stop="token"),
    {token: load_scenes("train", token=token, n=80) for token in tokens},
    {token: load_scenes("test", token=token, n=50) for token in tokens},
    tokens=tokens,
    methods=methods,
    n_components=K,
    seeds=(0, 1),
    clip="bundled",
    bert=None,
    factor_columns=["colour", "background"],
    min_positives=3,
)

means = result.records.query("token == 'mean'")
rows = means[means["top"].fillna(1) == 1].set_index(["table", "metric", "method"])["mean"]
for title, table, metric in (
    ("CLIPScore of the words, top 1", "table1", "clip_score"),
    ("overlap of the words", "table2", "overlap"),
    ("stability over two seeds", "stability", "matched_cosine"),
    ("recovery of colour and background", "recovery", "auroc"),
    ("active concepts per image", "codes", "l0"),
):
    found = {name: rows[table, metric, name] for name in methods}
    print(f"{title:35s}" + "".join(f"{name:>13s} {value:.3f}" for name, value in found.items()))
