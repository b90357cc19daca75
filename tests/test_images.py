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

from attendet import images
from attendet.errors import DataError, ImageError
from attendet.images import (
    MAX_PIXELS,
    from_pil,
    image_files,
    read_image,
    read_image_hw,
    read_orientation,
)

RED, BLUE = (255, 0, 0), (0, 0, 255)
EXIF_ORIENTATION = 0x0112


def corners_image() -> Image.Image:
    """40 x 60, red at the top left, blue at the bottom right, a gray ramp elsewhere."""
    ramp = np.linspace(60, 200, 60, dtype=np.uint8)
    image = np.broadcast_to(ramp[None, :, None], (40, 60, 3)).copy()
    image[:20, :30] = RED
    image[20:, 30:] = BLUE
    return Image.fromarray(image)


def noise(height: int = 96, width: int = 128, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def encode(pil_image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    pil_image.save(buffer, form, **options)
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
    path = tmp_path / "image"
    path.write_bytes(encode(corners_image(), form, exif=exif, **lossless))
    with Image.open(path) as pil_image:
        expected = np.asarray(ImageOps.exif_transpose(pil_image).convert("RGB"))
    np.testing.assert_array_equal(read_image(path), expected)
    assert read_image_hw(path) == expected.shape[:2]
    assert read_orientation(path) == orientation
    assert expected.shape[:2] == ((60, 40) if orientation > 4 else (40, 60))


def test_rotation_written_behind_the_pixels_of_a_png_is_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    content = encode(corners_image(), "PNG")
    late = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    path = tmp_path / "late.png"
    path.write_bytes(content[:-12] + late + content[-12:])
    assert read_image(path).shape == (60, 40, 3)
    assert read_image_hw(path) == (60, 40)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("block", [b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\1" * 30, b"Exif\0\0"])
def test_broken_exif_does_not_cost_the_image(block: bytes) -> None:
    content = encode(corners_image(), "JPEG", exif=block)
    assert read_image(content).shape == (40, 60, 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_format_becomes_uint8_rgb(form: str, mode: str) -> None:
    image = read_image(encode(corners_image().convert(mode), form))
    assert image.dtype == np.uint8
    assert image.shape == (40, 60, 3)
    assert image.flags.c_contiguous
    assert image.flags.writeable
    if mode == "L":
        assert np.ptp(image.astype(int), axis=2).max() <= (0 if form != "WEBP" else 4)
    else:
        np.testing.assert_allclose(image[5, 5], RED, atol=4)
        np.testing.assert_allclose(image[-5, -5], BLUE, atol=4)


def test_transparency_becomes_white() -> None:
    rgba = np.zeros((8, 8, 4), dtype=np.uint8)
    rgba[:4] = [255, 0, 0, 255]
    rgba[4:6] = [255, 0, 0, 0]
    rgba[6:] = [0, 0, 0, 128]
    rows = read_image(encode(Image.fromarray(rgba), "PNG"))[[0, 5, 7], 0]
    np.testing.assert_allclose(rows, [RED, (255, 255, 255), (127, 127, 127)], atol=1)


def test_gray_with_alpha_becomes_white() -> None:
    la = np.array([[[50, 255], [50, 0]]], dtype=np.uint8)
    image = read_image(encode(Image.fromarray(la, "LA"), "PNG"))
    assert image.tolist() == [[[50] * 3, [255] * 3]]


def test_palette_with_transparency_becomes_white() -> None:
    pil_image = Image.new("P", (2, 1))
    pil_image.putpalette([10, 20, 30, 40, 50, 60])
    pil_image.putdata([0, 1])
    assert read_image(encode(pil_image, "PNG")).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    image = read_image(encode(pil_image, "PNG", transparency=0))
    assert image.tolist() == [[[255, 255, 255], [40, 50, 60]]]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_gray_keeps_its_range_whatever_it_holds(form: str) -> None:
    gray = np.array([[0, 200, 257, 32896, 65535]], dtype=np.uint16)
    expected = np.array([0, 0, 1, 128, 255])
    image = read_image(encode(Image.fromarray(gray), form))
    assert image[0, :, 1].tolist() == expected.tolist()
    dark = read_image(encode(Image.fromarray(gray[:, :2]), form))
    assert dark.max() == 0


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_color_keeps_its_range(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"deep{suffix}"
    bgr = np.asarray(corners_image())[..., ::-1].astype(np.uint16) * 257
    assert cv2.imwrite(str(path), bgr)
    np.testing.assert_array_equal(read_image(path), np.asarray(corners_image()))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], dtype=np.float32), [0, 127, 255]),
        (np.array([[0.0, 100.0, 250.0]], dtype=np.float32), [0, 100, 250]),
        (np.array([[-5.0, np.nan, np.inf]], dtype=np.float32), [0, 0, 255]),
        (np.array([[0, 100, 255]], dtype=np.int32), [0, 100, 255]),
        (np.array([[0, 32896, 70000]], dtype=np.int32), [0, 128, 255]),
    ],
    ids=["fractions", "bytes", "odd floats", "32-bit bytes", "32-bit"],
)
def test_float_and_32_bit_gray(values: np.ndarray, expected: list[int]) -> None:
    image = read_image(encode(Image.fromarray(values), "TIFF"))
    assert image[0, :, 0].tolist() == expected


def test_cmyk_jpeg_becomes_rgb() -> None:
    image = read_image(encode(corners_image().convert("CMYK"), "JPEG", quality=95))
    np.testing.assert_allclose(image[5, 5], RED, atol=6)
    np.testing.assert_allclose(image[-5, -5], BLUE, atol=6)


# MPO: https://github.com/ultralytics/yolov5/issues/2446
@pytest.mark.parametrize("form", ["GIF", "MPO", "PNG", "WEBP"])
def test_of_several_frames_the_first_is_read(form: str, tmp_path: Path) -> None:
    more = {"save_all": True, "append_images": [Image.new("RGB", (60, 40))]}
    path = tmp_path / "DJI_0180.JPG"
    path.write_bytes(encode(corners_image(), form, **more))
    np.testing.assert_allclose(read_image(path)[5, 5], RED, atol=4)
    assert read_image_hw(path) == (40, 60)


# https://github.com/apple/turicreate/issues/2526
@pytest.mark.parametrize("form", ["BMP", "PNG", "WEBP", "TIFF", "GIF"])
def test_the_content_decides_and_not_the_suffix(form: str, tmp_path: Path) -> None:
    path = tmp_path / "10073.jpg"
    path.write_bytes(encode(corners_image(), form))
    np.testing.assert_allclose(read_image(path)[5, 5], RED, atol=4)


def test_black_and_white_becomes_rgb() -> None:
    pil_image = Image.fromarray(np.array([[True, False]]))
    assert read_image(encode(pil_image, "PNG")).tolist() == [[[255] * 3, [0] * 3]]


def test_one_pixel() -> None:
    for form in ("PNG", "JPEG"):
        assert read_image(encode(Image.new("RGB", (1, 1)), form)).shape == (1, 1, 3)


def test_path_text_and_bytes_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "ein Bild ä.jpg"
    path.write_bytes(encode(noise(), "JPEG"))
    expected = read_image(path)
    np.testing.assert_array_equal(read_image(str(path)), expected)
    np.testing.assert_array_equal(read_image(path.read_bytes()), expected)
    with Image.open(path) as pil_image:
        np.testing.assert_array_equal(from_pil(pil_image), expected)


# JPEGs take another way through OpenCV


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"subsampling": 0},
        {"subsampling": 1},
        {"quality": 15},
        {"restart_marker_rows": 1},
    ],
    ids=str,
)
def test_both_ways_give_the_same_pixels(mode: str, options: dict[str, object]) -> None:
    for size in ((96, 128), (97, 131), (33, 16)):
        content = encode(noise(*size).convert(mode), "JPEG", **options)
        with Image.open(io.BytesIO(content)) as pil_image:
            fast = images._read_plain_jpeg(pil_image, content)
            assert fast is not None
            np.testing.assert_array_equal(fast, from_pil(pil_image))


