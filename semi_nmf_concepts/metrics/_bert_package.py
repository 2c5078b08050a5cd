"""BERTScore as the package bert-score computes it: loading an encoder, encoding, matching.

The numbers come from functions of bert-score. What it needs help with beside transformers 5 is done
here, each in one place: :func:`_tokenizer` and :class:`_Name`.
"""

import contextlib
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from .._models import no_connection, torch_device
from .._quiet import quiet_transformers

ENCODE_BATCH = 64  # sentences; what bert-score takes
# Hub organisations under which ids without one (of which bert-score knows layers and baselines) are
# published today.
_OWNERS = ("FacebookAI/", "google-bert/", "distilbert/", "albert/", "xlnet/", "google-t5/")
_UNLIMITED = 10**9  # transformers gives a tokenizer without a limit one of 10^30
_INSTALL = 'install it with: pip install "semi_nmf_concepts[bert]"'


class _Name(str):
    """Id or folder of an encoder for bert-score, which loads as a T5 whatever has "t5" in its name.

    A folder may be called anything; what decides is `is_t5`, from the model's configuration.
    """

    def __new__(cls, name, is_t5=False):
        made = super().__new__(cls, name)
        made.is_t5 = is_t5
        return made

    def __contains__(self, part):
        return self.is_t5 if part == "t5" else super().__contains__(part)


def functions():
    """The module ``bert_score.utils``, imported at first use: it is slow (torch, matplotlib)."""
    first = "bert_score.utils" not in sys.modules
    try:
        with quiet_transformers() if first else contextlib.nullcontext():
            from bert_score import utils
    except ModuleNotFoundError as error:
        if error.name != "bert_score":
            raise
        raise ImportError(f"BERTScore needs the package bert-score; {_INSTALL}") from error
    return utils


def known_layer(model):
    """The layer that bert-score takes for the id `model`, or None if it does not know it."""
    return functions().model2layers.get(_known_name(model))


def baseline_f1(model, num_layers):
    """F1 of unrelated English sentences, from the file of bert-score; None if it has none."""
    folder = Path(functions().__file__).parent / "rescale_baseline" / "en"
    path = folder / f"{_known_name(model)}.tsv"
    if not path.is_file():
        return None
    table = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)  # LAYER, P, R, F
    return float(table[num_layers, 3]) if num_layers < len(table) else None


def _known_name(model):
    for owner in _OWNERS:
        model = model.removeprefix(owner)
    return model


def read_config(model, location):
    """The transformers configuration of the encoder at `location` (a folder or hub id)."""
    with quiet_transformers():
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(location)
        except Exception as error:
            raise _loading_error(model, error) from error


def load(model, location, num_layers, device):
    """Weights up to layer `num_layers`, and the tokenizer.

    Returns
    -------
    network : torch.nn.Module
        float32, in evaluation mode, on the device.
    tokenizer : transformers.PreTrainedTokenizerBase
    """
    device = torch_device(device)
    config = read_config(model, location)
    name = _Name(location, is_t5="t5" in config.model_type)
    utils = functions()
    with quiet_transformers():
        try:
            _refuse_missing_weights(model, name)
            network = utils.get_model(name, num_layers)
            tokenizer = _tokenizer(name, config)
        except Exception as error:  # safetensors, tokenizers and torch raise what they like
            raise _loading_error(model, error) from error
    return network.to(device).float().requires_grad_(False), tokenizer


def _refuse_missing_weights(model, name):
    """An error where transformers would only warn and fill what is missing with random numbers."""
    from transformers import AutoModel, T5EncoderModel

    loader = T5EncoderModel if name.is_t5 else AutoModel
    info = loader.from_pretrained(name, output_loading_info=True)[1]
    # BERTScore looks at the tokens; many checkpoints have no pooler.
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)
    if missing:
        raise ValueError(
            f"the checkpoint lacks {len(missing)} weights (such as {', '.join(missing[:3])}): it "
            "is incomplete or of another architecture."
        )


