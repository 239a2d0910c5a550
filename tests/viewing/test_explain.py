"""`cran-bench explain`: what it prints and draws, and what it refuses."""

import numpy as np
import pytest
from PIL import Image

from cran_bench.contract import Explanation
from cran_bench.errors import BadInput
from cran_bench.methods.cran.recipe import SIZES, Sizes
from cran_bench.viewing.explain import describe, draw, shaded

FOUND = Explanation(
    scores={"global": 0.25, "local": 0.5, "relation": 0.125, "total": 0.875},
    text="a star above a circle",
    attention={"local": [0.0] * 2 + [0.25] * 4 + [0.0] * 15, "relation": [1 / 21] * 21},
    regions=[(1, 0.6), (0, 0.4)],
    pairs=[(1, 0, 0.2), (0, 1, 0.05)],
)
QUICK = "cran-plus[max_epochs=1,batch_size=16,frozen_encoder_epochs=0]"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(SIZES, "compact", Sizes((16, 16, 16), 16, 16))


def test_the_text_lines_up_under_its_shades():
    lines = describe(FOUND).splitlines()
    assert lines[0].split() == ["global", "0.2500"] and lines[3].split() == ["total", "0.8750"]
    place = lines.index("local attention")
    assert lines[place + 1 : place + 3] == ["    ████", "  a star above a circle"]
    assert "best regions        2 (0.600), 1 (0.400)" in lines
    assert "best region pairs   2 to 1 (0.200), 1 to 2 (0.050)" in lines
    assert shaded([]) == shaded([0.0, 0.0]) == ""


def test_the_picture_is_a_png_that_shows_the_winners(tmp_path):
    image = Image.new("RGB", (60, 40), "white")
    boxes = np.array([[0.1, 0.1, 0.4, 0.5], [0.5, 0.5, 0.9, 0.9]], dtype=np.float32)
    draw(FOUND, image, boxes, "title", tmp_path / "why.png")
    with Image.open(tmp_path / "why.png") as drawn:
        assert drawn.format == "PNG" and drawn.width > 500
        coloured = np.asarray(drawn.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(coloured, axis=0)) > 20
    draw(FOUND, image, boxes, "$x$ cost $\\frac$\x1b[2J.jpg", tmp_path / "mathematics.png")
    draw(Explanation({"global": 0.1, "total": 0.1}, ""), image, None, "title", tmp_path / "plain.png")
    with pytest.raises(BadInput, match=r"should end in \.png"):
        draw(FOUND, image, boxes, "title", tmp_path / "why.jpg")


def test_a_sentence_that_cannot_be_read_is_refused(command, quick_scenes):
    said = command("explain", "test-00000a", "собака", "-m", QUICK, *quick_scenes.arguments)
    assert said.code == 2 and "of which 'собака' has none" in said.sentence


def test_what_cannot_be_drawn_is_said_before_anything_is_fitted(command, quick_scenes):
    said = command("explain", "test-00000a", "-m", QUICK, *quick_scenes.arguments, "-o", "why.jpg")
    assert said.code == 2 and "should end in .png" in said.sentence
    assert not (quick_scenes.cache / "fits").exists()


def test_explain_prints_and_draws(command, quick_scenes, tmp_path):
    said = command("explain", "test-00000a", "-m", QUICK, *quick_scenes.arguments, "-o", tmp_path / "why.png")
    assert said.code == 0, said.err
    assert said.out.startswith(
        "cran-plus:tuned[batch_size=16,frozen_encoder_epochs=0,max_epochs=1,width=compact]: test-00000a\n"
    )
    for words in ("total", "cca", "local attention", "relation attention", "best regions", "best region pairs"):
        assert words in said.out
    assert (tmp_path / "why.png").exists()
    other = command("explain", "test-00000a", "a red star is above a blue square", "-m", QUICK, *quick_scenes.arguments)
    assert other.code == 0 and "a red star is above a blue square" in other.out
    assert "fitting" not in other.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("tset-00000a",), "has no image 'tset-00000a'; did you mean 'test-00000a'?"),
        (("test-00000a", "6"), "test-00000a has captions 1 to 5, not 6; or write a sentence"),
        (("test-00000a", "-m", "cca"), "cca does not support explain; these methods do: cran, cran-baseline"),
    ],
)
def test_explain_refuses(command, quick_scenes, arguments, sentence):
    said = command("explain", *arguments, *quick_scenes.arguments)
    assert said.code == 2 and sentence in said.sentence
