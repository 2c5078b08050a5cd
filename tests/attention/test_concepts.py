"""Concepts at the tokens of an answer, and answers without one, against plain computations."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from semi_nmf_concepts import LMMTokenFeaturizer, SemiNMFConcepts, explain_concepts
from semi_nmf_concepts.attention import (
    ConceptAblation,
    ConceptActivationMap,
    ablate_concept,
    concept_activation_map,
    trace_answer,
)
from semi_nmf_concepts.attention._concept_states import (
    activation_gradient,
    states_pass_through,
)
from semi_nmf_concepts.datasets import load_scenes
from semi_nmf_concepts.decomposition import KMeansConcepts, PCAConcepts, SimpleConcepts
from semi_nmf_concepts.lmm import find_blocks
from tests._tiny_llava import tiny_images


@pytest.fixture(scope="module")
def report():
    """Sixteen concepts of "dog", of the bundled model's last block."""
    scenes = load_scenes("train", token="dog", n=100)
    featurizer = LMMTokenFeaturizer(token="dog", stop="token", batch_size=64)
    decomposer = SemiNMFConcepts(16, n_active=5, random_state=0)
    return explain_concepts(featurizer, decomposer, scenes.images, scenes.captions)


@pytest.fixture(scope="module")
def pca_report(report):
    """Orthonormal concepts of a middle block."""
    scenes = load_scenes("train", token="dog", n=40)
    states = LMMTokenFeaturizer(token="dog", layer=1, stop="token").extract(scenes.images)
    return with_decomposer(report, PCAConcepts(5).fit(states.Z), states.provenance)


def with_decomposer(report, decomposer, provenance=None):
    """`report` with the concepts of another fitted decomposer."""
    components = np.asarray(decomposer.components_, dtype=np.float32)
    return replace(
        report,
        decomposer=decomposer,
        components=components,
        dictionary=components,
        concepts=report.concepts[: len(components)],
        provenance=report.provenance if provenance is None else dict(provenance),
    )


def model_of(trace):
    return trace.model.loaded.model


def block_of(trace, report):
    return find_blocks(model_of(trace))[1][report.provenance["layer"]]


def rows_of(trace):
    return slice(trace.n_prompt - 1, len(trace.token_ids) - 1)


def states_by_hand(trace, report):
    """float32 (T, d), from all hidden states of one pass over all ids."""
    kept = []
    hook = block_of(trace, report).register_forward_hook(lambda *args: kept.append(args[-1]))
    with torch.inference_mode():
        trace.run_again.run()
    hook.remove()
    return kept[0][0, rows_of(trace)].numpy()


def auto_regression(trace, report, k, vector, n_tokens):
    """Ids that follow one another greedily, each from a pass over all ids before it."""
    run, ids = trace.run_again, []

    def remove(module, arguments, states):
        changed = states.clone()
        part = changed[0, trace.n_prompt - 1 :]
        amounts = report.decomposer.transform(part.numpy())[:, k]
        changed[0, trace.n_prompt - 1 :] = part - torch.from_numpy(np.outer(amounts, vector))
        return changed

    hook = block_of(trace, report).register_forward_hook(remove)
    with torch.inference_mode():
        for _ in range(n_tokens):
            ids.append(int(run.run(ids=ids).logits[0, -1].argmax()))
    hook.remove()
    return ids


# --- activations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["dog", "white", "umbrella"])
def test_activations_are_those_of_the_states_that_predict_the_word(trace, report, word):
    found = concept_activation_map(trace, report, top=0)
    featurizer = LMMTokenFeaturizer(token=word, position="forced")
    states = featurizer.extract(trace.images, [trace.answer])
    start, stop = found.spans[found.words.index(word)]
    expected = report.encode(states)[0]
    np.testing.assert_allclose(found.activations[start], expected, rtol=1e-4, atol=1e-3)
    largest = found.activations[start:stop].max(axis=0)
    np.testing.assert_array_equal(found.word_activations[found.words.index(word)], largest)


