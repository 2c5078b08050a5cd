"""Who scores words: CLIP against images, BERT against captions, both with the same questions."""

import numpy as np

from semi_nmf_concepts.metrics import (
    bert_concept_scores,
    clip_concept_scores,
    ground_truth_bert_score,
    ground_truth_clip_score,
    load_bert,
    load_clip,
    mas_scores,
    top_concepts,
    top_scores,
)

from ._states import Rows

TOP = (1, 3)


class ClipJudge:
    """CLIPScore of word lists; every image is embedded once per token.

    Parameters
    ----------
    encoder : ClipEncoder
    """

    metric = "clip_score"

    def __init__(self, encoder):
        self.encoder = encoder
        self._embeddings = {}

    @property
    def identity(self):
        """What scores depend on, as a JSON value."""
        return self.encoder.fingerprint

    def forget(self):
        """Drop the embeddings of a token that is done."""
        self._embeddings.clear()

    def scores(self, data, part, rows, words, where):
        """Scores (len(rows), K) of the words of each concept on the given kept samples."""
        return clip_concept_scores(self._embedded(data, part, rows), words, model=self.encoder)

    def ground_truth(self, data, part):
        """Score of the reference captions themselves, one per kept sample."""
        rows = np.arange(len(data.rows[part]))
        return ground_truth_clip_score(
            self._embedded(data, part, rows), data.references(part), model=self.encoder
        )

    def _embedded(self, data, part, rows):
        known = self._embeddings.setdefault((data.token, part), {})
        missing = [int(row) for row in rows if int(row) not in known]
        if missing:
            images = Rows(data.parts[part].images, data.rows[part][missing])
            known.update(zip(missing, self.encoder.encode_images(images), strict=True))
        if not len(rows):
            return np.empty((0, self.encoder.encode_texts(["a"]).shape[1]), dtype=np.float32)
        return np.stack([known[int(row)] for row in rows])


class BertJudge:
    """BERTScore of word lists.

    Parameters
    ----------
    encoder : BertEncoder
    """

    metric = "bert_score"

    def __init__(self, encoder):
        self.encoder = encoder

    @property
    def identity(self):
        """What scores depend on, as a JSON value."""
        return [self.encoder.fingerprint, self.encoder.num_layers, self.encoder.rescale]

    def forget(self):
        """Nothing is kept per token: the encoder remembers sentences."""

    def scores(self, data, part, rows, words, where):
        """Scores (len(rows), K); NaN where not `where`."""
        references = data.references(part)
        chosen = [references[int(row)] for row in rows]
        return bert_concept_scores(chosen, words, where=where, model=self.encoder)

    def ground_truth(self, data, part):
        """Score of each reference caption against the others of its sample."""
        return ground_truth_bert_score(data.references(part), model=self.encoder)


def make_judges(clip, bert, folder, device):
    """The judges asked for; the models are loaded when something is scored."""
    judges = []
    if clip is not None:
        is_name = isinstance(clip, str) or hasattr(clip, "__fspath__")
        judges.append(ClipJudge(load_clip(clip, device=device, cache=folder) if is_name else clip))
    if bert is not None:
        is_name = isinstance(bert, str) or hasattr(bert, "__fspath__")
        judges.append(BertJudge(load_bert(bert, device=device) if is_name else bert))
    return judges


def top_judgement(judge, data, activations, words):
    """Scores of the most active concepts on every kept test sample: dict top -> (n,)."""
    rows = np.arange(len(data.rows["test"]))
    where = top_concepts(activations, max(TOP))
    scores = judge.scores(data, "test", rows, words, where)
    return top_scores(scores, activations, TOP)


def mas_judgement(judge, data, image_rows, words):
    """Mean score of each concept over its most activating training samples: (K,)."""
    rows = sorted({row for concept in image_rows for row in concept})
    place = {row: i for i, row in enumerate(rows)}
    local = [[place[row] for row in concept] for concept in image_rows]
    where = np.zeros((len(rows), len(words)), dtype=bool)
    for k, concept in enumerate(local):
        where[concept, k] = True
    return mas_scores(judge.scores(data, "train", rows, words, where), local)
