"""Do the featurizer's states equal those of a plain, slow computation?

    python -m benchmarks.check_representations [--n 100] [--token dog] [--model bundled] [--write]

The reference here shares no code with the package: one image at a time, no cache, no batch. It
writes the caption by running the whole sequence again for every token, finds the word among the
pieces, then runs prompt and caption once more ("teacher forcing") and reads the states with hooks
of its own.
Printed, and compared with the bars (exit status 1 if one is missed):

* largest relative error ||z - z_ref|| / ||z_ref|| over samples, for the last block, the first block
  and the final norm; samples whose caption lacks the token are compared at the most probable
  position;
* the same for the final norm of the last block's Z against `hidden_states[-1]`;
* captions identical to the reference and at batch sizes 1, 7 and 32, and Z at these sizes.
"""

import argparse
import sys
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks._record import recorded
from semi_nmf_concepts.lmm import LMMTokenFeaturizer

BAR = 1e-4
BATCH_SIZES = (1, 7, 32)


@dataclass
class Reference:
    """What the slow computation finds for one image."""

    ids: list  # caption, without the token that ends it
    caption: str
    position: int  # of the word within the caption, or the most probable position for it
    found: bool
    states: dict  # block index or "final_norm" -> state that predicts this position
    last_hidden: np.ndarray  # hidden_states[-1] there


def reference(loaded, image, prompt, forms, max_new_tokens):
    """Caption, position of the word and states of one image, step by step."""
    inputs = loaded.processor(images=image, text=prompt, return_tensors="pt").to(
        loaded.device, loaded.dtype
    )
    ids, n_steps = _greedy(loaded.model, inputs, max_new_tokens)
    n_prompt = inputs["input_ids"].shape[1]
    logits, hidden, states = _teacher_forced(loaded.model, inputs, ids)
    # Row P - 1 + p predicts caption token p.
    rows = logits[n_prompt - 1 :][:n_steps]
    position = _first_occurrence(loaded.tokenizer, ids, forms)
    found = position is not None
    if not found:
        first = [loaded.tokenizer.encode(form, add_special_tokens=False)[0] for form in forms]
        position = int(torch.softmax(rows, dim=-1)[:, first].amax(dim=1).argmax())
    row = n_prompt - 1 + position
    return Reference(
        ids=ids,
        caption=loaded.tokenizer.decode(ids, skip_special_tokens=True).strip(),
        position=position,
        found=found,
        states={layer: state[row].numpy() for layer, state in states.items()},
        last_hidden=hidden[row].numpy(),
    )


def _greedy(model, inputs, max_new_tokens):
    """(caption ids, number of states that predicted something)."""
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    ids = []
    while len(ids) < max_new_tokens:
        with torch.inference_mode():
            output = model(**_extended(inputs, ids), use_cache=False)
        best = int(output.logits[0, -1].argmax())
        if best in ends:
            return ids, len(ids) + 1
        ids.append(best)
    return ids, len(ids)


