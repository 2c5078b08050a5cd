"""DePALM: made from parts, saved, loaded, and run by the same code as every other model."""

import json
import shutil

import numpy as np
import pytest
import torch

from benchmarks.check_representations import BAR
from benchmarks.check_representations import _first_occurrence as first_occurrence
from semi_nmf_concepts.lmm import LMMTokenFeaturizer, LoadedModel, load_model, make_depalm
from semi_nmf_concepts.lmm import _saving as saving
from semi_nmf_concepts.lmm._prompt import encode_prompts
from semi_nmf_concepts.lmm.depalm._data import Samples
from tests._tiny_depalm import (
    N_VISUAL_TOKENS,
    TINY_CONNECTOR,
    build_tiny_depalm,
    build_tiny_language,
    build_tiny_vision,
    text_tokenizer,
)
from tests._tiny_llava import build_tiny_llava, tiny_images
from tests._tokenizers import BUILDERS, kind

TEXT_MODELS = ("llama", "opt", "gpt2")
MAX_NEW_TOKENS = 10


def rel(a, b):
    return np.max(np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("depalm")
    return {kind: build_tiny_depalm(root / kind, text_model=kind) for kind in TEXT_MODELS}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A CLIP, a SigLIP, and a language model whose tokenizer knows no image."""
    root = tmp_path_factory.mktemp("parts")
    return {
        "clip": build_tiny_vision(root / "clip"),
        "siglip": build_tiny_vision(root / "siglip", family="siglip"),
        "text": build_tiny_language(root / "text", tokenizer=text_tokenizer()),
    }


@pytest.fixture(params=TEXT_MODELS)
def folder(request, folders):
    return folders[request.param]


@pytest.fixture(scope="module")
def images():
    return tiny_images(8)


def prompts(loaded, images, texts):
    return loaded.processor(
        images=[[image] for image in images],
        text=[f"<image>{text}" for text in texts],
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )


# Against a plain computation: the parts run by hand, unbatched, without cache or placeholders


def by_hand(model, processor, image, ids):
    """Logits and states of a sequence of text ids after the visual tokens of `image`."""
    pixels = processor.image_processor(images=image, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        vision = model.vision_tower(pixels).last_hidden_state
        visual = pool_by_hand(model.connector, vision[0])
        words = model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long))
        output = model.language_model(
            inputs_embeds=torch.cat([visual, words])[None],
            output_hidden_states=True,
            use_cache=False,
        )
    return output.logits[0], [states[0] for states in output.hidden_states]


def pool_by_hand(connector, states):
    """Query pooling with the attention written out."""
    x = torch.cat([connector.project(connector.norm(states)), connector.queries])
    for layer in connector.layers:
        q, k, v = layer.qkv(x).chunk(3, dim=-1)
        size, heads = q.shape[-1] // layer.n_heads, []
        for h in range(layer.n_heads):
            part = slice(h * size, (h + 1) * size)
            weights = torch.softmax(q[:, part] @ k[:, part].T / size**0.5, dim=-1)
            heads.append(weights @ v[:, part])
        x = layer.norm1(x + layer.mix(torch.cat(heads, dim=-1)))
        x = layer.norm2(x + layer.outer(torch.nn.functional.gelu(layer.inner(x))))
    return connector.output(x[-len(connector.queries) :])


def write_by_hand(model, processor, image):
    """Greedy caption, the whole sequence anew for every token; (ids, states of the last pass)."""
    end = processor.tokenizer.eos_token_id
    ids = []
    for _ in range(MAX_NEW_TOKENS):
        logits, states = by_hand(model, processor, image, ids)
        last = logits[-1].clone()
        last[model.config.image_token_id] = -torch.inf  # never written
        best = int(last.argmax())
        if best == end:
            break
        ids.append(best)
    else:
        _, states = by_hand(model, processor, image, ids)
    return ids, states


def test_featurizer_equals_the_parts_run_by_hand(folder, images):
    """Captions, positions and states, in one batch, of the published form: image, then caption."""
    model, processor = load_model(folder).loaded.model, load_model(folder).loaded.processor
    written = [write_by_hand(model, processor, image) for image in images]
    captions = [processor.decode(ids).strip() for ids, _ in written]
    words = [word for caption in captions for word in caption.split() if word.isalpha()]
    word = max(set(words), key=words.count)
    featurizer = LMMTokenFeaturizer(
        folder, token=word, forms="exact", max_new_tokens=MAX_NEW_TOKENS, batch_size=8
    )
    layers, norm = (0, -1, "final_norm"), load_model(folder).final_norm()
    found = featurizer.extract(images, layer=list(layers))
    assert found[0].all_captions == captions
    assert len(set(captions)) > 3, "the captions must depend on the image"
    kept = [i for i, caption in enumerate(captions) if word in caption.split()]
    assert found[0].indices.tolist() == kept
    for row, i in enumerate(kept):
        ids, states = written[i]
        position = first_occurrence(processor.tokenizer, ids, [word])
        # The last entry of the hidden states has the final norm behind it.
        for layer, index in zip(layers, (1, -1, -1), strict=True):
            wanted = states[index][N_VISUAL_TOKENS - 1 + position].numpy()
            Z = found[layer].Z[row]
            assert rel(norm(Z[None])[0] if layer == -1 else Z, wanted) < BAR


def test_forward_equals_the_parts_run_by_hand(folder, images):
    """All logits of a padded batch, in one pass without cache."""
    loaded = load_model(folder).loaded
    texts = ["a dog", "two red cats on the beach", "", "is this a bus"]
    inputs = prompts(loaded, images[:4], texts)
    with torch.inference_mode():
        logits = loaded.model(**inputs).logits
        last = loaded.model(**inputs, logits_to_keep=1).logits
    torch.testing.assert_close(last, logits[:, -1:])
    for i, text in enumerate(texts):
        ids = loaded.tokenizer.encode(text, add_special_tokens=False)
        wanted, _ = by_hand(loaded.model, loaded.processor, images[i], ids)
        assert rel(logits[i, -len(wanted) :].numpy(), wanted.numpy()) < BAR


def test_a_batch_equals_one_at_a_time(folder, images):
    """Different prompt lengths, padded on the left; cached generation; states and captions."""
    loaded = load_model(folder).loaded
    texts = ["the red cat " * n for n in range(len(images))]
    together = generate(loaded, images, texts)
    alone = [
        generate(loaded, [image], [text])[0] for image, text in zip(images, texts, strict=True)
    ]
    assert together == alone
    assert len({tuple(ids) for ids in alone}) > 3
    featurizer = LMMTokenFeaturizer(folder, position="last", prompt="what", layer=1)
    Z = featurizer.set_params(batch_size=8).transform(images)
    assert rel(Z, featurizer.set_params(batch_size=1).transform(images)) < BAR


def generate(loaded, images, texts, **options):
    inputs = prompts(loaded, images, texts)
    options = {"max_new_tokens": 6, "do_sample": False, **options}
    with torch.inference_mode():
        ids = loaded.model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
    end = loaded.tokenizer.eos_token_id
    rows = [row[: row.index(end)] if end in row else row for row in ids.tolist()]
    return rows


def test_generation_without_a_cache_and_with_beams(folder, images):
    loaded = load_model(folder).loaded
    texts = ["", "the", "a cat"]
    cached = generate(loaded, images[:3], texts)
    assert generate(loaded, images[:3], texts, use_cache=False) == cached
    beams = generate(loaded, images[:3], texts, num_beams=3)
    assert all(loaded.image_token_id not in row for row in beams)


def test_attention_implementations_agree(folder, images):
    from transformers import AutoModelForImageTextToText

    loaded = load_model(folder).loaded
    eager = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").eval()
    config = eager.config
    for part in (config, config.text_config, config.vision_config):
        assert part._attn_implementation == "eager"
    inputs = prompts(loaded, images[:2], ["", "the red cat"])
    with torch.inference_mode():
        logits, wanted = eager(**inputs).logits, loaded.model(**inputs).logits
        attentions = eager(**inputs, output_attentions=True).attentions
    real = inputs["attention_mask"].bool()
    assert rel(logits[real].numpy(), wanted[real].numpy()) < BAR
    assert len(attentions) == load_model(folder).n_layers


# The handle, saving and loading


def test_a_saved_model_is_the_same_model(folder, images, tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    loaded = load_model(folder).loaded
    loaded.save(tmp_path / "copy")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "copy").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "copy")
    inputs = prompts(loaded, images[:2], ["", "the red cat"])
    again = processor(
        images=[[image] for image in images[:2]],
        text=["<image>", "<image>the red cat"],
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    assert all(torch.equal(inputs[name], again[name]) for name in inputs)
    with torch.inference_mode():
        assert torch.equal(model(**again).logits, loaded.model(**inputs).logits)
    assert model.generation_config.eos_token_id == loaded.tokenizer.eos_token_id
    assert load_model(tmp_path / "copy").fingerprint == load_model(folder).fingerprint


def test_the_handle_knows_the_model(folder):
    handle = load_model(folder)
    assert (handle.n_layers, handle.width, handle.default_prompt) == (4, 32, "")
    weight, bias = handle.unembedding()
    assert bias is None
    assert weight.shape == (handle.config.text_config.vocab_size, 32)
    assert handle.final_norm()(np.ones((2, 32))).shape == (2, 32)
    assert handle.loaded.image_token_id == handle.config.image_token_id
    assert not any(p.requires_grad for p in handle.loaded.model.parameters())


def test_the_default_prompt_is_the_image_alone(folders, images):
    featurizer = LMMTokenFeaturizer(folders["llama"], position="mean")
    assert featurizer.extract(images[:1]).provenance["prompt"] == "<image>"
    asked = featurizer.set_params(prompt="what is this")
    assert asked.extract(images[:1]).provenance["prompt"] == "<image>what is this"


@pytest.mark.slow
def test_a_folder_loads_in_a_process_that_knows_nothing_of_it(folders, run_python):
    """No code in the folder, no import of the classes: the handle tells transformers."""
    code = (
        "from semi_nmf_concepts.lmm import load_model\n"
        f"handle = load_model({str(folders['opt'])!r})\n"
        "print(handle.n_layers, type(handle.loaded.model).__name__)"
    )
    assert run_python(code) == "4 DePALMForConditionalGeneration"
    assert not list(folders["opt"].glob("*.py"))
    assert "auto_map" not in json.loads((folders["opt"] / "config.json").read_text())


@pytest.fixture
def run_python():
    import subprocess
    import sys

    def run(code):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    return run


@pytest.mark.parametrize("text_model", TEXT_MODELS)
def test_tied_embeddings_are_stored_once(text_model, parts, images, tmp_path):
    from safetensors import safe_open

    language = build_tiny_language(tmp_path / "text", text_model=text_model, tied=True)
    made = make_depalm(parts["clip"], language, 2, **TINY_CONNECTOR)
    made.save(tmp_path / "model")
    with safe_open(tmp_path / "model" / "model.safetensors", framework="pt") as file:
        assert not [name for name in file.keys() if "lm_head" in name]  # noqa: SIM118
    loaded = load_model(tmp_path / "model").loaded
    model = loaded.model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    inputs = prompts(made, images[:2], ["", "a cat"])
    with torch.inference_mode():
        assert torch.equal(model(**inputs).logits, made.model(**inputs).logits)


def test_large_models_are_saved_in_shards(folders, tmp_path, monkeypatch):
    """Also over a model in one file, which must not be read in their place."""
    loaded = load_model(folders["gpt2"]).loaded
    target = shutil.copytree(folders["llama"], tmp_path / "model")
    monkeypatch.setattr(saving, "_SHARD", "50KB")
    loaded.save(target)
    assert len(list(target.glob("*.safetensors"))) > 1
    assert not (target / "model.safetensors").exists()
    assert load_model(target).config.text_config.model_type == "gpt2"
    monkeypatch.undo()
    again = load_model(target).loaded
    again.save(target)  # over the files that it was loaded from
    assert [path.name for path in target.glob("*.safetensors")] == ["model.safetensors"]
    assert not [path for path in target.iterdir() if path.name.startswith(".")]
    for a, b in zip(again.model.parameters(), loaded.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_saving_to_a_file_is_an_error(folders, tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(ValueError, match="folder='.*x' is a file"):
        load_model(folders["opt"]).loaded.save(tmp_path / "x")


def test_half_precision_is_kept(parts, images, tmp_path):
    made = make_depalm(parts["clip"], parts["text"], 2, **TINY_CONNECTOR, dtype="bfloat16")
    assert {p.dtype for p in made.model.parameters()} == {torch.bfloat16}
    made.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model", dtype="bfloat16").loaded
    assert loaded.dtype == torch.bfloat16
    inputs = prompts(made, images[:2], ["", "a cat"]).to("cpu", torch.bfloat16)
    with torch.inference_mode():
        assert torch.equal(loaded.model(**inputs).logits, made.model(**inputs).logits)


# Making one from parts


def test_made_models_are_reproducible(parts):
    def connector(seed):
        made = make_depalm(parts["clip"], parts["text"], 4, **TINY_CONNECTOR, seed=seed)
        return torch.cat([w.flatten() for w in made.model.connector.parameters()])

    state = torch.get_rng_state()
    assert torch.equal(connector(0), connector(0))
    assert not torch.equal(connector(0), connector(1))
    assert torch.equal(state, torch.get_rng_state())


def test_visual_tokens_begin_as_large_as_words(parts, images):
    made = make_depalm(parts["clip"], parts["text"], 4, **TINY_CONNECTOR)
    inputs = prompts(made, images, [""] * len(images))
    with torch.inference_mode():
        visual = made.model.connector(made.model.encode_images(inputs["pixel_values"]))
    assert visual.shape == (8, 4, 32)
    words = made.model.get_input_embeddings().weight
    assert 0.5 < float(visual.std() / words.std()) < 2


@pytest.mark.parametrize("vision", ["clip", "siglip", "vision_only", "llava"])
def test_image_encoders(vision, parts, images, tmp_path):
    """The image encoder of whatever is named, with its weights, and no text encoder."""
    from transformers import AutoModel, AutoModelForImageTextToText, CLIPImageProcessorPil

    if vision == "llava":
        folder = build_tiny_llava(tmp_path / "llava")
        tower = AutoModelForImageTextToText.from_pretrained(folder).model.vision_tower
    else:
        folder = parts["clip" if vision == "vision_only" else vision]
        tower = AutoModel.from_pretrained(folder).vision_model
        if vision == "vision_only":
            folder = tmp_path / "tower"
            tower.save_pretrained(folder)
            CLIPImageProcessorPil.from_pretrained(parts["clip"]).save_pretrained(folder)
    made = make_depalm(folder, parts["text"], 2, **TINY_CONNECTOR)
    inputs = prompts(made, images[:1], [""])
    with torch.inference_mode():
        wanted = tower.eval()(inputs["pixel_values"]).last_hidden_state
        assert torch.equal(made.model.encode_images(inputs["pixel_values"]), wanted)
    assert not [n for n, _ in made.model.vision_tower.named_modules() if "text" in n]


def test_the_language_model_stays_as_it_was(parts, tmp_path):
    """Its logits and its vocabulary; the placeholder gets an id that has neither."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = make_depalm(parts["clip"], parts["text"], 2, **TINY_CONNECTOR)
    language = AutoModelForCausalLM.from_pretrained(parts["text"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(parts["text"])
    assert made.image_token_id == len(tokenizer) == language.config.vocab_size
    made.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model").loaded
    assert loaded.processor.tokenizer.convert_tokens_to_ids("<image>") == made.image_token_id
    assert loaded.model.generation_config.suppress_tokens is None
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        assert torch.equal(loaded.model(input_ids=ids).logits, language(input_ids=ids).logits)
        assert loaded.model.get_output_embeddings().weight.shape == language.lm_head.weight.shape
    assert "<image>" not in loaded.tokenizer.decode(
        loaded.tokenizer("<image>a cat")["input_ids"], skip_special_tokens=True
    )


@pytest.mark.parametrize("name", BUILDERS)
def test_tokenizers_of_every_kind(name, parts, images, tmp_path):
    """Begin of text, visual tokens, caption; the caption as it was, and found in it what is."""
    tokenizer = beginning(kind(name).tokenizer)
    language = build_tiny_language(tmp_path / "text", text_model="gpt2", tokenizer=tokenizer)
    made = make_depalm(parts["clip"], language, 3, **TINY_CONNECTOR)
    made.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model").loaded
    ids = encode_prompts(loaded, images[:1], ["<image>"])["input_ids"][0].tolist()
    assert ids == [tokenizer.bos_token_id, *[loaded.image_token_id] * 3]
    caption = "a cat and two dogs"
    samples = Samples(loaded, images, [[caption]] * 8, "<image>", 2, seed=0)
    ids, is_real = samples._captions([0], np.random.default_rng(0))
    assert is_real.all()
    assert ids[0, -1] == tokenizer.eos_token_id
    assert loaded.tokenizer.decode(ids[0, :-1]).strip() == caption
    featurizer = LMMTokenFeaturizer(tmp_path / "model", token="dog", position="forced")
    found = featurizer.extract(images[:1], [caption])
    assert (found.all_captions, found.prefixes) == ([caption], ["a cat and two"])
    before = loaded.tokenizer.decode(ids[0, : found.positions[0]])
    assert before.strip() == "a cat and two"


def beginning(tokenizer):
    """A copy of `tokenizer` that writes its begin-of-text token, as those of OPT and Llama do."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    bos = tokenizer.bos_token, tokenizer.bos_token_id
    backend.post_processor = processors.TemplateProcessing(f"{bos[0]} $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def test_tokenizers_that_end_every_text_are_refused(parts, tmp_path):
    from tokenizers import processors

    tokenizer = text_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "$A [EOS]", special_tokens=[("[EOS]", tokenizer.eos_token_id)]
    )
    language = build_tiny_language(tmp_path / "text", tokenizer=tokenizer)
    with pytest.raises(ValueError, match="tokenizer of the language ends every text by 2"):
        make_depalm(parts["clip"], language, **TINY_CONNECTOR)


def test_a_placeholder_that_has_a_logit_is_never_written(folders, images):
    """Where the tokenizer knew an image token, the language model has a row for it."""
    loaded = load_model(folders["llama"]).loaded
    head = loaded.model.get_output_embeddings().weight
    before = head.clone()
    try:
        # The placeholder becomes the likeliest token of all.
        with torch.inference_mode():
            inputs = prompts(loaded, images[:2], ["", ""])
            states = loaded.model(**inputs, output_hidden_states=True).hidden_states[-1][:, -1]
            head[loaded.image_token_id] = 50 * states.mean(dim=0)
            logits = loaded.model(**inputs).logits[:, -1]
        assert (logits.argmax(dim=1) == loaded.image_token_id).all()
        rows = generate(loaded, images[:2], ["", ""], use_cache=False)
        assert rows and all(loaded.image_token_id not in row for row in rows)
    finally:
        with torch.inference_mode():
            head.copy_(before)


def test_images_and_placeholders_must_agree(folders, images):
    loaded = load_model(folders["llama"]).loaded
    inputs = prompts(loaded, images[:2], ["", ""])
    with pytest.raises(ValueError, match="6 places for visual tokens .* 1 images need 3"):
        loaded.model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"][:1])
    with pytest.raises(ValueError, match="6 places for visual tokens .* 0 images"):
        loaded.model(input_ids=inputs["input_ids"])
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        loaded.model()


def test_wrong_parts_are_named(parts, tmp_path):
    from transformers import BertConfig, T5Config

    T5Config(d_model=8, num_layers=1, num_heads=1).save_pretrained(tmp_path / "t5")
    BertConfig(hidden_size=8, num_hidden_layers=1).save_pretrained(tmp_path / "bert")
    (tmp_path / "empty").mkdir()
    llava = build_tiny_llava(tmp_path / "llava")
    good = {"vision": parts["clip"], "language": parts["text"]}
    for wrong, message in (
        ({"vision": tmp_path / "nowhere"}, "vision='.*nowhere': there is no such folder"),
        ({"language": tmp_path / "empty"}, "language='.*empty' is a folder without a config.json"),
        ({"vision": parts["text"]}, "vision='.*' is of type 'llama', which is no image encoder"),
        ({"vision": tmp_path / "bert"}, "vision='.*' is of type 'bert', which is no image encoder"),
        ({"language": tmp_path / "t5"}, "language='.*' is of type 't5', an encoder-decoder"),
        ({"language": tmp_path / "bert"}, "language='.*type 'bert', an encoder, which reads"),
        ({"language": parts["clip"]}, "language='.*' is of type 'clip', a model with image input"),
        ({"language": llava}, "language='.*' is of type 'llava', a model with image input"),
        ({"connector_heads": 3}, "connector_width=16 must be a multiple of connector_heads=3"),
        ({"n_visual_tokens": 0}, "'n_visual_tokens' parameter of make_depalm must be"),
        ({"connector_dropout": 1.0}, "'connector_dropout' parameter of make_depalm must be"),
    ):
        with pytest.raises(ValueError, match=message):
            make_depalm(**{**good, **TINY_CONNECTOR, **wrong})
    with pytest.raises(TypeError, match="vision must be 'bundled', a folder"):
        make_depalm(vision=3, language=parts["text"])
    with pytest.raises(OSError, match="language='org/model' is not .* on this machine"):
        make_depalm(parts["clip"], "org/model")


def test_incomplete_parts_are_named(parts, tmp_path):
    language = shutil.copytree(parts["text"], tmp_path / "text")
    (language / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="language='.*' cannot be loaded, because of its tokeniz"):
        make_depalm(parts["clip"], language, **TINY_CONNECTOR)
    vision = shutil.copytree(parts["clip"], tmp_path / "clip")
    for path in vision.glob("*processor*"):
        path.unlink()
    with pytest.raises(ValueError, match="vision='.*' cannot be loaded, because of its image proc"):
        make_depalm(vision, parts["text"], **TINY_CONNECTOR)
    vision = shutil.copytree(parts["clip"], tmp_path / "damaged")
    (vision / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="vision='.*' cannot be loaded: .* is damaged"):
        make_depalm(vision, parts["text"], **TINY_CONNECTOR)


def test_a_made_model_is_a_loaded_model(parts):
    made = make_depalm(parts["siglip"], parts["text"], **TINY_CONNECTOR)
    assert isinstance(made, LoadedModel)
    assert made.processor.n_visual_tokens == made.model.config.n_visual_tokens == 10
    assert made.tokenizer.padding_side == "left"
    assert made.tokenizer.pad_token is not None
    assert not made.model.training
