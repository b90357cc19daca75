"""Images as numpy arrays: reading of image files, and letterboxing.

An image is uint8 RGB of shape (H, W, 3).
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from attendet.errors import ImageError
from attendet.files import files_with_suffix, is_resource_fork

ImageArray = NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".webp", ".avif", ".tif", ".tiff"}
    | {".gif", ".ppm", ".pgm"}
)
MAX_PIXELS = 178_956_970
"""Larger images are refused before decoding; Pillow's own limit, 512 MiB of RGB."""

ROWS_AT_ONCE = 256
"""Rows converted at a time, to limit memory: a small file may decode to a large image."""

SAMPLE_IMAGE = Path(__file__).with_name("sample.jpg")
"""Path of a small sample photograph, a cup on a table.

By Rachel Michetti, CC0; from scikit-image.
"""

PAD_VALUE = 114
"""Gray level of the letterbox border, as in the projects of Ultralytics."""


def image_files(folder: Path) -> list[Path]:
    """Return the image files directly in a folder, by suffix, in name order."""
    return files_with_suffix(folder, IMAGE_SUFFIXES)


def images_below(folder: Path) -> list[Path]:
    """Return the image files below a folder, without those in hidden folders (``.cache``)."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not is_resource_fork(path)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts[:-1])
        and path.is_file()
    )


_opening = threading.Lock()  # warnings.catch_warnings is not thread-safe


def _describe_non_image(source: Path | bytes) -> str:
    """Return the kind of a file that is not an image, and what to do."""
    if isinstance(source, bytes):
        head = source[:64]
    else:
        with source.open("rb") as file:
            head = file.read(64)
    head = head.lstrip().lower()
    if not head:
        return "the file is empty. Copy it again."
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "the file is HEIC. Convert it to JPEG."
    if (
        head[4:8] == b"ftyp"
        or head.startswith(b"\x1ae\xdf\xa3")  # WebM, Matroska; in lower case
        or (head.startswith(b"riff") and head[8:12] == b"avi ")
    ):
        advice = "Pass its frames one by one, or run: attendet predict WEIGHTS VIDEO"
        return f"the file is a video. {advice}"
    if head.startswith((b"<!doctype", b"<html")):
        return "the file is a web page. Download the image again."
    if head.startswith(b"version https://git-lfs"):
        return "the file is a Git LFS pointer. Run 'git lfs pull'."
    return "the file is not an image, or its format is not supported."


def _open(source: Path | bytes, name: str) -> Image.Image:
    try:
        with _opening, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            pil_image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except FileNotFoundError:
        raise ImageError(f"image not found ({name}). Check the path.") from None
    except Image.DecompressionBombError:
        raise ImageError(
            f"image must have at most {MAX_PIXELS} pixels; got more ({name}). Scale it down first."
        ) from None
    except UnidentifiedImageError:
        raise ImageError(f"image cannot be read ({name}): {_describe_non_image(source)}") from None
    except Exception as error:  # on broken files Pillow's readers raise almost anything
        raise ImageError(
            f"image cannot be read ({name}): {error or type(error).__name__}"
        ) from None
    width, height = pil_image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"image must have at most {MAX_PIXELS} pixels; got {width} x {height} ({name}). "
            "Scale it down first."
        )
    return pil_image


def _orientation(pil_image: Image.Image) -> int:
    try:
        return int(pil_image.getexif().get(0x0112, 1))
    except Exception:  # an image with a broken EXIF block is still usable
        return 1


def read_image_hw(path: Path) -> tuple[int, int]:
    """Return height and width of the image that `read_image` would return.

    Only the header is read, except for TIFF files and PNG files without EXIF data, which are
    decoded to find the orientation.

    Raises:
        ImageError: if the file is missing or is not an image.
    """
    with _open(path, str(path)) as pil_image:
        if pil_image.format == "TIFF":  # Pillow itself rotates it, some versions on open
            return read_image(path).shape[:2]
        width, height = pil_image.size
        return (width, height) if _orientation(pil_image) in (5, 6, 7, 8) else (height, width)


def read_orientation(path: Path) -> int:
    """Return the EXIF orientation of an image file, 1 (upright) to 8; 1 if it has none.

    Raises:
        ImageError: if the file is missing or is not an image.
    """
    with _open(path, str(path)) as pil_image:
        return _orientation(pil_image)


def _gray_to_8_bits(pil_image: Image.Image) -> Image.Image:
    """Return a 16-bit, 32-bit or float grayscale image as 8 bits.

    16-bit values are divided by 257, so that the images of a data set stay comparable. Float images
    with values up to 1 are multiplied by 255. Other float and 32-bit images with values up to 255
    keep their values.
    """
    gray = np.asarray(pil_image)
    largest = np.nan_to_num(gray.max(initial=0, where=~np.isnan(gray)))
    if pil_image.mode == "F" and largest <= 1:
        top = 1.0
    elif pil_image.mode in ("I", "F") and pil_image.format != "PNG" and largest <= 255:
        top = 255.0
    else:
        top = 65535.0
    shown = np.empty(gray.shape, dtype=np.uint8)
    for start in range(0, len(gray), ROWS_AT_ONCE):
        rows = np.s_[start : start + ROWS_AT_ONCE]
        values = np.nan_to_num(gray[rows].astype(np.float64))
        shown[rows] = (values.clip(0, top) / top * 255).astype(np.uint8)
    return Image.fromarray(shown)


def _on_white(pil_image: Image.Image) -> Image.Image:
    rgb = Image.new("RGB", pil_image.size)
    for top in range(0, pil_image.height, ROWS_AT_ONCE):
        bottom = min(top + ROWS_AT_ONCE, pil_image.height)
        part = pil_image.crop((0, top, pil_image.width, bottom)).convert("RGBA")
        white = Image.new("RGBA", part.size, (255, 255, 255, 255))
        rgb.paste(Image.alpha_composite(white, part).convert("RGB"), (0, top))
    return rgb


def _to_rgb(pil_image: Image.Image) -> Image.Image:
    if pil_image.mode in ("I", "F") or pil_image.mode.startswith("I;16"):
        return _gray_to_8_bits(pil_image).convert("RGB")
    if pil_image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in pil_image.info:
        return _on_white(pil_image)
    return pil_image if pil_image.mode == "RGB" else pil_image.convert("RGB")


def _apply_orientation(image: ImageArray, orientation: int) -> ImageArray:
    """Return an image made upright by its EXIF orientation, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def from_pil(pil_image: Image.Image) -> ImageArray:
    """Return a PIL image as uint8 RGB, shape (H, W, 3), with its EXIF orientation applied."""
    pil_image.load()
    return _apply_orientation(np.array(_to_rgb(pil_image), dtype=np.uint8), _orientation(pil_image))


