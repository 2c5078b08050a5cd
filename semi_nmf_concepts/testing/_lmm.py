"""`check_lmm`: is what the featurizer reads from a model exactly right?"""

import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

# What the model is asked about the images when no prompts are given: texts of many lengths.
PROMPTS = (
    "What is this?",
    "Describe.",
    "Describe this image in one short sentence.",
    "Tell me which animals there are in the picture, what they do, and what is behind them.",
    "Caption",
    "Is there a dog or a cat on the grass, or a bus in the street?",
    "What do you see here? Answer in a few words.",
    "Which colours?",
)
# Width and height of the images that are made: wide ones, high ones, small and larger ones.
SIZES = ((48, 48), (96, 48), (48, 96), (170, 64), (64, 170), (224, 224), (33, 70), (130, 90))
# Words, most useful first, until every caption has one of them.
_MAX_WORDS = 8


@dataclass
class LMMCheck:
    """What :func:`check_lmm` found; prints as a table.

    Attributes
    ----------
    model : str
    n_images : int
    words : list of str
        Words of interest that were looked for.
    captions : list of str
        What the reference wrote.
    figures : dict of str to float
        Largest relative error of every quantity compared.
    facts : dict of str to bool
        Comparisons without a size.
    tolerance : float
        What figures may be.
    notes : dict of str to (int or float)
        Figures that are not judged.
    failures : list of str
        What is wrong: which quantity, which sample, how large.
    """

    model: str
    n_images: int
    words: list
    captions: list
    tolerance: float
    figures: dict = field(default_factory=dict)
    facts: dict = field(default_factory=dict)
    notes: dict = field(default_factory=dict)
    failures: list = field(default_factory=list)

    @property
    def passed(self):
        """bool: whether nothing is wrong."""
        return not self.failures

    def __str__(self):
        lines = [f"{self.model}: {self.n_images} images, words {', '.join(self.words)}"]
        for name, value in self.figures.items():
            mark = "ok  " if value <= self.tolerance else "FAIL"
            lines.append(f"  {mark} {value:9.2e}  {name}")
        lines += [f"  {'ok  ' if ok else 'FAIL'} {'':9}  {name}" for name, ok in self.facts.items()]
        lines += [f"  {'':4} {value:9.3g}  {name}" for name, value in self.notes.items()]
        lines += [f"  {failure}" for failure in self.failures]
        return "\n".join(lines)

    def figure(self, name, errors):
        """Judge relative errors, a dict sample -> error."""
        worst = max(errors, key=errors.get)
        self.figures[name] = max(errors[worst], self.figures.get(name, 0.0))
        if not errors[worst] <= self.tolerance:
            self.fail(
                f"{name}: relative error {errors[worst]:.2e} at sample {worst} "
                f"(allowed {self.tolerance:.0e})"
            )

    def equal(self, name, found, expected):
        """Judge sequences that should be the same, one entry per sample."""
        found, expected = list(found), list(expected)
        wrong = [i for i, pair in enumerate(zip(found, expected, strict=False)) if len({*pair}) > 1]
        same = not wrong and len(found) == len(expected)
        self.facts[name] = same and self.facts.get(name, True)
        if wrong:
            i = wrong[0]
            self.fail(
                f"{name}: {len(wrong)} of {len(expected)} differ, first {i}: got {found[i]!r}, "
                f"expected {expected[i]!r}"
            )
        elif not same:
            self.fail(f"{name}: got {len(found)} samples, expected {len(expected)}")

    def fail(self, message):
        """Note what is wrong, once."""
        if message not in self.failures:
            self.failures.append(message)