def test_words_of_several_tokens(scenes, report):
    trace = trace_answer(images=scenes.images[1], answer="two dogs that are white")
    maps = {
        of_word: concept_activation_map(trace, report, words="dogs", top=None, of_word=of_word)
        for of_word in ("max", "mean", "first")
    }
    start, stop = maps["max"].spans[1]
    tokens = maps["max"].activations[start:stop]
    assert stop - start == 2
    assert (tokens[0] != tokens[1]).any()
    np.testing.assert_array_equal(maps["max"].word_activations[1], tokens.max(axis=0))
    np.testing.assert_allclose(maps["mean"].word_activations[1], tokens.mean(axis=0))
    np.testing.assert_array_equal(maps["first"].word_activations[1], tokens[0])
    # Only positive activations have maps, and all that are wanted have one.
    for found in maps.values():
        assert {k for _, k in found.image} == set(np.flatnonzero(found.word_activations[1] > 0))
    k = int(np.argmax(tokens[0]))
    mean, first = (maps[name].map(k, "dogs").values[0] for name in ("mean", "first"))
    assert not np.allclose(mean, first)


def test_how_much_of_a_state_is_explained(trace, report):
    found = concept_activation_map(trace, report, top=0)
    states = states_by_hand(trace, report)
    assert found.explained.shape == (trace.n_tokens,)
    for t in (0, 1, 4):
        assert found.explained[t] == pytest.approx(report.decomposer.score(states[[t]]), abs=1e-5)
    # Best where the concepts were learned: at the word that the report is about.
    assert found.explained[1] == found.explained.max() > 0.7


# --- maps -----------------------------------------------------------------------------------------


def decomposers(X):
    """Fitted ones of all kinds, in float64."""
    options = {"n_components": 6, "n_active": 3, "random_state": 0}
    return {
        "plain": SemiNMFConcepts(**options).fit(X),
        "centred": SemiNMFConcepts(center=True, **options).fit(X),
        "whitened": SemiNMFConcepts(whiten=8, **options).fit(X),
        "pca": PCAConcepts(4).fit(X),
        "kmeans": KMeansConcepts(4, random_state=0).fit(X),
        "simple": SimpleConcepts(4).fit(X),
    }


@pytest.mark.parametrize("kind", ["plain", "centred", "whitened", "pca", "kmeans", "simple"])
def test_the_gradient_of_an_activation_against_finite_differences(report, kind):
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(300, 6)) * (rng.random((300, 6)) < 0.5)
    X = codes @ rng.standard_normal((6, 12)) + 0.1 * rng.standard_normal((300, 12)) + 0.3
    one = with_decomposer(report, decomposers(X)[kind])
    n_checked = 0
    for state in X[:16]:
        code = one.encode(state[None])[0]
        for k in np.flatnonzero(np.abs(code) > 0.05):
            gradient = activation_gradient(one, state, k)
            for direction in rng.standard_normal((3, 12)):
                step = 1e-4 * direction
                high, low = one.encode(np.stack([state + step, state - step]))
                if ((high > 0) != (code > 0)).any() or ((low > 0) != (code > 0)).any():
                    continue  # another active set: not differentiable in between
                expected = (high[k] - low[k]) / 2e-4
                assert gradient @ direction == pytest.approx(expected, rel=1e-3, abs=1e-4)
                n_checked += 1
    assert n_checked > 20


def test_the_gradient_of_a_concept_that_is_not_active_is_its_direction(report, trace):
    state = states_by_hand(trace, report)[1]
    inactive = int(np.flatnonzero(report.encode(state[None])[0] == 0)[0])
    gradient = activation_gradient(report, state, inactive)
    np.testing.assert_allclose(gradient, report.components[inactive], rtol=1e-6)


def relevancy_by_matrices(trace, report, target):
    """R of all positions for all, from attention that the model itself hands out.

    ``target(states)`` is a number made of the states (S, d) behind the report's block.
    """
    model, kept = model_of(trace), []
    own = model.config._attn_implementation
    model.set_attn_implementation("eager")
    hook = block_of(trace, report).register_forward_hook(lambda *args: kept.append(args[-1]))
    leaf = model.get_input_embeddings().register_forward_hook(
        lambda *args: args[-1].detach().requires_grad_().clone()
    )
    try:
        with torch.enable_grad():
            inputs = {name: value.clone() for name, value in trace.run_again.inputs.items()}
            output = trace.run_again.run(inputs, output_attentions=True)
            attentions = output.attentions[: report.provenance["layer"] + 1]
            gradients = torch.autograd.grad(target(kept[0][0]), attentions)
    finally:
        hook.remove()
        leaf.remove()
        model.set_attn_implementation(own)
    R = np.eye(len(trace.token_ids))
    for weights, gradient in zip(attentions, gradients, strict=True):
        c = (weights * gradient).clamp(min=0).mean(dim=1)[0].detach().double().numpy()
        R = R + c @ R
    return R - np.eye(len(R))


