"""The prompt: rendering it, and turning prompt and images into model inputs."""

import inspect
import itertools
from weakref import WeakKeyDictionary

from .._quiet import quiet_transformers
from ._architecture import is_encoder_decoder

_image_placing = WeakKeyDictionary()  # processor -> what `_places_image` found

# Some templates write today's date into the system prompt. With a fixed one, the first of January
# 2025, the same image gives the same state tomorrow.
_CODES = {"Y": "2025", "y": "25", "m": "01", "B": "January", "b": "Jan", "d": "01", "-d": "1"}
_CODES |= {"A": "Wednesday", "a": "Wed", "H": "12", "M": "00", "S": "00"}
_FIXED_DATE = (
    "{% macro strftime_now(form) %}{{ form"
    + "".join(f"|replace('%{code}', '{value}')" for code, value in _CODES.items())
    + " }}{% endmacro %}"
)

# Of one image, once it is scaled: beyond, a line of a few pixels would fill the memory.
_MAX_SCALED_PIXELS = 64_000_000


def image_marks(processor):
    """The texts that may stand for an image in a prompt of `processor`, the usual one first."""
    marks = (getattr(processor, "image_token", None), getattr(processor, "boi_token", None))
    # BLIP-2 has an AddedToken in the place of a text.
    return [getattr(mark, "content", mark) for mark in marks if mark] or ["<image>"]


def _places_image(processor):
    """Whether the processor puts the image before a text by itself, as PaliGemma and BLIP-2 do."""
    if processor not in _image_placing:
        from PIL import Image

        index = processor.tokenizer.convert_tokens_to_ids(image_marks(processor)[0])
        try:
            with quiet_transformers():
                inputs = processor(images=[[Image.new("RGB", (64, 64))]], text=["a"])
            _image_placing[processor] = index in inputs["input_ids"][0]
        except (ValueError, IndexError):  # says that the text has no place for the image
            _image_placing[processor] = False
    return _image_placing[processor]


def render_prompt(processor, text, n_images=1):
    """The whole prompt, with a place for the image (or for each of several), for the user's `text`.

    A text that already contains the image token is taken as the whole prompt. Otherwise the chat
    template, the processor's or else the tokenizer's, renders image and text as a user turn; a
    template that knows texts only is given the image token as a part of the text. Without a
    template the image stands on a line of its own before the text, unless the processor puts it
    somewhere itself.
    """
    marks = image_marks(processor)
    if any(mark in text for mark in marks):
        return text
    plain = f"{marks[0] * n_images}\n{text}"
    parts = [{"type": "image"}] * n_images + ([{"type": "text", "text": text}] if text else [])
    fault = None
    for owner in (processor, processor.tokenizer):
        if not getattr(owner, "chat_template", None):
            continue
        for content in (parts, plain):
            prompt, error = _apply_template(owner, content)
            if prompt and text.strip() in prompt and any(mark in prompt for mark in marks):
                return prompt
            fault = fault or error
    if getattr(processor, "chat_template", None):
        reason = f": {fault}" if fault else ", it leaves one of them out"
        raise ValueError(
            "the chat template of the model's processor cannot render an image and a text"
            f"{reason}. Pass a prompt that contains {marks[0]!r}; it is taken as the whole prompt."
        )
    return text if _places_image(processor) else plain


def _apply_template(owner, content):
    """(rendered user turn, None) or (None, error)."""
    template = owner.chat_template
    if isinstance(template, dict):
        template = template.get("default", "{{ raise_exception('none is called default') }}")
    with quiet_transformers():
        from jinja2 import TemplateError

        try:
            prompt = owner.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=_FIXED_DATE + template if "strftime_now" in template else template,
                add_generation_prompt=True,
                tokenize=False,
                # The first words of a model that thinks would be about the question, not the image.
                enable_thinking=False,
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            return None, error
    return prompt, None


class ImagesRefusedError(ValueError):
    """The model's processor cannot take some images of a batch.

    Attributes
    ----------
    reasons : dict of int to str
        Row of the batch -> what the processor says about its image.
    """

    def __init__(self, reasons):
        row, reason = next(iter(reasons.items()))
        super().__init__(
            f"the model's image processor cannot take {len(reasons)} image(s) of the batch, such "
            f"as the one of row {row}: {reason}"
        )
        self.reasons = reasons

    def renumbered(self, rows):
        """The same error for a larger batch, of which this one had `rows`."""
        return ImagesRefusedError({rows[row]: reason for row, reason in self.reasons.items()})


class NotTogetherError(ValueError):
    """The model's processor cannot put these images into one batch.

    Attributes
    ----------
    groups : list of list of int
        Rows that it can put together.
    """

    def __init__(self, groups):
        super().__init__("the model's processor cannot put these images into one batch.")
        self.groups = groups


