"""A tiny BERT or RoBERTa with random weights, saved in the standard format, for BERTScore's tests.

It knows nothing; but its token embeddings depend on the tokens around, which the tests need.
"""

from pathlib import Path

WORDS = """
a the two red snow grass on in with and , . dog cat bus train car puppy black white photo of
"""
PIECES = "##s ##es ##house"


def build_tiny_bert(folder, *, seed=0, family="bert", n_layers=3, max_length=24):
    """Save a tiny random encoder under `folder` and return the folder.

    Parameters
    ----------
    folder : path-like
        Made if it does not exist.
    seed : int, default=0
        Seed of the weights; other seeds are other models.
    family : {"bert", "roberta"}, default="bert"
        WordPiece tokenizer, or byte-level BPE that sees a word at the beginning without a space.
    n_layers : int, default=3
    max_length : int or None, default=24
        At how many tokens the tokenizer cuts. None: it does not say, as many do; there are
        positions for 24 tokens in any case.
    """
    import torch
    from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    limit = {} if max_length is None else {"model_max_length": max_length}
    make_tokenizer, config_class, model_class, positions = {
        "bert": (_wordpiece, BertConfig, BertModel, 24),
        "roberta": (_bytelevel, RobertaConfig, RobertaModel, 26),  # the first two mean padding
    }[family]
    tokenizer = make_tokenizer(folder, limit)
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=n_layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).eval()
        for weight in model.parameters():  # so large that every token changes the others
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _wordpiece(folder, limit):
    from transformers import BertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = dict.fromkeys([*special, *WORDS.split(), *PIECES.split()])
    return BertTokenizer(vocab={word: i for i, word in enumerate(words)}, **limit)


def _bytelevel(folder, limit):
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizer

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained = ByteLevelBPETokenizer()
    text = " ".join(WORDS.split())
    trained.train_from_iterator([text] * 3, 400, show_progress=False, special_tokens=special)
    trained.save_model(str(folder))
    files = {"vocab": str(folder / "vocab.json"), "merges": str(folder / "merges.txt")}
    return RobertaTokenizer(**files, **limit)
