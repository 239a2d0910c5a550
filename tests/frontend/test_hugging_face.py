"""``transformers:`` and ``clip:`` on tiny models with random weights: the tox environment `encoders`."""

import json
import re
import shlex
import shutil
import socket
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import cran_bench
from cran_bench.errors import BadInput
from cran_bench.frontend.catalogue import open_backbone, open_text_encoder
from cran_bench.frontend.extraction import extract
from cran_bench.frontend.front_end import FrontEnd
from cran_bench.frontend.interfaces import TextEncoder
from cran_bench.registry import DATASETS

DOCS = Path(__file__).parents[2] / "docs"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NOUNS = ["dog", "beach", "star", "square"]
WORDS = [*SPECIAL, *NOUNS, "a", "run", "##s", "on", "the", "red", "is", "left", "of", "blue", "small"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXTS = ["A dog runs on the beach", "a red star", "the small blue square is left of a red star", "dog", "Zebra runs"]
LIMIT = 16


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("transformers", reason="needs the extra encoders")


def write(folder, **files):
    """JSON files below a folder, by name without suffix; `__` for a slash."""
    for name, content in files.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def bert(library, tmp_path_factory):
    """A folder as of a sentence encoder, without the files of sentence-transformers."""
    folder = tmp_path_factory.mktemp("models") / "bert"
    torch.manual_seed(0)
    config = library.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=LIMIT,
        initializer_range=0.3,
    )
    library.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return write(folder, tokenizer_config={"tokenizer_class": "BertTokenizer", "do_lower_case": True})


@pytest.fixture(scope="module")
def clip(library, tmp_path_factory):
    """A folder as of a CLIP, whose tokens are letters."""
    folder = tmp_path_factory.mktemp("models") / "clip"
    torch.manual_seed(0)
    tokens = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1}
    config = library.CLIPConfig(
        text_config={**size, **ends, "vocab_size": len(tokens), "max_position_embeddings": 40},
        vision_config={**size, "image_size": 32, "patch_size": 8},
        projection_dim=24,
        initializer_factor=5.0,
    )
    library.CLIPModel(config).save_pretrained(folder)
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return write(
        folder,
        vocab={token: number for number, token in enumerate(tokens)},
        tokenizer_config={"tokenizer_class": "CLIPTokenizer", "model_max_length": 40},
        preprocessor_config={
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": 32},
            "crop_size": {"height": 32, "width": 32},
        },
    )


def copy(folder, tmp_path, **files):
    return write(Path(shutil.copytree(folder, tmp_path / "copy")), **files)


def of_sentence_transformers(*kinds):
    return [{"idx": k, "type": f"sentence_transformers.models.{kind}"} for k, kind in enumerate(kinds)]


@torch.inference_mode()
def states(library, folder, text, limit=LIMIT):
    """The last layer (tokens, dim) of one text, unpadded."""
    tokens = library.AutoTokenizer.from_pretrained(folder)(text, truncation=True, max_length=limit, return_tensors="pt")
    return library.AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state[0].numpy()


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def use(opened):
    """Embed something, which reads the model."""
    if hasattr(opened, "prepare"):
        return opened.embed(opened.prepare(Image.new("RGB", (8, 8)))[None])
    return opened.embed(["a"])


def pictures():
    random = np.random.default_rng(0)
    sizes = [(48, 40), (32, 32), (100, 33), (3, 50), (1, 1)]
    return [Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)) for width, height in sizes]


def test_sentences_have_the_mean_of_the_last_layer_at_unit_length(library, bert):
    encoder: TextEncoder = open_text_encoder(f"transformers:{bert}")
    found = encoder.embed(TEXTS)
    assert found.shape == (len(TEXTS), 32) and found.dtype == np.float32 and encoder.dim == 32
    expected = unit(np.stack([states(library, bert, text).mean(axis=0) for text in TEXTS]))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(np.diff(expected, axis=0)).max() > 0.1, "the texts differ"
    assert encoder.embed([]).shape == (0, 32)


