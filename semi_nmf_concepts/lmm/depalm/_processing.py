"""The processor: images and prompts to model inputs."""

from transformers import ProcessorMixin

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE_TOKEN"
    "{% elif part['text'] %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)


class DePALMProcessor(ProcessorMixin):
    """Image processor and tokenizer of a DePALM.

    Every image token of a prompt is repeated `n_visual_tokens` times. The chat template writes
    image and text and nothing else: a DePALM is trained to continue the image by its caption.

    Parameters
    ----------
    image_processor : transformers image processor
    tokenizer : transformers tokenizer
        It must know `image_token` as one token.
    n_visual_tokens : int, default=10
    image_token : str, default="<image>"
    chat_template : str, default=None
        None: the template described above.
    """

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        n_visual_tokens=10,
        image_token="<image>",
        chat_template=None,
        **kwargs,
    ):
        self.n_visual_tokens = n_visual_tokens
        self.image_token = image_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        if chat_template is None:
            chat_template = CHAT_TEMPLATE.replace("IMAGE_TOKEN", image_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def replace_image_token(self, image_inputs, image_idx, **kwargs):
        """The text that stands for one image in the tokenized prompt."""
        return self.image_token * self.n_visual_tokens
