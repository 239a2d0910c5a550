"""Photographs as they come: every mode Pillow knows becomes upright 8-bit RGB, and what cannot be read is named."""

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from cran_bench.errors import BadInput
from cran_bench.images import UnreadableImage, open_image

ORIENTATION = 0x0112


@pytest.fixture
def saved(tmp_path):
    def save(image, name, **options):
        path = tmp_path / name
        image.save(path, **options)
        return path

    return save


def pixels(path):
    image = open_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_rgb_is_unchanged(saved):
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(pixels(saved(Image.fromarray(values), "a.png")), values)


def test_cmyk(saved):
    path = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "a.jpg", quality=95)
    assert np.abs(pixels(path).astype(int) - (255, 0, 0)).max() <= 8


def test_greyscale(saved):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(pixels(saved(Image.fromarray(values), "a.png")), values[..., None].repeat(3, axis=2))


def test_sixteen_bits_are_scaled(saved):
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    assert pixels(saved(Image.fromarray(values), "a.png"))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_dark_sixteen_bit_image_stays_dark(saved):
    assert pixels(saved(Image.fromarray(np.array([[0, 100, 255]], dtype=np.uint16)), "a.png")).max() <= 1


@pytest.mark.parametrize(("values", "expected"), [([[0, 0.5, 1]], [0, 128, 255]), ([[0, 127.6, 255]], [0, 128, 255])])
def test_floating_point_greys(saved, values, expected):
    path = saved(Image.fromarray(np.array(values, dtype=np.float32)), "a.tif")
    assert pixels(path)[0, :, 1].tolist() == expected


def test_one_bit(saved):
    image = Image.fromarray(np.array([[True, False]]))
    assert image.mode == "1"
    assert pixels(saved(image, "a.png")).tolist() == [[[255] * 3, [0] * 3]]


def palette():
    image = Image.new("P", (2, 1))
    image.putpalette([250, 10, 20, 0, 0, 0])
    image.putpixel((1, 0), 1)
    return image


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"])
def test_palette_with_transparency_lies_on_white(saved, transparency):
    found = pixels(saved(palette(), "a.png", transparency=transparency))
    assert found.tolist() == [[[250, 10, 20], [255, 255, 255]]]


def test_palette_without_transparency(saved):
    assert pixels(saved(palette(), "a.gif")).tolist() == [[[250, 10, 20], [0, 0, 0]]]


def test_transparency_lies_on_white(saved):
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (200, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 128))
    assert pixels(saved(image, "a.png")).tolist() == [[[255] * 3, [200, 0, 0], [127] * 3]]
    grey = Image.new("LA", (1, 1), (90, 255))
    assert pixels(saved(grey, "b.png")).tolist() == [[[90] * 3]]


def test_one_transparent_colour_lies_on_white(saved):
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    assert pixels(saved(image, "a.png", transparency=(1, 2, 3))).tolist() == [[[255] * 3, [9] * 3]]


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [(1, "ab/cd"), (2, "ba/dc"), (3, "dc/ba"), (4, "cd/ab"), (5, "ac/bd"), (6, "ca/db"), (7, "db/ca"), (8, "bd/ac")],
)
def test_exif_rotation_is_applied(saved, orientation, expected):
    level = dict(zip("abcd", (0, 80, 160, 240), strict=True))
    image = Image.fromarray(np.array([[0, 80], [160, 240]], dtype=np.uint8).repeat(16, axis=0).repeat(24, axis=1))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    found = pixels(saved(image, "a.jpg", exif=exif, quality=95))
    assert found.shape == ((32, 48, 3) if orientation < 5 else (48, 32, 3))
    height, width = found.shape[0] // 4, found.shape[1] // 4
    corners = found[height :: 2 * height, width :: 2 * width, 0].astype(int)
    wanted = np.array([[level[c] for c in row] for row in expected.split("/")])
    assert np.abs(corners - wanted).max() <= 4


def test_a_truncated_file(saved):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("a.jpg", "a.png"):
        path = saved(Image.fromarray(noise), name)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(UnreadableImage, match=rf"{name} cannot be decoded \(.*: download it again"):
            open_image(path)


def test_an_empty_file(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UnreadableImage, match=r"a\.jpg is empty \(0 bytes\): download it again"):
        open_image(tmp_path / "a.jpg")


def test_not_an_image(tmp_path):
    (tmp_path / "a.jpg").write_text("<html>not found</html>")
    with pytest.raises(UnreadableImage, match=r"a\.jpg cannot be decoded .*: download it again"):
        open_image(tmp_path / "a.jpg")


def test_a_folder_a_heic_photograph_and_a_git_lfs_pointer_are_told(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    (tmp_path / "b.jpg").write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(100))
    (tmp_path / "c.jpg").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n")
    for name, said in (
        ("a", "is a folder, not an image file"),
        ("b", "is a HEIC photograph, which is not supported: convert it to JPEG"),
        ("c", "it is a Git LFS pointer, not the file itself: run git lfs pull"),
    ):
        with pytest.raises(UnreadableImage, match=rf"{name}\.jpg .*{said}"):
            open_image(tmp_path / f"{name}.jpg")


def test_a_missing_file(tmp_path):
    with pytest.raises(UnreadableImage, match=r"a\.jpg does not exist: add it to the image folder"):
        open_image(tmp_path / "a.jpg")
    assert issubclass(UnreadableImage, BadInput)


def test_an_image_of_absurd_size_is_refused_without_being_decoded(saved, monkeypatch):
    path = saved(Image.new("L", (300, 100)), "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20000)
    assert open_image(path).size == (300, 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10000)
    with pytest.raises(UnreadableImage, match="exceeds limit"):
        open_image(path)


def test_multi_page_files_give_their_first_page(saved):
    pages = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = saved(
        pages[0], "a.tif", save_all=True, append_images=pages[1:], tiffinfo=TiffImagePlugin.ImageFileDirectory_v2()
    )
    assert pixels(path)[0, 0].tolist() == [255, 0, 0]


def test_postscript_is_no_picture(tmp_path):
    """Pillow would give it to Ghostscript."""
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 7 9\n%%EndComments\nshowpage\n"
    (tmp_path / "a.jpg").write_bytes(program)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "EPS"
    with pytest.raises(UnreadableImage, match="cannot identify image file"):
        open_image(tmp_path / "a.jpg")