def test_maps_equal_the_recursion_with_full_matrices(scenes, pca_report):
    trace = trace_answer(images=scenes.images[1], answer="two dogs that are white")
    found = concept_activation_map(trace, pca_report, words=["dogs", "white"], top=None)
    positions, offsets = trace.grids[0].positions, set()
    for word, k in found.image:
        start, stop = found.spans[word]
        offset = int(np.argmax(found.activations[start:stop, k]))
        offsets.add(offset)
        row = trace.n_prompt - 1 + start + offset
        vector = torch.from_numpy(pca_report.components[k])
        R = relevancy_by_matrices(trace, pca_report, lambda h, r=row, u=vector: h[r] @ u)
        expected = R[row] / R[row].sum()
        one = found.map(k, word)
        np.testing.assert_allclose(one.values[0], expected[positions], atol=1e-5)
        assert one.share == pytest.approx(expected[positions].sum(), abs=1e-5)
        assert one.words == [trace.words[word].text]
    assert offsets == {0, 1}  # the largest of "dog" and "##s"


def test_other_maps_change_nothing(trace, report):
    together = concept_activation_map(trace, report, top=2)
    alone = concept_activation_map(trace, report, words="white", top=1)
    (key,) = alone.image
    np.testing.assert_array_equal(alone.image[key][0], together.image[key][0])
    assert 0 < alone.image_shares[key] <= 1
    per_word = [sum(i == word for i, _ in together.image) for word in range(len(trace.words))]
    assert max(per_word) == 2
    assert concept_activation_map(trace, report, top=0).image == {}


# --- ablation -------------------------------------------------------------------------------------


def test_scale_one_changes_nothing(trace, report):
    same = ablate_concept(trace, report, 0, scale=1.0)
    np.testing.assert_array_equal(same.logits_after, same.logits_before)
    np.testing.assert_array_equal(same.probabilities_after, same.probabilities_before)
    assert same.answer_after == same.answer_before == trace.answer
    np.testing.assert_allclose(same.logits_before, trace.logits, atol=1e-4)
    np.testing.assert_allclose(same.probabilities_before, trace.probabilities, atol=1e-5)
    # Also inside the model, where a change would go on.
    inside = ablate_concept(trace, report, 0, scale=1.0, positions="all")
    np.testing.assert_array_equal(inside.logits_after, same.logits_before)


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_logits_behind_the_last_block_follow_from_the_states(trace, report, scale):
    states = states_by_hand(trace, report)
    codes = report.encode(states)
    k = int(np.argmax(codes[1]))
    found = ablate_concept(trace, report, k, scale=scale, regenerate=False)
    np.testing.assert_allclose(found.activations, codes[:, k], rtol=1e-4, atol=1e-3)
    changed = states - (1 - scale) * codes[:, [k]] * report.components[k]
    weight, _ = trace.model.unembedding()
    logits = trace.model.final_norm()(changed) @ weight.T
    ids = trace.token_ids[trace.n_prompt :]
    expected = logits[np.arange(len(ids)), ids]
    np.testing.assert_allclose(found.logits_after, expected, atol=2e-3)
    normalised = expected - np.logaddexp.reduce(logits, axis=1)
    np.testing.assert_allclose(np.log(found.probabilities_after), normalised, atol=2e-3)
    firsts = [start for start, _ in found.spans]
    np.testing.assert_allclose(
        found.word_changes, (found.logits_after - found.logits_before)[firsts]
    )
    # Words in whose state the concept is not active keep their logits.
    kept = codes[:, k] == 0
    assert kept.any()
    np.testing.assert_allclose(
        found.logits_after[kept], found.logits_before[kept], rtol=0, atol=1e-4
    )


def test_nothing_is_left_of_an_orthonormal_concept(trace, pca_report):
    left = []
    behind = find_blocks(model_of(trace))[1][pca_report.provenance["layer"] + 1]
    watch = behind.register_forward_pre_hook(lambda module, arguments: left.append(arguments[0]))
    ablate_concept(trace, pca_report, 1, regenerate=False)
    watch.remove()
    before, codes = (pca_report.encode(h[0, rows_of(trace)].numpy()) for h in left)
    assert np.abs(before[:, 1]).max() > 1
    np.testing.assert_allclose(codes[:, 1], 0, atol=1e-3)
    np.testing.assert_allclose(codes[:, 0], before[:, 0], atol=1e-3)


