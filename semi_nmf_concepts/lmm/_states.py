"""States at chosen positions of a caption: one batch of images through the model.

Positions, for a prompt of P tokens (image tokens included) and caption tokens p = 0, 1, 2, ...: the
state at sequence position P - 1 + p predicts caption token p. During generation with a cache the
modules see the P prompt positions once and then one position per step, so **the last position of
the p-th call is the state that predicts token p**; a token that ends a caption is never fed back.

The same loop serves captions that the model writes and captions that are dictated ("forced"): there
the choice of each token is overruled, which leaves states and alignment unchanged.
"""

import contextlib

import numpy as np
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from .._models import hooked
from .._quiet import quiet_transformers
from ._architecture import (
    active_stream,
    is_encoder_decoder,
    padding_is_exact,
    resolve_layer,
    skips_positions,
)
from ._decoding import decoding, end_ids, generate
from ._kv_cache import roomy_cache
from ._prompt import (
    ImagesRefusedError,
    NotTogetherError,
    continuation_ids,
    encode_prompts,
    read_prompt,
    render_prompt,
    split_by_prefix,
)
from ._records import Record
from ._words import CaptionText, WordMatcher, decoder, first_subtokens, word_forms


class StateCollector:
    """Runs batches of images and returns their records.

    Parameters
    ----------
    loaded : LoadedModel
    request : Request
    """

    def __init__(self, loaded, request):
        self.loaded, self.request = loaded, request
        self.modules = {layer: resolve_layer(loaded.model, layer) for layer in request.layers}
        self.prompt = render_prompt(loaded.processor, request.prompt)
        self._forms = {token: word_forms(token, request.forms) for token in request.tokens}
        self.matchers = {token: WordMatcher(forms) for token, forms in self._forms.items()}
        self._first_ids = {token: self._candidate_ids(token) for token in request.tokens}
        self._end_ids = end_ids(loaded)
        self._begins_empty = is_encoder_decoder(loaded.model.config)
        if self._begins_empty and not request.in_caption:
            raise ValueError(
                f"position={request.position!r} has no meaning for model {loaded.name!r}: its "
                "prompt is read by an encoder, and its decoder begins with the caption; use "
                "position='generated' or 'forced'."
            )
        self._decode = decoder(loaded.tokenizer)

    def _candidate_ids(self, token):
        ids = first_subtokens(self.loaded.tokenizer, self._forms[token])
        if not ids:
            raise ValueError(
                f"token={token!r} is unknown to the tokenizer of model {self.loaded.name!r}: it "
                "has no piece to begin this word with, so the model can never write it."
            )
        return ids

    def __call__(self, images, texts=None, prompts=None):
        """Records of one batch.

        Parameters
        ----------
        images : list of PIL.Image.Image
            RGB.
        texts : list of str, default=None
            The captions to dictate, for position "forced".
        prompts : list of str, default=None
            Rendered prompts, one per image; by default the request's prompt for all.

        Returns
        -------
        list of dict (token, layer) -> Record
            One dict per image.
        """
        prompts = [self.prompt] * len(images) if prompts is None else prompts
        groups = split_by_prefix(self.loaded.tokenizer, prompts)
        return self._in_groups(groups, images, texts, prompts)

    def _in_groups(self, groups, images, texts, prompts):
        """Records of the batch; only the rows of a group go through the model together."""
        records = [None] * len(images)
        for rows in groups:
            parts = [None if x is None else [x[i] for i in rows] for x in (images, texts, prompts)]
            try:
                done = self._one_group(*parts)
            except ImagesRefusedError as error:  # rows of the group are rows of the batch
                raise error.renumbered(rows) from error.__cause__
            for i, record in zip(rows, done, strict=True):
                records[i] = record
        return records

    def _one_group(self, images, texts, prompts):
        try:
            return self._records(images, texts, prompts)
        except NotTogetherError as error:
            return self._in_groups(error.groups, images, texts, prompts)

    def _unpadded_groups(self, inputs, texts):
        """Rows that can go through the model together: all, if padding does no harm."""
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        # No more tokens than characters are dictated.
        n_new = self.request.max_new_tokens if texts is None else max(map(len, texts))
        longest = inputs["input_ids"].shape[1] + n_new
        if padding_is_exact(self.loaded.model.config, longest):
            return [range(len(lengths))]
        return [[i for i, n in enumerate(lengths) if n == length] for length in sorted({*lengths})]

    def _records(self, images, texts, prompts):
        """Records of rows that go through the model together."""
        with torch.inference_mode(), quiet_transformers():
            inputs = encode_prompts(self.loaded, images, prompts)
            groups = self._unpadded_groups(inputs, texts)
            if len(groups) > 1:
                return self._in_groups(groups, images, texts, prompts)
            if not self.request.in_caption:
                return self._prompt_records(inputs)
            forced = None
            if texts is not None:
                pairs = zip(self._read_prompts(prompts, inputs), texts, strict=True)
                forced = [continuation_ids(self.loaded.tokenizer, *pair) for pair in pairs]
            return self._caption_records(inputs, forced)

    def _read_prompts(self, prompts, inputs):
        """What a caption follows in every row, for its first piece."""
        if self._begins_empty:
            return [""] * len(prompts)
        pairs = zip(prompts, inputs["input_ids"][:, -1].tolist(), strict=True)
        return [read_prompt(self.loaded.tokenizer, *pair) for pair in pairs]

    # Positions in the prompt

    def _prompt_records(self, inputs):
        mask, position = inputs["attention_mask"].bool(), self.request.position
        positions = [self._prompt_position(length) for length in mask.sum(dim=1).tolist()]
        # Padding may stand between image and text (BLIP-2), so the columns are looked up.
        columns = [int(row.nonzero()[p]) for row, p in zip(mask, positions, strict=True)]

        def reduce(states):
            if position == "last":
                return states[:, -1]
            if position == "mean":
                weights = mask.to(states.device).unsqueeze(-1)
                return (states.float() * weights).sum(dim=1) / weights.sum(dim=1)
            return states[torch.arange(len(columns)), torch.tensor(columns)]

        last_only = position == "last"
        with self._recording(reduce, mask.shape, last_only) as recorder:
            self._generate(inputs, max_new_tokens=1, all_positions=not last_only)
        states = {layer: steps[0].float().cpu().numpy() for layer, steps in recorder.items()}
        return [
            {
                key: Record(states[key[1]][i], None, positions[i], np.nan, True, "")
                for key in self.request.keys
            }
            for i in range(len(positions))
        ]

    def _prompt_position(self, length):
        """Index in a prompt of `length` tokens."""
        position = self.request.position
        if position == "mean":
            return -1
        position = -1 if position == "last" else int(position)
        if not -length <= position < length:
            raise ValueError(
                f"position={position} is outside the prompt, which has {length} tokens (image "
                "tokens included)."
            )
        return position % length

    # Positions in a caption

    def _caption_records(self, inputs, forced):
        trace = _Trace(self._first_ids, forced, self.loaded)
        stopper = None
        if self.request.stop == "token" and forced is None:
            matchers = self.matchers.values()
            n_rows = len(inputs["input_ids"])
            stopper = _StopAfterToken(self._decode, matchers, n_rows, self._end_ids)
        n_rows, n_tokens = inputs["input_ids"].shape
        shape = (n_rows, 1 if self._begins_empty else n_tokens)
        with self._recording(lambda states: states[:, -1], shape) as recorder:
            sequences = self._generate(
                inputs,
                max_new_tokens=(
                    self.request.max_new_tokens
                    if forced is None
                    else max(1, *(len(ids) for ids in forced))
                ),
                trace=trace,
                stopper=stopper,
            )
        # Counted from the end: what a model returns need not begin with the prompt.
        rows = sequences[:, sequences.shape[1] - trace.n_steps :].tolist()
        if forced is not None:
            captions = [(ids, max(1, len(ids))) for ids in forced]
        else:
            lengths = stopper.lengths if stopper else [None] * len(rows)
            captions = [self._cut(row, n) for row, n in zip(rows, lengths, strict=True)]
        probabilities = trace.finish()
        chosen = self._choose(captions, probabilities)
        return self._gather(chosen, recorder)

    def _cut(self, row, length):
        """(caption ids without the end token, number of states) of one row of generated ids."""
        row = row if length is None else row[:length]
        for p, index in enumerate(row):
            if index in self._end_ids:
                return row[:p], p + 1  # the state that chose to end counts as a position
        return row, len(row)

    def _choose(self, captions, probabilities):
        """For every row and token: a Record still without its state."""
        chosen = []
        for i, (ids, n_states) in enumerate(captions):
            caption = CaptionText(self._decode, ids)
            row = {}
            for token, matcher in self.matchers.items():
                match = matcher.find(caption.text)
                if match:
                    p = caption.token_at(match[0])
                    probability, prefix = probabilities["chosen"][i, p], caption.text[: match[0]]
                else:
                    p = int(np.argmax(probabilities[token][i, :n_states]))
                    probability, prefix = probabilities[token][i, p], caption.before(p)
                row[token] = Record(
                    None, caption.text.strip(), p, float(probability), bool(match), prefix.strip()
                )
            chosen.append(row)
        return chosen

    def _gather(self, chosen, recorder):
        """Copy the chosen states, and only these, from the device."""
        records = [{} for _ in chosen]
        for token in self.request.tokens:
            steps = [row[token].position for row in chosen]
            for layer, states in recorder.items():
                picked = torch.stack([states[p][i] for i, p in enumerate(steps)])
                for i, state in enumerate(picked.float().cpu().numpy()):
                    fields = {**vars(chosen[i][token]), "state": state}
                    records[i][token, layer] = Record(**fields)
        return records

    # The model

    def _generate(self, inputs, *, max_new_tokens, trace=None, stopper=None, all_positions=False):
        with decoding(self.loaded, max_new_tokens=max_new_tokens) as settings:
            if trace is not None and trace.dictates:
                settings.eos_token_id = None  # within a dictated caption it ends nothing
            settings.output_hidden_states = all_positions and skips_positions(
                self.loaded.model.config
            )
            cache = roomy_cache(self.loaded.model, max_new_tokens)
            return generate(
                self.loaded.model,
                **inputs,
                **({} if cache is None else {"past_key_values": cache}),
                generation_config=settings,
                logits_processor=LogitsProcessorList([trace] if trace else []),
                stopping_criteria=StoppingCriteriaList([stopper] if stopper else []),
            )

    @contextlib.contextmanager
    def _recording(self, reduce, prompt_shape, last_only=True):
        """Within the block, keep `reduce(output)` of the requested modules at every call."""
        recorder = {layer: [] for layer in self.modules}
        stream = active_stream(self.loaded.model.config)
        with contextlib.ExitStack() as hooks:
            for layer, name in self.modules.items():
                hook = _hook(name, recorder[layer], reduce, prompt_shape, last_only, stream)
                hooks.enter_context(hooked(self.loaded.model.get_submodule(name), hook))
            yield recorder


