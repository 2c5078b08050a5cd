"""One answer of a model about one or several images, and running over it again.

With a prompt of P tokens (image tokens included) and an answer of T tokens, the sequence has
S = P + T positions, and answer token t (from 0) is *predicted at row P - 1 + t*. The pass over
prompt and answer at once ("teacher forcing") has the logits and states that each step of the
generation had, at all positions, and keys of full length also in layers with a window.
"""

import inspect
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral, Real

import numpy as np

from .._quiet import quiet_transformers
from ._handle import ModelHandle, load_model
from ._images import ImageReadError, to_rgb

MAX_PIXELS = 64_000_000
# Inputs with an entry for each token of the prompt; an answer makes them longer.
_PER_TOKEN = ("attention_mask", "token_type_ids", "mm_token_type_ids")
_PER_TOKEN_CROSS = ("cross_attention_mask", "image_attention_mask", "image_embeds_position_mask")


@dataclass(eq=False, repr=False)
class Answer:
    """What a model was asked and what it answered; made by :func:`write_answer`.

    Attributes
    ----------
    handle : ModelHandle
    images : list of PIL.Image.Image
        RGB.
    image_names : list of str
        File names, or "image 1" and so on.
    question : str
        What the user asked.
    prompt : str
        The whole prompt, with the places of the images.
    ids : list of int
        Tokens of the answer, without the one that ends it.
    settings : dict
        How the answer came about: ``source`` ("generated" or "given"), ``max_new_tokens``,
        ``temperature``, ``top_p``, ``random_state``.
    """

    handle: ModelHandle
    images: list
    image_names: list
    question: str
    prompt: str
    ids: list = field(default_factory=list)
    settings: dict = field(default_factory=dict)

    @cached_property
    def inputs(self):
        """dict of tensors: the model's inputs of the prompt, one row without padding."""
        return self.encode(self.images)

    @property
    def n_prompt(self):
        """int: tokens of the prompt, P."""
        return self.inputs["input_ids"].shape[1]

    @property
    def sequence(self):
        """ndarray of int64, shape (S,): ids of prompt and answer."""
        prompt = self.inputs["input_ids"][0].tolist()
        return np.array([*prompt, *self.ids], dtype=np.int64)

    @property
    def text(self):
        """str: the answer."""
        return self.answer_text(self.ids)

    @property
    def provenance(self):
        """dict: what is needed to get the same answer again."""
        from .. import __version__
        from ._run import versions

        handle = self.handle
        return {
            "package_version": __version__,
            "model": handle.model,
            "revision": handle.revision,
            "commit": handle.commit,
            "fingerprint": handle.fingerprint,
            "prompt": self.prompt,
            "images": list(self.image_names),
            "answer": dict(self.settings),
            "dtype": str(handle.loaded.dtype).removeprefix("torch."),
            "device": handle.loaded.device.type,
            "image_processor": handle.loaded.image_processor_name,
            "versions": dict(versions()),
        }

    def answer_text(self, ids):
        """The text of the tokens `ids`."""
        from ._words import decoder

        return decoder(self.handle.loaded.tokenizer)(tuple(ids)).strip()

    def encode(self, images):
        """Model inputs of the prompt with other images in the places of its own."""
        from ._prompt import encode_prompts

        with quiet_transformers():
            return encode_prompts(self.handle.loaded, [list(images)], [self.prompt])

    def extended(self, inputs=None, ids=None):
        """Model inputs of prompt and answer.

        Parameters
        ----------
        inputs : dict, default=None
            Of the prompt; None takes :attr:`inputs`.
        ids : list of int, default=None
            Of the answer; None takes :attr:`ids`.
        """
        inputs = self.inputs if inputs is None else inputs
        ids = self.ids if ids is None else ids
        return {name: _extended(name, value, ids) for name, value in inputs.items()}

    def run(self, inputs=None, ids=None, **options):
        """One pass over prompt and answer, without a cache; the output of the model.

        Parameters
        ----------
        inputs, ids
            As for :meth:`extended`.
        **options
            For the model's ``forward``.
        """
        with quiet_transformers():
            extended = self.extended(inputs, ids)
            return self.handle.loaded.model(**extended, use_cache=False, **options)

    def last_logits(self, inputs=None):
        """Logits (T + 1, vocabulary) of one pass: what predicts the answer's tokens, and its end.

        Where the model allows it, those of other positions are not even computed: at thousands of
        image tokens they would take gigabytes.
        """
        return self.run(inputs, **self.last_only).logits[0, -len(self.ids) - 1 :]

    @property
    def last_only(self):
        """dict: option of ``forward`` for logits of the last T + 1 positions, if the model has it.

        The output may hold those of all positions, so that the last are to be taken from it.
        """
        takes = inspect.signature(self.handle.loaded.model.forward).parameters
        return {"logits_to_keep": len(self.ids) + 1} if "logits_to_keep" in takes else {}

    def generate(self, *, max_new_tokens, temperature=0.0, top_p=1.0, random_state=None):
        """Ids of an answer that the model writes, without the token that ends it."""
        import torch

        from ._decoding import decoding, end_ids, generate

        loaded = self.handle.loaded
        ends = end_ids(loaded)
        settings = decoding(
            loaded, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p
        )
        devices = [loaded.device] if loaded.device.type == "cuda" else []
        watcher = _Chosen()
        with (
            torch.inference_mode(),
            quiet_transformers(),
            settings as options,
            torch.random.fork_rng(devices),
        ):
            if random_state is not None:
                torch.manual_seed(random_state)
            sequence = generate(
                loaded.model,
                **self.inputs,
                generation_config=options,
                stopping_criteria=[watcher],
            )[0].tolist()
        # Counted from the end: what a model returns need not begin with the prompt.
        return _before_end(sequence[len(sequence) - watcher.n_steps :], ends)


