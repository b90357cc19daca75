from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from attendet import pictures
from attendet.errors import DataError, PictureError
from attendet.pictures import (
    MAX_PIXELS,
    from_pil,
    picture_files,
    read_orientation,
    read_picture,
    read_picture_hw,
)

RED, BLUE = (255, 0, 0), (0, 0, 255)
EXIF_ORIENTATION = 0x0112


def corners_picture() -> Image.Image:
    """40 x 60, red at the top left, blue at the bottom right, a grey ramp elsewhere."""
    ramp = np.linspace(60, 200, 60, dtype=np.uint8)
    picture = np.broadcast_to(ramp[None, :, None], (40, 60, 3)).copy()
    picture[:20, :30] = RED
    picture[20:, 30:] = BLUE
    return Image.fromarray(picture)


def noise(height: int = 96, width: int = 128, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_stated_size(width: int, height: int, pixels: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


# What each kind of file becomes


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(form: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    lossless = {"lossless": True} if form == "WEBP" else {}
    path = tmp_path / "picture"
    path.write_bytes(encode(corners_picture(), form, exif=exif, **lossless))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(read_picture(path), expected)
    assert read_picture_hw(path) == expected.shape[:2]
    assert read_orientation(path) == orientation
    assert expected.shape[:2] == ((60, 40) if orientation > 4 else (40, 60))


def test_rotation_written_behind_the_pixels_of_a_png_is_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    content = encode(corners_picture(), "PNG")
    late = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    path = tmp_path / "late.png"
    path.write_bytes(content[:-12] + late + content[-12:])
    assert read_picture(path).shape == (60, 40, 3)
    assert read_picture_hw(path) == (60, 40)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("block", [b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\1" * 30, b"Exif\0\0"])
def test_broken_exif_does_not_cost_the_picture(block: bytes) -> None:
    content = encode(corners_picture(), "JPEG", exif=block)
    assert read_picture(content).shape == (40, 60, 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_format_becomes_uint8_rgb(form: str, mode: str) -> None:
    picture = read_picture(encode(corners_picture().convert(mode), form))
    assert picture.dtype == np.uint8
    assert picture.shape == (40, 60, 3)
    assert picture.flags.c_contiguous
    assert picture.flags.writeable
    if mode == "L":
        assert np.ptp(picture.astype(int), axis=2).max() <= (0 if form != "WEBP" else 4)
    else:
        np.testing.assert_allclose(picture[5, 5], RED, atol=4)
        np.testing.assert_allclose(picture[-5, -5], BLUE, atol=4)


def test_transparency_is_laid_on_white() -> None:
    rgba = np.zeros((8, 8, 4), dtype=np.uint8)
    rgba[:4] = [255, 0, 0, 255]
    rgba[4:6] = [255, 0, 0, 0]
    rgba[6:] = [0, 0, 0, 128]
    rows = read_picture(encode(Image.fromarray(rgba), "PNG"))[[0, 5, 7], 0]
    np.testing.assert_allclose(rows, [RED, (255, 255, 255), (127, 127, 127)], atol=1)


def test_grey_with_alpha_is_laid_on_white() -> None:
    la = np.array([[[50, 255], [50, 0]]], dtype=np.uint8)
    picture = read_picture(encode(Image.fromarray(la, "LA"), "PNG"))
    assert picture.tolist() == [[[50] * 3, [255] * 3]]


def test_palette_with_transparency_is_laid_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    assert read_picture(encode(image, "PNG")).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    picture = read_picture(encode(image, "PNG", transparency=0))
    assert picture.tolist() == [[[255, 255, 255], [40, 50, 60]]]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_range_whatever_it_holds(form: str) -> None:
    grey = np.array([[0, 200, 257, 32896, 65535]], dtype=np.uint16)
    expected = np.array([0, 0, 1, 128, 255])
    picture = read_picture(encode(Image.fromarray(grey), form))
    assert picture[0, :, 1].tolist() == expected.tolist()
    dark = read_picture(encode(Image.fromarray(grey[:, :2]), form))
    assert dark.max() == 0


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_colour_keeps_its_range(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"deep{suffix}"
    bgr = np.asarray(corners_picture())[..., ::-1].astype(np.uint16) * 257
    assert cv2.imwrite(str(path), bgr)
    np.testing.assert_array_equal(read_picture(path), np.asarray(corners_picture()))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], dtype=np.float32), [0, 127, 255]),
        (np.array([[0.0, 100.0, 250.0]], dtype=np.float32), [0, 100, 250]),
        (np.array([[-5.0, np.nan, np.inf]], dtype=np.float32), [0, 0, 255]),
        (np.array([[0, 100, 255]], dtype=np.int32), [0, 100, 255]),
        (np.array([[0, 32896, 70000]], dtype=np.int32), [0, 128, 255]),
    ],
    ids=["shares", "bytes", "odd floats", "32-bit bytes", "32-bit"],
)
def test_float_and_32_bit_grey(values: np.ndarray, expected: list[int]) -> None:
    picture = read_picture(encode(Image.fromarray(values), "TIFF"))
    assert picture[0, :, 0].tolist() == expected


def test_cmyk_jpeg_becomes_rgb() -> None:
    picture = read_picture(encode(corners_picture().convert("CMYK"), "JPEG", quality=95))
    np.testing.assert_allclose(picture[5, 5], RED, atol=6)
    np.testing.assert_allclose(picture[-5, -5], BLUE, atol=6)


def test_of_an_animation_the_first_frame_is_read() -> None:
    first = corners_picture()
    content = encode(first, "GIF", save_all=True, append_images=[Image.new("RGB", (60, 40))])
    np.testing.assert_allclose(read_picture(content)[5, 5], RED, atol=4)


def test_black_and_white_becomes_rgb() -> None:
    image = Image.fromarray(np.array([[True, False]]))
    assert read_picture(encode(image, "PNG")).tolist() == [[[255] * 3, [0] * 3]]


def test_one_pixel() -> None:
    for form in ("PNG", "JPEG"):
        assert read_picture(encode(Image.new("RGB", (1, 1)), form)).shape == (1, 1, 3)


def test_path_text_and_bytes_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "ein Bild ä.jpg"
    path.write_bytes(encode(noise(), "JPEG"))
    expected = read_picture(path)
    np.testing.assert_array_equal(read_picture(str(path)), expected)
    np.testing.assert_array_equal(read_picture(path.read_bytes()), expected)
    with Image.open(path) as image:
        np.testing.assert_array_equal(from_pil(image), expected)


# JPEGs take another way through OpenCV


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"quality": 15},
     {"restart_marker_rows": 1}],
    ids=str,
)  # fmt: skip
def test_both_ways_give_the_same_pixels(mode: str, options: dict[str, object]) -> None:
    for size in ((96, 128), (97, 131), (33, 16)):
        content = encode(noise(*size).convert(mode), "JPEG", **options)
        with Image.open(io.BytesIO(content)) as image:
            fast = pictures._read_plain_jpeg(image, content)
            assert fast is not None
            np.testing.assert_array_equal(fast, from_pil(image))


