"""What a trained network looks at: gates, class activation maps, and the health of its gates.

The maths needs torch (the ``train`` extra); the results are plain arrays.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from attendet.extras import require

if TYPE_CHECKING:
    from attendet.explain.cam import class_activation_maps
    from attendet.explain.explanation import (
        Explanation,
        PictureExplanation,
        explain,
        explain_network,
        gate_health,
    )
    from attendet.explain.fold import can_fold, fold_gate
    from attendet.explain.gates import (
        cells_of_picture,
        compute_gates,
        crop_to_picture,
        gate_map,
        gated_sites,
        record_gates,
    )
    from attendet.explain.health import BlockHealth, GateNumbers, GateStatistics
    from attendet.explain.page import write_explanation
    from attendet.explain.prune import Pruned, network_cost, prune_attention

__all__ = [
    "BlockHealth",
    "Explanation",
    "GateNumbers",
    "GateStatistics",
    "PictureExplanation",
    "Pruned",
    "can_fold",
    "cells_of_picture",
    "class_activation_maps",
    "compute_gates",
    "crop_to_picture",
    "explain",
    "explain_network",
    "fold_gate",
    "gate_health",
    "gate_map",
    "gated_sites",
    "network_cost",
    "prune_attention",
    "record_gates",
    "write_explanation",
]

_HOMES = {
    "BlockHealth": "health",
    "Explanation": "explanation",
    "GateNumbers": "health",
    "GateStatistics": "health",
    "PictureExplanation": "explanation",
    "Pruned": "prune",
    "can_fold": "fold",
    "cells_of_picture": "gates",
    "class_activation_maps": "cam",
    "compute_gates": "gates",
    "crop_to_picture": "gates",
    "explain": "explanation",
    "explain_network": "explanation",
    "fold_gate": "fold",
    "gate_health": "explanation",
    "gate_map": "gates",
    "gated_sites": "gates",
    "network_cost": "prune",
    "prune_attention": "prune",
    "record_gates": "gates",
    "write_explanation": "page",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        require("torch", extra="train", purpose="attendet.explain")
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'attendet.explain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
