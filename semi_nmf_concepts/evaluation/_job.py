"""What an evaluation is to run: parameters, checked, and the runs that follow from them."""

from functools import partial

import numpy as np
from sklearn.base import clone

from semi_nmf_concepts.decomposition import recommended_setting
from semi_nmf_concepts.lmm import LMMTokenFeaturizer, layer_index, load_model

from ._methods import NOISE, SEMI_NMF, make_methods, with_components
from ._records import MEAN
from ._runs import Run
from ._states import PARTS, images_of


class Job:
    """What is to be run, checked."""

    def __init__(
        self, featurizer, *, tokens, methods, setting, n_components, layers, alphas, seeds,
        chosen_on, random_state,
    ):  # fmt: skip
        if not isinstance(featurizer, LMMTokenFeaturizer):
            featurizer = LMMTokenFeaturizer(load_model(featurizer))
        if featurizer.position != "generated":
            raise ValueError(
                "featurizer must have position='generated': the states that choose a word, got "
                f"{featurizer.position!r}."
            )
        self.featurizer = clone(featurizer)
        self.tokens = _list_of("tokens", tokens)
        if MEAN in self.tokens:
            raise ValueError(f"tokens must not have {MEAN!r}: tables have a row of that name.")
        self.chosen_on = list(chosen_on)
        self.reported = [token for token in self.tokens if token not in self.chosen_on]
        unknown = [token for token in self.chosen_on if token not in self.tokens]
        if unknown:
            raise ValueError(f"chosen_on must be among the tokens {self.tokens}, got {unknown}.")
        if not self.reported:
            raise ValueError("chosen_on leaves no token to report.")
        self.setting = recommended_setting if setting is None else setting
        self.methods = make_methods(methods)
        # Estimators of the user's own keep their parameters, whatever they are called.
        self.has_setting = not hasattr(methods, "items")
        self.main = SEMI_NMF if SEMI_NMF in self.methods else next(iter(self.methods))
        numbers = [n_components] if np.isscalar(n_components) else n_components
        self.n_components = [int(n) for n in _list_of("n_components", numbers)]
        self.seeds = [int(seed) for seed in _list_of("seeds", seeds)]
        self.alphas = list(dict.fromkeys(float(alpha) for alpha in alphas))
        n_layers = self.featurizer.handle.n_layers
        self.layers = list(
            dict.fromkeys(
                layer if isinstance(layer, str) else layer_index(layer, n_layers)
                for layer in (featurizer.layer, *layers)
            )
        )
        self.random_state = random_state

    def parts_of_tokens(self, train, test):
        """`Images` of every token and part; tokens that are given the same data share them."""
        parts = {token: {} for token in self.tokens}
        for name, data in zip(PARTS, (train, test), strict=True):
            is_mapping = isinstance(data, dict) and "images" not in data
            groups = {}
            for token in self.tokens:
                if is_mapping and token not in data:
                    raise ValueError(f"{name} has no data for the token {token!r}.")
                own = data[token] if is_mapping else data
                groups.setdefault(id(own), (own, []))[1].append(token)
            for own, tokens in groups.values():
                images = images_of(own, name, self.featurizer, tokens)
                for token in tokens:
                    parts[token][name] = images
        return parts

    def estimator(self, method, n_components, seed, **changes):
        """The unfitted estimator of a run."""
        estimator = self.methods[method]
        if method == SEMI_NMF and self.has_setting:
            setting = self.setting(n_components) if callable(self.setting) else self.setting
            changes = {**setting, **changes}
        return with_components(estimator, n_components, seed=seed, **changes)

    def runs(self):
        """The runs of one token, the reference run of the main method first."""
        K, seed, layer = self.n_components[0], self.seeds[0], self.layers[0]
        main, runs = self.main, []
        names = [main, *(name for name in self.methods if name != main)]
        for name in names:
            curves = self._curves() if name == main else ()
            runs.append(
                Run(
                    name,
                    self.estimator(name, K, seed),
                    layer,
                    seed,
                    "full",
                    tables=("reference", "stability", *curves),
                    is_main=name == main,
                )
            )
        runs.append(
            Run(NOISE, self.estimator(main, K, seed), layer, seed, "full", "noise", ("reference",))
        )
        make = partial(Run, main)
        runs += [
            make(self.estimator(main, K, seed), other, seed, "mas", tables=("layers",))
            for other in self.layers[1:]
        ]
        runs += [
            make(self.estimator(main, k, seed), layer, seed, "mas", tables=("n_components",))
            for k in self.n_components[1:]
        ]
        for alpha in self._alphas():
            weight = {"alpha": alpha, "alpha_scale": "relative", "n_active": None}
            estimator = self.estimator(main, K, seed, **weight)
            runs.append(make(estimator, layer, seed, "mas", tables=("alpha",)))
        for name in names:
            if "random_state" in self.methods[name].get_params():
                runs += [
                    Run(name, self.estimator(name, K, s), layer, s, tables=("stability",))
                    for s in self.seeds[1:]
                ]
        return runs

    def _curves(self):
        """Curves that have more points than the reference run."""
        settings = {"layers": self.layers, "n_components": self.n_components}
        return tuple(table for table, values in settings.items() if len(values) > 1)

    def _alphas(self):
        return self.alphas if "alpha" in self.methods[self.main].get_params() else []


def _list_of(name, values):
    """Distinct values in order; a string or nothing is refused."""
    if isinstance(values, str):
        raise TypeError(f"{name} must be a list, got the string {values!r}.")
    values = list(dict.fromkeys(values))
    if not values:
        raise ValueError(f"{name} must not be empty.")
    return values
