from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("faster_coco_eval")

from torch import nn  # noqa: E402

from attendet.attention import attend  # noqa: E402
from attendet.data import load_dataset  # noqa: E402
from attendet.errors import ConfigError  # noqa: E402
from attendet.explain import prune_attention  # noqa: E402
from attendet.models import load_weights, save_weights  # noqa: E402


@pytest.fixture
def samples(squares):
    return load_dataset(squares).split("val")


def still(network, *sites):
    """Make the gates of some sites constant."""
    for site in sites:
        for layer in network.attention_blocks()[site].logit_layers():
            nn.init.zeros_(layer.weight)


def test_a_constant_block_is_removed_exactly_and_a_working_one_stays(tiny, samples, tmp_path):
    network, metadata = tiny("ca")
    still(network, "p4")
    for site in ("p5", "up"):
        for layer in network.attention_blocks()[site].logit_layers():
            nn.init.normal_(layer.weight, std=20)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    said = []

    pruned = prune_attention(network, metadata, samples, progress=said.append)

    first = pruned.decisions[0]
    assert (first.site, first.health.verdict, first.folded) == ("p4", "constant", True)
    assert pruned.ap_after == pruned.ap_before
    kept = {one.site for one in pruned.decisions if not one.folded}
    assert kept == set(pruned.network.attention_blocks())
    assert said[0] == "gates on 4 images"
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    path = save_weights(tmp_path / "pruned.safetensors", pruned.network, pruned.metadata)
    loaded, described = load_weights(path)
    assert set(loaded.attention_blocks()) == kept
    assert described.measured is None


def test_the_savings_are_the_cost_of_the_block(tiny, samples):
    network, metadata = tiny("se@p5")
    block = sum(parameter.numel() for parameter in network.attention.parameters())
    still(network, "p5")

    pruned = prune_attention(network, metadata, samples)

    assert pruned.metadata.attention == "none"
    assert pruned.before.parameters - pruned.after.parameters == block
    assert pruned.before.macs - pruned.after.macs == block


def test_a_block_whose_removal_loses_too_much_ap_stays(tiny, samples, monkeypatch):
    from attendet.explain import prune

    network, metadata = tiny("se@p5,up")
    still(network, "p5", "up")
    measured = iter([0.500, 0.4985, 0.4965])
    monkeypatch.setattr(prune, "evaluate", lambda *_, **__: {"ap": next(measured)})

    pruned = prune.prune_attention(network, metadata, samples, max_ap_loss=0.2)

    assert [one.folded for one in pruned.decisions] == [True, False]
    assert (pruned.ap_before, pruned.ap_after) == (0.500, 0.4985)
    assert "-0.35 points in total: more than 0.2 lost" in pruned.decisions[1].reason
    assert len(pruned.network.attention_blocks()) == 1


def test_a_pruned_network_with_an_init_by_site_is_written(tiny, samples, tmp_path):
    inits = {"p4": "paper", "p5": "identity", "up": "paper"}
    network, metadata = tiny("se", attention_init=inits)
    still(network, "p5")

    pruned = prune_attention(network, metadata, samples, max_ap_loss=100)

    path = save_weights(tmp_path / "pruned.safetensors", pruned.network, pruned.metadata)
    assert "p5" not in load_weights(path)[0].attention_blocks()


def test_a_constant_that_cannot_be_folded_is_kept(tiny, samples):
    network, metadata = tiny("none")
    attend(network, {"conv_p5": "lska"}, init="paper")
    factor = network.conv_p5.attention_block.mix
    nn.init.zeros_(factor.weight)
    nn.init.constant_(factor.bias, -0.5)

    (decision,) = prune_attention(network, metadata, samples).decisions

    assert decision.health.verdict == "constant"
    assert (decision.folded, decision.ap) == (False, None)
    assert decision.reason == "its mean gates cannot be folded into an adjacent convolution"


def test_a_network_without_foldable_blocks_is_an_error(tiny, samples, monkeypatch):
    network, metadata = tiny("se")
    monkeypatch.setattr("attendet.explain.prune.can_fold", lambda *_, **__: False)
    with pytest.raises(ConfigError, match="can be folded into an adjacent convolution"):
        prune_attention(network, metadata, samples)


def test_a_network_without_attention_and_a_negative_tolerance_are_errors(tiny, samples):
    network, metadata = tiny("none")
    with pytest.raises(ConfigError, match="must have attention to prune"):
        prune_attention(network, metadata, samples)
    network, metadata = tiny("se")
    with pytest.raises(ConfigError, match="max_ap_loss must be 0 points or more; got -1"):
        prune_attention(network, metadata, samples, max_ap_loss=-1)
