"""Which samples `extract` keeps, and what it says when none is left."""

import numpy as np

from ._representations import TokenRepresentations
from ._words import content_words


class Selection:
    """The samples that are about the token, for one token and layer, while the records come in."""

    def __init__(self, token, layer):
        self.token, self.layer = token, layer
        self.kept, self.captions, self.found = {}, {}, []
        self.dropped = {"unreadable": [], "not_generated": [], "not_in_reference": []}

    def add(self, index, record, run):
        """Take up one sample; `record` is None for an unreadable image."""
        if record is None:
            self.dropped["unreadable"].append(index)
            return
        self.captions[index] = record.caption
        if record.found:
            self.found.append(index)
        if not record.found:
            forced = run.request.position == "forced"
            self.dropped["not_in_reference" if forced else "not_generated"].append(index)
        elif not run.in_reference(index, self.token):
            self.dropped["not_in_reference"].append(index)
        else:
            self.kept[index] = record

    def sorted_dropped(self):
        """Why samples were left out: reason -> positions in X."""
        return {reason: sorted(which) for reason, which in self.dropped.items()}

    def finish(self, run, width):
        """The kept samples as TokenRepresentations, in the order of X.

        `width` tells the number of features where no state is there to tell it.
        """
        n = len(run.images)
        provenance = run.provenance(self.token, self.layer)
        indices = sorted(self.kept)
        rows = [self.kept[i] for i in indices]
        return TokenRepresentations(
            Z=np.stack([row.state for row in rows]) if rows else np.empty((0, width()), np.float32),
            indices=np.asarray(indices, dtype=np.int64),
            captions=[row.caption or "" for row in rows],
            all_captions=[self.captions.get(i) for i in range(n)],
            positions=np.asarray([row.position for row in rows], dtype=np.int64),
            token_probability=np.asarray([row.probability for row in rows], dtype=np.float32),
            missing=~np.isin(np.arange(n), self.found),
            prefixes=[row.prefix for row in rows],
            token=self.token,
            layer=provenance["layer"],
            module=provenance["module"],
            provenance=provenance,
            dropped=self.sorted_dropped(),
        )


def nothing_kept(selections, run):
    """Why no sample is left, and what to choose instead."""
    n, first = len(run.images), selections[0]
    names = ", ".join(dict.fromkeys(repr(s.token) for s in selections))
    counts = {reason: len(which) for reason, which in first.dropped.items()}
    if counts["unreadable"] == n:
        return f"none of the {n} images could be read."
    forced = run.request.position == "forced"
    where = "reference" if forced else "generated"
    if counts["not_in_reference"] and not forced:
        return (
            f"token {names} occurs in {counts['not_in_reference']} of {n} generated captions, but "
            "in no reference caption of these samples. Check that the captions belong to these "
            "images; forms= (--forms) adds words that count as the token, and without captions "
            "nothing is asked of them."
        )
    words = content_words(first.captions.values())
    listed = ", ".join(f"{word} ({count})" for word, count in words)
    return (
        f"token {names} occurs in none of the {n - counts['unreadable']} {where} captions. Most "
        f"frequent words there (number of captions): {listed or 'none'}."
    )