def test_jpeg_that_stores_rgb_keeps_its_colours() -> None:
    content = encode(noise(), "JPEG", keep_rgb=True, quality=95)
    with Image.open(io.BytesIO(content)) as image:
        np.testing.assert_array_equal(read_picture(content), from_pil(image))


def test_both_ways_agree_on_real_pictures(shared_data: Path) -> None:
    for path in sorted((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))[:10]:
        with Image.open(path) as image:
            fast = pictures._read_plain_jpeg(image, path)
            assert fast is not None
            np.testing.assert_array_equal(fast, from_pil(image))


def test_jpeg_with_something_behind_it_is_read() -> None:
    content = encode(noise(), "JPEG")
    np.testing.assert_array_equal(read_picture(content + b"\0\0more"), read_picture(content))


# What cannot be read


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.98])
def test_truncated_files_are_errors(form: str, share: float, tmp_path: Path) -> None:
    content = encode(noise(), form)
    path = tmp_path / "cut.jpg"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(PictureError, match=r"(truncated or broken|cannot be read) \(.*cut\.jpg"):
        read_picture(path)


def test_no_cut_of_a_jpeg_goes_unnoticed() -> None:
    content = encode(noise(32, 48), "JPEG")
    for length in range(len(content)):
        with pytest.raises(PictureError):
            read_picture(content[:length])


