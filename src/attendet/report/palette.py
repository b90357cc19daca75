"""Colors that people with any color vision can tell apart (Okabe and Ito 2008)."""

from __future__ import annotations

__all__ = ["INK", "MUTED", "PALETTE", "color_of", "ink_on", "to_hex"]

Color = tuple[int, int, int]

PALETTE: tuple[Color, ...] = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
)
"""RGB: blue, vermilion, green, purple, orange, sky, yellow."""

INK: Color = (31, 35, 40)
MUTED: Color = (110, 118, 129)


def color_of(class_id: int) -> Color:
    """Return the RGB color of a class; from the eighth on, darker and lighter kinds of the first.

    Example:
        >>> color_of(0), color_of(7)
        ((0, 114, 178), (0, 74, 116))
    """
    turn, place = divmod(class_id, len(PALETTE))
    red, green, blue = PALETTE[place]
    if turn % 3 == 1:
        return round(red * 0.65), round(green * 0.65), round(blue * 0.65)
    if turn % 3 == 2:
        return tuple(round(255 - (255 - part) * 0.55) for part in (red, green, blue))  # type: ignore[return-value]
    return red, green, blue


def ink_on(color: Color) -> Color:
    """Return black or white, whichever reads better on an RGB color.

    Example:
        >>> ink_on((0, 114, 178)), ink_on((240, 228, 66))
        ((255, 255, 255), (0, 0, 0))
    """
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (value / 255 for value in color)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (255, 255, 255) if 1.05 / (luminance + 0.05) > 4.5 else (0, 0, 0)


def to_hex(color: Color) -> str:
    """Return an RGB color as ``#rrggbb``.

    Example:
        >>> to_hex((0, 114, 178))
        '#0072b2'
    """
    return "#{:02x}{:02x}{:02x}".format(*color)
