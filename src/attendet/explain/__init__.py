"""What a trained network looks at: the gates of its attention blocks for a picture.

The maths needs torch (the ``train`` extra); the results are plain arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attendet.extras import require

if TYPE_CHECKING:
    from attendet.explain.gates import compute_gates, crop_to_picture, gate_map

__all__ = ["compute_gates", "crop_to_picture", "gate_map"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        require("torch", extra="train", purpose="attendet.explain")
        from attendet.explain import gates

        return getattr(gates, name)
    raise AttributeError(f"module 'attendet.explain' has no attribute {name!r}")
