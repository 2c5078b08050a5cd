"""Which samples `extract` keeps, and what it says when none is left."""

from dataclasses import dataclass, field, replace

import numpy as np

from ._images import ImageReadError
from ._representations import TokenRepresentations
from ._words import content_words

REASONS = ("unreadable", "not_generated", "not_in_reference")


@dataclass
class TokenTable:
    """The samples that are about one token, in the order of X; JSON types.

    Attributes
    ----------
    indices, positions, probabilities, prefixes : list
        Of the kept samples: as in `TokenRepresentations`.
    found : list of int
        Samples with the token in the caption.
    dropped : dict of str to list of int
        Reason -> samples that are left out.
    """

    indices: list = field(default_factory=list)
    positions: list = field(default_factory=list)
    probabilities: list = field(default_factory=list)
    prefixes: list = field(default_factory=list)
    found: list = field(default_factory=list)
    dropped: dict = field(default_factory=lambda: {reason: [] for reason in REASONS})

    def add(self, index, record, reason):
        """Take up a sample; samples come in ascending order."""
        if record.found:
            self.found.append(index)
        if reason is not None:
            self.dropped[reason].append(index)
            return
        self.indices.append(index)
        self.positions.append(int(record.position))
        self.probabilities.append(float(record.probability))
        self.prefixes.append(record.prefix)

    def extend(self, other):
        """Append the samples of a later table."""
        for name in ("indices", "positions", "probabilities", "prefixes", "found"):
            getattr(self, name).extend(getattr(other, name))
        for reason, indices in other.dropped.items():
            self.dropped[reason].extend(indices)


@dataclass
class Tables:
    """What is known of a range of samples besides the states; JSON types.

    Attributes
    ----------
    captions : list of (str or None)
        Of every sample.
    failed : dict of int to str
        Unreadable images: position in X -> what is wrong.
    tokens : list of TokenTable
        In the order of the request's tokens.
    """

    captions: list
    failed: dict
    tokens: list

    def extend(self, other):
        """Append a later range."""
        self.captions.extend(other.captions)
        self.failed.update(other.failed)
        for mine, its in zip(self.tokens, other.tokens, strict=True):
            mine.extend(its)


class Part:
    """The samples of a range of X, while their records come in.

    Parameters
    ----------
    run : Run
    start, stop : int
        The range.
    """

    def __init__(self, run, start, stop):
        self.run, self.start, self.stop = run, start, stop
        self._outcomes = {}  # index -> records, or ImageReadError

    def add(self, index, outcome):
        """Take up one sample; states that are not kept are let go."""
        if not isinstance(outcome, ImageReadError):
            outcome = {key: self._judged(index, key, record) for key, record in outcome.items()}
        self._outcomes[index] = outcome

    @property
    def full(self):
        """Whether all samples of the range have come in."""
        return len(self._outcomes) == self.stop - self.start

    def _judged(self, index, key, record):
        reason = self.run.why_dropped(index, key[0], record)
        # A copy of the record: equal images of one batch share theirs. A copy of the state: it is a
        # row of the states of the batch, and would keep all of them in memory.
        state = record.state.copy() if reason is None else None
        return replace(record, state=state), reason

    def tables(self):
        """Everything but the states."""
        request = self.run.request
        tables = Tables([None] * (self.stop - self.start), {}, [])
        tables.tokens = [TokenTable() for _ in request.asked_tokens]
        for index, outcome in sorted(self._outcomes.items()):
            if isinstance(outcome, ImageReadError):
                tables.failed[index] = outcome.summary
                for table in tables.tokens:
                    table.dropped["unreadable"].append(index)
                continue
            for token, table in zip(request.asked_tokens, tables.tokens, strict=True):
                record, reason = outcome[token, request.layers[0]]
                tables.captions[index - self.start] = record.caption
                table.add(index, record, reason)
        return tables

    def states(self, key):
        """States of the kept samples, (n_kept, width), or None if there is none."""
        kept = [
            outcome[key][0].state
            for _, outcome in sorted(self._outcomes.items())
            if not isinstance(outcome, ImageReadError) and outcome[key][1] is None
        ]
        return np.stack(kept) if kept else None


def tables_of(results, request):
    """What `tables` says of results that were read from a folder, as far as results know it."""
    parts = [results[token, request.layers[0]] for token in request.asked_tokens]
    tokens = [TokenTable(indices=one.indices.tolist(), dropped=one.dropped) for one in parts]
    return Tables(parts[0].all_captions, parts[0].failed, tokens)


def representations(run, tables, key, Z):
    """The kept samples of one token and layer as TokenRepresentations.

    Parameters
    ----------
    run : Run
    tables : Tables
        Of all samples.
    key : (token, layer)
    Z : ndarray or Blocks
        The states of the kept samples.
    """
    n, (token, layer) = len(tables.captions), key
    table = tables.tokens[run.request.asked_tokens.index(token)]
    provenance = run.provenance(token, layer)
    return TokenRepresentations(
        Z=Z,
        indices=np.asarray(table.indices, dtype=np.int64),
        captions=[tables.captions[i] or "" for i in table.indices],
        all_captions=tables.captions,
        positions=np.asarray(table.positions, dtype=np.int64),
        token_probability=np.asarray(table.probabilities, dtype=np.float32),
        missing=~np.isin(np.arange(n), table.found),
        prefixes=table.prefixes,
        token=token,
        layer=provenance["layer"],
        module=provenance["module"],
        provenance=provenance,
        dropped=table.dropped,
        failed=tables.failed,
    )


def nothing_kept(tables, tokens, position):
    """Why no sample is left for some tokens, and what to choose instead.

    Parameters
    ----------
    tables : Tables
    tokens : list of int
        Which tables have no sample, and their names below.
    position : str or int
    """
    n, first = len(tables.captions), tables.tokens[next(iter(tokens))]
    names = ", ".join(map(repr, tokens.values()))
    counts = {reason: len(which) for reason, which in first.dropped.items()}
    if counts["unreadable"] == n:
        messages = list(tables.failed.values())
        return f"none of the {n} images could be read: {messages[0]}"
    forced = position == "forced"
    where = "reference" if forced else "generated"
    if counts["not_in_reference"] and not forced:
        return (
            f"token {names} occurs in {counts['not_in_reference']} of {n} generated captions, but "
            "in no reference caption of these samples. Check that the captions belong to these "
            "images; forms= (--forms) adds words that count as the token, and without captions "
            "nothing is asked of them."
        )
    n_empty = sum(text == "" for text in tables.captions)
    if n_empty == n - counts["unreadable"] and not forced:
        return (
            f"the model ends its caption at once about all {n_empty} images: there is no word at "
            "all. Another prompt (--prompt) may help."
        )
    words = content_words(tables.captions)
    listed = ", ".join(f"{word} ({count})" for word, count in words)
    return (
        f"token {names} occurs in none of the {n - counts['unreadable']} {where} captions. Most "
        f"frequent words there (number of captions): {listed or 'none'}."
    )
