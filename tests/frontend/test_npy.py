"""Features computed elsewhere: rows found by id or by order, five-fold files, and every way they can be wrong."""

from dataclasses import replace

import numpy as np
import pytest

from cran_bench.errors import BadInput
from cran_bench.frontend.catalogue import open_backbone, open_proposer, open_text_encoder
from cran_bench.frontend.npy import NpyImages, NpyRegions

IDS = ["c.jpg", "a.jpg", "b.jpg"]
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(3, 6)).astype(np.float32)


@pytest.fixture
def save(tmp_path):
    def write(name, content):
        path = tmp_path / name
        if isinstance(content, np.ndarray):
            np.save(path, content)
        else:
            path.write_text("\n".join(content) + "\n")
        return str(path)

    return write


def test_rows_in_the_collections_order(save):
    features = open_backbone(f"npy:{save('f.npy', ROWS.astype(np.float64))}")
    assert features.dim == 6
    found = features.features(IDS)
    assert found.dtype == np.float32
    assert np.array_equal(found, ROWS)


def test_rows_without_names_are_refused_in_another_order_and_told_in_the_lists(save, tiny, capsys):
    listed = tiny.train._collection
    count, images, captions = len(listed.images.ids), save("f.npy", ROWS), save("c.npy", ROWS)
    other, boxes = replace(listed, as_listed=False), save("b.npy", np.zeros((3, 2, 4)))
    regions = save("r.npy", np.ones((3, 2, 6)))
    for given in (lambda: open_backbone(f"npy:{images}", other), lambda: open_text_encoder(f"npy:{captions}", other)):
        with pytest.raises(
            BadInput, match=r"npy:.*npy needs ids=FILE, which names its rows, as tiny has images or cap"
        ):
            given()
    with pytest.raises(BadInput, match="needs ids=FILE"):
        open_proposer(f"npy:{regions}[boxes={boxes}]", other)
    assert open_backbone(f"npy:{images}[ids={save('ids.txt', IDS)}]", other).dim == 6
    rows = np.zeros((count, 2), np.float32)
    open_backbone(f"npy:{save('all.npy', rows)}", listed).features(listed.images.ids)
    first, last = listed.images.ids[0], listed.images.ids[-1]
    assert f"all.npy has no ids=FILE: its rows are taken to be {first} to {last}, in order" in capsys.readouterr().err


def test_a_collection_read_in_parts(save):
    features = NpyImages(save("f.npy", np.repeat(ROWS, 5, axis=0)))
    parts = [features.features(IDS, part) for part in (range(2), range(2, 3))]
    assert np.array_equal(np.concatenate(parts), ROWS)
    assert np.array_equal(NpyImages(save("g.npy", ROWS)).features(IDS, range(1, 3)), ROWS[1:])


def test_rows_by_id_in_any_order_with_spare_rows(save):
    file, ids = save("f.npy", ROWS), save("ids.txt", ["a.jpg", "b.jpg ", "c.jpg"])
    features = open_backbone(f"npy:{file}[ids={ids}]")
    assert np.array_equal(features.features(IDS), ROWS[[2, 0, 1]])
    assert np.array_equal(features.features(["b.jpg"]), ROWS[[1]])


def test_five_equal_rows_for_each_image(save):
    file = save("f.npy", np.repeat(ROWS, 5, axis=0))
    assert np.array_equal(NpyImages(file).features(IDS), ROWS)
    nearly = np.repeat(ROWS, 5, axis=0) * (1 + np.float32(1e-6) * np.arange(15)[:, None] % 5)
    assert np.array_equal(NpyImages(save("nearly.npy", nearly)).features(IDS), nearly[::5].astype(np.float32))
    ids = save("ids.txt", np.repeat(IDS, 5).tolist())
    assert np.array_equal(NpyImages(file, ids).features(["b.jpg", "c.jpg"]), ROWS[[2, 0]])
    file = save("cycled.npy", np.tile(ROWS, (5, 1)))
    ids = save("ids.txt", IDS * 5)
    assert np.array_equal(NpyImages(file, ids).features(IDS), ROWS)
    with pytest.raises(BadInput, match="rows 0 and 1 should belong to one image but differ"):
        NpyImages(file).features(IDS)


def test_identity_names_files_without_folders_and_follows_their_content(save):
    file, ids = save("f.npy", ROWS), save("ids.txt", IDS)
    before = NpyImages(file, ids).identity()
    assert before["file"]["file"] == "f.npy"
    assert NpyImages(file).identity()["ids"] is None
    save("f.npy", ROWS + 1)
    assert NpyImages(file, ids).identity() != before


