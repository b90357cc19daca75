"""The resume state: everything that the next epoch needs, written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from attendet.errors import TrainingError
from attendet.files import replacing

__all__ = ["read_state", "write_state"]

STATE_VERSION = 1


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write a resume state of tensors and plain values; an interrupted write leaves the old one.

    Raises:
        OSError: if it cannot be written, as on a full disk.
    """
    packed = io.BytesIO()  # PyTorch's own writer says nothing of a full disk when it meets one
    torch.save({"state_version": STATE_VERSION, **state}, packed)
    with replacing(path) as partial, partial.open("wb") as stream:
        stream.write(packed.getbuffer())


def read_state(path: Path) -> dict[str, Any]:
    """Return a resume state, read without running anything that the file may hold.

    Raises:
        TrainingError: if it is missing, damaged or of another version.
    """
    if not path.is_file():
        raise TrainingError(f"there is nothing to resume ({path} is missing). Train anew.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to spell
        kind = type(error).__name__
        raise TrainingError(f"resume state is damaged ({path}; {kind}). Train anew.") from None
    if not isinstance(state, dict) or state.get("state_version") != STATE_VERSION:
        raise TrainingError(f"resume state is of another version ({path}). Train anew.")
    return state
