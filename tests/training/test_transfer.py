"""Which tensors of base weights go over into a network, and what is said of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from attendet.errors import ConfigError, WeightsError
from attendet.models import WeightsMetadata, build_from_metadata, load_weights
from attendet.training.recipe import Recipe
from attendet.training.transfer import Transfer, check_class_map, choose_init, transfer_weights

Saved = Callable[..., Path]


def _metadata(classes: Sequence[str] = ("red", "green"), **changes: Any) -> WeightsMetadata:
    return WeightsMetadata(classes=tuple(classes), **{"width_mult": 0.125, **changes})


# Classes ------------------------------------------------------------------------------------------


def _transfer(
    base: Path, metadata: WeightsMetadata, **class_map: str
) -> tuple[Transfer, torch.nn.Module, dict[str, torch.Tensor]]:
    """Return what was taken over, the network, and its tensors before."""
    torch.manual_seed(7)
    network = build_from_metadata(metadata)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return transfer_weights(network, metadata, base, class_map), network.eval(), before


HEADS = {"out_p5.weight", "out_p5.bias", "out_p4.weight", "out_p4.bias"}


def test_all_tensors_go_over_to_the_same_network(saved: Saved) -> None:
    described = _metadata(attention="ca")
    base = saved(described)

    transfer, network, _ = _transfer(base, described)

    total = len(network.state_dict())
    assert transfer.summary() == f"pretrained weights: 100 % copied ({total} of {total} tensors)"
    assert set(transfer.loaded) == set(network.state_dict())
    assert transfer.skipped == transfer.partial == ()
    old = load_weights(base)[0].state_dict()
    assert all(torch.equal(tensor, old[name]) for name, tensor in network.state_dict().items())


def test_the_same_classes_in_another_order_move_their_rows(saved: Saved) -> None:
    base = saved(_metadata(["a", "b", "c"]))

    transfer, network, _ = _transfer(base, _metadata(["c", "a", "b"]))

    old = load_weights(base)[0]
    x = torch.rand(1, 3, 64, 64)
    boxes, scores = network.decode(network(x))  # type: ignore[operator]
    expected_boxes, expected = old.decode(old(x))
    torch.testing.assert_close(boxes, expected_boxes)
    torch.testing.assert_close(scores, expected[..., [2, 0, 1]])
    assert transfer.summary().startswith("pretrained weights: 100 % copied (")
    assert transfer.summary().endswith("the rows of the classes were reordered")


def test_of_some_classes_in_common_those_rows_go_over(saved: Saved) -> None:
    base = saved(_metadata(["a", "b", "c"]))

    transfer, network, before = _transfer(base, _metadata(["new", "c"]))

    assert {name for name, _ in transfer.partial} == HEADS
    assert set(network.state_dict()) - set(transfer.loaded) == HEADS
    old, own = load_weights(base)[0].state_dict(), network.state_dict()
    for name in HEADS:
        here, there = own[name].view(3, 7, -1), old[name].view(3, 8, -1)
        assert torch.equal(here[:, :5], there[:, :5])
        assert torch.equal(here[:, 6], there[:, 7])  # c
        assert torch.equal(here[:, 5], before[name].view(3, 7, -1)[:, 5])  # new
    total = len(own)
    assert transfer.summary() == (
        f"pretrained weights: {100 * (total - 4) // total} % copied "
        f"({total - 4} of {total} tensors); "
        "partly copied: out_p4.bias, out_p4.weight, out_p5.bias, out_p5.weight: rows of boxes "
        "and objectness, and of c; those of new are initialized"
    )


def test_rows_of_classes_with_the_same_meaning_are_copied(saved: Saved) -> None:
    base = saved(_metadata(["airplane", "couch", "van"]))

    transfer, network, _ = _transfer(base, _metadata(["sofa", "lorry", "Aeroplane"]), lorry="van")

    old, own = load_weights(base)[0].state_dict(), network.state_dict()
    for name in HEADS:
        here, there = own[name].view(3, 8, -1), old[name].view(3, 8, -1)
        assert torch.equal(here, there[:, [0, 1, 2, 3, 4, 6, 7, 5]])
    assert transfer.summary().startswith("pretrained weights: 100 % copied (")
    assert transfer.note == (
        "matched classes of data and weights: sofa = couch, lorry = van, Aeroplane = airplane; "
        "the rows of the classes were reordered"
    )


def test_two_classes_may_begin_with_the_rows_of_one(saved: Saved) -> None:
    base = saved(_metadata(["vehicle", "person"]))

    transfer, network, _ = _transfer(
        base, _metadata(["car", "truck"]), car="vehicle", truck="vehicle"
    )

    old, own = load_weights(base)[0].state_dict(), network.state_dict()
    for name in HEADS:
        here, there = own[name].view(3, 7, -1), old[name].view(3, 7, -1)
        assert torch.equal(here, there[:, [0, 1, 2, 3, 4, 5, 5]])
    assert {name for name, _ in transfer.partial} == HEADS


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (None, "class_map has no effect without pretrained weights"),
        (_metadata(["van"]), "class of the weights must be a known name; got 'bus'"),
    ],
)
def test_a_class_map_without_effect_is_an_error(base: WeightsMetadata | None, message: str) -> None:
    recipe = Recipe(class_map="lorry=bus")
    with pytest.raises(ConfigError, match=message):
        check_class_map(recipe, ["lorry"], base)


@pytest.mark.parametrize("classes", [["x"], ["x", "y", "z"]])
def test_boxes_and_objectness_are_copied_for_other_classes(
    classes: list[str], saved: Saved
) -> None:
    base = saved(_metadata(["a", "b", "c"]))

    transfer, network, before = _transfer(base, _metadata(classes))

    old, own = load_weights(base)[0].state_dict(), network.state_dict()
    assert {name for name, _ in transfer.partial} == HEADS
    assert set(own) - set(transfer.loaded) == HEADS
    for name in HEADS:
        here, new = (x[name].view(3, 5 + len(classes), -1) for x in (own, before))
        assert torch.equal(here[:, :5], old[name].view(3, 8, -1)[:, :5])
        assert torch.equal(here[:, 5:], new[:, 5:])
    for name in set(own) - HEADS:
        assert torch.equal(own[name], old[name])
    assert "rows of boxes and objectness; those of x" in transfer.summary()


def test_classes_without_names_are_taken_in_their_order(saved: Saved) -> None:
    base = saved(_metadata(["class_0", "class_1"]))

    transfer, network, _ = _transfer(base, _metadata(["cat", "dog"]))

    old = load_weights(base)[0].state_dict()
    assert all(torch.equal(tensor, old[name]) for name, tensor in network.state_dict().items())
    assert "100 %" in transfer.summary()
    assert transfer.summary().endswith("have no names and were matched by position")


# Attention ----------------------------------------------------------------------------------------


def test_attention_of_another_kind_init_or_site_is_skipped_with_the_reason(saved: Saved) -> None:
    base = saved(_metadata(attention="ca@p4,up+se@p5"))
    own = _metadata(attention="cbam@p5+ca@p4", attention_init={"p4": "identity", "p5": "identity"})

    transfer, network, _ = _transfer(base, own)

    by_site = {name.split(".")[1]: why for name, why in transfer.skipped}
    assert by_site == {
        "p4": "attention_init is 'paper' in the file, 'identity' in the network",
        "p5": "attention at p5 is se in the file, cbam in the network",
        "up": "attention at up is ca in the file, none in the network",
    }
    fresh = set(network.state_dict()) - set(transfer.loaded)
    assert all(name.startswith("attention.") for name in fresh)


@pytest.mark.parametrize(
    ("wanted", "base", "expected"),
    [
        ("auto", None, "paper"),
        ("auto", "none", "identity"),
        ("auto", "ca", {"p5": "paper", "up": "identity"}),
        ("paper", "none", "paper"),
        ("identity", "ca", "identity"),
    ],
)
def test_the_start_depends_on_what_is_there(wanted: Any, base: str | None, expected: Any) -> None:
    described = None if base is None else _metadata(attention=base)

    assert choose_init({"p5": "ca", "up": "se"}, wanted, described) == expected


# Errors -------------------------------------------------------------------------------------------


def test_weights_of_which_nothing_fits_are_refused(saved: Saved) -> None:
    base = saved(_metadata())
    network = build_from_metadata(_metadata(["x"], width_mult=0.5))

    with pytest.raises(WeightsError, match=r"no convolution fits .*base1\.safetensors"):
        transfer_weights(network, _metadata(["x"], width_mult=0.5), base)


def test_damaged_base_weights_are_one_clear_error(saved: Saved) -> None:
    base = saved(_metadata())
    base.write_bytes(base.read_bytes()[:-100])

    with pytest.raises(WeightsError, match=r"damaged .*base1\.safetensors"):
        transfer_weights(build_from_metadata(_metadata()), _metadata(), base)
