"""train_depalm: fits the connector to images and captions, everything else frozen."""

import hashlib
import json
import math
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch
from sklearn.utils._param_validation import HasMethods, Interval, validate_params
from torch.nn import functional as F

from ..._files import write_atomically
from ..._quiet import quiet_transformers
from .._handle import _shared, load_model
from .._images import split_samples
from .._loading import LoadedModel, load
from .._prompt import encode_prompts, render_prompt
from ._checkpoint import FOLDER, Checkpoint
from ._data import Samples
from ._frozen import frozen_checksums
from ._modeling import DePALMForConditionalGeneration

# As in the authors' code.
_EPOCHS = 8
_WEIGHT_DECAY = 0.1
_MAX_NORM = 0.8


@validate_params(
    {
        "model": "no_validation",
        "images": "no_validation",
        "captions": "no_validation",
        "out": [str, HasMethods("__fspath__"), None],
        "n_steps": [Interval(Integral, 1, None, closed="left"), None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "warmup": [Interval(Real, 0, 1, closed="left")],
        "prompt": [str],
        "seed": [Interval(Integral, 0, None, closed="left")],
        "cache_gb": [Interval(Real, 0, None, closed="left")],
        "checkpoint_steps": [Interval(Integral, 1, None, closed="left")],
        "verbose": ["verbose"],
    },
    prefer_skip_nested_validation=True,
)
def train_depalm(
    model,
    images,
    captions=None,
    *,
    out=None,
    n_steps=None,
    batch_size=16,
    learning_rate=4e-4,
    warmup=0.2,
    prompt="",
    seed=0,
    cache_gb=4.0,
    checkpoint_steps=500,
    verbose=0,
):
    """Train the connector of a DePALM to caption images; the rest of it stays as it is.

    The loss is the mean cross-entropy of the caption's tokens and of the end token, given the
    image (and the prompt, if there is one) and the tokens before. AdamW with weight decay on
    matrices, a linear warm-up, then a cosine to zero. Gradients flow through the language model,
    whose weights have none; the image encoder runs without autograd. That both are unchanged is
    checked by checksums at the end.

    Parameters
    ----------
    model : LoadedModel, str, path or ModelHandle
        What :func:`make_depalm` returned, or the folder of a saved DePALM, which is read anew.
    images : sequence of images, or DataFrame
        As for :class:`LMMTokenFeaturizer`: paths, PIL images or arrays; a DataFrame with the
        columns "image" and "caption".
    captions : sequence of (str or list of str), default=None
        Captions of every image, of which each step draws one. Not needed with a DataFrame.
    out : path-like, default=None
        Folder that gets the trained model and, in its folder "training", checkpoints: the same
        call continues an interrupted run where its last checkpoint left it, and comes to the same
        result.
    n_steps : int, default=None
        None: as many as eight passes over the images take, as published.
    batch_size : int, default=16
        Images per step, as published.
    learning_rate : float, default=4e-4
        Its peak. As published; a small connector takes more.
    warmup : float in [0, 1), default=0.2
        Share of the steps in which the rate rises, as published.
    prompt : str, default=""
        What the model is asked; by default nothing, so that the caption follows the image, as
        published. It has to be asked the same later.
    seed : int, default=0
        Of the order of the images, the choice of captions and dropout.
    cache_gb : float, default=4.0
        States of the image encoder are kept in memory, so that every image is encoded once, if
        images are seen several times and the states of all need at most so many gigabytes.
        CLIP ViT-L/14 in half precision gives half a megabyte per image.
    checkpoint_steps : int, default=500
        A checkpoint is written after every so many steps, where there is an `out`.
    verbose : int, default=0
        1 shows a progress bar with the loss.

    Returns
    -------
    model : LoadedModel
        The same object, trained, where one was given.
    losses : ndarray of shape (n_steps,), float64
        Loss of every step, those before an interruption included.

    Raises
    ------
    ValueError
        If the model is no DePALM, an image cannot be read, or an image has no caption.
    RuntimeError
        If the loss is no longer finite, or a frozen part has changed.

    References
    ----------
    Vallaeys et al., arXiv 2403.13499, and the settings of the authors' code.

    Examples
    --------
    >>> from semi_nmf_concepts.lmm import make_depalm, train_depalm
    >>> model = make_depalm(dtype="bfloat16")  # doctest: +SKIP
    >>> model, losses = train_depalm(model, images, captions, out="depalm")  # doctest: +SKIP
    """
    loaded = _to_train(model)
    images, references = split_samples(
        images, captions, image_column="image", caption_column="caption"
    )
    _check_captions(references)
    rendered = render_prompt(loaded.processor, prompt)
    samples = Samples(loaded, images, references, rendered, int(batch_size), int(seed))
    n_steps = n_steps or math.ceil(_EPOCHS * len(images) / samples.batch_size)
    with quiet_transformers(), _learning(loaded) as connector:
        before = frozen_checksums(loaded.model)
        settings = {
            "n_steps": int(n_steps),
            "batch_size": samples.batch_size,
            "learning_rate": float(learning_rate),
            "warmup": float(warmup),
            "prompt": rendered,
            "seed": int(seed),
            "captions": _digest(references),
            "model": _digest([_shape(loaded.model.config), before]),
        }
        checkpoint = None if out is None else Checkpoint(Path(out), settings)
        course = _Course(connector, settings, loaded)
        if checkpoint:
            course.resume(checkpoint)
        if n_steps > course.n_done and _worth_keeping(samples, n_steps, cache_gb):
            samples.keep_states(lambda blocks: _progress(blocks, "encoding images", verbose))
        course.run(samples, checkpoint, int(checkpoint_steps), verbose)
    if frozen_checksums(loaded.model) != before:
        raise RuntimeError("a frozen part of the model has changed during the training.")
    losses = np.asarray(course.losses)
    if out is not None:
        loaded.save(out)
        record = {"settings": settings, "losses": course.losses}
        write_atomically(Path(out) / FOLDER / "losses.json", json.dumps(record))
    return loaded, losses


def _to_train(model):
    if isinstance(model, LoadedModel):
        if any(value is model for value in _shared.values()):
            raise ValueError(
                f"model={model.name!r} is in use as the model of its folder, with which it would "
                "no longer agree; pass the folder itself, which is read anew."
            )
        loaded = model
    else:
        loaded = load(load_model(model))
    if not isinstance(loaded.model, DePALMForConditionalGeneration):
        raise ValueError(
            f"model={loaded.name!r} is a {type(loaded.model).__name__}; only a DePALM (see "
            "make_depalm) has a connector to train."
        )
    return loaded


def _check_captions(references):
    if references is None:
        raise ValueError("captions are needed: one or several texts for each image.")
    for i, texts in enumerate(references):
        if not any(text.strip() for text in texts):
            raise ValueError(f"captions[{i}] is empty: every image needs a caption.")


def _worth_keeping(samples, n_steps, cache_gb):
    repeated = n_steps * samples.batch_size > len(samples.images)
    return repeated and samples.state_bytes() <= cache_gb * 1e9


def _shape(config):
    """What the connector is, apart from its weights."""
    names = ("n_visual_tokens", "connector_width", "connector_layers", "connector_heads")
    return [getattr(config, name) for name in (*names, "connector_dropout")]


def _digest(value):
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()


def _progress(items, what, verbose):
    if not verbose:
        return items
    from tqdm.auto import tqdm

    return tqdm(items, desc=what)


@contextmanager
def _learning(loaded):
    """The connector in single precision and ready to learn, within the block."""
    loaded.model.eval()
    connector = loaded.model.connector
    try:
        yield connector.float().train().requires_grad_(True)
    finally:
        connector.to(loaded.dtype).eval().requires_grad_(False)


class _Course:
    """The steps of a run, done and to do."""

    def __init__(self, connector, settings, loaded):
        self.connector, self.settings, self.loaded = connector, settings, loaded
        self.losses = []
        weights = [*connector.parameters()]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [w for w in weights if w.ndim > 1], "weight_decay": _WEIGHT_DECAY},
                {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
            ],
            lr=0.0,
        )
        # Gradients that come through a language model in half precision would vanish.
        half = loaded.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(loaded.device.type, enabled=half)
        self.prompt_ids = self._prompt_ids()

    @property
    def n_done(self):
        return len(self.losses)

    def _prompt_ids(self):
        from PIL import Image

        blank = Image.new("RGB", (64, 64))
        return encode_prompts(self.loaded, [blank], [self.settings["prompt"]])["input_ids"]

    def resume(self, checkpoint):
        self.losses = checkpoint.read(self.connector, self.optimizer, self.scaler)

    def run(self, samples, checkpoint, checkpoint_steps, verbose):
        n_steps = self.settings["n_steps"]
        bar = _progress(range(self.n_done, n_steps), "training", verbose)
        for step, batch in zip(bar, samples.batches(self.n_done, n_steps), strict=True):
            self.losses.append(self._step(step, batch))
            if verbose:
                bar.set_postfix(loss=f"{np.mean(self.losses[-100:]):.3f}", refresh=False)
            is_due = self.n_done % checkpoint_steps == 0 or self.n_done == n_steps
            if checkpoint and is_due:
                checkpoint.write(self.connector, self.optimizer, self.scaler, self.losses)

    def _step(self, step, batch):
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        device = self.loaded.device
        rng = np.random.default_rng([self.settings["seed"], 2, step])  # of dropout
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(rng.integers(2**62)))
            loss = self._loss(batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise RuntimeError(
                f"the loss is {value} at step {step}; a lower learning_rate, or dtype='bfloat16' "
                "for the model, may help."
            )
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.connector.parameters(), _MAX_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return value

    def _rate(self, step):
        """A line to the peak, then a cosine to zero."""
        n_steps, peak = self.settings["n_steps"], self.settings["learning_rate"]
        n_warmup = int(self.settings["warmup"] * n_steps)
        if step < n_warmup:
            return peak * (step + 1) / n_warmup
        return peak * 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / (n_steps - n_warmup)))

    def _loss(self, batch):
        """Mean cross-entropy of the caption tokens: state i predicts token i + 1."""
        device = self.loaded.device
        ids, is_real = batch.ids.to(device), batch.is_real.to(device)
        prompt = self.prompt_ids.expand(len(ids), -1)
        # The end token is predicted, never read.
        input_ids = torch.cat([prompt, ids[:, :-1]], dim=1)
        mask = torch.cat([torch.ones_like(prompt), is_real[:, :-1].to(prompt.dtype)], dim=1)
        model, vision = self.loaded.model, batch.vision.to(device)
        states = vision if vision.ndim == 3 else model.encode_images(vision)
        logits = model(
            input_ids=input_ids,
            attention_mask=mask,
            vision_states=states,
            logits_to_keep=ids.shape[1],
            use_cache=False,
        ).logits
        return F.cross_entropy(logits[is_real].float(), ids[is_real])
