"""The caption grammar of the bundled scenes: writing captions and reading them back.

Most captions open with the determiner and the noun ("a dog ...", "two dogs ..."), but a known share
names the colour, the surroundings or the companion first. So at the position before the noun the
words of all attributes compete, and the state that predicts the noun has a reason to carry them;
greedy decoding still writes the noun.
"""

from __future__ import annotations

import re

import numpy as np

from ._vocabulary import BACKGROUNDS, COLOURS, COMPANIONS, COUNT_WORDS, OBJECTS, plural

N_CAPTIONS = 5
NEAR = ("next to", "beside", "near", "with")


def write_captions(factors: dict, rng: np.random.Generator, n: int = N_CAPTIONS) -> list[str]:
    """Write `n` paraphrases that each state object, colour, background, count and companion."""
    return [_write(factors, rng) for _ in range(n)]


def _write(f: dict, rng: np.random.Generator) -> str:
    alone = f["companion"] == "none"
    opening = _choose(rng, ("noun", "there", "place", "companion"), (80, 4, 8, 0 if alone else 8))
    said = {{"companion": "companion", "place": "background"}.get(opening)}
    phrase = _noun_phrase(f, rng, said)
    if opening == "there":
        phrase = f"there {'is' if f['count'] == 1 else 'are'} {phrase}"
    elif opening == "place":
        phrase = f"{_choose(rng, BACKGROUNDS[f['background']][2])} with {phrase}"
    elif opening == "companion":
        phrase = f"{article(f['companion'])} {_choose(rng, ('and', 'near'))} {phrase}"
    rest = [_place(f, rng)] if "background" not in said else []
    if "companion" not in said:
        rest.insert(int(rng.integers(0, 2)), _company(f, rng))
    colour = "" if "colour" in said else _colour(f, rng)
    return " ".join(part for part in (phrase, colour, *rest) if part)


def _noun_phrase(f: dict, rng: np.random.Generator, said: set[str]) -> str:
    """Determiner, modifiers and noun; adds what the modifiers say to `said`."""
    noun = f["object"]
    if rng.random() < 0.22:
        noun = OBJECTS[noun][f["variant"]][1]
    noun = noun if f["count"] == 1 else plural(noun)
    determiner, modifiers = COUNT_WORDS[f["count"]], []
    if f["count"] == 2 and rng.random() < 0.08:
        determiner = "a pair of"
    elif f["count"] == 3 and rng.random() < 0.08:
        determiner = "a group of three"
    elif f["count"] == 1 and rng.random() < 0.08:
        modifiers.append("lone" if f["companion"] == "none" else "single")
    kind = _choose(rng, ("plain", "colour", "place", "both"), (56, 21, 17, 6))
    if kind in ("colour", "both"):
        said.add("colour")
        modifiers.append(f["colour"])
    if kind in ("place", "both") and "background" not in said:
        said.add("background")
        modifiers.append(_choose(rng, BACKGROUNDS[f["background"]][1]))
    words = [*modifiers, noun]
    if determiner == "a":
        determiner = article(words[0]).split()[0]
    return " ".join([determiner, *words])


def _colour(f: dict, rng: np.random.Generator) -> str:
    verb = "is" if f["count"] == 1 else "are"
    return _choose(rng, (f"that {verb}", "in", "colored"), (60, 25, 15)) + " " + f["colour"]


def _place(f: dict, rng: np.random.Generator) -> str:
    return _choose(rng, BACKGROUNDS[f["background"]][0], (65, 35))


def _company(f: dict, rng: np.random.Generator) -> str:
    if f["companion"] == "none":
        return "alone" if rng.random() < 0.3 else ""
    return f"{_choose(rng, NEAR, (50, 20, 15, 15))} {article(f['companion'])}"


def article(word: str) -> str:
    """The word with its indefinite article."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _choose(rng: np.random.Generator, options, weights=None) -> str:
    if weights is None:
        return options[int(rng.integers(len(options)))]
    return options[int(np.searchsorted(np.cumsum(weights), rng.random() * sum(weights), "right"))]


def _either(words) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


def _build_pattern() -> re.Pattern:
    nouns = {noun for v in OBJECTS.values() for _, noun in v.values()} | set(OBJECTS)
    forms = nouns | {plural(n) for n in nouns}
    after = [p for phrases, _, _ in BACKGROUNDS.values() for p in phrases]
    before = [m for _, modifiers, _ in BACKGROUNDS.values() for m in modifiers]
    openings = [o for _, _, opening in BACKGROUNDS.values() for o in opening]
    beside = [article(c) for c in COMPANIONS if c != "none"]
    return re.compile(
        rf"(?:there (?:is|are) |(?P<opening>{_either(openings)}) with "
        rf"|(?P<first>{_either(beside)}) (?:and|near) )?"
        r"(?P<determiner>a pair of|a group of three|an?|two|three) "
        rf"(?:(?P<single>lone|single) )?(?:(?P<tint>{_either(COLOURS)}) )?"
        rf"(?:(?P<modifier>{_either(before)}) )?(?P<noun>{_either(forms)})"
        rf"(?: (?:that is|that are|in|colored) (?P<colour>{_either(COLOURS)}))?"
        rf"(?: (?P<place1>{_either(after)}))?"
        rf"(?: (?:(?P<alone>alone)|(?:{_either(NEAR)}) (?P<beside>{_either(beside)})))?"
        rf"(?: (?P<place2>{_either(after)}))?"
    )


_PATTERN = _build_pattern()
_SINGULAR = {plural(n): n for v in OBJECTS.values() for _, n in v.values()} | {
    plural(o): o for o in OBJECTS
}
_VARIANT_OF = {noun: (o, v) for o, vs in OBJECTS.items() for v, (_, noun) in vs.items()}
_PLACE_OF = {p: b for b, groups in BACKGROUNDS.items() for group in groups for p in group}
_COUNT_OF = {"a": 1, "an": 1, "two": 2, "a pair of": 2, "three": 3, "a group of three": 3}


def parse_caption(caption: str) -> dict | None:
    """Read a caption back into the factors it states.

    Parameters
    ----------
    caption : str
        Lower-case caption.

    Returns
    -------
    dict or None
        Keys object, variant (None unless a variant noun was used), colour, count, background,
        companion ("none" where no companion is named); None when the caption is not a sentence of
        the grammar, names something twice, or leaves colour or background out.
    """
    match = _PATTERN.fullmatch(caption.strip())
    if match is None:
        return None
    g = match.groupdict()
    places = [g[k] for k in ("opening", "modifier", "place1", "place2") if g[k]]
    colours = [g[k] for k in ("tint", "colour") if g[k]]
    companions = [g[k] for k in ("first", "beside") if g[k]]
    count = _COUNT_OF[g["determiner"]]
    noun = _SINGULAR.get(g["noun"], g["noun"])
    agrees = (g["noun"] == noun) == (count == 1)
    if len(places) != 1 or len(colours) != 1 or len(companions) > 1 or not agrees:
        return None
    obj, variant = _VARIANT_OF.get(noun, (noun, None))
    return {
        "object": obj,
        "variant": variant,
        "colour": colours[0],
        "count": count,
        "background": _PLACE_OF[places[0]],
        "companion": companions[0].split()[1] if companions else "none",
    }