def test_new_answers_equal_passes_over_all_ids(trace, pca_report, report):
    n_tokens = 6
    for one in (pca_report, report):
        k = int(np.argmax(one.encode(states_by_hand(trace, one))[1]))
        found = ablate_concept(trace, one, k, max_new_tokens=n_tokens)
        ids = auto_regression(trace, one, k, one.components[k], n_tokens)
        assert found.answer_after == trace.run_again.answer_text(ids)


def test_a_concept_of_a_colour_is_what_its_word_is_made_from(trace, report):
    """The word of the scene's colour loses more than with the same length along others."""
    (k,) = (k for k, concept in enumerate(report.concepts) if concept.words[0] == "white")
    own = ablate_concept(trace, report, k, regenerate=False)
    assert own.words[4] == "white"
    others = [
        ablate_concept(trace, report, k, direction=report.components[j], regenerate=False)
        for j in range(len(report))
        if j != k
    ]
    assert own.word_changes[4] < min(one.word_changes[4] for one in others)
    half = ablate_concept(trace, report, k, 0.5, regenerate=False)
    assert own.word_changes[4] < half.word_changes[4] < 0


def test_controls_are_those_of_other_directions(trace, report):
    found = ablate_concept(trace, report, 2, regenerate=False, n_controls=99)
    assert found.control_logits.shape == (len(report) - 1, trace.n_tokens)
    by_hand = [
        ablate_concept(trace, report, 2, direction=report.components[j], regenerate=False)
        for j in range(len(report))
        if j != 2
    ]
    expected = np.stack([one.logits_after for one in by_hand])
    found_rows = found.control_logits[np.argsort(found.control_logits[:, 1])]
    np.testing.assert_allclose(found_rows, expected[np.argsort(expected[:, 1])], atol=1e-4)
    some = ablate_concept(trace, report, 2, regenerate=False, n_controls=3)
    np.testing.assert_array_equal(some.control_logits, found.control_logits[:3])
    assert ablate_concept(trace, report, 2, regenerate=False).control_logits is None
    with pytest.raises(ValueError, match="n_controls must be an integer of at least 0, got -1"):
        ablate_concept(trace, report, 2, n_controls=-1)


def test_another_direction_takes_the_place_of_the_concepts(trace, report):
    u = report.components[2]
    own = ablate_concept(trace, report, 2, regenerate=False)
    same = ablate_concept(trace, report, 2, direction=7.0 * u, regenerate=False)
    np.testing.assert_allclose(same.logits_after, own.logits_after, atol=1e-4)
    assert same.direction_given
    assert not own.direction_given
    # Taking away along the opposite direction is adding: the same as a scale of 2.
    opposite = ablate_concept(trace, report, 2, direction=-u, regenerate=False)
    twice = ablate_concept(trace, report, 2, scale=2.0, regenerate=False)
    np.testing.assert_allclose(opposite.logits_after, twice.logits_after, atol=1e-4)


def test_every_position_or_those_of_the_answer(trace, pca_report):
    answer = ablate_concept(trace, pca_report, 0, regenerate=False)
    everywhere = ablate_concept(trace, pca_report, 0, positions="all", regenerate=False)
    np.testing.assert_allclose(answer.activations, everywhere.activations, atol=1e-4)
    assert np.abs(answer.logits_after - everywhere.logits_after).max() > 1e-3


@pytest.mark.parametrize("positions", ["answer", "all"])
def test_new_answers_are_written_with_the_positions_asked_for(trace, pca_report, positions):
    """What the next block sees of the prompt, and then of each token that was written."""
    seen = []
    behind = find_blocks(model_of(trace))[1][pca_report.provenance["layer"] + 1]
    watch = behind.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    try:
        trace.run_again.generate(max_new_tokens=1)
        before = seen.pop()[0].numpy()
        ablate_concept(trace, pca_report, 0, positions=positions, max_new_tokens=1)
    finally:
        watch.remove()
    after = seen[-1][0].numpy()
    changed = np.abs(after - before).max(axis=1) > 1e-3
    assert changed[-1]
    assert changed[:-1].any() == (positions == "all")


def test_what_a_new_answer_is_compared_with(scenes, report):
    given = trace_answer(images=scenes.images[0], answer="a cat")
    found = ablate_concept(given, report, 0, scale=1.0)
    assert found.answer_before == found.answer_after != "a cat"
    assert len(found.logits_after) == 2
    drawn = trace_answer(images=scenes.images[0], temperature=2.0, random_state=3)
    found = ablate_concept(drawn, report, 0, scale=1.0)
    assert found.answer_before == found.answer_after == drawn.answer
    short = ablate_concept(drawn, report, 0, scale=1.0, max_new_tokens=2)
    assert short.answer_before == short.answer_after
    assert drawn.answer.startswith(short.answer_after)
    no_seed = trace_answer(images=scenes.images[0], temperature=2.0)
    found = ablate_concept(no_seed, report, 0, scale=1.0)
    assert found.answer_before == found.answer_after


