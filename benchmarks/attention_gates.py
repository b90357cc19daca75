"""An image of the gates of each attention block, over a photo.

    python benchmarks/attention_gates.py yolo-fastest-xl photo.jpg --output docs/images/blocks.jpg

The blocks see the feature map of a trained network at one of its sites, but are not trained
themselves: their weights are drawn at random, so the image shows the form of each gate and not what
it learns to look at. Gates that differ by position are shown for one channel, the one whose gate
varies most; gates per channel as a curve, highest first.
"""

from __future__ import annotations

import argparse
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from torch import nn

from attendet.attention import attention_names, create_attention
from attendet.images import read_image
from attendet.inference.preprocess import resize_to_input
from attendet.interop.hub import local_weights
from attendet.models import load_weights
from attendet.models.graph_sites import describe_sites
from attendet.report.draw import (
    draw_gate_profiles,
    draw_sorted_gates,
    gate_overlay,
    image_grid,
    scale_to_width,
    to_jpeg,
)

WIDTH = 200


def feature_map(weights, image, site):
    """Return the map at a site of a darknet network, (1, C, H, W)."""
    network, metadata = load_weights(local_weights(weights))
    how = metadata.preprocessing()
    padded, _ = resize_to_input(image, metadata.input_hw, how.resize, how.color)
    pixels = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255
    kept = []
    layer = network.layers[describe_sites(network.graph)[site]["layer"]]
    layer.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    with torch.no_grad():
        network(pixels)
    return kept[0]


def random_block(name, channels):
    """Return a block with weights of the usual size in every layer."""
    torch.manual_seed(0)
    block = create_attention(name, channels).eval()
    for parameter in block.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=2 / parameter[0].numel() ** 0.5)
        else:
            nn.init.normal_(parameter)
    return block


def panel(image, gates):
    """Return the image of a block's gates."""
    if all(gate.shape[2:] == (1, 1) for gate in gates.values()):
        (gate,) = gates.values()
        return draw_sorted_gates(gate.ravel().numpy(), WIDTH, image.shape[0])
    product = reduce(torch.mul, gates.values())[0]
    channel = int(product.flatten(1).std(1).argmax())
    shown = gate_overlay(image, product[channel].numpy())
    if {"height", "width"} <= set(gates):
        rows, columns = (gates[key][0, channel].ravel().numpy() for key in ("height", "width"))
        shown = draw_gate_profiles(shown, rows, columns)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", help="weights of a darknet network, or a name of the zoo")
    parser.add_argument("image", type=Path)
    parser.add_argument("--site", default="p4", help="site of the feature map (default p4)")
    parser.add_argument("--columns", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path("blocks.jpg"))
    args = parser.parse_args()
    image = read_image(args.image)
    x = feature_map(args.weights, image, args.site)
    small = scale_to_width(image, WIDTH)
    panels, captions = [small], [f"image; map {'x'.join(map(str, x.shape[1:]))}"]
    for name in attention_names()[1:]:
        if ":" in name:
            continue
        with torch.no_grad():
            gates = random_block(name, x.shape[1]).gates(x)
        panels.append(panel(small, gates))
        values = np.concatenate([gate.ravel().numpy() for gate in gates.values()])
        captions.append(f"{name}: {values.min():.2f} - {values.max():.2f}")
    sheet = image_grid(panels, args.columns, captions=captions, cell_width=WIDTH)
    args.output.write_bytes(to_jpeg(sheet, quality=80))


if __name__ == "__main__":
    main()