def test_a_text_does_not_depend_on_the_others(bert, clip):
    texts = [" ".join(TEXTS[k % 5].split()[: 1 + k % 7]) for k in range(70)]
    for spec in (f"transformers:{bert}", f"clip:{clip}"):
        encoder = open_text_encoder(spec)
        together = encoder.embed(texts)
        alone = np.concatenate([encoder.embed([text]) for text in texts[:10]])
        np.testing.assert_allclose(together[:10], alone, atol=1e-5)
        np.testing.assert_allclose(encoder.embed(texts[::-1])[::-1], together, atol=1e-5)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"1_Pooling__config": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}}, ("cls", True, 16)),
        ({"1_Pooling__config": {"pooling_mode": "cls", "include_prompt": True}}, ("cls", True, 16)),
        ({"1_Pooling__config": {"pooling_mode_mean_tokens": True, "include_prompt": True}}, ("mean", True, 16)),
        ({"modules": of_sentence_transformers("Transformer", "Pooling")}, ("mean", False, 16)),
        ({"modules": of_sentence_transformers("Transformer", "Pooling", "Normalize")}, ("mean", True, 16)),
        ({"sentence_bert_config": {"max_seq_length": 5, "do_lower_case": True}}, ("mean", True, 5)),
        (
            {"config_sentence_transformers": {"prompts": {"query": "q: "}, "default_prompt_name": None}},
            ("mean", True, 16),
        ),
    ],
    ids=lambda value: "-".join(map(str, value)),
)
def test_the_files_of_sentence_transformers_are_followed(library, bert, tmp_path, files, expected):
    pooling, is_unit, limit = expected
    folder = copy(bert, tmp_path, **files)
    layers = [states(library, folder, text, limit) for text in TEXTS]
    rows = np.stack([layer[0] if pooling == "cls" else layer.mean(axis=0) for layer in layers])
    np.testing.assert_allclose(
        open_text_encoder(f"transformers:{folder}").embed(TEXTS), unit(rows) if is_unit else rows, atol=1e-5
    )


def test_texts_in_lower_case_and_a_pooling_by_hand(library, bert, tmp_path):
    folder = copy(bert, tmp_path, tokenizer_config={"tokenizer_class": "BertTokenizer", "do_lower_case": False})
    upper, lower = open_text_encoder(f"transformers:{folder}").embed(["DOG", "dog"])
    assert np.abs(upper - lower).max() > 0.1
    write(folder, sentence_bert_config={"do_lower_case": True})
    encoder = open_text_encoder(f"transformers:{folder}[pooling=cls]")
    upper, lower = encoder.embed([" DOG ", "dog"])
    np.testing.assert_array_equal(upper, lower)
    np.testing.assert_allclose(lower, unit(states(library, folder, "dog")[0]), atol=1e-5)


def test_long_texts_are_cut_and_counted(bert, clip, capsys):
    for spec, limit, word in ((f"transformers:{bert}", 16, "dog"), (f"clip:{clip}", 40, "a")):
        encoder = open_text_encoder(spec)
        capsys.readouterr()
        whole, over = " ".join([word] * (limit - 2)), " ".join([word] * limit)
        encoder.embed([whole])
        assert "cut" not in capsys.readouterr().err
        found = encoder.embed([whole, over, over + " star", word])
        assert f"2 of 4 texts are cut after {limit} tokens" in capsys.readouterr().err
        np.testing.assert_allclose(found[1:3], found[[0, 0]], atol=1e-5)
        assert np.abs(found[3] - found[0]).max() > 1e-3