def check_lmm(
    model,
    images=None,
    *,
    prompts=None,
    token=None,
    layers=(0, -1, "final_norm"),
    batch_size=8,
    max_new_tokens=12,
    tolerance=1e-4,
    device="cpu",
    dtype="float32",
    raise_on_failure=True,
):
    """Check that a vision-language model is read exactly right by `LMMTokenFeaturizer`.

    For a model of a family that has not been tried: whatever it needs that the generic path does
    not give it (other inputs for padded rows, another order of positions, a norm elsewhere) shows
    here. Everything is compared with a slow reference that shares no code with the featurizer: one
    image at a time, no padding, no cache, the whole sequence again for every token, hooks of its
    own on all positions. Compared are

    * captions of a batch, and of batches of one image, with the reference's;
    * states Z of all `layers`, for the positions "generated" (with both values of `stop`),
      "forced", "last", "mean" and 1; a batch against one at a time;
    * which samples are kept, the word's position in the caption and its probability;
    * final norm and unembedding: Z of the last block gives the Z of "final_norm", and that chooses
      the token that the model chose;
    * the hooked states with the model's own `hidden_states`, where it gives them.

    Parameters
    ----------
    model : str, path or ModelHandle
        As for :func:`~semi_nmf_concepts.lmm.load_model`.
    images : sequence of PIL.Image.Image, default=None
        None: eight coarse patterns of different sizes and shapes, because padding and cutting into
        tiles depend on them.
    prompts : sequence of str, default=None
        What the model is asked about every image; None: texts of different length.
    token : str, default=None
        Word of interest. None: words that the model does write about these images, so that every
        caption with a word in it takes part.
    layers : sequence of (int or str), default=(0, -1, "final_norm")
        First and last block and the final norm, or any that the featurizer takes.
    batch_size : int, default=8
        Images run together.
    max_new_tokens : int, default=12
        Longest caption; the reference's time grows with its square.
    tolerance : float, default=1e-4
        Largest relative error norm(z - z_ref) / norm(z_ref) of any sample. Half precision needs
        about 0.05; captions may then differ where two words are nearly as probable, since a batch
        and a cache round otherwise than the reference.
    device, dtype : str, default="cpu", "float32"
        As for :func:`~semi_nmf_concepts.lmm.load_model`.
    raise_on_failure : bool, default=True
        False: return the record in any case.

    Returns
    -------
    LMMCheck
        Every figure; printable.

    Raises
    ------
    AssertionError
        Something is wrong; the message is the record.
    ValueError
        The model cannot be loaded, or a parameter is wrong.

    Examples
    --------
    >>> from semi_nmf_concepts.testing import check_lmm
    >>> check_lmm("bundled", max_new_tokens=6).passed
    True
    """
    from .._quiet import quiet_transformers
    from ..lmm import load_model

    images = _patterns() if images is None else list(images)
    prompts = _repeated(PROMPTS, len(images)) if prompts is None else list(prompts)
    if not len(images) == len(prompts) > 0:
        raise ValueError(
            f"prompts must have one entry per image: got {len(prompts)} for {len(images)} images."
        )
    handle = load_model(model, device=device, dtype=dtype)
    comparison = _Comparison(handle, images, prompts, list(layers), batch_size, max_new_tokens)
    with quiet_transformers():
        check = comparison.run(token, tolerance)
    if raise_on_failure and check.failures:
        raise AssertionError(f"{len(check.failures)} comparisons failed.\n{check}")
    return check


