"""The variants of a seed differ in their attention and in nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attendet.comparison.study import Study
from attendet.training.callback import TrainingCallback
from attendet.training.checkpoint import RunFolder
from attendet.training.distributed import make_fabric
from attendet.training.plan import Plan, make_plan
from attendet.training.recipe import Recipe
from attendet.training.trainer import Trainer, epoch_order

VARIANTS = ("none", "se", "cbam", "eca", "ca", "ca@stage1,stage3", "se@p5+ca@up")


def _plan(data: Path, attention: str, seed: int = 3, **changes: Any) -> Plan:
    settings = {"size": 64, "width_mult": 0.125, "batch": 4, "mixup": 0.3, "multi_scale": 0.3}
    recipe = Recipe().replace(**{**settings, **changes})
    return make_plan(data, attention=attention, recipe=recipe, seed=seed)


def _base(plan: Plan) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for name, tensor in plan.network.state_dict().items()
        if not name.startswith("attention.")
    }


@pytest.mark.parametrize("init", ["paper", "identity"])
@pytest.mark.parametrize("attention", VARIANTS[1:])
def test_attention_does_not_disturb_the_draw_of_base_weights(
    shapes: Path, attention: str, init: str
) -> None:
    without = _base(_plan(shapes, "none"))

    with_it = _base(_plan(shapes, attention, attention_init=init))

    assert with_it.keys() == without.keys()
    assert all(torch.equal(with_it[name], without[name]) for name in without)


def test_batches_are_bit_for_bit_the_same_in_all_variants(shapes: Path) -> None:
    def batches(attention: str, seed: int) -> list[torch.Tensor]:
        plan = _plan(shapes, attention, seed)
        fabric = make_fabric(accelerator="cpu", precision="32")
        fabric.launch()
        trainer = Trainer(fabric, plan, RunFolder(Path("unused")), TrainingCallback())
        drawn: list[torch.Tensor] = []
        for epoch in (0, 1):
            order = epoch_order(len(plan.cache), plan.recipe.batch, seed=seed, epoch=epoch)
            for step in range(len(order)):
                drawn += list(trainer._make_batch(epoch, step, order[step]))
        plan.cache.close()
        return drawn

    first = batches("none", 3)

    for attention in ("ca", "cbam@stage1"):
        others = batches(attention, 3)
        assert len(others) == len(first)
        assert all(torch.equal(one, other) for one, other in zip(first, others, strict=True))
    assert any(
        one.shape != other.shape or not torch.equal(one, other)
        for one, other in zip(first, batches("none", 4), strict=False)
    )


def test_records_prove_the_pairing(finished: Study) -> None:
    by_seed: dict[int, set[str]] = {}
    for record in finished.records:
        by_seed.setdefault(record["seed"], set()).add(record["base_weights"])

    assert [len(digests) for digests in by_seed.values()] == [1, 1]
    assert by_seed[0] != by_seed[1]
    assert finished.summary["pairing"] == {"same_base_weights": True}


def test_all_variants_of_a_seed_choose_the_same_anchors(shapes: Path) -> None:
    anchors = {_plan(shapes, attention, anchors="data").metadata.anchors for attention in VARIANTS}

    assert len(anchors) == 1


def test_the_first_loss_of_an_identity_variant_is_that_of_the_baseline(
    study: Callable[..., Study],
) -> None:
    """Same weights, same batch, attention that changes nothing yet: the same first epoch's start.

    With a learning rate of almost nothing, all of the first epoch is that of the baseline.
    """
    made = study(attention_init=["identity"], seeds=1, epochs=1, lr=1e-12, warmup_epochs=0.0)

    losses = {record["variant_name"]: record["curve"][0]["losses"] for record in made.records}
    assert losses["eca@p4,p5,up:identity"] == pytest.approx(losses["none"], rel=1e-4)
