"""The reader of Flickr30K Entities on generated files in the owners' layout."""

import pytest

from cran_bench.datasets._entities import read_entities
from cran_bench.errors import BadInput

SENTENCES = """[/EN#1/people Two young , tall men] near [/EN#2/scene a yard] and [/EN#0/notvisual it] .
[/EN#1/people The men] in [/EN#3/clothing/other green shirts] [/EN#4/other stand] .
No phrase here .
"""
SIZE = "<size><width>{}</width><height>{}</height><depth>3</depth></size>"
BOX = "<object>{names}<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
NO_BOX = "<object><name>{}</name><scene>{}</scene><nobndbox>{}</nobndbox></object>"


def box(*corners, names):
    return BOX.format(*corners, names="".join(f"<name>{name}</name>" for name in names))


def annotation(*objects, size=(20, 10)):
    return f"<annotation><filename>7.jpg</filename>{SIZE.format(*size)}{''.join(objects)}</annotation>"


@pytest.fixture
def folder(tmp_path):
    for name in ("Sentences", "Annotations"):
        (tmp_path / name).mkdir()
    (tmp_path / "Sentences" / "7.txt").write_text(SENTENCES)
    things = box(3, 1, 4, 10, names="1"), box(11, 2, 20, 5, names="13"), NO_BOX.format(2, 1, 0), NO_BOX.format(4, 0, 1)
    (tmp_path / "Annotations" / "7.xml").write_text(annotation(*things))
    return tmp_path


def test_phrases_with_boxes_are_read_and_several_boxes_are_merged(folder):
    men = (2 / 20, 0.0, 1.0, 1.0)  # around both boxes; a scene without a box and what is not visible are left out
    assert read_entities(folder, ["7.jpg"]) == [
        [("Two young , tall men", men), ("The men", men), ("green shirts", (0.5, 0.1, 1.0, 0.5))]
    ]
    (folder / "annotations").mkdir()
    for name in ("Sentences", "Annotations"):
        (folder / name).rename(folder / "annotations" / name)
    assert len(read_entities(folder, ["7.jpg"])[0]) == 3


def test_boxes_end_at_the_image(folder):
    outside = box(0, -3, 25, 12, names="1"), box(21, 1, 25, 5, names="3")
    (folder / "Annotations" / "7.xml").write_text(annotation(*outside))
    assert read_entities(folder, ["7.jpg"]) == [
        [("Two young , tall men", (0.0, 0.0, 1.0, 1.0)), ("The men", (0.0, 0.0, 1.0, 1.0))]
    ]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("Sentences/7.txt", "a\n[/EN#1/people Two men .\n", r"7\.txt, line 2: expected \[/EN#chain/type words\], got"),
        ("Sentences/7.txt", "[/EN#1 Two men] .\n", "line 1: expected"),
        ("Annotations/7.xml", "<annotation><size>", r"7\.xml is no annotation of Flickr30K Entities .*extract"),
        ("Annotations/7.xml", annotation(size=(0, 5)), "the size is 0 x 5"),
        ("Annotations/7.xml", "<annotation></annotation>", "is no annotation of"),
        ("Annotations/7.xml", annotation(box("x", 1, 4, 10, names="1")), "is no annotation of"),
    ],
)
def test_a_damaged_file_is_refused(folder, file, content, message):
    (folder / file).write_text(content)
    with pytest.raises(BadInput, match=message):
        read_entities(folder, ["7.jpg"])


@pytest.mark.parametrize("gone", ["Sentences", "Annotations"])
def test_what_is_missing_is_named(folder, gone):
    suffix = {"Sentences": "txt", "Annotations": "xml"}[gone]
    (folder / gone / f"7.{suffix}").unlink()
    with pytest.raises(BadInput, match=rf"there is no 7\.{suffix} in .*{gone}: extract annotations\.zip"):
        read_entities(folder, ["7.jpg"])
    (folder / gone).rmdir()
    with pytest.raises(BadInput, match=rf"there is no folder {gone} in .*annotations\.zip .*phrases=true"):
        read_entities(folder, ["7.jpg"])
