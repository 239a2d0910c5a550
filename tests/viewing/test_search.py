"""`cran-bench search`: finds what the method scores best, with sentences and with pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cran_bench.errors import BadInput
from cran_bench.registry import DATASETS, METHODS
from cran_bench.running.preparation import find_prepared
from cran_bench.running.runner import Runner
from cran_bench.similarity import COSINE, Pairwise
from cran_bench.viewing.search import Hit, describe, draw, images_for, texts_for

CPU = torch.device("cpu")


@pytest.fixture
def fitted(quick_scenes):
    """CCA on a hundred scenes, the test split and all its scores."""
    prepared = find_prepared(DATASETS.configure(quick_scenes.spec), quick_scenes.data, quick_scenes.cache)
    method = Runner(prepared, Path(), quick_scenes.cache, CPU).fitted(METHODS.configure("cca"), 0, "captions")
    test = prepared.split("test", "captions", CPU)
    return prepared, test, method.similarity.scores(method.embed_images(test), method.embed_texts(test))


def found(said):
    """Image and text of every line of hits."""
    lines = [line.split(maxsplit=3) for line in said.out.splitlines()[2:] if line.strip()]
    assert [int(line[0]) for line in lines] == list(range(1, len(lines) + 1))
    scores = [float(line[1]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    return [(line[2], line[3]) for line in lines]


def test_a_sentence_finds_the_images_that_score_best(command, quick_scenes, fitted, tmp_path):
    _, test, scores = fitted
    caption = test.texts[7]
    said = command("search", caption, "-n", "20", *quick_scenes.arguments, "-o", str(tmp_path / "found.png"))
    assert said.code == 0, said.err
    best = scores[:, 7].topk(20).indices.tolist()
    assert [image for image, _ in found(said)] == [test.image_ids[place] for place in best]
    owner, words = test.image_of.tolist(), test.tfidf()
    shared = (words @ words[[7]].T).toarray()[:, 0]
    for image, text in found(said):
        own = [row for row, position in enumerate(owner) if test.image_ids[position] == image]
        assert text == test.texts[max(own, key=lambda row: shared[row])]
    assert (test.image_ids[owner[7]], caption) in found(said)
    assert caption in said.out.splitlines()[0]
    with Image.open(tmp_path / "found.png") as drawn:
        assert drawn.format == "PNG" and drawn.width > 800


def test_a_picture_finds_the_texts_that_score_best(command, quick_scenes, fitted, tmp_path):
    prepared, test, scores = fitted
    row = int(prepared.collection.splits["test"][3])
    prepared.collection.images.read(row).save(tmp_path / "scene.png")
    said = command("search", "--image", str(tmp_path / "scene.png"), "-n", "100", *quick_scenes.arguments)
    assert said.code == 0, said.err
    order = scores[3].topk(100).indices.tolist()
    assert sorted(found(said)) == sorted((test.image_ids[int(test.image_of[k])], test.texts[k]) for k in order)
    assert found(said)[0][1] == test.texts[order[0]]


def test_other_splits_and_what_is_more_than_there_is(command, quick_scenes):
    said = command("search", "a red star", "--split", "val", "-n", "500", *quick_scenes.arguments)
    assert said.code == 0 and len(found(said)) == 20
    assert all(image.startswith("val-") for image, _ in found(said))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either a sentence or --image FILE"),
        (["a star", "--image", "star.png"], "either a sentence or --image FILE"),
        (["--image", "gone.png"], "there is no picture gone.png"),
        (["a star", "--split", "tests"], "no split 'tests'; did you mean 'test'"),
        (["a star", "-m", "ccca"], "did you mean 'cca'"),
        (["a star", "-o", "found.jpg"], "should end in .png"),
        (["a star", "-o", "gone/found.png"], "cannot write gone/found.png: there is no folder gone"),
        (["zzz"], "no word of 'zzz' is known to the method"),
        ([""], "no word of '' is known to the method"),
    ],
)
def test_what_cannot_be_searched(command, quick_scenes, arguments, message):
    said = command("search", *arguments, *quick_scenes.arguments)
    assert said.code == 2 and message in said.sentence


def test_a_new_picture_has_no_regions_that_come_with_the_data(command, quick_scenes, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    quick = "cran-local[max_epochs=1,batch_size=16]"
    said = command("search", "--image", str(tmp_path / "red.png"), "-m", quick, *quick_scenes.arguments)
    assert (
        said.code == 2
        and "the method needs regions, but this dataset comes with its own and a new image has none" in said.sentence
    )


def test_the_files_of_the_front_end_are_asked_for(quick_scenes):
    prepared = find_prepared(DATASETS.configure(quick_scenes.spec), quick_scenes.data, quick_scenes.cache)
    with pytest.raises(BadInput, match="give --backbone with the path of its file"):
        prepared.front_end("onnx:gone.onnx", None)
    with pytest.raises(BadInput, match="features computed elsewhere"):
        prepared.front_end("npy:features.npy", None)


READERS = {
    "tfidf": lambda asked: asked.tfidf(),
    "bow": lambda asked: asked.bow(20),
    "vectors": lambda asked: asked.mean_vectors(),
    "counts": lambda asked: asked.word_counts(),
    "tokens": lambda asked: (len(asked), asked.tokens),
    "parts": lambda asked: asked.asking(["qq", *asked.texts]).bow(),
    "chars": lambda asked: asked.chars(),
    "texts": lambda asked: asked.texts,
}
KNOWN = {"qq thing1": READERS.keys(), "qq qq": {"chars", "texts"}, "日本": {"texts"}, " ": set()}


@pytest.mark.parametrize("sentence", KNOWN)
@pytest.mark.parametrize("read", READERS)
def test_a_sentence_of_which_nothing_is_known(tiny, read, sentence):
    class Method:
        similarity = COSINE

        def embed_images(self, split):
            return torch.eye(len(split))

        def embed_texts(self, asked):
            READERS[read](asked)
            return torch.eye(len(tiny.test))[:1]

    if read in KNOWN[sentence]:
        (hit, *_) = images_for(Method(), tiny.test, sentence, 3)
        assert hit.image == tiny.test.image_ids[0] and hit.score == 1
    else:
        with pytest.raises(BadInput, match=f"no word of '{sentence}' is known"):
            images_for(Method(), tiny.test, sentence, 3)


def test_texts_for_a_picture_are_scored_by_the_function_for_image_queries(tiny):
    class Method:
        similarity = Pairwise(lambda images, texts: images @ texts.T, i2t=lambda images, texts: -images @ texts.T)

        def embed_images(self, split):
            return torch.ones(len(split), 1)

        def embed_texts(self, split):
            return torch.arange(float(len(split.texts)))[:, None]

    (hit,) = texts_for(Method(), tiny.test, tiny.test.take(np.array([0])), 1)
    assert (hit.text, hit.score) == (tiny.test.texts[0], 0)


def test_pictures_are_drawn_with_the_query(tmp_path):
    hits = [Hit(k, f"image{k}", "$a$ long text " * 20, 0.5 - k / 100) for k in range(7)]
    pictures = [Image.fromarray(np.full((30, 40, 3), 30 * k, np.uint8)) for k in range(7)]
    draw(hits, pictures, r"a $\foo$ sign", pictures[0], tmp_path / "found.png")
    with Image.open(tmp_path / "found.png") as drawn:
        assert drawn.height > 500
    lines = describe(hits).splitlines()
    assert lines[0].startswith("   1   0.5000  image0  $a$ long") and describe([]) == ""
    assert describe([Hit(0, "a\x1b[2J", "one\n\u202etwo", 0.5)]) == r"   1   0.5000  a\x1b[2J  one\n\u202etwo"
