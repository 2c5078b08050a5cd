"""One answer with the attention rows that wrote it."""

from dataclasses import dataclass, field

import numpy as np

from semi_nmf_concepts.lmm import write_answer

from ._choices import counted, one_integer, reduced
from ._maps import HeadMasses, WordScores, entropy_of, map_of
from ._places import own_values, patch_weights
from ._results import Result
from ._words import content_words, find_words, tokens_of


@dataclass(eq=False, repr=False)
class AnswerTrace(Result):
    """An answer, token by token, with the attention that predicted each; see `trace_answer`.

    It holds the images and the attention rows, not the model: ``model`` is a light handle, through
    which relevancy, causal graphs and ablations run the model again, also after :meth:`load`.

    Attributes
    ----------
    images : list of PIL.Image.Image
        RGB.
    image_names : list of str
    question : str
        What was asked.
    prompt : str
        The whole prompt, with the template's words and the places of the images.
    token_ids : ndarray of int64, shape (S,)
        Prompt and answer.
    tokens : list of str
        The text of each of them.
    n_prompt : int
        Tokens of the prompt, P.
    answer : str
    words : list of AnswerWord
        The answer's words; ``start`` and ``stop`` count answer tokens.
    question_words : list of AnswerWord
        The question's words (the whole prompt's if the question is empty, none where it is not
        found in the prompt); ``start`` and ``stop`` are positions in the sequence.
    grids : list of PatchGrid
        One per image: its positions and the places that they stand for. Where image tokens are
        queries that read the whole image (BLIP-2, InstructBLIP), the places are the patches of the
        vision encoder, and ``grid.encoder`` is what the queries read of its states when this answer
        was traced (mean over the heads and layers of their cross-attention). Maps then have one
        value for each place, ``grid.to_places`` of those of the tokens.
    layers : list of int
        The decoder blocks whose attention is kept.
    attention : ndarray of float16, shape (L, H, T, S)
        ``attention[l, h, t]`` is the row at position P - 1 + t, which predicted answer token t; it
        sums to 1, and is 0 at the positions that row cannot see. Where the language model reads the
        images by cross-attention, beside its prompt (Mllama), the shape is (L, H, T, S + V): the
        columns from S on are the V keys of the images, and the positions of a grid are such
        columns. A layer of cross-attention has its weights there, one of self-attention before.
    logits, probabilities : ndarray of float32, shape (T,)
        Raw logit and probability (at temperature 1) of each answer token.
    alternatives : list of list of (str, float)
        The five likeliest tokens for each place of the answer, with their probabilities.
    model : ModelHandle
    provenance : dict
        Model, commit, fingerprint, versions, prompt, how the answer came about.
    """

    images: list
    image_names: list
    question: str
    prompt: str
    token_ids: np.ndarray
    tokens: list
    n_prompt: int
    answer: str
    words: list
    question_words: list
    grids: list
    layers: list
    attention: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    alternatives: list
    model: object
    provenance: dict
    _run: object = field(default=None)

    plotter = "plot_trace"

    @property
    def n_tokens(self):
        """int: tokens of the answer, T."""
        return len(self.token_ids) - self.n_prompt

    @property
    def n_layers(self):
        """int: layers whose attention is kept, L."""
        return self.attention.shape[0]

    @property
    def n_heads(self):
        """int: heads of a layer, H."""
        return self.attention.shape[1]

    @property
    def image_positions(self):
        """ndarray of int64: positions of the tokens of all images, one image after the other."""
        return np.concatenate([grid.positions for grid in self.grids])

    @property
    def question_positions(self):
        """ndarray of int64: positions of the question's words."""
        return np.array(tokens_of(self.question_words), dtype=np.int64)

    @property
    def sink_positions(self):
        """ndarray of int64: positions that attract attention whatever they hold.

        The first of the sequence, and that of the first token of each image.
        """
        return np.unique([0, *(int(grid.positions[0]) for grid in self.grids)])

    @property
    def n_blocks(self):
        """int: decoder blocks of the model."""
        return self.provenance.get("n_blocks") or self.model.n_layers

    @property
    def run_again(self):
        """The :class:`~semi_nmf_concepts.lmm.Answer` behind the trace, to run the model again."""
        if self._run is None:
            ids = [int(index) for index in self.token_ids[self.n_prompt :]]
            known = self.provenance.get("fingerprint")
            if known is not None and self.model.fingerprint != known:
                raise ValueError(
                    f"model {self.model.model!r} is not the same model as the one that answered: "
                    f"its fingerprint is {self.model.fingerprint}, that of the trace {known}. Set "
                    "trace.model to a handle of the model that answered (load_model)."
                )
            run = write_answer(
                self.model,
                self.images,
                self.question,
                ids,
                image_names=self.image_names,
                max_pixels=np.inf,  # they were taken once
            )
            if not np.array_equal(run.sequence, self.token_ids):
                raise ValueError(
                    f"model {self.model.model!r} reads the prompt of this trace as other tokens "
                    "than those it was made with: another version of transformers?"
                )
            self._run = run
        return self._run

    def __repr__(self):
        return (
            f"<AnswerTrace: {self.answer!r}, {len(self.images)} image(s), {self.n_layers} layers "
            f"of {self.n_heads} heads>"
        )

    # Choosing

    def find_words(self, words=None):
        """Indices of words of the answer.

        Parameters
        ----------
        words : int, str, or list of these, default=None
            None: all. A text stands for all its occurrences, whatever the case.

        Raises
        ------
        ValueError
            If one is not in the answer; the message lists its words.
        """
        return find_words(self.words, words)

    def content_words(self):
        """Indices of the words that may say something about an image; all if none does.

        Stop words and marks of punctuation say nothing of it.
        """
        return content_words(self.words)

    def _word_tokens(self, words):
        """(texts, answer tokens) of the words."""
        chosen = [self.words[i] for i in self.find_words(words)]
        return [word.text for word in chosen], tokens_of(chosen)

    def _rows(self, tokens, layer, head, drop_sinks=False):
        """float32 (len(tokens), S): rows of the tokens, over the layers and heads asked for."""
        rows = self.attention[:, :, tokens].astype(np.float32)
        rows = reduced(rows, layer, "layer", self._layer_index)
        rows = reduced(rows, head, "head", self._head_index)
        if drop_sinks:
            rows[:, self.sink_positions] = 0.0
        return rows

    def _layer_index(self, layer):
        n_blocks = self.n_blocks
        block = layer % n_blocks if -n_blocks <= layer < n_blocks else None
        if block not in self.layers:
            raise ValueError(
                f"layer={layer} is not kept: the model has {n_blocks} layers (0 to "
                f"{n_blocks - 1}), of which the trace keeps {counted(self.layers)}."
            )
        return self.layers.index(block)

    def _head_index(self, head):
        if not -self.n_heads <= head < self.n_heads:
            raise ValueError(
                f"head={head} does not exist: a layer has {self.n_heads} heads (0 to "
                f"{self.n_heads - 1})."
            )
        return head % self.n_heads

    # Views

    def image_attention(self, words=None, layer="mean", head="mean", *, drop_sinks=False):
        """Attention to each place of the images while words were written.

        A place is what one image token stands for. Where the tokens are queries that read the whole
        image, the value of a patch is the sum over queries of the attention to them times what they
        read of the patch.

        Parameters
        ----------
        words : int, str, or list of these, default=None
            Words of the answer; the rows of their tokens are averaged. None: all.
        layer, head : int, list of int, "mean" or "max", default="mean"
            One, several (averaged), or all of the trace, averaged or the largest.
        drop_sinks : bool, default=False
            Whether to set attention to the first position of the sequence and to the first token of
            each image to 0. Both attract attention that says nothing about the content.

        Returns
        -------
        ImageMap
            ``share`` is the attention mass on all images divided by that of the whole row.
        """
        _, tokens = self._word_tokens(words)
        row = self._rows(tokens, layer, head, drop_sinks).mean(axis=0)
        values = [grid.to_places(row[grid.positions]) for grid in self.grids]
        total = float(row.sum())
        on_images = float(row[self.image_positions].sum())
        return self.image_map(
            values,
            label="attention",
            words=self.find_words(words),
            share=on_images / total if total > 0 else np.nan,
        )

    def image_map(self, values, *, label="", words=(), share=np.nan):
        """A map of one's own, for the images of this trace.

        Parameters
        ----------
        values : array-like, or list of array-like, one per image
            One value for each place (each of the boxes of a grid), or an array of the rows and
            columns of a grid that is a single block, or one of the height and width of the image,
            such as Grad-CAM and LIME give: a place then has its mean.
        label : str, default=""
        words : int, str, or list of these, default=()
            Words of the answer that the map is about.
        share : float, default=NaN

        Returns
        -------
        ImageMap
        """
        values = own_values(self, values)
        indices = self.find_words(words) if np.ndim(words) == 0 or len(words) else []
        texts = [self.words[i].text for i in indices]
        return map_of(self, values, label=label, words=texts, word_indices=indices, share=share)

    def words_for_patches(self, patches, layer="mean", head="mean", *, image=0):
        """Attention of each word of the answer to chosen places of an image.

        Parameters
        ----------
        patches : int, list of int, or ndarray of bool of shape (height, width)
            Places of the image (its tokens; of queries, the patches that they read), or a mask of a
            region in its pixels, of its size: places count by the share that it covers.
        layer, head
            As for :meth:`image_attention`.
        image : int, default=0

        Returns
        -------
        WordScores
            For each word the mean, over its tokens and the chosen patches, of the attention.
        """
        if not 0 <= image < len(self.grids):
            raise ValueError(f"image={image} does not exist: there are {len(self.grids)} images.")
        weights = patch_weights(self.grids[image], patches, self.images[image])
        rows = self._rows(list(range(self.n_tokens)), layer, head)
        grid = self.grids[image]
        per_token = rows[:, grid.positions] @ grid.from_places(weights / weights.sum())
        values = [per_token[word.start : word.stop].mean() for word in self.words]
        return WordScores(
            words=[word.text for word in self.words],
            values=np.array(values, dtype=np.float64),
            label="attention to the chosen patches",
        )

    def heads_by_layers(self, to="image", words=None):
        """Attention mass of every head on the image or on the question.

        Parameters
        ----------
        to : {"image", "question"}, default="image"
        words : int, str, or list of these, default=None
            Over whose tokens the mean is taken. None: all of the answer.

        Returns
        -------
        HeadMasses
        """
        if to not in ("image", "question"):
            raise ValueError(f"to must be 'image' or 'question', got {to!r}.")
        positions = self.image_positions if to == "image" else self.question_positions
        texts, tokens = self._word_tokens(words)
        rows = self.attention[:, :, tokens].astype(np.float32)
        # Rows sum to 1 up to the rounding of half precision, which a share must not exceed.
        masses = rows[..., positions].sum(axis=-1) / rows.sum(axis=-1)
        return HeadMasses(masses.mean(axis=-1), list(self.layers), to, texts)

    def most_visual_head(self, words=None, layer=None):
        """(layer, head) whose attention to the images is largest while words were written.

        Parameters
        ----------
        words : int, str, or list of these, default=None
            None: all of the answer.
        layer : int, default=None
            Only the heads of this layer. None: those of all layers.
        """
        values = self.heads_by_layers("image", words).values
        rows = range(len(self.layers))
        if layer is not None:
            rows = [self._layer_index(one_integer("layer", layer))]
        row = max(rows, key=lambda i: values[i].max())
        return self.layers[row], int(np.argmax(values[row]))

    def masses(self, words=None, layer="mean", head="mean", *, drop_sinks=False):
        """Where the attention of words went; parameters as for :meth:`image_attention`.

        Returns
        -------
        dict
            ``image``, ``question`` and ``other``: shares of the attention, which sum to 1;
            ``entropy`` over the places of the images, in nats.
        """
        _, tokens = self._word_tokens(words)
        row = self._rows(tokens, layer, head, drop_sinks).mean(axis=0).astype(np.float64)
        row /= row.sum() or 1.0
        image = float(row[self.image_positions].sum())
        question = float(row[self.question_positions].sum())
        return {
            "image": image,
            "question": question,
            "other": max(0.0, 1.0 - image - question),
            "entropy": entropy_of([grid.to_places(row[grid.positions]) for grid in self.grids]),
        }

    def full_attention(self, layer, head):
        """All attention rows of one head: the model runs once more.

        Returns
        -------
        ndarray of float64, shape (S, S)
            (S, S + V) where images are keys of cross-attention beside the sequence.
        """
        from ._capture import CrossKeys, RowTap, logits_with

        block = self.layers[self._layer_index(one_integer("layer", layer))]
        index = self._head_index(one_integer("head", head))
        run = self.run_again
        model = run.handle.loaded.model
        length = len(self.token_ids)
        keep = {block: lambda weights: weights[index].double().cpu().numpy()}
        tap = RowTap(model, slice(None), length, keep, CrossKeys(model, self.grids))
        logits_with(run, tap)
        return tap.kept[block]