def _hook(name, kept, reduce, prompt_shape, last_only=True, stream=None):
    """Hook that keeps `reduce(output)`.

    Parameters
    ----------
    name : str
        Of the module, for messages.
    kept : list
        What is kept goes here.
    reduce : callable
    prompt_shape : tuple of int
        Rows and tokens that the first call sees.
    last_only : bool, default=True
        Whether `reduce` reads the last position only.
    stream : int, default=None
        Which of several residual streams, where the module has some, see `active_stream`.
    """

    def keep(module, args, output):
        # Blocks return a tensor in some versions and families and a tuple in others.
        states = output[0] if isinstance(output, (tuple, list)) else output
        if stream is not None and states.ndim == 4:
            states = states[stream]
        # The first call sees the prompt; a module of the vision tower, say, sees something else.
        n_rows, n_tokens = prompt_shape if not kept else (prompt_shape[0], 1)
        shape = tuple(states.shape) if isinstance(states, torch.Tensor) else ()
        # Some blocks of Gemma 4 see nothing but the last token of the prompt.
        lengths = (n_tokens, 1) if last_only else (n_tokens,)
        if len(shape) != 3 or shape[0] != n_rows or shape[1] not in lengths:
            raise ValueError(
                f"layer={name!r}: its output (shape {shape}) is not one state for each of "
                f"{n_tokens} tokens in {n_rows} rows. Choose a module of the language model."
            )
        # A copy: a view would keep all positions of the prompt in memory.
        kept.append(reduce(states).clone())

    return keep


