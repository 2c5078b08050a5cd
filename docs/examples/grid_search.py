"""Swap decomposers in a grid search that starts at images.

Which decomposer, with how many concepts? A Pipeline from images to activations goes into
GridSearchCV like any other, and several scores of its concepts are computed for every candidate on
images that it was not fitted on: how well the words fit the images (CLIPScore), how little the
concepts share their words, how much of the states they explain, and which known factors they
detect.

The featurizer keeps its states in a folder, so that each distinct image goes through the model
once, however many candidates and folds there are.
"""

import tempfile

import pandas as pd
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline

from semi_nmf_concepts import (
    RECOMMENDED,
    ConceptScorer,
    KMeansConcepts,
    LMMTokenFeaturizer,
    PCAConcepts,
    SemiNMFConcepts,
    SimpleConcepts,
)
from semi_nmf_concepts.datasets import load_scenes

scenes = load_scenes("train", token="dog", n=160)
images = pd.DataFrame({"image": list(scenes.images), "caption": scenes.captions})
factors = scenes.factors[["colour", "background"]]  # what is known of the images: y

with tempfile.TemporaryDirectory() as cache:
    pipeline = Pipeline(
        [
            ("featurizer", LMMTokenFeaturizer(token="dog", stop="token", cache=cache)),
            ("concepts", SemiNMFConcepts()),
        ]
    )
    search = GridSearchCV(
        pipeline,
        param_grid={
            "concepts": [
                SemiNMFConcepts(**RECOMMENDED, random_state=0),
                KMeansConcepts(random_state=0),
                PCAConcepts(),
                SimpleConcepts(),
            ],
            "concepts__n_components": [10, 20],
        },
        scoring=ConceptScorer(
            ["clip_score", "neg_overlap", "reconstruction", "recovery"],
            clip_model="bundled",  # a small CLIP for these scenes, not to be used for other images
            min_positives=3,  # few images: a value counts that three test images of a fold have
        ),
        refit="clip_score",
        cv=KFold(2, shuffle=True, random_state=0),
        error_score="raise",
    ).fit(images, factors)

results = pd.DataFrame(search.cv_results_)
results["concepts"] = [type(p["concepts"]).__name__ for p in results["params"]]
results["K"] = [p["concepts__n_components"] for p in results["params"]]
columns = {f"mean_test_{name}": name for name in search.scorer_.metrics}
table = results.rename(columns=columns).set_index(["concepts", "K"])[list(columns.values())]
print(table.round(3).reset_index().to_string(index=False))
print("best by CLIPScore:", search.best_estimator_["concepts"])