# --- hooks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda x: x, lambda x: (x, "cache"), lambda x: [x, None]])
def test_states_are_replaced_in_whatever_a_module_returns(make):
    class Block(torch.nn.Module):
        def forward(self, x):
            return make(x)

    block, states = Block(), torch.arange(6.0).reshape(1, 3, 2)
    with states_pass_through(block, lambda h: h + 1, 2):
        changed = block(states)
    expected = make(states + 1)
    assert type(changed) is type(expected)
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(changed, expected)
    else:
        torch.testing.assert_close(changed[0], expected[0])
        assert changed[1] is expected[1]
    kept = []
    with states_pass_through(block, kept.append, 2):
        block(states)
    assert kept[0] is states
    plain = block(states)
    assert (plain if isinstance(plain, torch.Tensor) else plain[0]) is states
    with pytest.raises(ValueError, match="5 features.*shape"), states_pass_through(block, id, 5):
        block(states)


def test_no_hook_is_left_behind(trace, report, monkeypatch):
    modules = list(model_of(trace).modules())

    def n_hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)

    before = n_hooks()
    concept_activation_map(trace, report, top=1)
    ablate_concept(trace, report, 0)
    assert n_hooks() == before
    monkeypatch.setattr(report, "encode", lambda states: 1 / 0, raising=False)
    for call in (concept_activation_map, lambda *args: ablate_concept(*args, 0)):
        with pytest.raises(ZeroDivisionError):
            call(trace, report)
    monkeypatch.undo()
    assert n_hooks() == before
    assert trace.run_again.generate(max_new_tokens=64) == trace.run_again.ids


# --- other families -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llava-gpt2", "llava-next", "paligemma", "gemma3", "qwen2.5-vl"])
def test_other_families(build, report, name):
    trace = trace_answer(build(name), tiny_images(1)[0], "what is this", "dog on a red bus")
    blocks_name, blocks = find_blocks(model_of(trace))
    layer = len(blocks) - 1
    provenance = {
        "layer": layer,
        "module": f"{blocks_name}.{layer}",
        "fingerprint": trace.model.fingerprint,
        "position": "generated",
    }
    states = states_by_hand(trace, with_decomposer(report, report.decomposer, provenance))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # fewer tokens than components
        pca = PCAConcepts(2).fit(states)
    own = with_decomposer(report, pca, provenance)
    found = concept_activation_map(trace, own, top=1)
    np.testing.assert_allclose(found.activations, pca.transform(states), atol=1e-4)
    assert found.image
    for word, k in found.image:
        one = found.map(k, word)
        assert len(one.values[0]) == len(trace.grids[0].positions)
        assert (one.values[0] >= 0).all()
    same = ablate_concept(trace, own, 0, scale=1.0)
    np.testing.assert_array_equal(same.logits_before, same.logits_after)
    assert same.answer_after == same.answer_before
    gone = ablate_concept(trace, own, 0, max_new_tokens=4)
    ids = auto_regression(trace, own, 0, own.components[0], 4)
    ends = trace.model.loaded.model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    stop = next((i for i, index in enumerate(ids) if index in ends), len(ids))
    assert gone.answer_after == trace.run_again.answer_text(ids[:stop])


# --- files and bad input --------------------------------------------------------------------------


def test_results_and_reports_from_files(trace, report, tmp_path):
    report.save(tmp_path / "report")
    found = concept_activation_map(trace, tmp_path / "report", words=["dog", "white"], top=1)
    direct = concept_activation_map(trace, report, words=["dog", "white"], top=1)
    np.testing.assert_allclose(found.activations, direct.activations, atol=1e-4)
    direct.save(tmp_path / "map.npz")
    again = ConceptActivationMap.load(tmp_path / "map.npz")
    np.testing.assert_array_equal(again.activations, direct.activations)
    assert again.words == direct.words
    assert again.concepts == direct.concepts
    for word, k in direct.image:
        one, other = again.map(k, word), direct.map(k, word)
        np.testing.assert_array_equal(one.values[0], other.values[0])
        np.testing.assert_allclose(one.pixels().sum(), other.values[0].sum())
    ablation = ablate_concept(trace, str(tmp_path / "report"), 1)
    ablation.save(tmp_path / "ablation.npz")
    loaded = ConceptAblation.load(tmp_path / "ablation.npz")
    np.testing.assert_array_equal(loaded.logits_after, ablation.logits_after)
    assert loaded.answer_after == ablation.answer_after
    assert loaded.concept_words == report.concepts[1].words