_COLOR_RGB = int(getattr(cv2, "IMREAD_COLOR_RGB", 0))
"""Flag to decode directly to RGB, from OpenCV 4.11 on; 0 before."""


def _read_plain_jpeg(pil_image: Image.Image, source: Path | bytes) -> ImageArray | None:
    """Return an ordinary JPEG decoded by OpenCV, or None if Pillow has to decode the file.

    Both use libjpeg-turbo and give the same pixels; OpenCV copies them less often (a quarter of the
    time). But OpenCV fills the missing part of a truncated file with a flat color. So its result is
    used only if the file ends with JPEG's end marker and the image's last corner is not flat.
    """
    if pil_image.format not in ("JPEG", "MPO") or pil_image.mode not in ("RGB", "L"):
        return None
    content = source if isinstance(source, bytes) else source.read_bytes()
    if content[-2:] != b"\xff\xd9":
        return None
    flags = (_COLOR_RGB or cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        decoded = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags)
    except cv2.error:
        return None
    if decoded is None or decoded.shape[:2] != (pil_image.height, pil_image.width):
        return None
    if (decoded[-8:, -8:] == decoded[-1, -1]).all():
        return None
    if not _COLOR_RGB:
        decoded = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=decoded)
    return _apply_orientation(decoded.astype(np.uint8, copy=False), _orientation(pil_image))


def read_image(source: str | Path | bytes, *, name: str | None = None) -> ImageArray:
    """Read an image file, or the bytes of one, as uint8 RGB with its EXIF orientation applied.

    Grayscale, palette, CMYK and transparent images (on white) are converted to RGB, and 16 bits per
    channel to 8. Of an animation, the first frame is read.

    Args:
        source: path, or the bytes of an image file.
        name: its name in error messages; default: the path.

    Returns:
        uint8, shape (H, W, 3), RGB.

    Raises:
        ImageError: if it is missing, not an image, truncated, or larger than `MAX_PIXELS`.
    """
    if not isinstance(source, bytes):
        source = Path(source)
    name = name or (str(source) if isinstance(source, Path) else "<bytes>")
    with _open(source, name) as pil_image:
        try:
            plain = _read_plain_jpeg(pil_image, source)
            return from_pil(pil_image) if plain is None else plain
        except Exception as error:  # on broken files Pillow's readers raise almost anything
            raise ImageError(
                f"image is truncated or broken ({name}): {error or type(error).__name__}"
            ) from None


