"""Attention blocks that do nothing taken out, as long as average precision stays.

Points are hundredths of average precision: 0.2 points are 0.002 of AP.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from attendet.attention import (
    AttentionBlock,
    format_attention_spec,
    parse_attention_spec,
)
from attendet.data.sample import Sample
from attendet.errors import ConfigError
from attendet.evaluation import evaluate
from attendet.explain.explanation import explain_network
from attendet.explain.fold import can_fold, fold_gate
from attendet.explain.gates import gated_sites
from attendet.explain.health import BlockHealth
from attendet.inference import Detector
from attendet.inference.runtimes.torch_runtime import TorchRuntime
from attendet.media.sources import Source
from attendet.models import (
    NECK_SITES,
    SITES,
    DetectionNetwork,
    WeightsMetadata,
    YoloV4Tiny,
)

__all__ = ["MAX_LOSS", "Cost", "Decision", "Pruned", "network_cost", "prune_attention"]

MAX_LOSS = 0.2
"""Points of AP that may be lost by default. Two runs that differ in nothing but their seed differ
by more (half a point and up on data sets of some hundred images)."""


@dataclass(frozen=True)
class Cost:
    """What a network costs."""

    parameters: int
    """Trained values."""

    macs: int
    """Multiply-accumulates an image, those of gates times maps included."""


@dataclass(frozen=True)
class Decision:
    """What became of one block."""

    site: str
    """Where it stands or stood."""

    health: BlockHealth
    """Its gates on the images."""

    ap: float | None
    """AP without it, 0 to 1; None where it was not tried."""

    folded: bool
    """Whether it is gone."""

    reason: str
    """Why, in words."""


@dataclass(frozen=True)
class Pruned:
    """A network without its idle attention, and what that saved."""

    network: DetectionNetwork
    """A copy; the network that was given is as it was."""

    metadata: WeightsMetadata
    """Its description."""

    decisions: tuple[Decision, ...]
    """One a block, in the order in which they were looked at."""

    ap_before: float
    """0 to 1."""

    ap_after: float
    """0 to 1, on the same images."""

    before: Cost
    """Of the network that was given."""

    after: Cost
    """Of the copy."""


def prune_attention(
    network: DetectionNetwork,
    metadata: WeightsMetadata,
    samples: Sequence[Sample],
    *,
    classes: Sequence[str] | None = None,
    max_ap_loss: float = MAX_LOSS,
    every: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Pruned:
    """Return a copy of a network without the attention blocks that do nothing.

    A block whose gates are the same for all images and places is replaced by that constant, which
    is folded into a neighboring convolution. The step is exact where the gates are exactly
    constant; where they are nearly so, AP on the images decides. Blocks are tried in turn, the
    one that responds least first, and each is measured on top of those before it.

    Args:
        network: with attention.
        metadata: its description.
        samples: labeled images: gates are judged and AP is measured on them. Not the test
            split, if a result is to be reported on it.
        classes: names of the samples' classes, if in another order than the metadata's.
        max_ap_loss: points of AP that may be lost in all.
        every: try every block that can be folded, not only those judged to do nothing.
        progress: told in words what is being done.

    Raises:
        ConfigError: if the network has no attention, or there are no samples with ground truth.
    """
    if not gated_sites(network):
        raise ConfigError("network must have attention to prune; got none. There is nothing to do.")
    if not max_ap_loss >= 0:
        raise ConfigError(
            f"max_ap_loss must be 0 points or more; got {max_ap_loss!r} (--max-ap-loss)."
        )
    say = progress or (lambda _: None)
    pruned = copy.deepcopy(network).eval()

    def measure(candidate: DetectionNetwork) -> float:
        return _average_precision(candidate, metadata, samples, classes or metadata.classes)

    say(f"gates on {len(samples)} images")
    sources = [Source(sample.path.stem, sample.path) for sample in samples]
    explained = explain_network(pruned, metadata, sources, cam=False, drawn=0)
    health = explained.health()
    scales = {
        site: torch.from_numpy(one.channel_means()) for site, one in explained.statistics.items()
    }
    say("AP with all blocks")
    ap_before = ap = measure(pruned)
    decisions = []
    for site in sorted(health, key=lambda name: health[name].product.moved()):
        reason = _why_not(pruned, site, health[site], every=every)
        if reason:
            decisions.append(Decision(site, health[site], None, folded=False, reason=reason))
            continue
        say(f"AP without {site}")
        candidate = copy.deepcopy(pruned)
        channels = int(gated_sites(candidate)[site].channels)  # type: ignore[arg-type]
        fold_gate(candidate, site, scales[site].expand(channels))
        without = measure(candidate)
        lost = 100 * (ap_before - without)
        folded = lost <= max_ap_loss + 1e-9
        if folded:
            pruned, ap = candidate, without
        words = f"AP {without:.4f} without it, {-lost:+.2f} points in all"
        reason = words if folded else f"{words}: more than {max_ap_loss:g} lost"
        decisions.append(Decision(site, health[site], without, folded=folded, reason=reason))
    return Pruned(
        pruned,
        _described(pruned, metadata),
        tuple(decisions),
        ap_before,
        ap,
        network_cost(network, metadata.input_hw),
        network_cost(pruned, metadata.input_hw),
    )


def _why_not(
    network: DetectionNetwork, site: str, health: BlockHealth, *, every: bool
) -> str | None:
    """Return why a block is not tried; None if it is."""
    if not can_fold(network, site):
        return "no convolution beside it can take a constant"
    if every or health.verdict in ("idle", "constant"):
        return None
    return health.sentence


def _average_precision(
    network: DetectionNetwork,
    metadata: WeightsMetadata,
    samples: Sequence[Sample],
    classes: Sequence[str],
) -> float:
    detector = Detector(TorchRuntime(network, metadata, fold=True))
    record = evaluate(detector, samples, classes=classes, curves=False)
    if record["ap"] is None:
        raise ConfigError("samples must have boxes to measure AP on; got none. Choose a split.")
    return record["ap"]


def _described(network: DetectionNetwork, metadata: WeightsMetadata) -> WeightsMetadata:
    """Return the metadata with the attention that is left, and without figures of before."""
    if not isinstance(network, YoloV4Tiny):
        return metadata
    parsed = parse_attention_spec(
        metadata.attention, default_sites=NECK_SITES, sites=SITES, known=None
    )
    blocks = network.attention_blocks()
    left = {site: name for site, name in parsed.items() if site in blocks}
    if left == parsed:
        return metadata
    spec = format_attention_spec(left, NECK_SITES)
    return dataclasses.replace(metadata, attention=spec, measured=None)


def network_cost(network: nn.Module, input_hw: tuple[int, int]) -> Cost:
    """Return parameters and multiply-accumulates of a network; nothing is computed.

    Args:
        network: any network that takes images.
        input_hw: size of an image, pixels.

    Example:
        >>> network_cost(nn.Conv2d(3, 8, 3, padding=1, bias=False), (4, 4))
        Cost(parameters=216, macs=3456)
    """
    on_paper = copy.deepcopy(network).to("meta").eval()
    gated = 0

    def count(module: nn.Module, arguments: tuple[torch.Tensor, ...], _output: object) -> None:
        nonlocal gated
        if isinstance(module, AttentionBlock):
            x = arguments[0]
            gated += len(module.gates(x)) * x.numel()
        else:
            gated += arguments[1].numel()

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        on_paper(torch.empty(1, 3, *input_hw, device="meta"))
    for module in gated_sites(on_paper).values():
        module.register_forward_hook(count)
    with torch.no_grad():
        on_paper(torch.empty(1, 3, *input_hw, device="meta"))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters, counter.get_total_flops() // 2 + gated)