def _before_end(ids, ends):
    """The tokens before the first that ends an answer."""
    return ids[: next((p for p, index in enumerate(ids) if index in ends), len(ids))]


class _Chosen:
    """Counts the tokens that were written; a stopping criterion that stops nothing."""

    n_steps = 0

    def __call__(self, input_ids, scores, **kwargs):
        import torch

        self.n_steps += 1
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def write_answer(
    model,
    images,
    prompt=None,
    answer=None,
    *,
    max_new_tokens=64,
    temperature=0.0,
    top_p=1.0,
    random_state=None,
    image_names=None,
    max_pixels=MAX_PIXELS,
):
    """Ask a model about images, or dictate the answer.

    Parameters
    ----------
    model : "bundled", str, path or ModelHandle
    images : image or list of images
        Paths, PIL images or arrays (height, width, 3).
    prompt : str, default=None
        What to ask; None takes the model's default.
    answer : str or list of int, default=None
        The answer as a text or as token ids; None lets the model write one.
    max_new_tokens : int, default=64
        Longest answer.
    temperature : float, default=0.0
        0 takes the likeliest token at every step; above, tokens are drawn.
    top_p : float, default=1.0
        Share of the probability that tokens are drawn from.
    random_state : int, default=None
        Seed of the draws.
    image_names : list of str, default=None
        None: file names, or "image 1", "image 2" ...
    max_pixels : int, default=64,000,000
        Larger images are refused before they are read: a photograph has 12 to 50 million, and the
        processor makes several copies.

    Returns
    -------
    Answer

    Raises
    ------
    ValueError
        If there is no image, an image is too large or cannot be read, the model writes nothing, or
        its prompt is read by an encoder.
    """
    from ._architecture import is_encoder_decoder
    from ._prompt import render_prompt

    handle = load_model(model)
    pictures, names = read_images(images, image_names, max_pixels)
    if handle.config.model_type == "instructblip" and len(pictures) > 1:
        raise ValueError(
            f"images: model {handle.model!r} reads one image, with the question, got "
            f"{len(pictures)}."
        )
    _check_settings(max_new_tokens, temperature, top_p, random_state)
    if is_encoder_decoder(handle.config):
        raise ValueError(
            f"model {handle.model!r} reads its prompt with an encoder; answers can be traced for "
            "models that read prompt and answer in one sequence."
        )
    question = handle.default_prompt if prompt is None else prompt
    if not isinstance(question, str):
        raise TypeError(f"prompt must be a text or None, got {type(question).__name__}.")
    rendered = render_prompt(handle.loaded.processor, question, len(pictures))
    result = Answer(handle, pictures, names, question, rendered)
    max_new_tokens, temperature, top_p = int(max_new_tokens), float(temperature), float(top_p)
    result.inputs  # noqa: B018 - says at once what is wrong with images or prompt
    drawn = {"temperature": temperature, "top_p": top_p, "random_state": random_state}
    if answer is None:
        result.ids = result.generate(max_new_tokens=max_new_tokens, **drawn)
        result.settings = {"source": "generated", "max_new_tokens": max_new_tokens, **drawn}
    else:
        result.ids = _ids_of(answer, result)
        result.settings = {"source": "given"}
    image_token = result.handle.loaded.image_token_id
    if image_token in result.ids:
        raise ValueError(
            f"the answer contains the token that stands for an image ({image_token}); images "
            "belong to the prompt."
        )
    if not result.ids:
        raise ValueError(
            "the answer has no tokens: "
            + ("the model ended it at once. " if answer is None else "the text given is empty. ")
            + "Ask another question or pass the answer to explain as answer=."
        )
    return result


