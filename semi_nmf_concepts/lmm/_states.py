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
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from ._architecture import resolve_layer
from ._handle import quiet_transformers
from ._prompt import continuation_ids, encode_prompts, render_prompt
from ._records import Record
from ._words import WordMatcher, decode, first_subtokens, token_at_character, word_forms


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
        with torch.inference_mode(), quiet_transformers():
            prompts = [self.prompt] * len(images) if prompts is None else prompts
            inputs = encode_prompts(self.loaded, images, prompts)
            if not self.request.in_caption:
                return self._prompt_records(inputs)
            forced = None
            if texts is not None:
                pairs = zip(prompts, texts, strict=True)
                forced = [continuation_ids(self.loaded.tokenizer, *pair) for pair in pairs]
            return self._caption_records(inputs, forced)

    # Positions in the prompt

    def _prompt_records(self, inputs):
        mask = inputs["attention_mask"].bool()
        n_padded = (~mask).sum(dim=1).tolist()
        positions = [self._prompt_position(mask.shape[1] - pad) for pad in n_padded]

        def reduce(states):
            if self.request.position == "mean":
                weights = mask.to(states.device).unsqueeze(-1)
                return (states.float() * weights).sum(dim=1) / weights.sum(dim=1)
            columns = torch.tensor([p + pad for p, pad in zip(positions, n_padded, strict=True)])
            return states[torch.arange(len(columns)), columns]

        with self._recording(reduce, mask.shape) as recorder:
            self._generate(inputs, max_new_tokens=1)
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
            stopper = _StopAfterToken(
                self.loaded.tokenizer, self.matchers.values(), inputs["input_ids"]
            )
        shape = inputs["input_ids"].shape
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
        rows = sequences[:, shape[1] :].tolist()
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
        tokenizer = self.loaded.tokenizer
        chosen = []
        for i, (ids, n_states) in enumerate(captions):
            text = decode(tokenizer, ids)
            row = {}
            for token, matcher in self.matchers.items():
                match = matcher.find(text)
                if match:
                    p = token_at_character(tokenizer, ids, match[0])
                    probability, prefix = probabilities["chosen"][i, p], text[: match[0]]
                else:
                    p = int(np.argmax(probabilities[token][i, :n_states]))
                    probability, prefix = probabilities[token][i, p], decode(tokenizer, ids[:p])
                row[token] = Record(
                    None, text.strip(), p, float(probability), bool(match), prefix.strip()
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

    @property
    def _end_ids(self):
        ids = self.loaded.model.generation_config.eos_token_id
        ids = self.loaded.tokenizer.eos_token_id if ids is None else ids
        return set(ids) if isinstance(ids, (list, tuple)) else {ids}

    def _generate(self, inputs, *, max_new_tokens, trace=None, stopper=None):
        """Greedy decoding, whatever the checkpoint's own generation settings say."""
        end_ids = [index for index in self._end_ids if index is not None]
        settings = GenerationConfig(
            max_new_tokens=max_new_tokens,
            min_new_tokens=0,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            use_cache=True,
            return_dict_in_generate=False,
            eos_token_id=end_ids or None,
            pad_token_id=self.loaded.tokenizer.pad_token_id,
        )
        return self.loaded.model.generate(
            **inputs,
            generation_config=settings,
            logits_processor=LogitsProcessorList([trace] if trace else []),
            stopping_criteria=StoppingCriteriaList([stopper] if stopper else []),
        )

    @contextlib.contextmanager
    def _recording(self, reduce, prompt_shape):
        """Within the block, keep `reduce(output)` of the requested modules at every call."""
        recorder = {layer: [] for layer in self.modules}
        hooks = []
        try:
            for layer, name in self.modules.items():
                module = self.loaded.model.get_submodule(name)
                hook = _hook(name, recorder[layer], reduce, prompt_shape)
                hooks.append(module.register_forward_hook(hook))
            yield recorder
        finally:
            for hook in hooks:
                hook.remove()


def _hook(name, kept, reduce, prompt_shape):
    def keep(module, args, output):
        # Blocks return a tensor in some versions and families and a tuple in others.
        states = output[0] if isinstance(output, (tuple, list)) else output
        # The first call sees the prompt; a module of the vision tower, say, sees something else.
        wanted = tuple(prompt_shape) if not kept else (prompt_shape[0], 1)
        shape = tuple(states.shape) if isinstance(states, torch.Tensor) else ()
        if len(shape) != 3 or shape[:2] != wanted:
            raise ValueError(
                f"layer={name!r}: its output (shape {shape}) is not one state for each of "
                f"{wanted[1]} tokens in {wanted[0]} rows. Choose a module of the language model."
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
        step = len(self._kept["chosen"])
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

    def finish(self):
        """dict name -> array (n_rows, n_steps) of probabilities."""
        return {
            name: torch.stack(steps, dim=1).float().cpu().numpy()
            for name, steps in self._kept.items()
        }


class _StopAfterToken(StoppingCriteria):
    """Ends a row once every token of interest stands in it beyond doubt."""

    def __init__(self, tokenizer, matchers, prompt_ids):
        self._tokenizer, self._matchers = tokenizer, list(matchers)
        self._n_prompt = prompt_ids.shape[1]
        self.lengths = [None] * len(prompt_ids)  # number of tokens of the rows that have ended

    def __call__(self, input_ids, scores, **kwargs):
        rows = input_ids[:, self._n_prompt :].tolist()
        for i, row in enumerate(rows):
            if self.lengths[i] is None:
                text = decode(self._tokenizer, row)
                if all(matcher.find_certain(text) for matcher in self._matchers):
                    self.lengths[i] = len(row)
        return torch.tensor([n is not None for n in self.lengths], device=input_ids.device)


def module_width(loaded, layer):
    """Number of features that a module of the language model puts out, found by a one-token run."""
    kept = []
    module = loaded.model.get_submodule(resolve_layer(loaded.model, layer))
    hook = module.register_forward_hook(_hook(layer, kept, lambda states: states[:, -1], (1, 1)))
    try:
        with torch.inference_mode(), quiet_transformers():
            loaded.model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=loaded.device))
    finally:
        hook.remove()
    if not kept:
        raise ValueError(
            f"layer={layer!r} does not run for text; choose a module of the language model."
        )
    return kept[0].shape[1]
