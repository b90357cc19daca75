"""Removal of attention blocks that do nothing, within a tolerance of average precision.

Points are hundredths of average precision: 0.2 points are an AP of 0.002.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attendet.attention import format_attention_spec
from attendet.attention.cost import Cost, network_cost
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
from attendet.models import DetectionNetwork, WeightsMetadata
from attendet.models.graph import Graph
from attendet.models.weights import attention_by_site, attention_sites

MAX_AP_LOSS = 0.2
"""Default tolerance, points of AP. Runs that differ only in their seed differ by more: by half a
point or more on data sets of a few hundred images."""


@dataclass(frozen=True)
class Decision:
    """Result of one attempt to remove a block.

    Attributes:
        site: Site of the block.
        health: Health of its gates on the images.
        ap: AP without the block, 0 to 1; None if it was not tried.
        folded: Whether the block was removed.
        reason: Reason for the decision, as text.
    """

    site: str
    health: BlockHealth
    ap: float | None
    folded: bool
    reason: str


@dataclass(frozen=True)
class Pruned:
    """A pruned network and the savings.

    Attributes:
        network: A copy; the original network is unchanged.
        metadata: Metadata of the copy.
        decisions: One per block, in the order of the attempts.
        ap_before: AP of the original network, 0 to 1.
        ap_after: AP of the copy on the same images, 0 to 1.
        before: Cost of the original network.
        after: Cost of the copy.
    """

    network: DetectionNetwork
    metadata: WeightsMetadata
    decisions: tuple[Decision, ...]
    ap_before: float
    ap_after: float
    before: Cost
    after: Cost


def prune_attention(
    network: DetectionNetwork,
    metadata: WeightsMetadata,
    samples: Sequence[Sample],
    *,
    max_ap_loss: float = MAX_AP_LOSS,
    every: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Pruned:
    """Return a copy of a network without the attention blocks that do nothing.

    A block whose gates are nearly the same for all images and positions is replaced by that
    constant, which is folded into a neighboring convolution. The block stays if this would lose
    more AP on the images than allowed. Blocks are tried one after the other, the least varying
    first, in the network without the blocks that are already removed.

    Args:
        network: with attention.
        metadata: its metadata.
        samples: labeled images on which gates and AP are measured; class ids are those of the
            metadata. Do not use the test split if you report a result on it.
        max_ap_loss: points of AP that may be lost in total.
        every: try every block that can be folded, not only idle and constant ones.
        progress: called with a text before each step.

    Raises:
        ConfigError: if the network has no attention or none that can be folded, no sample has
            ground truth, or ``max_ap_loss`` is negative.
    """
    if not gated_sites(network):
        raise ConfigError("network must have attention to prune; got none. There is nothing to do.")
    if not any(can_fold(network, site) for site in gated_sites(network)):
        rule = "a network with a block whose gates can be folded into an adjacent convolution"
        got = f"blocks at {', '.join(gated_sites(network))}"
        raise ConfigError.must("network", rule, got, advice="Keep them, or train without them.")
    good = max_ap_loss >= 0
    ConfigError.check(good, "max_ap_loss", "0 points or more", max_ap_loss, "--max-ap-loss")
    pruned = copy.deepcopy(network).eval()

    def measure(candidate: DetectionNetwork) -> float:
        detector = Detector(TorchRuntime(candidate, metadata, fold=True))
        record = evaluate(detector, samples, classes=metadata.classes, curves=False)
        ap: float | None = record["ap"]
        if ap is None:
            raise ConfigError(
                "samples must have boxes, to measure AP; got none. Choose another split."
            )
        return ap

    progress(f"gates on {len(samples)} images")
    sources = [Source(sample.path.stem, sample.path) for sample in samples]
    explanation = explain_network(pruned, metadata, sources, cam=False, max_images=0)
    health = explanation.health()
    progress("AP with all blocks")
    ap_before = ap = measure(pruned)
    decisions = []
    for site in sorted(health, key=lambda name: health[name].product.relative_std()):
        scale = torch.from_numpy(explanation.statistics[site].channel_means())
        reason = _reason_to_keep(pruned, scale, health[site], every=every)
        if reason:
            decisions.append(Decision(site, health[site], None, folded=False, reason=reason))
            continue
        progress(f"AP without {site}")
        candidate = copy.deepcopy(pruned)
        channels = int(gated_sites(candidate)[site].channels)  # type: ignore[arg-type]
        fold_gate(candidate, site, scale.expand(channels))
        without = measure(candidate)
        lost = 100 * (ap_before - without)
        folded = lost <= max_ap_loss + 1e-9
        if folded:
            pruned, ap = candidate, without
        reason = f"AP {without:.4f} without it, {-lost:+.2f} points in total"
        reason += "" if folded else f": more than {max_ap_loss:g} lost"
        decisions.append(Decision(site, health[site], without, folded=folded, reason=reason))
    return Pruned(
        pruned,
        _pruned_metadata(pruned, metadata),
        tuple(decisions),
        ap_before,
        ap,
        network_cost(network, (3, *metadata.input_hw)),
        network_cost(pruned, (3, *metadata.input_hw)),
    )


def _reason_to_keep(
    network: DetectionNetwork, scale: Tensor, health: BlockHealth, *, every: bool
) -> str | None:
    """Return the reason not to try to remove a block; None if it is to be tried."""
    if not can_fold(network, health.site, negative=bool((scale < 0).any())):
        return "its mean gates cannot be folded into an adjacent convolution"
    return None if every or health.verdict in ("idle", "constant") else health.sentence


def _pruned_metadata(network: DetectionNetwork, metadata: WeightsMetadata) -> WeightsMetadata:
    """Return the metadata with the remaining attention, and without the measured AP."""
    before = {site: name for site, (name, _) in attention_by_site(metadata).items()}
    left = {site: name for site, name in before.items() if site in network.attention_blocks()}
    if left == before:
        return metadata
    graph = Graph.from_mappings(metadata.graph) if metadata.graph else None
    spec = format_attention_spec(left, attention_sites(graph, len(metadata.anchor_masks))[1])
    return dataclasses.replace(
        metadata, attention=spec, attention_init=network.attention_init, measured=None
    )