def test_clip_embeds_images_and_texts_as_its_library(library, clip):
    model = library.AutoModel.from_pretrained(clip).eval()
    processor = library.AutoImageProcessor.from_pretrained(clip, backend="pil")
    tokenizer = library.AutoTokenizer.from_pretrained(clip)
    with torch.inference_mode():
        expected = model(
            **processor(images=pictures(), return_tensors="pt"),
            **tokenizer([text.lower() for text in TEXTS], padding=True, return_tensors="pt"),
        )
    images, texts = open_backbone(f"clip:{clip}"), open_text_encoder(f"clip:{clip}")
    assert images.dim == texts.dim == 24
    batch = np.stack([images.prepare(picture) for picture in pictures()])
    assert batch.shape == (5, 3, 32, 32)
    found = images.embed(batch)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(texts.embed(TEXTS), expected.text_embeds.numpy(), atol=1e-5)
    assert min(np.abs(a - b).max() for a, b in pairwise(found)) > 1e-3
    np.testing.assert_allclose(images.embed(batch[1:2]), found[1:2], atol=1e-5)
    np.testing.assert_allclose(images.embed(np.repeat(batch, 9, axis=0))[::9], found, atol=1e-5)
    assert images.embed(batch[:0]).shape == (0, 24)


def test_siglip_pads_texts_to_one_length(library, bert, command, tmp_path):
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = library.SiglipConfig(
        text_config={**size, "vocab_size": len(WORDS), "max_position_embeddings": LIMIT, "projection_size": 32},
        vision_config={**size, "image_size": 16, "patch_size": 8},
    )
    model = library.SiglipModel(config).eval()
    folder = Path(shutil.copytree(bert, tmp_path / "siglip"))
    model.save_pretrained(folder)
    inputs = {"tokenizer_class": "BertTokenizer", "model_input_names": ["input_ids"]}
    write(folder, tokenizer_config=inputs, preprocessor_config={"image_processor_type": "SiglipImageProcessor"})
    tokens = library.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        given = tokens(TEXTS, padding="max_length", max_length=LIMIT, return_tensors="pt")
        expected = model.get_text_features(**given).pooler_output.numpy()
    np.testing.assert_allclose(open_text_encoder(f"clip:{folder}").embed(TEXTS), unit(expected), atol=1e-5)
    with pytest.raises(BadInput, match=r"the model in \S+ cannot be used .*784.*: choose another"):
        use(open_backbone(f"clip:{folder}"))

    config.text_config.projection_size = 20
    library.SiglipModel(config).save_pretrained(folder)
    with pytest.raises(BadInput, match=r"projections of .* differ, with 32 dimensions for images and 20 for texts"):
        use(open_text_encoder(f"clip:{folder}"))
    cache = tmp_path / "cache"
    said = command("prepare", "scenes[train=2,val=2,test=2]", "--cache", cache, "--text-encoder", f"clip:{folder}")
    assert said.code == 2 and "with 32 dimensions for images and 20 for texts" in said.sentence
    assert not list(cache.rglob("*.npy"))


def test_identity_is_that_of_the_files_that_matter(bert, clip, tmp_path):
    own = open_text_encoder(f"transformers:{bert}").identity()
    folder = copy(bert, tmp_path, README={})
    assert open_text_encoder(f"transformers:{folder}").identity() == own
    assert json.loads(json.dumps(own)) == own and own["pooling"] == "mean"
    assert open_text_encoder(f"transformers:{folder}[pooling=cls]").identity() != own

    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][7] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    changed = open_text_encoder(f"transformers:{folder}").identity()
    assert {key for key in own if own[key] != changed[key]} == {"weights"}
    write(folder, special_tokens_map={"unk_token": "[UNK]"})
    assert open_text_encoder(f"transformers:{folder}").identity()["tokenizer"] != own["tokenizer"]

    images = open_backbone(f"clip:{clip}").identity()
    assert images["weights"] == open_text_encoder(f"clip:{clip}").identity()["weights"] and len(images["weights"]) == 1
    shutil.rmtree(folder)
    folder = copy(clip, tmp_path)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    changed = open_backbone(f"clip:{write(folder, preprocessor_config={**settings, 'do_normalize': False})}").identity()
    assert {key for key in images if images[key] != changed[key]} == {"image processor"}