def read_images(images, names=None, max_pixels=MAX_PIXELS):
    """RGB images and their names.

    Parameters
    ----------
    images : image or list of images
        Paths, PIL images or arrays (height, width, 3).
    names : list of str, default=None
        None: file names, or "image 1", "image 2" ...
    max_pixels : int, default=64,000,000
        Larger images are refused before they are read.

    Returns
    -------
    pictures : list of PIL.Image.Image
    names : list of str

    Raises
    ------
    ValueError
        If there is no image, or one is too large or cannot be read.
    """
    many = isinstance(images, Sequence) and not isinstance(images, (str, bytes))
    items = list(images) if many else [] if images is None else [images]
    if not items:
        raise ValueError("images holds no image: at least one is needed.")
    for i, item in enumerate(items):
        check_image_size(item, i, max_pixels)
    if names is None:
        names = [
            os.path.basename(os.fspath(item)) if isinstance(item, (str, os.PathLike)) else ""
            for item in items
        ]
        names = [name or f"image {i + 1}" for i, name in enumerate(names)]
    elif len(names) != len(items):
        raise ValueError(f"image_names has {len(names)} names for {len(items)} image(s).")
    try:
        pictures = [to_rgb(item, i) for i, item in enumerate(items)]
    except ImageReadError as error:  # its advice is for many images
        raise ValueError(error.summary) from error
    return pictures, [str(name) for name in names]


def check_image_size(item, index=0, max_pixels=MAX_PIXELS):
    """Raise a ValueError if an image is too large, before its pixels are read.

    Parameters
    ----------
    item : path, PIL image or array
        What is no image passes; reading it says so.
    index : int, default=0
        What the message calls it.
    max_pixels : int, default=64,000,000
    """
    width, height = _size(item)
    if width * height > max_pixels:
        raise ValueError(
            f"image {index} is too large ({width} x {height} pixels); at most {max_pixels} pixels "
            "are taken (max_pixels). Make it smaller first."
        )


def _size(item):
    """Width and height of an image, from its header where it is a file; (0, 0) if it has none."""
    from PIL import Image

    if isinstance(item, Image.Image):
        return item.size
    if isinstance(item, (str, os.PathLike)):
        try:
            with Image.open(item) as image:
                return image.size
        except (OSError, ValueError, Image.DecompressionBombError):
            return 0, 0  # `to_rgb` says what is wrong with it
    shape = np.shape(item) if isinstance(item, np.ndarray) else ()
    return (shape[1], shape[0]) if len(shape) >= 2 else (0, 0)


def _check_settings(max_new_tokens, temperature, top_p, random_state):
    if not isinstance(max_new_tokens, Integral) or max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be a positive integer, got {max_new_tokens!r}.")
    if not isinstance(temperature, Real) or not 0 <= temperature < np.inf:
        raise ValueError(f"temperature must be a number of at least 0, got {temperature!r}.")
    if not isinstance(top_p, Real) or not 0 < top_p <= 1:
        raise ValueError(f"top_p must be a number above 0 and at most 1, got {top_p!r}.")
    if random_state is not None and not isinstance(random_state, Integral):
        raise ValueError(f"random_state must be an integer or None, got {random_state!r}.")


