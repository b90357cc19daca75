"""Pictures as numpy arrays: reading any file, and the one letterbox.

A picture is uint8 RGB of shape (H, W, 3).
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
from PIL import Image

from attendet.errors import PictureError

__all__ = [
    "MAX_PIXELS",
    "PICTURE_SUFFIXES",
    "Letterbox",
    "from_pil",
    "letterbox",
    "picture_files",
    "read_orientation",
    "read_picture",
    "read_picture_hw",
    "stretched",
]

Picture = NDArray[np.uint8]

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
)
MAX_PIXELS = 178_956_970
"""A larger picture is refused before it is decoded: Pillow's own limit, 512 MiB of RGB."""

ROWS_AT_ONCE = 256
"""Rows that are converted together where that takes memory: a small file may unpack to much."""

PAD_VALUE = 114
"""Grey level of the letterbox's border, the value that Ultralytics' projects made usual."""


def picture_files(folder: Path) -> list[Path]:
    """Return the picture files directly in a folder, by suffix, in name order."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()
    )


_opening = threading.Lock()  # warnings.catch_warnings is not safe in threads


def _open(source: Path | bytes, name: str) -> Image.Image:
    try:
        with _opening, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except FileNotFoundError:
        raise PictureError(f"picture not found ({name}). Check the path.") from None
    except Image.DecompressionBombError:
        raise PictureError(
            f"picture must have at most {MAX_PIXELS} pixels; got more ({name}). "
            "Scale it down first."
        ) from None
    except Exception as error:  # on broken files Pillow's readers raise almost anything
        raise PictureError(
            f"picture cannot be read ({name}): {error or type(error).__name__}"
        ) from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PictureError(
            f"picture must have at most {MAX_PIXELS} pixels; got {width} x {height} ({name}). "
            "Scale it down first."
        )
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # a broken EXIF block is no reason to lose the picture
        return 1


def read_picture_hw(path: Path) -> tuple[int, int]:
    """Return height and width of a picture file as `read_picture` would give it.

    Only the header is read (PNG and TIFF may need more to know how the picture is turned).

    Raises:
        PictureError: if the file is missing or is no picture.
    """
    with _open(path, str(path)) as image:
        if image.format == "TIFF":  # Pillow turns these itself, some versions already here
            return read_picture(path).shape[:2]
        width, height = image.size
        return (width, height) if _orientation(image) in (5, 6, 7, 8) else (height, width)


def read_orientation(path: Path) -> int:
    """Return the EXIF orientation of a picture file, 1 (upright) to 8; 1 where it has none.

    Raises:
        PictureError: if the file is missing or is no picture.
    """
    with _open(path, str(path)) as image:
        return _orientation(image)


def _grey_to_8_bits(image: Image.Image) -> Image.Image:
    """Return 16-bit, 32-bit or float grey as 8 bits.

    16 bits are divided by 257, whatever the picture holds, so that pictures of one set stay
    comparable; floats up to 1 are shares; 32-bit whole numbers up to 255 are taken as they are.
    """
    grey = np.asarray(image)
    largest = np.nan_to_num(grey.max(initial=0, where=~np.isnan(grey)))
    if image.mode == "F" and largest <= 1:
        top = 1.0
    elif image.mode in ("I", "F") and image.format != "PNG" and largest <= 255:
        top = 255.0
    else:
        top = 65535.0
    shown = np.empty(grey.shape, dtype=np.uint8)
    for start in range(0, len(grey), ROWS_AT_ONCE):
        rows = np.s_[start : start + ROWS_AT_ONCE]
        values = np.nan_to_num(grey[rows].astype(np.float64))
        shown[rows] = (values.clip(0, top) / top * 255).astype(np.uint8)
    return Image.fromarray(shown)


def _on_white(image: Image.Image) -> Image.Image:
    rgb = Image.new("RGB", image.size)
    for top in range(0, image.height, ROWS_AT_ONCE):
        bottom = min(top + ROWS_AT_ONCE, image.height)
        part = image.crop((0, top, image.width, bottom)).convert("RGBA")
        white = Image.new("RGBA", part.size, (255, 255, 255, 255))
        rgb.paste(Image.alpha_composite(white, part).convert("RGB"), (0, top))
    return rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey_to_8_bits(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _turned(picture: Picture, orientation: int) -> Picture:
    """Return a stored picture upright; ``orientation`` is EXIF's, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        picture = picture.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)


def from_pil(image: Image.Image) -> Picture:
    """Return a PIL picture as uint8 RGB, shape (H, W, 3), turned as its EXIF says."""
    image.load()
    return _turned(np.array(_to_rgb(image), dtype=np.uint8), _orientation(image))


_COLOR_RGB = int(getattr(cv2, "IMREAD_COLOR_RGB", 0))
"""Decodes to RGB at once, from OpenCV 4.11 on; 0 before."""


def _read_plain_jpeg(image: Image.Image, source: Path | bytes) -> Picture | None:
    """Return an ordinary JPEG decoded by OpenCV, or None where Pillow has to decide.

    Both bring libjpeg-turbo and give the same pixels; OpenCV copies them less often (a quarter of
    the time). But it fills up what is missing from a broken file with a flat colour, so it has its
    say only when the file ends as a JPEG does and the picture's last corner is not flat.
    """
    if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
        return None
    content = source if isinstance(source, bytes) else source.read_bytes()
    if content[-2:] != b"\xff\xd9":
        return None
    flags = (_COLOR_RGB or cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        decoded = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags)
    except cv2.error:
        return None
    if decoded is None or decoded.shape[:2] != (image.height, image.width):
        return None
    if (decoded[-8:, -8:] == decoded[-1, -1]).all():
        return None
    if not _COLOR_RGB:
        decoded = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=decoded)
    return _turned(decoded.astype(np.uint8, copy=False), _orientation(image))


