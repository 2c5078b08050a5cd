"""Small tokenizers of every kind that vision-language models use, trained on a few captions.

Each is a :class:`Kind`: the tokenizer, and what every piece of it writes in bytes. From these the
tests spell a text in any way, also as the tokenizer itself would not, and know without decoding
which piece brings which character.
"""

import functools
import unicodedata
from dataclasses import dataclass

CAPTIONS = """
a dog in the snow
two dogs next to a red car on the beach
a polar bear and a cat
the dog house is next to a doghouse
a hot dog on a plate with a hotdog stand
Dogs and cats are in the street at night
A man in a t-shirt walks his dog's puppies
the cat's ball, a dog-house: a dog!
two polar bears swim. The dog (a poodle) runs
a carrot cake and a toy car in a room
DOG shows 3d pictures of 2 dogs
a café with a naïve painting, near the straße
the bus, the train and a boat
black and white photo of a dogma
a baby plays with a big red ball
a big red bus full of people
""".strip().split("\n")
SPECIAL = ["<unk>", "<s>", "</s>"]


@dataclass(frozen=True, eq=False)
class Kind:
    """A tokenizer and what its pieces write.

    Attributes
    ----------
    tokenizer : PreTrainedTokenizerFast
    pieces : dict of int to bytes
        UTF-8 (or a part of a character's) of every piece that is no special token, word boundary
        included: b" dog", or b"dog" for a piece that goes on with a word.
    drops_first_space : bool
        Whether a caption's first piece loses the space that it begins with.
    """

    tokenizer: object
    pieces: dict
    drops_first_space: bool

    def spelled(self, ids):
        """What every token of a caption writes, in bytes."""
        written = [self.pieces[i] for i in ids]
        if written and self.drops_first_space:
            written[0] = written[0].removeprefix(b" ")
        return written

    def choices(self, left, first):
        """Ids with which the bytes `left` may begin."""
        if first and self.drops_first_space:
            left = b" " + left
        return [i for i, piece in self.pieces.items() if left.startswith(piece)]

    def spell(self, text, choose):
        """Ids that write `text`, each chosen by `choose(list of ids)`."""
        left, ids = text.encode(), []
        while left:
            ids.append(choose(self.choices(left, not ids)))
            written = len(self.spelled(ids)[-1]) if len(ids) == 1 else len(self.pieces[ids[-1]])
            left = left[written:]
        return ids


def _wrapped(backend):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
    )


def _byte_level():
    """GPT-2, Llama 3, Qwen: bytes are letters, the space belongs to the word after it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=430,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CAPTIONS, trainer)
    return Kind(_wrapped(backend), _bytes_of(backend, _from_byte_letters), False)


@functools.cache
def _byte_of_letter():
    """The letters by which byte-level vocabularies write bytes."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {
        **{chr(byte): byte for byte in visible},
        **{chr(256 + n): byte for n, byte in enumerate(others)},
    }


def _from_byte_letters(piece):
    return bytes(_byte_of_letter()[letter] for letter in piece)


