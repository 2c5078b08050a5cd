"""What is asked of every image, and what comes back; free of torch."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Request:
    """What is wanted of every image.

    Attributes
    ----------
    layers : tuple of (int or str)
    tokens : tuple of str
        Empty for positions of the prompt.
    forms : "plural", "exact" or tuple of str
    position : {"generated", "forced", "last", "mean"} or int
    prompt : str
        The user's text.
    stop : {"caption", "token"}
    max_new_tokens : int
    """

    layers: tuple
    tokens: tuple = ()
    forms: object = "plural"
    position: object = "generated"
    prompt: str = ""
    stop: str = "caption"
    max_new_tokens: int = 40

    @property
    def in_caption(self):
        """Whether the position lies in a caption rather than in the prompt."""
        return self.position in ("generated", "forced")

    @property
    def asked_tokens(self):
        """The tokens that every image gives records for: None for positions of the prompt."""
        return self.tokens or (None,)

    @property
    def keys(self):
        """The (token, layer) pairs that every image gives a record for."""
        return [(token, layer) for token in self.asked_tokens for layer in self.layers]


@dataclass
class Record:
    """What one image gives for one token and one layer.

    Attributes
    ----------
    state : ndarray of shape (width,), float32
    caption : str or None
        The caption that was written or dictated; None for positions of the prompt.
    position : int
        Index of the predicted token within the caption; for positions of the prompt, the index in
        the prompt without padding (-1 for the mean).
    probability : float
        What the model gave to the token at this position, NaN for positions of the prompt.
    found : bool
        Whether the token occurs in the caption. If not, the position is the one at which it was
        most probable.
    prefix : str
        The caption before the token.
    """

    state: np.ndarray
    caption: str | None
    position: int
    probability: float
    found: bool
    prefix: str
