"""Kinds of values on the command line that several commands take."""

from __future__ import annotations

import argparse

__all__ = ["size_hw"]


def size_hw(text: str) -> tuple[int, int]:
    """Return height and width in pixels from one number or two.

    Raises:
        argparse.ArgumentTypeError: if the text is neither.

    Example:
        >>> size_hw("416"), size_hw("320x416")
        ((416, 416), (320, 416))
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() for side in sides):
        raise argparse.ArgumentTypeError(f"must be like 416 or 320x416; got {text!r}")
    return int(sides[0]), int(sides[-1])
