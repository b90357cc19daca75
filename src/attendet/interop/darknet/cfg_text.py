"""Darknet configuration files, written. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping

from attendet.interop.darknet.cfg import DarknetConfig
from attendet.models.graph_layers import (
    Convolutional,
    Dropout,
    Layer,
    MaxPool,
    Route,
    ScaleChannels,
    Shortcut,
    Upsample,
    Yolo,
)

__all__ = ["format_config"]


def format_config(config: DarknetConfig) -> str:
    """Return the text of a configuration that `parse_config` reads as the same network.

    Args:
        config: what to write; ``lines`` and ``unread`` play no part.
    """
    height, width = config.input_hw
    blocks = [_block("net", {"batch": 1, "width": width, "height": height, "channels": 3})]
    if config.letter_box is not None:
        blocks[0] += f"letter_box={int(config.letter_box)}\n"
    level = 0
    for index, layer in enumerate(config.graph.layers):
        options: dict[str, object]
        if isinstance(layer, Yolo):
            options = {
                "mask": ",".join(map(str, config.anchor_masks[level])),
                "anchors": ", ".join(f"{_number(w)},{_number(h)}" for w, h in config.anchors),
                "classes": config.num_classes,
                "num": len(config.anchors),
                "scale_x_y": _number(layer.scale_x_y or config.scale_x_y),
            }
            level += 1
        else:
            options = _options(layer, index)
        blocks.append(_block(layer.kind, options))
    return "\n".join(blocks)


def _number(value: float) -> str:
    return repr(int(value) if value == int(value) else value)


def _block(kind: str, options: Mapping[str, object]) -> str:
    return f"[{kind}]\n" + "".join(f"{key}={value}\n" for key, value in options.items())


def _options(layer: Layer, index: int) -> dict[str, object]:
    match layer:
        case Convolutional():
            options: dict[str, object] = {"batch_normalize": 1} if layer.batch_normalize else {}
            options |= {"filters": layer.filters, "size": layer.size, "stride": layer.stride}
            same = layer.padding == layer.size // 2
            options |= {"pad": 1} if same else {"padding": layer.padding}
            options |= {"groups": layer.groups} if layer.groups > 1 else {}
            return options | {"activation": layer.activation}
        case MaxPool():
            return {"size": layer.size, "stride": layer.stride, "padding": layer.padding}
        case Route():
            options = {"layers": ",".join(str(one - index) for one in layer.layers)}
            if layer.groups > 1:
                options |= {"groups": layer.groups, "group_id": layer.group_id}
            return options
        case Shortcut():
            options = {"from": ",".join(str(one - index) for one in layer.layers)}
            return options | {"activation": layer.activation}
        case ScaleChannels():
            return {"from": layer.layer - index, "activation": layer.activation}
        case Upsample():
            return {"stride": layer.stride}
        case Dropout():
            return {"probability": _number(layer.probability)}
    return {}