class _Comparison:
    """The featurizer and the reference on the same images."""

    def __init__(self, handle, images, prompts, layers, batch_size, max_new_tokens):
        from ._slow_lmm import SlowModel

        self.handle, self.images, self.prompts = handle, images, prompts
        self.layers, self.batch_size = layers, batch_size
        self.max_new_tokens = max_new_tokens
        self.tokenizer = handle.loaded.tokenizer
        self.slow = SlowModel(handle.loaded, handle.n_layers, layers)

    def run(self, token, tolerance):
        pairs = list(zip(self.images, self.prompts, strict=True))
        self.inputs = [self.slow.encode(image, prompt) for image, prompt in pairs]
        self.expected = [self.slow.write(one, self.max_new_tokens) for one in self.inputs]
        captions = [one.caption for one in self.expected]
        words = _words(captions) if token is None else [token]
        self.check = LMMCheck(self.handle.model, len(pairs), words, captions, tolerance)
        if not words:
            self.check.fail(
                f"the model writes no word of three letters about any image: {captions}"
            )
            return self.check
        self._notes()
        self._generated(words)
        self._dictated(words[0])
        if self.slow.has_encoder:  # then no state belongs to a position of the prompt
            return self.check
        self._prompt("last", lambda states, n: states[n - 1])
        self._prompt("mean", lambda states, n: states[:n].mean(axis=0, dtype=np.float64))
        self._prompt(1, lambda states, n: states[1])
        return self.check

    def _notes(self):
        check, lengths = self.check, [one["input_ids"].shape[1] for one in self.inputs]
        check.notes["different captions"] = len(set(check.captions))
        check.notes["shortest prompt, in tokens"] = min(lengths)
        check.notes["longest prompt, in tokens"] = max(lengths)
        check.notes["smallest margin of a chosen token, in logits"] = min(
            one.margin for one in self.expected
        )
        own = {i: one.own_error for i, one in enumerate(self.expected)}
        if np.isfinite(list(own.values())).all():
            check.figure("hooked states against the model's hidden_states", own)

    def _extract(self, position, tokens, batch_size, captions=None, stop="caption"):
        """dict (token, layer) -> TokenRepresentations, token None for positions of the prompt."""
        from ..lmm import LMMTokenFeaturizer

        featurizer = LMMTokenFeaturizer(
            self.handle,
            forms="exact",
            position=position,
            stop=stop,
            max_new_tokens=self.max_new_tokens,
            batch_size=batch_size,
        )
        many = {"token": tokens} if tokens else {}
        found = featurizer.extract(
            self.images,
            captions,
            prompts=self.prompts,
            layer=self.layers,
            on_empty="keep",
            **many,
        )
        return found if tokens else {(None, layer): one for layer, one in found.items()}

    def _generated(self, words):
        together = self._extract("generated", words, self.batch_size)
        alone = self._extract("generated", words, 1)
        for (word, layer), one in together.items():
            positions = self._word_positions(self.expected, word)
            self._captions(f"a batch of {self.batch_size}", one)
            self._captions("one at a time", alone[word, layer])
            self._kept(one, positions)
            self._states(f"Z of layer {layer!r}, generated", one, layer, self.expected, positions)
            self._states(
                f"Z of layer {layer!r}, one at a time",
                alone[word, layer],
                layer,
                self.expected,
                positions,
            )
            self._same_states(layer, one, alone[word, layer])
            self._probability(one, positions)
            self._unembedding(layer, one, positions)
        stopped = self._extract("generated", words[:1], self.batch_size, stop="token")
        for (word, layer), one in stopped.items():
            positions = self._word_positions(self.expected, word)
            name = f"Z of layer {layer!r}, stopped at the word"
            self._states(name, one, layer, self.expected, positions)

    def _word_positions(self, results, word):
        found = (one.word_position(self.tokenizer, word) for one in results)
        return {i: p for i, p in enumerate(found) if p is not None}

    def _captions(self, how, found):
        captions = [text.strip() for text in found.all_captions]
        self.check.equal(f"captions of {how}", captions, self.check.captions)

    def _kept(self, found, positions):
        self.check.equal("samples kept", found.indices.tolist(), positions)
        if found.indices.tolist() == list(positions):
            self.check.equal("positions in the caption", found.positions, positions.values())

    def _states(self, name, found, layer, results, positions):
        errors = {}
        for i, z in zip(found.indices.tolist(), found.Z, strict=True):
            if i in positions:
                errors[i] = _error(z, results[i].state_before(layer, positions[i]))
        if errors:
            self.check.figure(name, errors)

    def _same_states(self, layer, together, alone):
        both = sorted({*together.indices.tolist()} & {*alone.indices.tolist()})
        rows = [{i: r for r, i in enumerate(one.indices.tolist())} for one in (together, alone)]
        errors = {i: _error(together.Z[rows[0][i]], alone.Z[rows[1][i]]) for i in both}
        if errors:
            self.check.figure(f"Z of layer {layer!r}, batch against one at a time", errors)

    def _probability(self, found, positions):
        errors = {
            i: _error(value, self.expected[i].probability(positions[i]))
            for i, value in zip(found.indices.tolist(), found.token_probability, strict=True)
            if i in positions
        }
        if errors:
            self.check.figure("probability of the word's first token", errors)

    def _unembedding(self, layer, found, positions):
        """Do final norm and unembedding lead from Z to the token that the model chose?"""
        last = layer in (-1, self.handle.n_layers - 1)
        if not (last or layer == "final_norm") or not len(found.Z):
            return
        if last and self.slow.has_streams:  # the normed state depends on the other streams, too
            return
        normed = self.handle.final_norm()(found.Z) if last else found.Z
        weight, bias = self.handle.unembedding()
        logits = normed @ weight.T + (0 if bias is None else bias)
        chosen, expected = [], []
        for i, row in zip(found.indices.tolist(), logits, strict=True):
            if i in positions:
                result = self.expected[i]
                own = result.logits[positions[i]]
                allowed = own > np.finfo(np.float32).min / 2  # not what the model rules out
                row = np.where(allowed, row[: len(own)], -np.inf)
                chosen.append(int(np.argmax(row)))
                expected.append(result.ids[positions[i]])
        how = "final norm and unembedding" if last else "unembedding"
        self.check.equal(f"tokens chosen by {how} of Z", chosen, expected)

    def _dictated(self, word):
        """Position "forced", with captions that the model wrote about other images."""
        pool = [
            text
            for one, text in zip(self.expected, self.check.captions, strict=True)
            if one.word_position(self.tokenizer, word) is not None
        ]
        if not pool:  # a word of the caller's, which the model writes about no image
            self.check.fail(f"the model writes {word!r} about no image; choose another token")
            return
        pool = pool[1:] + pool[:1]
        captions = _repeated(pool, len(self.images))
        results = []
        for k, inputs in enumerate(self.inputs):
            ids = self.slow.dictated_ids(inputs, self.images[k], self.prompts[k], captions[k])
            results.append(self.slow.run(inputs, ids))
        positions = self._word_positions(results, word)
        for batch_size in (self.batch_size, 1):
            found = self._extract("forced", [word], batch_size, captions=captions)
            for (_, layer), one in found.items():
                self.check.equal("samples kept, forced", one.indices.tolist(), positions)
                name = f"Z of layer {layer!r}, forced"
                self._states(name, one, layer, results, positions)

    def _prompt(self, position, read):
        for batch_size in (self.batch_size, 1):
            for (_, layer), one in self._extract(position, None, batch_size).items():
                errors = {
                    i: _error(z, read(result.states[layer], result.n_prompt))
                    for i, (z, result) in enumerate(zip(one.Z, self.expected, strict=True))
                }
                self.check.figure(f"Z of layer {layer!r}, prompt, position {position!r}", errors)


def _error(found, reference):
    from ._slow_lmm import relative_error

    return relative_error(found, reference)


def _words(captions):
    """Words such that every caption with a word of three letters has one of them."""
    sets = [set(re.findall(r"(?<!\w)[^\W\d_]{3,}(?!\w)", text.lower())) for text in captions]
    words = []
    while any(sets) and len(words) < _MAX_WORDS:
        counts = Counter(word for one in sets for word in sorted(one))
        # Words of a half of the captions first, so that some samples are kept and some are not.
        word = min(counts, key=lambda w: (abs(counts[w] - len(captions) / 2), w))
        words.append(word)
        sets = [one if word not in one else set() for one in sets]
    return words


def _patterns():
    """PIL images of the sizes above, each another coarse pattern of colours."""
    from PIL import Image

    generator = np.random.default_rng(0)
    cells = generator.integers(0, 256, size=(len(SIZES), 3, 3, 3), dtype=np.uint8)
    return [
        Image.fromarray(cell).resize(size, Image.Resampling.NEAREST)
        for cell, size in zip(cells, SIZES, strict=True)
    ]


def _repeated(values, n):
    return [values[i % len(values)] for i in range(n)]
