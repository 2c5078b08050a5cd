"""The prompt: rendering it, and turning prompt and images into model inputs."""

from ._handle import quiet_transformers


def render_prompt(processor, text):
    """The whole prompt, with a place for the image, for the user's `text`.

    A text that already contains the image token is taken as the whole prompt. Otherwise the
    processor's chat template renders image and text as a user turn; without a template the image
    stands on a line of its own before the text.
    """
    image_token = getattr(processor, "image_token", None) or "<image>"
    if any(t and t in text for t in (image_token, getattr(processor, "boi_token", None))):
        return text
    if getattr(processor, "chat_template", None) is None:
        return f"{image_token}\n{text}"
    content = [{"type": "image"}]
    if text:
        content.append({"type": "text", "text": text})
    with quiet_transformers():
        return processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )


def encode_prompts(loaded, images, prompts):
    """Model inputs (on the model's device) for one image and one rendered prompt per row.

    Rows are padded on the left, so that the last position of every row predicts its first token.
    """
    tokenizer = loaded.tokenizer
    # Templates write the begin-of-sequence token out; the tokenizer must not add a second one.
    has_bos = bool(tokenizer.bos_token) and prompts[0].startswith(tokenizer.bos_token)
    inputs = loaded.processor(
        images=[[image] for image in images],
        text=list(prompts),
        padding=True,
        padding_side="left",
        return_tensors="pt",
        **({"add_special_tokens": False} if has_bos else {}),
    )
    if not _takes_token_types(loaded.model):
        inputs.pop("token_type_ids", None)
    if loaded.image_token_id is not None:
        lacks = ~(inputs["input_ids"] == loaded.image_token_id).any(dim=1)
        if lacks.any():
            raise ValueError(
                f"the prompt {prompts[int(lacks.nonzero()[0, 0])]!r} has no place for the image; "
                "it must contain the processor's image token "
                f"{getattr(loaded.processor, 'image_token', '<image>')!r}."
            )
    return inputs.to(loaded.device, loaded.dtype)


def _takes_token_types(model):
    import inspect

    return "token_type_ids" in inspect.signature(model.forward).parameters


def continuation_ids(tokenizer, prompt, text):
    """Ids of `text` as the model would write it after `prompt`.

    Tokenised together with the prompt where the prompt's ids stay the same, so that a leading
    space or word boundary belongs to the first word exactly as in generated text.
    """
    text = text.strip()
    separator = "" if not prompt or prompt[-1].isspace() else " "
    before = tokenizer.encode(prompt, add_special_tokens=False)
    both = tokenizer.encode(prompt + separator + text, add_special_tokens=False)
    if both[: len(before)] == before:
        return both[len(before) :]
    return tokenizer.encode(text, add_special_tokens=False)