def _ids_of(answer, result):
    """Token ids of a dictated answer, up to what would end it."""
    from ._decoding import end_ids
    from ._prompt import continuation_ids, read_prompt

    loaded = result.handle.loaded
    if isinstance(answer, str):
        if not answer.strip():
            return []
        last_id = int(result.inputs["input_ids"][0, -1])
        prompt = read_prompt(loaded.tokenizer, result.prompt, last_id)
        try:
            ids = continuation_ids(loaded.tokenizer, prompt, answer)
        except TypeError as error:  # half a surrogate pair is no Unicode text
            raise ValueError(f"answer={answer!r} cannot be tokenised: {error}") from error
    else:
        ids = list(answer)
    n_vocabulary = loaded.model.get_input_embeddings().num_embeddings
    for index in ids:
        if not isinstance(index, Integral) or not 0 <= index < n_vocabulary:
            raise ValueError(
                f"answer must be a text or token ids from 0 to {n_vocabulary - 1}, got {index!r}."
            )
    return _before_end([int(index) for index in ids], end_ids(loaded))


def _extended(name, value, ids):
    """An input of the prompt, made longer by the answer's tokens."""
    import torch

    if not len(ids):
        return value
    if name == "input_ids":
        tail = torch.tensor([list(ids)], dtype=value.dtype, device=value.device)
    elif name in _PER_TOKEN:
        # The answer is text. Token types tell images (1) from text (0), as in Gemma 3; where all of
        # the prompt is 0, they tell what is given (0) from what is written (1), as in PaliGemma.
        ones = name == "attention_mask" or (name == "token_type_ids" and not value.any())
        tail = value.new_full((1, len(ids)), int(ones))
    elif name in _PER_TOKEN_CROSS:  # the images that the last token of the prompt may look at
        tail = value[:, -1:].repeat(1, len(ids), *[1] * (value.ndim - 2))
        tail = torch.zeros_like(tail) if name == "image_embeds_position_mask" else tail
    else:
        return value
    return torch.cat([value, tail], dim=1)


def split_words(text):
    """Spans (start, stop) of the words of `text`; marks of punctuation count as words.

    Scripts without spaces are split into characters; tokens, which may hold several, join them
    again (see `word_spans`).

    >>> text = "It's a red-brown dog."
    >>> [text[start:stop] for start, stop in split_words(text)]
    ["It's", 'a', 'red-brown', 'dog', '.']
    """
    from ._words import _UNSPACED, _marks

    letter = rf"(?:(?![{_UNSPACED}])[\w{_marks()}])"
    pattern = rf"{letter}+(?:['\u2019-]{letter}+)*|[{_UNSPACED}][{_marks()}]*|[^\w\s]"
    return [match.span() for match in re.finditer(pattern, text)]


def word_spans(tokenizer, ids, within=None):
    """(text, start, stop) of the words in a text of tokens `ids`, start and stop counting tokens.

    Words that share a token are one word.

    Parameters
    ----------
    tokenizer
    ids : sequence of int
    within : str, default=None
        Only the words of this text, at the last place where it stands. It is looked up by letters
        and digits alone, because tokenizers change case and spaces and do not know all marks; it
        must begin and end with a token. Where it is not found, there are no words.
    """
    from ._words import CaptionText, decoder

    caption, words = CaptionText(decoder(tokenizer), ids), []
    first, last = (0, len(caption.text)) if within is None else _found(caption, within)
    for begin, end in split_words(caption.text[first:last]):
        begin, end = begin + first, end + first
        start, stop = caption.token_at(begin), caption.token_at(end - 1) + 1
        if words and start < words[-1][3]:
            begin, start = words[-1][0], words[-1][2]
            words.pop()
        words.append((begin, end, start, stop))
    return [(caption.text[begin:end], start, stop) for begin, end, start, stop in words]


def _found(caption, wanted):
    """(begin, end) of the last place of a text, in characters; (0, 0) if there is none."""
    places = [i for i, character in enumerate(caption.text) if re.match(r"\w", character)]
    whole = "".join(caption.text[i].casefold()[:1] for i in places)
    wanted = "".join(c.casefold()[:1] for c in wanted if re.match(r"\w", c))
    at = whole.rfind(wanted) if wanted else -1
    while at >= 0:
        begin, end = places[at], places[at + len(wanted) - 1] + 1
        tokens = [caption.token_at(i) for i in (begin, end - 1)]
        starts = at == 0 or caption.token_at(places[at - 1]) != tokens[0]
        behind = at + len(wanted)
        stops = behind == len(places) or caption.token_at(places[behind]) != tokens[1]
        if starts and stops:
            return begin, end
        at = whole.rfind(wanted, 0, at + len(wanted) - 1)
    return 0, 0
