"""Texts that the bundled CLIP learns from, and the cosines that they should have with the scenes.

Scenes and texts are vectors over *facts* (object is dog, colour is red, ...). The cosine of the two
vectors is what the model should give: it grows with the share of a scene that a text tells rightly,
and falls with every word that is wrong or has nothing to do with it. As the fact vectors themselves
attain these cosines, the model can.
"""

from __future__ import annotations

import numpy as np
from wordfreq import top_n_list

from benchmarks.bundled_clip_config import TEMPLATE, entries
from semi_nmf_concepts.datasets import FACTOR_WORDS
from semi_nmf_concepts.datasets._captions import parse_caption
from semi_nmf_concepts.datasets._vocabulary import OBJECTS, plural

FACTORS = ("object", "variant", "colour", "background", "count", "companion")
FACTS = {(f, v): i for i, (f, v) in enumerate((f, v) for f in FACTORS for v in FACTOR_WORDS[f])}
# One more fact: being a scene of this world. It holds for all of them, and whatever a word says of
# scenes, rightly or wrongly, implies it; unrelated words do not.
SCENE = len(FACTS)
N_FACTS = SCENE + 1
SCENE_OF_IMAGE, SCENE_OF_WORD = 0.7, 0.35
WEIGHT = dict.fromkeys(FACTORS, 1.0) | {"variant": 0.5}
NEUTRAL = ("a", "an", "the", "is", "are", "that", "in", "on", "at", "with", "and", "next", "near")
NEUTRAL += ("beside", "colored", "there", "under")
MOST_WORDS = 10
# Words that the tokenizer spells in pieces: the more frequent part of English after the thousand.
SPELLED = slice(2_000, 12_000)
SHARE_SPELLED = 0.15  # of the unrelated words


def scene_facts(factors) -> np.ndarray:
    """Facts of every scene, float32 (n, N_FACTS)."""
    facts = np.zeros((len(factors), N_FACTS), np.float32)
    facts[:, SCENE] = SCENE_OF_IMAGE
    for factor in FACTORS:
        columns = [FACTS[factor, v] for v in factors[factor].astype(str)]
        facts[np.arange(len(factors)), columns] = WEIGHT[factor]
    return facts


def word_facts() -> dict[str, np.ndarray]:
    """Facts that each word states."""
    stated: dict[str, list] = {}
    for factor in FACTORS:
        for value, words in FACTOR_WORDS[factor].items():
            for word in words:
                stated.setdefault(word, []).append((factor, value))
    for name, variants in OBJECTS.items():
        for _, noun in variants.values():
            stated[noun].append(("object", name))
        for noun in (name, *(noun for _, noun in variants.values())):
            stated[plural(noun)] = [*stated[noun], ("count", "2"), ("count", "3")]
    return {word: _vector(facts) for word, facts in stated.items()}


def _vector(facts: list[tuple[str, str]]) -> np.ndarray:
    vector = np.zeros(N_FACTS, np.float32)
    vector[SCENE] = SCENE_OF_WORD
    factors = [factor for factor, _ in facts]
    for factor, value in facts:  # "two or three": half of each
        vector[FACTS[factor, value]] = WEIGHT[factor] / factors.count(factor)
    return vector


def caption_facts(caption: str, facts: np.ndarray) -> np.ndarray:
    """The facts of a scene that a caption of it states: all, but the variant only by its own
    noun."""
    told = facts.copy()
    if parse_caption(caption)["variant"] is None:
        variants = [i for (factor, _), i in FACTS.items() if factor == "variant"]
        told[variants] = 0
    return told


def cosines(texts: np.ndarray, scenes: np.ndarray, unrelated=0) -> np.ndarray:
    """Cosines (n_texts, n_scenes) of fact vectors; each of a text's unrelated words is a direction
    of its own."""
    text_norm = np.sqrt((texts**2).sum(axis=1) + np.asarray(unrelated))
    scene_norm = np.linalg.norm(scenes, axis=1)
    return texts @ scenes.T / (np.maximum(text_norm, 1e-6)[:, None] * scene_norm)


class WordLists:
    """Draws word lists about given scenes.

    Parameters
    ----------
    held_out : bool, default=False
        Whether the unrelated words that are spelled in pieces are those kept from training.
    """

    def __init__(self, held_out: bool = False) -> None:
        by_word = word_facts()
        self.words = list(by_word)
        self.facts = np.stack(list(by_word.values()))
        states = self.facts[:, :SCENE] > 0
        factor_of = np.array([FACTORS.index(f) for f, _ in FACTS])
        self.states = states.astype(np.float32)
        self.n_factors = np.array([len(set(factor_of[row])) for row in states])
        known = {*self.words, *NEUTRAL}
        whole = [w for w in entries() if w.isalpha() and len(w) > 1 and w not in known]
        common = set(top_n_list("en", 2_000))
        self.frequent = np.array([w for w in whole if w in common])
        spelled = [w for w in top_n_list("en", SPELLED.stop)[SPELLED] if w.isascii()]
        spelled = [w for w in spelled if w.isalpha() and w not in {*known, *whole}]
        self.spelled = np.array(spelled[1::2] if held_out else spelled[::2])

    def right_and_wrong(self, scenes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which words hold in everything they state, and which in nothing, bool (n_scenes,
        n_words)."""
        matched = (scenes[:, :SCENE] > 0).astype(np.float32) @ self.states.T
        return matched >= self.n_factors, matched == 0

    def draw(self, scenes: np.ndarray, rng: np.random.Generator):
        """A list of words for each scene: all right, some right or none.

        Returns
        -------
        texts : list of str
        facts : ndarray (n, N_FACTS)
        unrelated : ndarray of int (n,)
        """
        right, wrong = self.right_and_wrong(scenes)
        texts, facts, unrelated = [], np.zeros((len(scenes), N_FACTS), np.float32), []
        for row in range(len(scenes)):
            n = int(rng.integers(1, MOST_WORDS + 1))
            share = (1.0, rng.random(), 0.0)[rng.choice(3, p=(0.4, 0.4, 0.2))]
            n_right = int(rng.binomial(n, share))
            n_other = rng.multinomial(n - n_right, rng.dirichlet((1.0, 1.0, 0.2)))
            told = [
                *_some(np.flatnonzero(right[row]), n_right, rng),
                *_some(np.flatnonzero(wrong[row]), n_other[0], rng),
            ]
            others = self._unrelated(n_other[1], rng)
            neutral = _some(NEUTRAL, n_other[2], rng)
            words = [*(self.words[i] for i in told), *others, *neutral]
            rng.shuffle(words)
            texts.append(TEMPLATE.format(words=", ".join(words)))
            facts[row] = self.facts[np.array(told, int)].sum(axis=0)
            facts[row, SCENE] += SCENE_OF_WORD * len(neutral)
            unrelated.append(len(others))
        return texts, facts, np.array(unrelated)

    def _unrelated(self, n: int, rng: np.random.Generator) -> list[str]:
        return [
            str(rng.choice(self.spelled if rng.random() < SHARE_SPELLED else self.frequent))
            for _ in range(n)
        ]


def _some(options, n: int, rng: np.random.Generator) -> list:
    n = min(int(n), len(options))
    return [options[i] for i in rng.choice(len(options), n, replace=False)]
