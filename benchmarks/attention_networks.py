"""Cost of attention in whole networks, and whether they compute the same before the first step.

    python benchmarks/attention_networks.py --output attention_networks.json
    python benchmarks/attention_networks.py --only resnet18 --blocks ca --rounds 3 --no-onnx

For each network, block and group of sites: parameters and multiply-accumulates added, the median
latency of one image in eager PyTorch (batch normalization not folded) and in ONNX Runtime, and
"step 0 equal": the outputs of the attended network equal those of the network bit for bit, in
evaluation and in training mode. Weights are random and nothing is fetched. All variants of a
network run once in each round, in random order, so that a slow spell of the machine falls
on all of them.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from candidates import describe_machine, warn_of_load
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import attendet
from attendet.models import build

BLOCKS = ("se", "cbam", "eca", "ca")


def reference(attention="none"):
    classes = [str(number) for number in range(80)]
    return build(classes=classes, attention=attention, attention_init="identity")


def torchvision(name, **options):
    import torchvision

    return torchvision.models.get_model(name, weights=None, **options)


def ssdlite_backbone():
    return torchvision("ssdlite320_mobilenet_v3_large", weights_backbone=None).backbone


def fasterrcnn_backbone():
    return torchvision("fasterrcnn_resnet50_fpn", weights_backbone=None).backbone


def timm(name):
    import timm

    return timm.create_model(name, pretrained=False)


# Name: how it is made, side of its image, and groups of sites by a name for the table: sites for
# attendet.attend, or sites of the reference network's own spec.
NETWORKS = {
    "YOLOv4-tiny": (
        reference,
        416,
        {site: site for site in ("p5", "p4,p5,up", "stage1,stage2,stage3")},
    ),
    "resnet18": (
        lambda: torchvision("resnet18"),
        224,
        {"layer4": ["layer4"], "layer1-4": ["layer?"]},
    ),
    "mobilenet_v3_large": (
        lambda: torchvision("mobilenet_v3_large"),
        224,
        {"features.12": ["features.12"], "features.4-15": ["features.[4-9]", "features.1[0-5]"]},
    ),
    "ssdlite320 backbone": (
        ssdlite_backbone,
        320,
        {"features.1": ["features.1"], "extra": ["extra.?"]},
    ),
    "fasterrcnn backbone": (
        fasterrcnn_backbone,
        320,
        {"body.layer4": ["body.layer4"], "fpn": ["fpn"]},
    ),
    "timm resnet26": (
        lambda: timm("resnet26"),
        224,
        {"layer4": ["layer4"], "layer1-4": ["layer?"]},
    ),
    "timm mobilenetv3_large_100": (
        lambda: timm("mobilenetv3_large_100"),
        224,
        {"blocks.5": ["blocks.5"], "blocks": ["blocks.?"]},
    ),
    "timm convnext_pico": (
        lambda: timm("convnext_pico"),
        224,
        {"stages.3": ["stages.3"], "stages": ["stages.?"]},
    ),
}


class Flat(nn.Module):
    """A network that returns its maps as a tuple, from any container."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return flat(self.network(images))


def flat(output):
    if isinstance(output, torch.Tensor):
        return (output,)
    parts = output.values() if isinstance(output, Mapping) else output
    return tuple(tensor for part in parts for tensor in flat(part))