def test_jpeg_that_breaks_in_the_middle_is_left_to_pillow() -> None:
    content = bytearray(encode(noise(96, 128, seed=3), "JPEG", quality=95))
    middle = len(content) // 2
    content[middle : middle + 2] = b"\xff\xd8"  # a second start of picture
    with pytest.raises(PictureError, match="broken"):
        read_picture(bytes(content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"hello", "cannot be read"),
        (b"\xff\xd8\xff", "cannot be read"),
        (b"\xff\xd8\xff\xd9", "cannot be read"),
        (b"\x89PNG\r\n\x1a\n", "cannot be read"),
        (png_of_stated_size(0, 0), "cannot be read"),
        (png_of_stated_size(50, 50), "truncated or broken"),
        (png_of_stated_size(100_000, 100_000), f"at most {MAX_PIXELS} pixels"),
        (png_of_stated_size(13_500, 13_500), f"at most {MAX_PIXELS} pixels"),
        (png_of_stated_size(2**31 - 1, 2**31 - 1), f"at most {MAX_PIXELS} pixels"),
    ],
    ids=["zero bytes", "text", "jpeg head", "no jpeg", "png head", "0 x 0", "no pixels",
         "huge", "too large", "largest"],
)  # fmt: skip
def test_what_is_no_picture_is_an_error_that_names_the_file(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "odd.jpg"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=message) as caught:
        read_picture(path)
    assert "odd.jpg" in str(caught.value)
    assert isinstance(caught.value, DataError)
    with pytest.raises(PictureError, match=r"upload 3"):
        read_picture(content, name="upload 3")


def test_large_picture_below_the_limit_is_read_without_a_warning() -> None:
    width, height = 10_000, 9_000
    assert Image.MAX_IMAGE_PIXELS < width * height < MAX_PIXELS
    with (
        warnings.catch_warnings(),
        pictures._open(png_of_stated_size(width, height), "large") as image,
    ):
        assert image.size == (width, height)


def test_packed_text_that_unpacks_to_much_is_an_error() -> None:
    content = encode(corners_picture(), "PNG")
    bomb = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 80_000_000, 9))
    with pytest.raises(PictureError, match="too large"):
        read_picture(content[:33] + bomb + content[33:])


def _with_transparent_colour() -> Image.Image:
    image = Image.fromarray((np.arange(70 * 9) % 251).astype(np.uint8).reshape(70, 9)).convert("P")
    image.info["transparency"] = 7
    return image


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray((np.arange(70 * 9) * 100).astype(np.uint16).reshape(70, 9)),
        Image.fromarray((np.arange(70 * 9 * 4) % 256).astype(np.uint8).reshape(70, 9, 4)),
        _with_transparent_colour(),
    ],
    ids=["16-bit grey", "transparent", "palette"],
)
def test_converting_in_parts_gives_the_same_pixels(
    image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encode(image, "PNG")
    whole = read_picture(content)
    monkeypatch.setattr(pictures, "ROWS_AT_ONCE", 16)

    assert whole.shape == (70, 9, 3)
    np.testing.assert_array_equal(read_picture(content), whole)


def test_deep_grey_that_unpacks_to_much_takes_little_more_than_its_pixels() -> None:
    side = 2000
    content = encode(Image.fromarray(np.zeros((side, side), dtype=np.uint16)), "PNG")
    tracemalloc.start()
    read_picture(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert len(content) < side * side / 500
    assert peak < 10 * side * side  # bytes of arrays; in floats they would be 24


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for read in (read_picture, read_picture_hw, read_orientation):
        with pytest.raises(PictureError, match=r"picture not found \(.*none\.png\)"):
            read(tmp_path / "none.png")
        with pytest.raises(PictureError, match="cannot be read"):
            read(tmp_path)


@given(
    st.sampled_from(["JPEG", "PNG", "TIFF", "GIF", "BMP"]),
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=6),
)
@pytest.mark.filterwarnings("ignore")
def test_altered_bytes_give_a_picture_or_a_picture_error(
    form: str, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(encode(corners_picture(), form))
    for position, value in changes:
        content[position % len(content)] = value
    try:
        picture = read_picture(bytes(content))
    except PictureError:
        return
    assert picture.dtype == np.uint8
    assert picture.ndim == 3


def test_reading_in_threads_leaves_the_warning_filters_alone() -> None:
    content = encode(corners_picture(), "PNG")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_picture, [content] * 200))
    assert list(warnings.filters) == before


# Files


def test_picture_files_are_picked_by_suffix_in_order(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "c.txt", "d.jpeg", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in picture_files(tmp_path)] == ["a.png", "b.JPG", "d.jpeg"]