def _tokenizer(name, config):
    """The tokenizer of bert-score with two things that it asks for, and transformers 5 refuses.

    Tokenizers with byte-level BPE are to see the first word as they see the others, behind a space;
    asked for in a call, this is ignored. And sentences are cut at the tokenizer's maximum length,
    which must be a number of tokens that the encoder has positions for.
    """
    from transformers import AutoTokenizer, GPT2Tokenizer, RobertaTokenizer

    tokenizer = functions().get_tokenizer(name)
    if isinstance(tokenizer, (GPT2Tokenizer, RobertaTokenizer)):
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=False, add_prefix_space=True)
    if tokenizer.model_max_length > _UNLIMITED:
        positions = getattr(config, "max_position_embeddings", None) or 512
        # RoBERTa's family counts positions from behind that of the padding token.
        offset = config.pad_token_id + 1 if "roberta" in config.model_type else 0
        tokenizer.model_max_length = positions - offset
    return tokenizer


def tokenizer_rules(tokenizer):
    """All that decides how a tokenizer cuts a sentence, as text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = tokenizer.get_vocab() if backend is None else json.loads(backend.to_str())
    for setting in ("truncation", "padding") if backend is not None else ():
        rules.pop(setting, None)  # what the last call left there
    return json.dumps([rules, tokenizer.model_max_length], sort_keys=True)


def _loading_error(model, error):
    """What to raise when reading the encoder `model` failed with `error`."""
    import torch

    if isinstance(error, (ImportError, MemoryError, torch.OutOfMemoryError)):
        return error
    if no_connection(error):
        return OSError(
            f"model={model!r} is not (or not completely) on this machine and the Hugging Face hub "
            "cannot be reached (no network, or HF_HUB_OFFLINE is set). Download it first where "
            f"there is a network (`hf download {model}`), or pass the folder of a local copy; "
            "model='bundled' needs no network."
        )
    reason = str(error).split("If you were trying")[0].strip() or repr(error)
    return ValueError(f"model={model!r} cannot be loaded as an encoder for BERTScore: {reason}")


def encode(sentences, network, tokenizer):
    """Embeddings and weights of the tokens of some sentences.

    Parameters
    ----------
    sentences : list of str
        None of them blank.

    Returns
    -------
    encoded : list of (tensor of shape (n_tokens, width), tensor of shape (n_tokens,))
        Weights are 1, and 0 for the tokens that begin and end every sentence.
    """
    weights = defaultdict(lambda: 1.0, {tokenizer.sep_token_id: 0.0, tokenizer.cls_token_id: 0.0})
    device = next(network.parameters()).device
    encoded = []
    with quiet_transformers():
        for start in range(0, len(sentences), ENCODE_BATCH):
            batch = sentences[start : start + ENCODE_BATCH]
            states, mask, token_weights = functions().get_bert_embedding(
                batch, network, tokenizer, weights, device=device
            )
            lengths = mask.sum(dim=1).tolist()
            # Copies: a view would keep the padding of the whole batch in memory.
            encoded += [
                (states[i, :n].clone(), token_weights[i, :n].to(device, copy=True))
                for i, n in enumerate(lengths)
            ]
    return encoded


def match(candidates, references):
    """F1 of pairs of encoded sentences that have tokens.

    Parameters
    ----------
    candidates, references : list of (tensor, tensor)
        Of equal length, from :func:`encode`.

    Returns
    -------
    f1 : ndarray of float64, shape (n_pairs,)
    """
    import torch

    with torch.no_grad():
        scores = functions().greedy_cos_idf(*_padded(references), *_padded(candidates))[2]
    return scores.double().cpu().numpy()


def _padded(encoded):
    """Embeddings, mask and weights of some sentences, padded to the longest."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    states, weights = zip(*encoded, strict=True)
    lengths = torch.tensor([len(state) for state in states], device=states[0].device)
    padded = pad_sequence(states, batch_first=True, padding_value=2.0)  # not 0: norms divide
    mask = torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]
    return padded, mask, pad_sequence(weights, batch_first=True)