def test_jpeg_that_stores_rgb_keeps_its_colors() -> None:
    content = encode(noise(), "JPEG", keep_rgb=True, quality=95)
    with Image.open(io.BytesIO(content)) as pil_image:
        np.testing.assert_array_equal(read_image(content), from_pil(pil_image))


def test_both_ways_agree_on_real_images(shared_data: Path) -> None:
    for path in sorted((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))[:10]:
        with Image.open(path) as pil_image:
            fast = images._read_plain_jpeg(pil_image, path)
            assert fast is not None
            np.testing.assert_array_equal(fast, from_pil(pil_image))


def test_jpeg_with_something_behind_it_is_read() -> None:
    content = encode(noise(), "JPEG")
    np.testing.assert_array_equal(read_image(content + b"\0\0more"), read_image(content))


# What cannot be read


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP"])
@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.6, 0.9, 0.98])
def test_truncated_files_are_errors(form: str, fraction: float, tmp_path: Path) -> None:
    content = encode(noise(), form)
    path = tmp_path / "cut.jpg"
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(ImageError, match=r"(truncated or broken|cannot be read) \(.*cut\.jpg"):
        read_image(path)


def test_no_cut_of_a_jpeg_goes_unnoticed() -> None:
    content = encode(noise(32, 48), "JPEG")
    for length in range(len(content)):
        with pytest.raises(ImageError):
            read_image(content[:length])