@dataclass(frozen=True)
class Letterbox:
    """Letterbox of an image in a network input: scaled by one factor, centered, padded with gray.

    Attributes:
        image_hw: size of the image, pixels.
        input_hw: size of the network input, pixels.
        scale: network input pixels per image pixel.
        left: network input columns before the image.
        top: network input rows above the image.

    Example:
        >>> transform = Letterbox.for_image((480, 640), (416, 416))
        >>> transform.scale, transform.left, transform.top
        (0.65, 0, 52)
        >>> transform.to_input(np.array([[0.0, 0.0, 640.0, 480.0]])).tolist()
        [[0.0, 52.0, 416.0, 364.0]]
    """

    image_hw: tuple[int, int]
    input_hw: tuple[int, int]
    scale: float
    left: int
    top: int

    @classmethod
    def for_image(cls, image_hw: tuple[int, int], input_hw: tuple[int, int]) -> Letterbox:
        """Return the letterbox that fits a whole image into a network input."""
        scale = min(input_hw[0] / image_hw[0], input_hw[1] / image_hw[1])
        height, width = _scaled_hw(image_hw, scale)
        return cls(
            image_hw,
            input_hw,
            scale,
            left=(input_hw[1] - width) // 2,
            top=(input_hw[0] - height) // 2,
        )

    def _offset(self) -> NDArray[np.float32]:
        return np.array([self.left, self.top, self.left, self.top], dtype=np.float32)

    def to_input(self, boxes_xyxy: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return (n, 4) boxes of the image in network input pixels."""
        return boxes_xyxy * self.scale + self._offset()

    def to_image(self, boxes_xyxy: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return (n, 4) boxes of the network input in image pixels (not clipped)."""
        return (boxes_xyxy - self._offset()) / self.scale


def _scaled_hw(image_hw: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(image_hw[0] * scale)), max(1, round(image_hw[1] * scale))


def _method(image_hw: tuple[int, int], scaled_hw: tuple[int, int]) -> int:
    """Return the interpolation of OpenCV: areas are averaged from half the size on.

    Between half and full size, bilinear interpolation skips no pixels and takes a fifth of the
    time.
    """
    factors = scaled_hw[0] / image_hw[0], scaled_hw[1] / image_hw[1]
    return cv2.INTER_AREA if min(factors) <= 0.5 and max(factors) <= 1 else cv2.INTER_LINEAR


def letterbox(image: ImageArray, input_hw: tuple[int, int]) -> tuple[ImageArray, Letterbox]:
    """Return an image letterboxed to a network input size, and its `Letterbox`.

    Scaling to half the size or less averages areas, other scaling interpolates bilinearly.

    Args:
        image: uint8, shape (H, W, 3).
        input_hw: height and width of the network input, pixels.

    Returns:
        The network input, uint8 of shape (*input_hw, 3), and the `Letterbox`.
    """
    image_hw = (image.shape[0], image.shape[1])
    transform = Letterbox.for_image(image_hw, input_hw)
    height, width = _scaled_hw(image_hw, transform.scale)
    padded = np.full((*input_hw, 3), PAD_VALUE, dtype=np.uint8)
    inner = padded[transform.top : transform.top + height, transform.left : transform.left + width]
    if image_hw == (height, width):
        inner[:] = image
    else:
        method = _method(image_hw, (height, width))
        cv2.resize(image, (width, height), dst=inner, interpolation=method)
    return padded, transform


def stretched(image: ImageArray, input_hw: tuple[int, int]) -> ImageArray:
    """Return an image resized to a network input size, without keeping its aspect ratio.

    Scaling to half the size or less averages areas, other scaling interpolates bilinearly.

    Args:
        image: uint8, shape (H, W, 3).
        input_hw: height and width of the network input, pixels.

    Example:
        >>> stretched(np.zeros((2, 8, 3), dtype=np.uint8), (4, 4)).shape
        (4, 4, 3)
    """
    image_hw = (image.shape[0], image.shape[1])
    padded = cv2.resize(image, input_hw[::-1], interpolation=_method(image_hw, input_hw))
    return np.asarray(padded, dtype=np.uint8)


def common_aspect(image_sizes_hw: Iterable[tuple[int, int]]) -> float:
    """Return the median height / width of images; 1.0 if there are none.

    Example:
        >>> common_aspect([(480, 640), (480, 640), (640, 480)])
        0.75
    """
    ratios = [height / width for height, width in image_sizes_hw]
    return float(np.median(ratios)) if ratios else 1.0
