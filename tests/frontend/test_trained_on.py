"""What encoders were trained on: by option, by the file beside the model, by name; which test sets contain it."""

import json

import pytest

from cran_bench.errors import BadInput
from cran_bench.frontend import features
from cran_bench.frontend.features import MANIFEST, declare
from cran_bench.frontend.trained_on import CONTAINED, containing, declared, described, exposures, noted
from cran_bench.specs import parse_spec

SNLI = ["flickr30k", "snli", "coco-train2014"]


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("pixels[dim=16]", []),
        ("grid", []),
        ("boxes", []),
        ("none", []),
        ("onnx:models/mobilenet_v2_imagenet.onnx[tensor=penultimate]", ["imagenet"]),
        ("nanodet:net.onnx", ["coco"]),
        ("yolox:net.onnx", ["coco"]),
        ("torchvision:vgg19", ["imagenet"]),
        ("torchvision:fasterrcnn_resnet50_fpn_v2", ["imagenet", "coco"]),
        ("torchvision:vgg19[weights=mine.pth]", None),
        ("torchvision:vgg19[weights=dir/vgg19_imagenet.pth]", ["imagenet"]),
        ("paper", ["imagenet", "coco"]),
        ("onnx:text/all_minilm_l6_v2_int8.onnx[vocab=text/vocab.txt]", SNLI),
        ("transformers:all-MiniLM-L6-v2", SNLI),
        ("transformers:/models/paraphrase-mpnet-base-v2", SNLI),
        ("onnx:net.onnx", None),
        ("npy:coco_features.npy", None),
        ("data", None),
        ("data[trained_on=visual genome]", ["visual-genome"]),
        ("npy:a.npy[trained_on=MS-COCO|Flickr 30K|mine]", ["coco", "flickr30k", "mine"]),
        ("yolox:net.onnx[trained_on=none]", []),
    ],
)
def test_what_a_spec_declares(spec, names):
    assert declared(spec) == names


def test_the_option_comes_before_the_file_before_what_was_noted_before_the_name(tmp_path):
    model = tmp_path / "imagenet.onnx"
    assert declared(f"onnx:{model}") == ["imagenet"]
    assert declared(f"onnx:{model}", ["mine"]) == ["mine"]
    model.with_suffix(".json").write_text(json.dumps({"trained_on": ["coco"]}))
    assert declared(f"onnx:{model}", ["mine"]) == ["coco"]
    assert declared(f"onnx:{model}[trained_on=flickr8k]", ["mine"]) == ["flickr8k"]


def test_a_folder_is_known_by_what_its_files_call_the_model(tmp_path):
    folder = tmp_path / "minilm"
    folder.mkdir()
    assert declared(f"transformers:{folder}") is None
    config, card = folder / "config.json", folder / "README.md"
    config.write_text('{"_name_or_path": "nreimers/MiniLM-L6-H384-uncased"}')
    card.write_text("---\nlicense: apache-2.0\n---\n\n# mine\nIt is not like all-MiniLM-L6-v2.\n\n# all-MiniLM-L6-v2\n")
    assert declared(f"transformers:{folder}") is None
    card.write_text("---\nlicense: apache-2.0\n---\n\n\n# all-MiniLM-L6-v2\nThis is a model\n")
    assert declared(f"transformers:{folder}[pooling=mean]") == SNLI and declared(f"onnx:{folder}") is None
    card.unlink()
    config.write_text('{\n  "_name_or_path": "sentence-transformers/paraphrase-MiniLM-L3-v2",\n}')
    assert declared(f"transformers:{folder}") == SNLI


@pytest.mark.parametrize("wrong", ["coco", [], [""], [1], {"a": 1}, None])
def test_a_declaration_that_is_no_list_of_names(tmp_path, wrong):
    (tmp_path / "m.json").write_text(json.dumps({"trained_on": wrong}))
    with pytest.raises(BadInput, match=r"m\.json: trained_on takes names of data, such as imagenet"):
        declared(f"onnx:{tmp_path / 'm.onnx'}")


def test_an_option_without_a_name():
    with pytest.raises(BadInput, match="trained_on takes names of data"):
        declared("onnx:m.onnx[trained_on=coco|]")


TEXT = {"backbone": ["imagenet"], "regions": ["coco"], "text": SNLI}


@pytest.mark.parametrize("dataset", ["flickr8k", "flickr8k[limit=200]", "flickr30k", "precomp[folder=f30k_precomp]"])
def test_a_sentence_encoder_that_saw_the_captions(dataset):
    (sentence,) = exposures(TEXT, ["backbone", "regions", "text"], dataset)
    what = "captions of Flickr30K and SNLI, among them captions of this test set"
    assert sentence == f"the text encoder was trained on {what}"
    assert exposures(TEXT, ["backbone", "regions"], dataset) == []


def test_a_detector_that_saw_the_images():
    for dataset in ("mscoco", "precomp[folder=coco_precomp]"):
        (sentence,) = exposures(TEXT, ["regions", "text"], dataset)
        assert sentence == "the region detector was trained on images of MS-COCO, among them images of this test set"
    _, text = exposures(TEXT, ["regions", "text"], "mscoco[split=random]")
    assert text.startswith("the text encoder was trained on captions of MS-COCO (train2014), among them")


def test_nothing_is_said_of_other_data_or_of_older_records():
    assert exposures(TEXT, TEXT, "scenes") == exposures(TEXT, TEXT, "folder[name=mine]") == []
    assert exposures({}, [], "flickr8k") == exposures({"text": None}, ["text"], "flickr8k") == []
    assert exposures({"backbone": ["laion"]}, ["backbone"], "flickr8k") == []


def test_the_table_of_what_contains_a_test_set():
    assert containing("flickr8k") == ["flickr30k", "flickr8k", "snli"]
    assert containing("scenes") == containing("flickr8k, tested on folder") == []
    assert containing("scenes, tested on flickr8k") == containing("flickr8k")
    for data, tests in CONTAINED.items():
        for test in tests:
            assert data in containing(str(parse_spec(test)))
            assert exposures({"text": [data]}, ["text"], test)


def test_a_manifest_keeps_what_was_declared(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "read_manifest", lambda folder: read())
    old = {"images_with": "onnx:net.onnx", "regions_with": "yolox:net.onnx", "seconds": 1}
    assert noted(old) == {"backbone": None, "regions": ["coco"]}

    def read():
        return json.loads((tmp_path / MANIFEST).read_text())

    (tmp_path / MANIFEST).write_text(json.dumps(old))
    for nothing_new in ({}, {"backbone": "onnx:dir/net.onnx", "regions": "yolox:net.onnx"}):  # may be read-only
        declare(tmp_path, nothing_new)
        assert read() == old
    declare(tmp_path, {"backbone": "onnx:net.onnx[trained_on=flickr30k]"})
    assert read() == {**old, "trained_on": {"backbone": ["flickr30k"], "regions": ["coco"]}}
    declare(tmp_path, {"backbone": "onnx:net.onnx", "regions": "yolox:net.onnx"})
    assert read()["trained_on"] == {"backbone": ["flickr30k"], "regions": ["coco"]}
    declare(tmp_path, {"regions": "yolox:net.onnx[trained_on=none]"})
    assert noted(read()) == {"backbone": ["flickr30k"], "regions": []}


def test_what_is_declared_in_a_line():
    said = described({"backbone": ["imagenet", "coco"], "regions": [], "text": None})
    assert said == "backbone trained on imagenet and coco, regions trained on nothing, text not declared"