def test_ids_that_do_not_fit(save):
    file = save("f.npy", ROWS)
    with pytest.raises(BadInput, match=r"2 of 3 images have no row in .*ids\.txt, the first is a\.jpg"):
        NpyImages(file, save("ids.txt", ["x", "c.jpg", "y"])).features(IDS)
    with pytest.raises(BadInput, match=r"names 2 images, but .* has 3 rows"):
        NpyImages(file, save("ids.txt", IDS[:2])).features(IDS)
    pointer = ["version https://git-lfs.github.com/spec/v1", "oid sha256:12"]
    for given in ((save("lfs.npy", pointer),), (file, save("lfs.txt", pointer))):
        with pytest.raises(BadInput, match="it is a Git LFS pointer, not the file itself: run git lfs pull"):
            NpyImages(*given).features(IDS)
    with pytest.raises(BadInput, match=r"names c\.jpg 2 times"):
        NpyImages(file, save("ids.txt", ["c.jpg", "c.jpg", "a.jpg"])).features(IDS)
    with pytest.raises(BadInput, match=r"there is no file .*gone\.txt"):
        NpyImages(file, "gone.txt").features(IDS)
    with pytest.raises(BadInput, match="has 3 rows for 2 images"):
        NpyImages(file).features(IDS[:2])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_a_row_that_is_not_finite_is_named(save, bad):
    rows = ROWS.astype(np.float64)
    rows[1, 3] = bad
    with pytest.raises(BadInput, match="row 1 has a value that is not a finite float32"):
        NpyImages(save("f.npy", rows)).features(IDS)


def test_files_that_are_no_array(save, tmp_path):
    with pytest.raises(BadInput, match=r"there is no file gone\.npy"):
        open_backbone("npy:gone.npy")
    for content in (["<html>"], np.array([{}, None])):
        with pytest.raises(BadInput, match=r"is not a numeric \.npy array"):
            NpyImages(save("f.npy", content))
    for array in (ROWS[0], ROWS[None], np.array([["a"]]), np.zeros((3, 6), complex)):
        with pytest.raises(BadInput, match=r"should hold numbers of shape \(rows, dim\)"):
            NpyImages(save("f.npy", array))


def regions(count):
    corners = RNG.random((3, count, 2)).astype(np.float32) * 0.5
    sides = 0.1 + 0.4 * RNG.random((3, count, 2)).astype(np.float32)
    return RNG.normal(size=(3, count, 6)).astype(np.float32), np.concatenate([corners, corners + sides], axis=2)


def test_the_first_five_of_more_regions(save):
    features, boxes = regions(7)
    ids = save("ids.txt", ["a.jpg", "b.jpg", "c.jpg"])
    source = NpyRegions(save("f.npy", features), save("b.npy", boxes), ids)
    found = source.regions(IDS)
    assert source.dim == 6
    assert np.array_equal(found.regions, features[[2, 0, 1], :5])
    assert np.array_equal(found.boxes, boxes[[2, 0, 1], :5])
    assert found.mask.all()
    assert set(source.identity()) == {"name", "file", "boxes", "ids"}


def test_fewer_regions_and_boxes_without_area_are_masked(save):
    features, boxes = regions(3)
    boxes[1, 2] = 0
    found = NpyRegions(save("f.npy", features), save("b.npy", boxes)).regions(IDS)
    expected = np.array([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]], bool)
    assert np.array_equal(found.mask, expected)
    assert np.array_equal(found.scores, expected)
    assert np.all(found.regions[~expected] == 0)
    assert np.all(found.boxes[~expected] == (0, 0, 1, 1))
    assert np.array_equal(found.regions[expected], features[expected[:, :3]])


def test_five_equal_rows_of_regions(save):
    features, boxes = regions(5)
    source = NpyRegions(save("f.npy", features.repeat(5, axis=0)), save("b.npy", boxes.repeat(5, axis=0)))
    assert np.array_equal(source.regions(IDS).regions, features)


def test_boxes_that_are_not_corners_as_fractions(save):
    features, boxes = regions(5)
    file = save("f.npy", features)
    with pytest.raises(BadInput, match=r"boxes are fractions from 0 to 1: divide x"):
        NpyRegions(file, save("b.npy", boxes * 500)).regions(IDS)
    with pytest.raises(BadInput, match="write x0 y0 x1 y1, not width and height"):
        NpyRegions(file, save("b.npy", boxes[..., [2, 3, 0, 1]])).regions(IDS)
    with pytest.raises(BadInput, match=r"should have shape \(3, 5, 4\) to match"):
        NpyRegions(file, save("b.npy", boxes[:, :4]))
    with pytest.raises(BadInput, match="row 2 has a value that is not"):
        boxes[2, 1, 1] = np.nan
        NpyRegions(file, save("b.npy", boxes)).regions(IDS)