def macs(network, image):
    """Return multiply-accumulates of the layers, without those of the gates' products."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    return counter.get_total_flops() // 2


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def starts_equal(network, attended, image):
    """Return whether both compute the same bit for bit, in evaluation and in training mode."""
    images = torch.cat([image, image.flip(3)])
    for training in (False, True):
        outputs = []
        for one in (network, attended):
            one = copy.deepcopy(one).train(training)
            torch.manual_seed(0)  # of dropout
            with torch.set_grad_enabled(training):
                outputs.append(one(images))
        if not all(map(torch.equal, *outputs)):
            return False
    return True


def put_in(plain, block, sites, image):
    """Return a copy of a network with attention."""
    if isinstance(sites, str):
        attended = Flat(reference(f"{block}@{sites}"))
        lacking, unknown = attended.load_state_dict(plain.state_dict(), strict=False)
        assert not unknown
        assert all(".attention." in name for name in lacking)
        return attended
    attended = copy.deepcopy(plain)
    attendet.attend(attended.network, dict.fromkeys(sites, block), example_input=image)
    return attended


def variants_of(make, side, groups, blocks):
    """Return name (block, sites) to network, the plain one first, and its image."""
    torch.manual_seed(0)
    plain = Flat(make()).eval()
    image = torch.rand(1, 3, side, side)
    found = {("none", ""): plain}
    for block in blocks:
        for label, sites in groups.items():
            attended = put_in(plain, block, sites, image)
            found[block, label] = attended.eval()
    return found, image


def exported(network, image, folder):
    """Return a function that runs the network in ONNX Runtime, and its difference from PyTorch."""
    import onnxruntime

    path = str(Path(folder) / "network.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (image,), path, dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Otherwise the threads of the previous session spin while the next one runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: image.numpy()}
    with torch.no_grad():
        expected = network(image)
    off = max(
        float((torch.from_numpy(one) - two).abs().max() / two.abs().max().clamp(min=1e-9))
        for one, two in zip(session.run(None, given), expected, strict=True)
    )
    return (lambda: session.run(None, given)), off


def milliseconds(runs, rounds):
    """Return median, 10 % and 90 % of the milliseconds of each run; all run alternately."""
    taken = {name: [] for name in runs}
    order = random.Random(0)
    for number in range(rounds + 2):
        for name, run in order.sample(list(runs.items()), len(runs)):
            begun = time.perf_counter()
            run()
            if number > 1:
                taken[name].append(1e3 * (time.perf_counter() - begun))
    return {name: spread(values) for name, values in taken.items()}


def spread(values):
    values = sorted(values)
    tenth = len(values) // 10
    return [round(x, 3) for x in (statistics.median(values), values[tenth], values[-1 - tenth])]


def measure(name, args):
    """Return one record a variant of a network."""
    found, image = variants_of(*NETWORKS[name], args.blocks)
    plain = found["none", ""]
    base = parameters(plain), macs(plain, image)

    def eager(network):
        def run():
            with torch.inference_mode():
                network(image)

        return run

    times = milliseconds({key: eager(one) for key, one in found.items()}, args.rounds)
    runs, off = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for key, one in found.items() if args.onnx else ():
            runs[key], off[key] = exported(one, image, folder)
        onnx = milliseconds(runs, args.rounds) if runs else {}
    records = []
    for (block, sites), one in found.items():
        key = block, sites
        records.append(
            {
                "network": name,
                "block": block,
                "sites": sites,
                "parameters": parameters(one) - (base[0] if one is not plain else 0),
                "macs": macs(one, image) - (base[1] if one is not plain else 0),
                "eager_ms": times[key],
                "onnx_ms": onnx.get(key),
                "onnx_off": off.get(key),
                "step_0_equal": starts_equal(plain, one, image),
            }
        )
    return records


def row(record, plain):
    """Return one line of the table."""

    def ms(name):
        if record[name] is None:
            return ""
        text = f"{record[name][0]:.2f}"
        return text if record is plain else f"{text} ({record[name][0] / plain[name][0]:.2f})"

    added = "" if record is plain else "+"
    label = record["network"] if record is plain else f"{record['block']} at {record['sites']}"
    equal = "" if record is plain else "yes" if record["step_0_equal"] else "NO"
    return (
        f"| {label} | {added}{record['parameters']:,} | {added}{record['macs'] / 1e6:.2f} M | "
        f"{ms('eager_ms')} | {ms('onnx_ms')} | {equal} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--blocks", nargs="+", default=BLOCKS, help="default se cbam eca ca")
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds (default 30)")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch and ONNX Runtime")
    parser.add_argument("--no-onnx", dest="onnx", action="store_false", help="eager alone")
    parser.add_argument("--output", type=Path, help="write the raw figures there, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    machine = describe_machine()
    warn_of_load(machine)
    print(
        "| network, attention | parameters | MACs | eager, ms (times plain) "
        "| ONNX Runtime, ms (times plain) | step 0 equal |\n|---|--:|--:|--:|--:|---|"
    )
    records = []
    for name in args.only:
        found = measure(name, args)
        records += found
        for record in found:
            print(row(record, found[0]), flush=True)
    if args.output is not None:
        args.output.write_text(json.dumps({"machine": machine, "records": records}, indent=1))


if __name__ == "__main__":
    main()
