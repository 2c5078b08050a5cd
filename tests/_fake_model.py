"""A hand-made model handle and featurizer: known unembedding, known states, no language model."""

from types import SimpleNamespace

import numpy as np
from PIL import Image

from semi_nmf_concepts.lmm import NoSampleKeptError

# Token id = position. Marks as in SentencePiece ("▁" begins a word); "ing" continues one.
SENTENCE_PIECES = [
    "<s>",
    "▁dog",
    "▁Dog",
    "▁the",
    "▁snow",
    "ing",
    "▁grass",
    "▁two",
    "▁xq",
    "▁qvzzk",
    "▁black",
    "▁beach",
    "▁fire",
    "▁12",
    "▁ball",
    "▁puppy",
]
WORD_PIECES = ["[PAD]", "dog", "##s", "snow", "##ing", "the", "two", "black", "Grass"]


class FakeTokenizer:
    """Enough of a tokenizer to name tokens."""

    def __init__(self, pieces):
        self.pieces = list(pieces)
        self.all_special_ids = [0]

    def get_vocab(self):
        return {piece: i for i, piece in enumerate(self.pieces)}

    def convert_ids_to_tokens(self, token):
        return self.pieces[token] if token < len(self.pieces) else None

    def decode(self, tokens):
        return "".join(self.pieces[token].replace("▁", " ") for token in tokens)


class FakeLoaded:
    """What a handle loads; compared by identity, as a loaded model is."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer


class FakeHandle:
    """One feature per token: the direction e_i promotes token i alone."""

    def __init__(self, pieces=SENTENCE_PIECES, fingerprint="fake", extra_rows=0):
        self.fingerprint = fingerprint
        self.width = len(pieces) + extra_rows
        self.loaded = FakeLoaded(FakeTokenizer(pieces))

    def unembedding(self):
        # The bias must not matter.
        return np.eye(self.width, dtype=np.float32), np.arange(self.width, dtype=np.float32)

    def final_norm(self):
        gain = np.linspace(2, 0, self.width, dtype=np.float32)
        return lambda x: gain * x / np.sqrt((x**2).mean(axis=1, keepdims=True))

    def direction(self, *pieces):
        """Direction that promotes the given tokens in this order."""
        vector = np.zeros(self.width, dtype=np.float32)
        for rank, piece in enumerate(pieces):
            vector[self.loaded.tokenizer.pieces.index(piece)] = 1 + 1 / (1 + rank)
        return vector


class FakeFeaturizer:
    """Reads the state of an image from the colour of its first pixel.

    The image of sample i is one of `make_images`; its state is the direction of the word of its
    colour plus a little noise; blue images are dropped ("not_generated").
    """

    def __init__(self, handle=None, seed=0):
        self.handle = FakeHandle() if handle is None else handle
        self.seed = seed

    def extract(self, X, captions=None):
        rng = np.random.default_rng(self.seed)
        colours = [colour_of(X[i]) for i in range(len(X))]
        kept = [i for i, colour in enumerate(colours) if colour != "blue"]
        dropped = {"not_generated": [i for i in range(len(X)) if i not in kept], "unreadable": []}
        if not kept:
            raise NoSampleKeptError("token 'dog' occurs in none of the captions", dropped)
        words = {"black": "▁black", "white": "▁snow", "green": "▁grass"}
        states = [self.handle.direction(words[colours[i]], "▁dog") for i in kept]
        Z = np.array(states, dtype=np.float32).reshape(len(kept), self.handle.width)
        noise = 0.05 * np.abs(rng.standard_normal(Z.shape)).astype(np.float32)
        return SimpleNamespace(
            Z=Z + noise,
            indices=np.array(kept, dtype=np.int64),
            captions=[f"a dog that is {colours[i]}" for i in kept],
            prefixes=["a"] * len(kept),
            provenance={
                "model": "fake",
                "fingerprint": self.handle.fingerprint,
                "token": "dog",
                "layer": -1,
                "prompt": "caption:",
                "position": "generated",
                "versions": {"numpy": np.__version__},
            },
            dropped=dropped,
        )


COLOURS = {"black": (0, 0, 0), "white": (255, 255, 255), "green": (0, 128, 0), "blue": (0, 0, 255)}


def colour_of(image):
    """Name of the colour of an image of `LazyImages`."""
    pixel = image.getpixel((0, 0))
    return next(name for name, value in COLOURS.items() if value == pixel)


class LazyImages:
    """A sequence that makes its images on access and counts the accesses."""

    def __init__(self, n, colours=("black", "white", "green", "blue"), size=(300, 200)):
        self.colours = [colours[i % len(colours)] for i in range(n)]
        self.size = size
        self.reads = [0] * n

    def __len__(self):
        return len(self.colours)

    def __getitem__(self, i):
        if not 0 <= i < len(self):
            raise IndexError(i)
        self.reads[i] += 1
        return Image.new("RGB", self.size, COLOURS[self.colours[i]])