def split_by_prefix(tokenizer, prompts):
    """Rows that can be tokenised together: lists of their indices.

    Most templates write the begin-of-sequence token out and some leave it to the tokenizer, which
    is told once for all texts of a call.
    """
    prefix, groups = _prefix(tokenizer), {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(prompt.startswith(prefix), []).append(i)
    return list(groups.values())


def _prefix(tokenizer):
    """The special tokens that the tokenizer puts before every text, as a text."""
    special = _special_tokens(tokenizer)
    ids = itertools.takewhile(special.__contains__, tokenizer("a")["input_ids"])
    return "".join(special[index] for index in ids)


def _special_tokens(tokenizer):
    """Id -> text of the special tokens, also of those that only the vocabulary marks as such."""
    added = tokenizer.added_tokens_decoder.items()
    return {index: token.content for index, token in added if token.special}


def encode_prompts(loaded, images, prompts):
    """Model inputs (on the model's device) for a rendered prompt and its image(s) per row.

    Rows are padded on the left, so that the last position of every row predicts its first token.

    Parameters
    ----------
    loaded : LoadedModel
    images : list of (PIL.Image.Image | list of PIL.Image.Image)
        A list where a prompt has several images.
    prompts : list of str
        All with or all without the begin of the sequence, see :func:`split_by_prefix`.

    Raises
    ------
    ValueError
        If a prompt has no place for the image, or more places than images.
    ImagesRefusedError
        If the processor cannot take some of the images.
    NotTogetherError
        If it can take each of them, but not in one batch.
    """
    images = [row if isinstance(row, list) else [row] for row in images]
    _refuse_lines(loaded.processor, images)
    try:
        inputs = _process(loaded, images, prompts)
    except (ValueError, RuntimeError, TypeError, IndexError, ZeroDivisionError) as error:
        _check_places(loaded.processor, images, prompts)
        _blame_images(loaded, images, prompts, error)
        raise
    taken = _takes(loaded.model)
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name not in taken:
            inputs.pop(name, None)
    inputs.pop("labels", None)  # of PaliGemma, for training
    if loaded.image_token_id is not None:
        lacks = ~(inputs["input_ids"] == loaded.image_token_id).any(dim=1)
        if lacks.any():
            raise _no_place(loaded.processor, prompts[int(lacks.nonzero()[0, 0])])
    behind = is_encoder_decoder(loaded.model.config)  # nothing follows its prompt
    if not (behind or inputs["attention_mask"][:, -1].all()):
        raise ValueError(
            "the model's processor pads rows at their end although its tokenizer pads on the left; "
            "batch_size=1 needs no padding."
        )
    # Only what is floating-point changes its type: grids and sizes stay integers.
    return inputs.to(loaded.device, loaded.dtype)


def _process(loaded, images, prompts):
    prefix = _prefix(loaded.tokenizer)
    begun = bool(prefix) and prompts[0].startswith(prefix)
    return loaded.processor(
        images=images,
        text=list(prompts),
        padding=True,
        return_tensors="pt",
        **({"add_special_tokens": False} if begun else {}),
    )


def _refuse_lines(processor, images):
    """Processors that scale the shorter side up would make gigabytes of a line of few pixels."""
    size = getattr(getattr(processor, "image_processor", None), "size", None)
    edges = {name: getattr(size, name, None) for name in ("shortest_edge", "longest_edge")}
    if isinstance(size, dict):
        edges = size
    edge = edges.get("shortest_edge")
    if not edge or edges.get("longest_edge"):
        return
    reasons = {
        row: f"it is far too long for its width ({_size([image])})"
        for row, of_row in enumerate(images)
        for image in of_row
        if edge * edge * max(image.size) / min(image.size) > _MAX_SCALED_PIXELS
    }
    if reasons:
        raise ImagesRefusedError(reasons)


def _size(images):
    return ", ".join(f"{image.width} x {image.height} pixels" for image in images)


def _check_places(processor, images, prompts):
    """A place for every image in every prompt, and no other."""
    mark = image_marks(processor)[0]
    for of_row, prompt in zip(images, prompts, strict=True):
        if mark not in prompt and not _places_image(processor):
            raise _no_place(processor, prompt)
        n_places, n_images = prompt.count(mark), len(of_row)
        if n_places and n_places != n_images:
            there_are = "is one image" if n_images == 1 else f"are {n_images} images"
            raise ValueError(
                f"the prompt {prompt!r} has {n_places} places for an image ({mark!r}), "
                f"but there {there_are} for {'each' if n_images == 1 else 'the'} prompt."
            )


def _no_place(processor, prompt):
    return ValueError(
        f"the prompt {prompt!r} has no place for the image; it must contain the processor's image "
        f"token {image_marks(processor)[0]!r}."
    )


def _blame_images(loaded, images, prompts, error):
    """Raise what single images have to do with a batch that failed with `error`, if anything."""
    reasons, groups = {}, {}
    for row, (of_row, prompt) in enumerate(zip(images, prompts, strict=True)):
        try:
            inputs = _process(loaded, [of_row], [prompt])
        except Exception as fault:
            reasons[row] = f"{str(fault).rstrip('.') or repr(fault)} ({_size(of_row)})"
        else:
            # Images of different shape where the model takes a stack of them (Perception-LM).
            shape = tuple(inputs["pixel_values"].shape)
            groups.setdefault(shape, []).append(row)
    if reasons and (groups or len(images) == 1):
        raise ImagesRefusedError(reasons) from error
    if len(groups) > 1:
        raise NotTogetherError(list(groups.values())) from error


def _takes(model):
    return inspect.signature(model.forward).parameters


def read_prompt(tokenizer, prompt, last_id):
    """What follows is written behind this text: the prompt, and a line break if one was put there.

    PaliGemma's processor puts one behind the prompt; `last_id` is the last token of the inputs.
    """
    end = tokenizer.decode([last_id])
    return prompt + end if end.isspace() and not prompt.endswith(end) else prompt


def continuation_ids(tokenizer, prompt, text):
    """Ids of `text` as the model would write it after `prompt`.

    Tokenised together with the prompt where the prompt's ids stay the same, so that a leading
    space or word boundary belongs to the first word exactly as in generated text. Behind a special
    token ("[/INST]" of Mistral 3, say) models write no space.
    """
    text = text.strip()
    marked = prompt.endswith(tuple(_special_tokens(tokenizer).values()))
    separator = "" if not prompt or prompt[-1].isspace() or marked else " "
    before = tokenizer.encode(prompt, add_special_tokens=False)
    both = tokenizer.encode(prompt + separator + text, add_special_tokens=False)
    if both[: len(before)] == before:
        return both[len(before) :]
    return tokenizer.encode(text, add_special_tokens=False)