def read_picture(source: str | Path | bytes, *, name: str | None = None) -> Picture:
    """Return a picture file, or the bytes of one, as uint8 RGB, turned as its EXIF says.

    Grey, palette, CMYK and transparent pictures (laid on white) become plain RGB, 16 bits a channel
    become 8; of an animation the first frame is read.

    Args:
        source: path, or the bytes of a picture file.
        name: what to call it in errors; the path if left out.

    Returns:
        uint8, shape (H, W, 3), RGB.

    Raises:
        PictureError: if it is missing, no picture, truncated, or larger than `MAX_PIXELS`.
    """
    if not isinstance(source, bytes):
        source = Path(source)
    name = name or (str(source) if isinstance(source, Path) else "<bytes>")
    with _open(source, name) as image:
        try:
            plain = _read_plain_jpeg(image, source)
            return from_pil(image) if plain is None else plain
        except Exception as error:  # on broken files Pillow's readers raise almost anything
            raise PictureError(
                f"picture is truncated or broken ({name}): {error or type(error).__name__}"
            ) from None


@dataclass(frozen=True)
class Letterbox:
    """How a picture was laid into a canvas: scaled by one factor, centred, the rest grey.

    Attributes:
        image_hw: size of the picture, pixels.
        canvas_hw: size of the canvas, pixels.
        scale: canvas pixels per picture pixel.
        left: canvas columns before the picture.
        top: canvas rows above the picture.

    Example:
        >>> fit = Letterbox.fit((480, 640), (416, 416))
        >>> fit.scale, fit.left, fit.top
        (0.65, 0, 52)
        >>> fit.to_canvas(np.array([[0.0, 0.0, 640.0, 480.0]])).tolist()
        [[0.0, 52.0, 416.0, 364.0]]
    """

    image_hw: tuple[int, int]
    canvas_hw: tuple[int, int]
    scale: float
    left: int
    top: int

    @classmethod
    def fit(cls, image_hw: tuple[int, int], canvas_hw: tuple[int, int]) -> Letterbox:
        """Return the letterbox that fits a picture whole into a canvas."""
        scale = min(canvas_hw[0] / image_hw[0], canvas_hw[1] / image_hw[1])
        height, width = _scaled_hw(image_hw, scale)
        return cls(
            image_hw,
            canvas_hw,
            scale,
            left=(canvas_hw[1] - width) // 2,
            top=(canvas_hw[0] - height) // 2,
        )

    def _offset(self) -> NDArray[np.float32]:
        return np.array([self.left, self.top, self.left, self.top], dtype=np.float32)

    def to_canvas(self, boxes_xyxy: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return (n, 4) boxes of the picture in canvas pixels."""
        return boxes_xyxy * self.scale + self._offset()

    def to_picture(self, boxes_xyxy: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return (n, 4) boxes of the canvas in picture pixels (not clipped)."""
        return (boxes_xyxy - self._offset()) / self.scale


def _scaled_hw(image_hw: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(image_hw[0] * scale)), max(1, round(image_hw[1] * scale))


def letterbox(picture: Picture, canvas_hw: tuple[int, int]) -> tuple[Picture, Letterbox]:
    """Return a picture scaled to fit a canvas whole, centred on grey, and how it was laid.

    Scaling down averages areas, scaling up interpolates bilinearly.

    Args:
        picture: uint8, shape (H, W, 3).
        canvas_hw: height and width of the canvas, pixels.

    Returns:
        The canvas, uint8 of shape (*canvas_hw, 3), and the `Letterbox`.
    """
    image_hw = (picture.shape[0], picture.shape[1])
    fit = Letterbox.fit(image_hw, canvas_hw)
    height, width = _scaled_hw(image_hw, fit.scale)
    canvas = np.full((*canvas_hw, 3), PAD_VALUE, dtype=np.uint8)
    inner = canvas[fit.top : fit.top + height, fit.left : fit.left + width]
    if image_hw == (height, width):
        inner[:] = picture
    else:
        method = cv2.INTER_AREA if fit.scale < 1 else cv2.INTER_LINEAR
        cv2.resize(picture, (width, height), dst=inner, interpolation=method)
    return canvas, fit


def stretched(picture: Picture, canvas_hw: tuple[int, int]) -> Picture:
    """Return a picture scaled to fill a canvas, each side by its own factor.

    Scaling down averages areas, scaling up interpolates bilinearly.

    Args:
        picture: uint8, shape (H, W, 3).
        canvas_hw: height and width of the canvas, pixels.

    Example:
        >>> stretched(np.zeros((2, 8, 3), dtype=np.uint8), (4, 4)).shape
        (4, 4, 3)
    """
    image_hw = (picture.shape[0], picture.shape[1])
    if image_hw == canvas_hw:
        return picture
    smaller = canvas_hw[0] * canvas_hw[1] < image_hw[0] * image_hw[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    canvas = cv2.resize(picture, canvas_hw[::-1], interpolation=method)
    return np.asarray(canvas, dtype=np.uint8)


def common_aspect(image_sizes_hw: Iterable[tuple[int, int]]) -> float:
    """Return the median of height / width over pictures; 1.0 for none.

    Example:
        >>> common_aspect([(480, 640), (480, 640), (640, 480)])
        0.75
    """
    ratios = [height / width for height, width in image_sizes_hw]
    return float(np.median(ratios)) if ratios else 1.0