def _extended(inputs, ids):
    tail = torch.tensor([ids], dtype=torch.long, device=inputs["input_ids"].device)
    input_ids = torch.cat([inputs["input_ids"], tail], dim=1)
    return {**inputs, "input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def _teacher_forced(model, inputs, ids):
    """Logits, `hidden_states[-1]` and hooked states of all positions, without the batch axis."""
    states, hooks = {}, []
    decoder = model.get_decoder()
    modules = {**dict(enumerate(decoder.layers)), "final_norm": decoder.norm}
    for layer, module in modules.items():

        def keep(module, args, output, layer=layer):
            output = output[0] if isinstance(output, tuple) else output
            states[layer] = output[0].float().cpu()

        hooks.append(module.register_forward_hook(keep))
    try:
        with torch.inference_mode():
            output = model(**_extended(inputs, ids), use_cache=False, output_hidden_states=True)
    finally:
        for hook in hooks:
            hook.remove()
    return output.logits[0].float().cpu(), output.hidden_states[-1][0].float().cpu(), states


def _first_occurrence(tokenizer, ids, forms):
    """Index of the piece that begins the first word in `forms`, joining "##" pieces to words."""
    words = []
    for p, piece in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        if piece.startswith("##") and words:
            words[-1][1] += piece[2:]
        else:
            words.append([p, piece.removeprefix("##")])
    return next((p for p, word in words if word in forms), None)


def relative_error(Z, reference_states):
    """Largest norm(z - z_ref) / norm(z_ref) over the rows."""
    Z_ref = np.asarray(reference_states, dtype=np.float64)
    difference = np.linalg.norm(Z.astype(np.float64) - Z_ref, axis=1)
    return float(np.max(difference / np.linalg.norm(Z_ref, axis=1)))


def check(images, token, *, model="bundled", prompt=None, max_new_tokens=40):
    """All comparisons for `images`.

    Returns
    -------
    figures : dict of str to float
        Relative errors.
    captions : dict of str to bool
        Which captions agree.
    summary : str
        How many samples have the token.
    """
    featurizer = LMMTokenFeaturizer(
        model, token=token, prompt=prompt, max_new_tokens=max_new_tokens, dtype="float32"
    )
    handle = featurizer.handle
    last = handle.n_layers - 1
    every = {size: featurizer.set_params(batch_size=size).extract(images) for size in BATCH_SIZES}
    Z = {
        layer: featurizer.set_params(batch_size=32, layer=layer).transform(images)
        for layer in (0, last, "final_norm")
    }
    sizes = {
        size: featurizer.set_params(batch_size=size, layer=last).transform(images)
        for size in BATCH_SIZES
    }
    full_prompt, forms = every[1].provenance["prompt"], every[1].provenance["forms"]
    expected = [
        reference(handle.loaded, image, full_prompt, forms, max_new_tokens) for image in images
    ]
    figures = {
        f"layer {layer} against the reference": relative_error(
            Z[layer], [e.states[layer] for e in expected]
        )
        for layer in Z
    }
    figures["final norm of the last layer's Z against hidden_states[-1]"] = relative_error(
        handle.final_norm()(Z[last]), [e.last_hidden for e in expected]
    )
    for size in BATCH_SIZES[1:]:
        figures[f"batch size {size} against 1"] = relative_error(sizes[size], sizes[1])
    captions = {
        f"captions at batch size {size} equal the reference": every[size].all_captions
        == [e.caption for e in expected]
        for size in BATCH_SIZES
    }
    captions["samples kept equal the reference"] = np.array_equal(
        every[1].indices, [i for i, e in enumerate(expected) if e.found]
    )
    captions["positions equal the reference"] = np.array_equal(
        every[1].positions, [e.position for e in expected if e.found]
    )
    n_found = sum(e.found for e in expected)
    return figures, captions, f"{len(images)} images, {n_found} with {token!r} in the caption"


def main(arguments=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="bundled", help="a LLaVA with a WordPiece tokenizer")
    parser.add_argument("--token", default="dog")
    parser.add_argument("--n", type=int, default=100, help="number of test scenes")
    parser.add_argument("--write", action="store_true", help="keep the output in results/")
    options = parser.parse_args(arguments)
    with recorded("check_representations", options.write):
        return report(options)


def report(options):
    """Print all figures; 1 if a bar is missed, else 0."""
    from semi_nmf_concepts.datasets import load_scenes

    images = list(load_scenes(split="test", token=options.token, n=options.n).images)
    figures, captions, summary = check(images, options.token, model=options.model)
    print(summary)
    for name, value in figures.items():
        print(f"{'ok  ' if value <= BAR else 'FAIL'} {value:9.2e}  {name} (bar {BAR:.0e})")
    for name, value in captions.items():
        print(f"{'ok  ' if value else 'FAIL'} {'':9}  {name}")
    return int(max(figures.values()) > BAR or not all(captions.values()))


if __name__ == "__main__":
    sys.exit(main())