class _Trace(LogitsProcessor):
    """Watches the logits of every step; with `forced`, also overrules the choice.

    Keeps, per step and row, the probability of the token that was taken and, for every token of
    interest, the largest probability among the pieces it may begin with.
    """

    def __init__(self, first_ids, forced, loaded):
        self._first_ids = {
            token: torch.tensor(ids, device=loaded.device) for token, ids in first_ids.items()
        }
        self._kept = {name: [] for name in ("chosen", *first_ids)}
        self._forced = None
        if forced is not None:
            self._forced = torch.full(
                (len(forced), max(1, *(len(ids) for ids in forced))),
                loaded.tokenizer.pad_token_id or 0,
            )
            for i, ids in enumerate(forced):
                self._forced[i, : len(ids)] = torch.tensor(ids, dtype=torch.long)
            self._forced = self._forced.to(loaded.device)

    def __call__(self, input_ids, scores):
        step = self.n_steps
        log_total = scores.logsumexp(dim=-1)
        if self._forced is None:
            best = scores.amax(dim=-1)
        else:
            dictated = self._forced[:, step : step + 1]
            best = scores.gather(1, dictated).squeeze(1)
        self._kept["chosen"].append(torch.exp(best - log_total))
        for token, ids in self._first_ids.items():
            self._kept[token].append(torch.exp(scores[:, ids].amax(dim=-1) - log_total))
        if self._forced is None:
            return scores
        return torch.full_like(scores, -torch.inf).scatter_(1, dictated, 0.0)

    @property
    def dictates(self):
        """Whether the choice is overruled."""
        return self._forced is not None

    @property
    def n_steps(self):
        """Number of tokens that were written."""
        return len(self._kept["chosen"])

    def finish(self):
        """dict name -> array (n_rows, n_steps) of probabilities."""
        return {
            name: torch.stack(steps, dim=1).float().cpu().numpy()
            for name, steps in self._kept.items()
        }