def _from_metaspace(piece):
    if piece.startswith("<0x"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("▁", " ").encode()


def _bytes_of(backend, write):
    return {i: write(piece) for piece, i in backend.get_vocab().items() if piece not in SPECIAL}


def _byte_fallback(*, prefix_space):
    """Llama 2 (prefix_space) and Gemma: "▁" for a space, unknown characters byte by byte."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    plain = [caption for caption in CAPTIONS if caption.isascii()]
    learner.train_from_iterator(plain, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    vocabulary = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    learned = learner.get_vocab()
    vocabulary += sorted(learned, key=learned.get)
    merges = _merges(learner)
    backend = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(vocabulary)},
            merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    space = [normalizers.Replace(" ", "▁")]
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix_space:
        space.insert(0, normalizers.Prepend("▁"))
        steps.append(decoders.Strip(" ", 1, 0))
    backend.normalizer = normalizers.Sequence(space)
    backend.decoder = decoders.Sequence(steps)
    return Kind(_wrapped(backend), _bytes_of(backend, _from_metaspace), prefix_space)


def _merges(tokenizer):
    import json

    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def _unigram():
    """T5: the likeliest pieces, no bytes, so that some characters cannot be written."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(CAPTIONS, trainer)
    backend.model = models.Unigram(_ordered(backend), unk_id=SPECIAL.index("<unk>"))
    return Kind(_wrapped(backend), _bytes_of(backend, _from_metaspace), True)


def _ordered(unigram):
    """(piece, score) of a trained Unigram model; training puts equal scores in any order."""
    import json

    vocabulary = json.loads(unigram.to_str())["model"]["vocab"]
    n = len(SPECIAL)
    rest = sorted(((piece, round(score, 6)) for piece, score in vocabulary[n:]), key=_by_score)
    return [*map(tuple, vocabulary[:n]), *rest]


def _by_score(entry):
    piece, score = entry
    return -score, piece


def _word_piece():
    """BERT: pieces that go on with a word are marked; punctuation stands alone.

    The pieces are learned as byte pairs are, because the trainer of WordPiece breaks ties by
    chance; each may begin a word or go on with one.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    learner.train_from_iterator(CAPTIONS, trainers.BpeTrainer(vocab_size=75, show_progress=False))
    learned = learner.get_vocab()
    pieces = sorted(learned, key=learned.get)
    vocabulary = [*SPECIAL, *pieces, *(f"##{piece}" for piece in pieces)]
    backend = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="<unk>")
    )
    backend.normalizer, backend.pre_tokenizer = learner.normalizer, learner.pre_tokenizer
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    backend.add_special_tokens(SPECIAL)

    def write(piece):
        return (piece[2:] if piece.startswith("##") else f" {piece}").encode()

    return Kind(_wrapped(backend), _bytes_of(backend, write), True)


BUILDERS = {
    "byte-level BPE": _byte_level,
    "BPE with byte fallback": functools.partial(_byte_fallback, prefix_space=True),
    "the same without first space": functools.partial(_byte_fallback, prefix_space=False),
    "Unigram": _unigram,
    "WordPiece": _word_piece,
}


@functools.cache
def kind(name):
    """The :class:`Kind` of that name, one of `BUILDERS`."""
    return BUILDERS[name]()


# Beginnings of the names that Unicode gives to letters of scripts without spaces.
_UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA ", "THAI ", "LAO ", "MYANMAR ", "KHMER ")


def slow_find(text, forms):
    """Where the first whole-word match of any of `forms` begins, or None, piece by piece."""
    parts = _parts(text)
    for i, (kind, _, start) in enumerate(parts):
        if kind == "word" and any(_stands(_parts(form), parts[i:]) for form in forms):
            return start
    return None


def _parts(text):
    """(kind, text, offset) of the words, spaces and single other characters of `text`.

    Characters of scripts without spaces belong to no word beside them ("dog犬").
    """
    parts = []
    for offset, char in enumerate(text):
        unspaced = unicodedata.name(char, "").startswith(_UNSPACED)
        word = not unspaced and (char.isalnum() or char == "_")
        kind = "word" if word else "space" if char.isspace() else "other"
        if parts and kind != "other" and parts[-1][0] == kind:
            parts[-1] = (kind, parts[-1][1] + char, parts[-1][2])
        else:
            parts.append((kind, char, offset))
    return parts


def _stands(form, parts):
    """Whether `parts` begin with the parts of a form; spaces around punctuation do not count."""
    left = list(parts)
    for kind, text, _ in form:
        while kind == "other" and left and left[0][0] == "space":
            del left[0]
        if not left or left[0][0] != kind:
            return False
        if kind != "space" and left[0][1].lower() != text.lower():
            return False
        del left[0]
        while kind == "other" and left and left[0][0] == "space":
            del left[0]
    return True