def test_a_report_of_another_model_is_refused(trace, report):
    other = replace(report, provenance={**report.provenance, "fingerprint": "0" * 16})
    for call in (concept_activation_map, lambda *args: ablate_concept(*args, 0)):
        with pytest.raises(
            ValueError, match="concepts: those of the report come from the model .*000"
        ):
            call(trace, other)


def test_reports_that_do_not_fit_are_refused(trace, report, tmp_path):
    def fails(kind, match, **changes):
        with pytest.raises(kind, match=match):
            concept_activation_map(trace, replace(report, **changes))

    known = report.provenance
    fails(ValueError, "position='mean'", provenance={**known, "position": "mean"})
    fails(ValueError, "position=3", provenance={**known, "position": 3})
    fails(ValueError, "module 'nowhere'", provenance={**known, "module": "nowhere"})
    fails(ValueError, "no decomposer", decomposer=None)
    vision = {**known, "module": "model.vision_tower"}
    fails(ValueError, "concepts: the report's states", provenance=vision)
    with pytest.raises(TypeError, match="concepts must be a ConceptReport"):
        concept_activation_map(trace, {"concepts": []})
    with pytest.raises(FileNotFoundError):
        concept_activation_map(trace, tmp_path / "none")
    # Without a module name, the layer says it.
    by_layer = replace(report, provenance={**known, "module": None, "layer": -1})
    expected = concept_activation_map(trace, report, top=0).activations
    found = concept_activation_map(trace, by_layer, top=0).activations
    np.testing.assert_array_equal(found, expected)


def test_bad_input_of_maps(trace, report):
    with pytest.raises(ValueError, match="'cat' is not in the answer; it has 0: 'a', 1: 'dog'"):
        concept_activation_map(trace, report, words="cat")
    for top in (-1, 1.5, True):
        with pytest.raises(ValueError, match="top must be"):
            concept_activation_map(trace, report, top=top)
    with pytest.raises(ValueError, match="of_word must be one of"):
        concept_activation_map(trace, report, of_word="sum")
    found = concept_activation_map(trace, report, words="dog", top=1)
    ((_, k),) = found.image
    with pytest.raises(ValueError, match=rf"no map of concept 99 for .*'dog'.*of \[{k}\]"):
        found.map(99, "dog")
    with pytest.raises(ValueError, match="maps of none"):
        found.map(k, "white")
    with pytest.raises(ValueError, match="'cat' is not in the answer"):
        found.map(k, "cat")
    with pytest.raises(ValueError, match="choose one by its index"):
        found.map(k, None)


def test_bad_input_of_ablations(trace, report, pca_report):
    for k in (16, -17):
        with pytest.raises(ValueError, match=r"the report has 16 concepts \(0 to 15\)"):
            ablate_concept(trace, report, k)
    for k in ("0", 1.0, None, True):
        with pytest.raises(TypeError, match="k must be the integer index"):
            ablate_concept(trace, report, k)
    assert ablate_concept(trace, report, -1, regenerate=False).concept == 15
    for scale in (np.nan, np.inf, "0", None, True):
        with pytest.raises(ValueError, match="scale must be a finite number"):
            ablate_concept(trace, report, 0, scale)
    with pytest.raises(ValueError, match="positions must be one of"):
        ablate_concept(trace, report, 0, positions="image")
    for n in (0, 1.5, True):
        with pytest.raises(ValueError, match="max_new_tokens must be a positive integer"):
            ablate_concept(trace, report, 0, max_new_tokens=n)
    for direction in (np.ones(3), np.ones((1, 160))):
        with pytest.raises(ValueError, match=r"direction must have shape \(160,\)"):
            ablate_concept(trace, report, 0, direction=direction)
    for direction in (np.zeros(160), np.full(160, np.nan)):
        with pytest.raises(ValueError, match="direction must be finite and not zero"):
            ablate_concept(trace, report, 0, direction=direction)
    states = states_by_hand(trace, report)
    closeness = with_decomposer(report, KMeansConcepts(2, random_state=0).fit(states))
    with pytest.raises(ValueError, match="KMeansConcepts say how close"):
        ablate_concept(trace, closeness, 0)
    assert concept_activation_map(trace, closeness, words="dog", top=1).image