class _StopAfterToken(StoppingCriteria):
    """Ends a row once every token of interest stands in it beyond doubt."""

    def __init__(self, decode, matchers, n_rows, end_ids):
        self._matchers, self._end_ids = list(matchers), end_ids
        # The text of the rows that still go on.
        self._open = {i: CaptionText(decode) for i in range(n_rows)}
        self._n_steps = 0
        self.lengths = [None] * n_rows  # number of tokens of the rows that were ended here

    def __call__(self, input_ids, scores, **kwargs):
        self._n_steps += 1
        last = input_ids[:, -1].tolist()
        for i, caption in list(self._open.items()):
            if last[i] in self._end_ids:
                del self._open[i]
                continue
            caption.append(last[i])
            if all(matcher.find_certain(caption.text) for matcher in self._matchers):
                self.lengths[i] = self._n_steps
                del self._open[i]
        return torch.tensor([n is not None for n in self.lengths], device=input_ids.device)


def module_width(loaded, layer):
    """Number of features that a module of the language model puts out, found by a short run."""
    from PIL import Image

    prompt = render_prompt(loaded.processor, "a")
    kept, name = [], resolve_layer(loaded.model, layer)
    with torch.inference_mode(), quiet_transformers():
        inputs = encode_prompts(loaded, [Image.new("RGB", (64, 64))], [prompt])
        shape, stream = inputs["input_ids"].shape, active_stream(loaded.model.config)
        hook = _hook(layer, kept, lambda states: states[:, -1], shape, stream=stream)
        with hooked(loaded.model.get_submodule(name), hook):
            loaded.model(**inputs)
    if not kept:
        raise ValueError(
            f"layer={layer!r} does not run for text; choose a module of the language model."
        )
    return kept[0].shape[1]