def test_a_model_is_not_read_before_something_is_embedded(bert, clip, monkeypatch):
    opened = [open_backbone(f"clip:{clip}"), *(open_text_encoder(s) for s in (f"clip:{clip}", f"transformers:{bert}"))]
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert all(one.identity()["weights"] for one in opened)
    for one in opened:
        with pytest.raises(BadInput, match="need the extra encoders"):
            use(one)


def test_weights_in_several_files(library, bert, tmp_path):
    folder = copy(bert, tmp_path)
    (folder / "model.safetensors").unlink()
    library.AutoModel.from_pretrained(bert).save_pretrained(folder, max_shard_size="20KB")
    encoder = open_text_encoder(f"transformers:{folder}")
    assert len(encoder.identity()["weights"]) > 2
    np.testing.assert_array_equal(encoder.embed(TEXTS), open_text_encoder(f"transformers:{bert}").embed(TEXTS))


def test_features_of_images_and_regions(clip, tmp_path):
    scenes = DATASETS.configure("scenes[train=2,val=2,test=2]").build().load(Path())
    found = extract(FrontEnd.open(f"clip:{clip}", "grid", scenes).plan(scenes, tmp_path))
    backbone = open_backbone(f"clip:{clip}")
    for row in range(2):
        expected = backbone.embed(backbone.prepare(scenes.images.read(row))[None])[0]
        np.testing.assert_allclose(found.globals[row], expected, atol=1e-5)
    assert found.regions.shape[1:] == (5, 24)
    np.testing.assert_allclose(np.linalg.norm(found.regions, axis=2), 1, atol=1e-5)


def remove(*names):
    def change(folder):
        for name in names:
            (folder / name).unlink()

    return change


def add(**files):
    return lambda folder: write(folder, **files)


def pickled(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def reshaped(name, rows=None):
    """A weight without its last rows, or none of it."""

    def change(folder):
        weights = load_file(folder / "model.safetensors")
        weight = weights.pop(name)
        if rows:
            weights[name] = weight[:rows].contiguous()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def longer_vocabulary(folder):
    (folder / "vocab.txt").write_text("\n".join([*WORDS, "zebra", "yak"]) + "\n")


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("config.json"), r"has no configuration \(config.json\): give a folder with all files of a model"),
        (remove("model.safetensors"), r"has no weights \(model.safetensors\): give a folder"),
        (pickled, r"has no weights .*; pickles, which could execute code, are not read"),
        (remove("vocab.txt"), r"has no tokenizer \(tokenizer.json\): give a folder"),
        (truncated, "cannot be used"),
        (add(config=[]), "cannot be used"),
        (add(config={"model_type": "nonesuch"}), "cannot be used .*nonesuch"),
        (add(modules={"a": 1}), "cannot be used"),
        (reshaped("encoder.layer.1.output.dense.weight"), "do not fit its config.json .*lack encoder.layer.1.output"),
        (
            reshaped("embeddings.word_embeddings.weight", rows=9),
            r"embeddings.word_embeddings.weight has shape \(9, 32\), not \(20, 32\)",
        ),
        (longer_vocabulary, "the tokenizer in .* is not the model's, as it has a token number 21 .* takes 20 tokens"),
        (add(**{"1_Pooling__config": {"pooling_mode_max_tokens": True}}), "asks for 'pooling_mode_max_tokens'"),
        (add(**{"1_Pooling__config": {"pooling_mode": ["cls", "mean"]}}), "asks for .*cls.*mean.* not supported"),
        (add(modules=of_sentence_transformers("Transformer", "Pooling", "Dense")), "asks for 'Dense', .* onnx:FILE"),
        (add(config_sentence_transformers={"default_prompt_name": "query"}), "asks for 'query'"),
    ],
)
def test_bad_sentence_encoders(bert, tmp_path, change, message):
    folder = copy(bert, tmp_path)
    change(folder)
    with pytest.raises(BadInput, match=message) as caught:
        use(open_text_encoder(f"transformers:{folder}"))
    assert "\n" not in str(caught.value)