def test_jpeg_that_breaks_in_the_middle_is_left_to_pillow() -> None:
    content = bytearray(encode(noise(96, 128, seed=3), "JPEG", quality=95))
    middle = len(content) // 2
    content[middle : middle + 2] = b"\xff\xd8"  # a second start of image
    with pytest.raises(ImageError, match="broken"):
        read_image(bytes(content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello", "not an image, or its format is not supported"),
        # https://github.com/replicate/lora-training/issues/2
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is HEIC. Convert it to JPEG"),
        (b"\n<!DOCTYPE html><title>404</title>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\xff\xd8\xff", "cannot be read"),
        (b"\xff\xd8\xff\xd9", "cannot be read"),
        (b"\x89PNG\r\n\x1a\n", "cannot be read"),
        (png_of_stated_size(0, 0), "cannot be read"),
        (png_of_stated_size(50, 50), "truncated or broken"),
        (png_of_stated_size(100_000, 100_000), f"at most {MAX_PIXELS} pixels"),
        (png_of_stated_size(13_500, 13_500), f"at most {MAX_PIXELS} pixels"),
        (png_of_stated_size(2**31 - 1, 2**31 - 1), f"at most {MAX_PIXELS} pixels"),
    ],
    ids=[
        "zero bytes",
        "text",
        "heic",
        "html",
        "git lfs",
        "jpeg head",
        "no jpeg",
        "png head",
        "0 x 0",
        "no pixels",
        "huge",
        "too large",
        "largest",
    ],
)
def test_what_is_no_image_is_an_error_that_names_the_file(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "odd.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        read_image(path)
    assert "odd.jpg" in str(caught.value)
    assert isinstance(caught.value, DataError)
    with pytest.raises(ImageError, match=r"upload 3"):
        read_image(content, name="upload 3")


def test_large_image_below_the_limit_is_read_without_a_warning() -> None:
    width, height = 10_000, 9_000
    assert Image.MAX_IMAGE_PIXELS < width * height < MAX_PIXELS
    with (
        warnings.catch_warnings(),
        images._open(png_of_stated_size(width, height), "large") as pil_image,
    ):
        assert pil_image.size == (width, height)


def test_packed_text_that_unpacks_to_much_is_an_error() -> None:
    content = encode(corners_image(), "PNG")
    bomb = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 80_000_000, 9))
    with pytest.raises(ImageError, match="too large"):
        read_image(content[:33] + bomb + content[33:])


def _with_transparent_color() -> Image.Image:
    pil_image = Image.fromarray((np.arange(70 * 9) % 251).astype(np.uint8).reshape(70, 9)).convert(
        "P"
    )
    pil_image.info["transparency"] = 7
    return pil_image


@pytest.mark.parametrize(
    "pil_image",
    [
        Image.fromarray((np.arange(70 * 9) * 100).astype(np.uint16).reshape(70, 9)),
        Image.fromarray((np.arange(70 * 9 * 4) % 256).astype(np.uint8).reshape(70, 9, 4)),
        _with_transparent_color(),
    ],
    ids=["16-bit gray", "transparent", "palette"],
)
def test_converting_in_parts_gives_the_same_pixels(
    pil_image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encode(pil_image, "PNG")
    whole = read_image(content)
    monkeypatch.setattr(images, "ROWS_AT_ONCE", 16)

    assert whole.shape == (70, 9, 3)
    np.testing.assert_array_equal(read_image(content), whole)


def test_deep_gray_that_unpacks_to_much_takes_little_more_than_its_pixels() -> None:
    side = 2000
    content = encode(Image.fromarray(np.zeros((side, side), dtype=np.uint16)), "PNG")
    tracemalloc.start()
    read_image(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert len(content) < side * side / 500
    assert peak < 10 * side * side  # bytes of arrays; in floats they would be 24


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for read in (read_image, read_image_hw, read_orientation):
        with pytest.raises(ImageError, match=r"image not found \(.*none\.png\)"):
            read(tmp_path / "none.png")
        with pytest.raises(ImageError, match="cannot be read"):
            read(tmp_path)


@given(
    st.sampled_from(["JPEG", "PNG", "TIFF", "GIF", "BMP"]),
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=6),
)
@pytest.mark.filterwarnings("ignore")
def test_altered_bytes_give_a_image_or_a_image_error(
    form: str, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(encode(corners_image(), form))
    for position, value in changes:
        content[position % len(content)] = value
    try:
        image = read_image(bytes(content))
    except ImageError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3


def test_reading_in_threads_leaves_the_warning_filters_alone() -> None:
    content = encode(corners_image(), "PNG")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_image, [content] * 200))
    assert list(warnings.filters) == before


# Files


def test_image_files_are_picked_by_suffix_in_order(tmp_path: Path) -> None:
    # ._NAME is what macOS writes: https://github.com/alinlab/CSI/issues/31
    for name in ("b.JPG", "a.png", "c.txt", "d.jpeg", ".hidden", "._a.png", "e.jfif"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    names = ["a.png", "b.JPG", "d.jpeg", "e.jfif"]
    assert [path.name for path in image_files(tmp_path)] == names