def code_of_its_own(folder):
    config = json.loads((folder / "config.json").read_text())
    write(
        folder, config={**config, "model_type": "own", "auto_map": {"AutoModel": "own.Own", "AutoConfig": "own.Config"}}
    )
    (folder / "own.py").write_text("raise SystemExit('this ran')")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("preprocessor_config.json"), r"has no image processor \(preprocessor_config.json\): give a folder"),
        (add(preprocessor_config={"image_processor_type": "Nonesuch"}), "cannot be used"),
        (
            reshaped("visual_projection.weight", rows=16),
            r"visual_projection.weight has shape \(16, 32\), not \(24, 32\)",
        ),
        (reshaped("text_projection.weight"), "they lack text_projection.weight"),
        (pickled, r"has no weights .*pickles"),
        (code_of_its_own, "cannot be used"),
    ],
)
def test_bad_clips(clip, tmp_path, change, message):
    folder = copy(clip, tmp_path)
    change(folder)
    with pytest.raises(BadInput, match=message):
        use(open_backbone(f"clip:{folder}"))


def test_each_kind_of_model_has_its_name(bert, clip, tmp_path):
    with pytest.raises(BadInput, match=f"holds a BertModel: read it as --text-encoder transformers:{bert}"):
        use(open_text_encoder(f"clip:{bert}"))
    with pytest.raises(BadInput, match=f"holds a CLIPModel: read it as clip:{clip}"):
        use(open_text_encoder(f"transformers:{clip}"))


def test_nothing_is_downloaded():
    for opened, spec in (
        (open_text_encoder, "transformers:sentence-transformers/all-MiniLM-L6-v2"),
        (open_text_encoder, "clip:openai/clip-vit-base-patch32"),
        (open_backbone, "clip:openai/clip-vit-base-patch32"),
    ):
        with pytest.raises(BadInput, match=r"no folder \S+/\S+, and nothing is downloaded: .* hf download NAME"):
            opened(spec)
    with pytest.raises(BadInput, match="'clip' needs a folder; write clip:FOLDER"):
        open_backbone("clip")


def test_the_extra_is_named_where_it_is_missing(tmp_path, monkeypatch):
    for name in ("config.json", "model.safetensors", "vocab.txt"):
        (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BadInput, match=r"models from folders need the extra encoders: .*'cran-bench\[encoders\]'"):
        use(open_text_encoder(f"transformers:{tmp_path}"))


def test_the_commands_of_the_docs(bert, clip, command, tmp_path, monkeypatch):
    monkeypatch.setenv("CRAN_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CRAN_BENCH_RESULTS", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip").symlink_to(clip)
    (tmp_path / "all-MiniLM-L6-v2").symlink_to(bert)
    script = re.search(r'title="draw.py"\n(.*?)```', (DOCS / "own_images.md").read_text(), re.DOTALL)[1]
    exec(compile(script, "draw.py", "exec"), {})
    page = (DOCS / "encoders.md").read_text().partition("## From a CLIP folder")[2]
    part = page.partition("\nWith the extra `onnx`")[0].replace("\\\n", " ")
    lines = re.findall(r"^cran-bench (.*)$", part, re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        said = command(*shlex.split(line))
        assert said.code == 0, said.err
    made = cran_bench.read_records(tmp_path / "results")
    of_clip = sorted(made["method"][made["text_encoder"] == "clip:clip"])
    assert of_clip == ["aligned:tuned", "cca:tuned[text=encoder]", "linear-head:tuned"]
    assert made["text_encoder"].tolist().count("transformers:all-MiniLM-L6-v2") == 1
