"""A run that starts from base weights begins as the network that they are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import attendet
from attendet.cli import main
from attendet.data import DataSet, load_dataset
from attendet.errors import ConfigError
from attendet.models import WeightsMetadata, load_weights, save_weights
from attendet.training.callback import TrainingCallback
from attendet.training.plan import Plan, make_plan
from attendet.training.recipe import Recipe, load_recipe
from attendet.training.trainer import TrainingResult, train
from attendet.training.transfer import apply_pretrained_settings

Quick = Callable[..., TrainingResult]
Saved = Callable[..., Path]
EVERYWHERE = "ca@stage1,stage2,stage3,p4,p5,up"
METRICS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_100")
FITTING: dict[str, Any] = {"mosaic": 0.0, "ema_decay": 0.0, "lr": 0.01, "start_size_fraction": 1.0}
"""Settings with which a tiny network learns the squares in seconds."""


def _metadata(classes: Sequence[str] = ("red", "green"), **changes: Any) -> WeightsMetadata:
    return WeightsMetadata(classes=tuple(classes), **{"width_mult": 0.125, **changes})


def _eval(weights: Path, data: Path, folder: Path, *words: str) -> dict[str, Any]:
    """Return the metrics of `attendet eval` on the validation split."""
    record = folder / "record.json"
    line = ["eval", str(weights), str(data), "--split", "val", "--output", str(record), *words]
    assert main([*line, "--device", "cpu"]) == 0
    return dict(json.loads(record.read_text())["metrics"])


# Before the first step ----------------------------------------------------------------------------


def test_attention_in_the_backbone_leaves_the_ap_of_the_base(
    quick: Quick, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = quick(attention="none", epochs=40, evaluate_every=40, **FITTING)
    expected = _eval(base.last, squares, tmp_path, "--batch", "4")
    capsys.readouterr()

    line = ["train", str(squares), "--pretrained", str(base.last), "--attention", EVERYWHERE]
    line += ["--accelerator=cpu", "--precision=32", "--batch=4", "--epochs=1"]
    assert main([*line, "--output", str(tmp_path / "tuned")]) == 0

    said = capsys.readouterr().out
    total = len(load_weights(base.last)[0].state_dict())
    assert f"\npretrained weights: 100 % copied ({total} of {total} tensors)\n" in said
    assert "\ninput, anchors, scale_x_y and batch norm: as in the pretrained weights\n" in said
    assert f"\nbefore training: AP {expected['ap']:.3f} AP50" in said
    lines = (tmp_path / "tuned/results.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert (first["epoch"], second["epoch"]) == (0, 1)
    assert expected["ap"] > 0.01
    assert {name: first[name] for name in METRICS} == {name: expected[name] for name in METRICS}

    stretched = tmp_path / "stretched.safetensors"
    network, metadata = load_weights(base.last)
    preprocess = {"resize": "stretch", "color": "rgb"}
    save_weights(stretched, network, dataclasses.replace(metadata, preprocess=preprocess))
    expected = _eval(stretched, squares, tmp_path, "--batch", "4")
    again = quick(pretrained=stretched, attention="ca@stage2", epochs=1)
    assert load_weights(again.last)[1].preprocess == preprocess
    assert again.records[0]["ap"] == expected["ap"] > 0.01


@pytest.mark.slow
def test_on_real_images_too(shared_data: Path, quick: Quick, tmp_path: Path) -> None:
    whole = load_dataset(shared_data / "bccd")
    splits = {"train": whole.split("train")[:16], "val": whole.split("val")[:8]}
    data = dataclasses.replace(whole, splits=splits)
    settings = {"data": data, "size": 160, "width_mult": 0.25}
    base = quick(attention="ca", epochs=60, evaluate_every=60, **settings, **FITTING)
    detector = attendet.load(base.last, device="cpu")
    expected = attendet.evaluate(detector, data.split("val"), classes=detector.classes, batch=4)

    tuned = train(
        data,
        pretrained=base.last,
        attention=EVERYWHERE,
        epochs=1,
        batch=4,
        precision="32",
        accelerator="cpu",
        output=tmp_path / "tuned",
    )

    assert expected["ap"] is not None
    assert expected["ap"] > 0.02
    assert [tuned.records[0][name] for name in METRICS] == [expected[name] for name in METRICS]


def test_the_best_weights_are_the_base_s_until_a_later_epoch_is_better(
    quick: Quick, monkeypatch: pytest.MonkeyPatch, saved: Saved
) -> None:
    base = saved(_metadata())
    values = iter([0.5, 0.2, 0.1, 0.3, 0.4])
    monkeypatch.setattr(
        "attendet.training.trainer.validate",
        lambda *_, **__: {**dict.fromkeys(METRICS, 0.0), "ap": next(values)},
    )

    result = quick(pretrained=base, epochs=8, patience=3)

    assert (result.ap, result.epochs) == (0.5, 3)
    network, metadata = load_weights(result.best)
    assert metadata.measured is not None
    assert (metadata.measured["epoch"], metadata.measured["ap"]) == (0, 0.5)
    before, own = load_weights(base)[0].state_dict(), network.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in before.items())


def test_the_curve_and_tensorboard_begin_at_epoch_0(
    squares: Path, tmp_path: Path, saved: Saved
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = {"batch": 4, "epochs": 1, "precision": "32", "accelerator": "cpu", "size": 64}
    result = train(squares, pretrained=saved(_metadata()), output=tmp_path / "run", **settings)

    events = EventAccumulator(str(result.folder / "tensorboard"))
    events.Reload()
    assert [point.step for point in events.Scalars("ap")] == [0, 1]
    assert [point.step for point in events.Scalars("losses/box")] == [1]
    assert (result.folder / "curves.png").stat().st_size > 10_000


class _StoppedError(Exception):
    pass


@pytest.mark.parametrize("moment", ["in epoch 1", "before epoch 0 is kept"])
def test_a_run_broken_off_early_has_epoch_0_once(
    quick: Quick,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    same: Callable[[Path, Path], bool],
    moment: str,
    saved: Saved,
) -> None:
    class Stopper(TrainingCallback):
        def after_step(self, epoch: int, step: int, steps: int, terms: dict[str, float]) -> None:
            raise _StoppedError

    def stop(*_: Any) -> None:
        raise _StoppedError

    base = saved(_metadata())
    through = quick(pretrained=base, attention="ca@p5,stage2")
    folder = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        if moment == "before epoch 0 is kept":
            patch.setattr("attendet.training.checkpoint.RunFolder.add_record", stop)
        with pytest.raises(_StoppedError):
            quick(pretrained=base, attention="ca@p5,stage2", output=folder, callback=Stopper())
    base.unlink()

    resumed = train(resume=folder, accelerator="cpu")

    assert [record["epoch"] for record in resumed.records] == [0, 1, 2]
    assert resumed.records[0]["ap"] == through.records[0]["ap"]
    assert same(resumed.last, through.last)
    assert same(resumed.best, through.best)


def test_without_validation_images_nothing_is_measured(
    quick: Quick, squares: Path, saved: Saved
) -> None:
    data = load_dataset(squares)
    alone = dataclasses.replace(data, splits={"train": data.split("train")})

    result = quick(data=alone, pretrained=saved(_metadata()), epochs=1)

    assert [record["epoch"] for record in result.records] == [1]
    assert result.ap is None


# Settings -----------------------------------------------------------------------------------------


def _plan(data: Path | DataSet, base: Path, attention: str = "none", **given: Any) -> Plan:
    metadata = load_weights(base)[1]
    recipe = Recipe().replace(batch=4, epochs=1, precision="32", **given)
    settings = apply_pretrained_settings(recipe, metadata, given)
    return make_plan(
        data, attention=attention, recipe=settings, seed=0, pretrained=base, base=metadata
    )


UNLIKE_THE_RECIPE: dict[str, Any] = {
    "input_hw": (64, 96),
    "anchors": tuple((float(side), side + 2.5) for side in (6, 9, 14, 20, 30, 44)),
    "anchor_masks": ((3, 4, 5), (0, 1, 2)),
    "scale_x_y": 1.3,
    "bn_eps": 1e-3,
    "preprocess": {"resize": "letterbox", "color": "bgr"},
}


@pytest.mark.parametrize("resize", ["letterbox", "stretch", "rect"])
def test_boxes_and_images_are_those_of_the_base(squares: Path, resize: str, saved: Saved) -> None:
    described = _metadata(**UNLIKE_THE_RECIPE | {"preprocess": {"resize": resize, "color": "bgr"}})
    base = saved(described)

    plan = _plan(squares, base)

    own = plan.metadata
    assert max(own.input_hw) == 96
    assert own.input_hw == (64, 96) or resize == "rect"
    assert own.preprocess == described.preprocess
    assert own.level_anchors() == described.level_anchors()
    assert (own.scale_x_y, own.bn_eps, own.width_mult) == (1.3, 1e-3, 0.125)
    assert plan.differing_from_pretrained == ()
    old = load_weights(base)[0]
    assert plan.network.backbone.conv1.bn.eps == 1e-3  # type: ignore[union-attr]
    x = torch.rand(2, 3, 64, 96)
    new = plan.network.eval()
    for here, there in zip(new.decode(new(x)), old.decode(old(x)), strict=True):
        assert torch.equal(here, there)


def test_the_recipe_is_fine_tune_unless_another_is_named(
    squares: Path, undrawn: None, tmp_path: Path, saved: Saved
) -> None:
    base = saved(_metadata())
    plain = {"pretrained": base, "epochs": 1, "batch": 4, "precision": "32", "accelerator": "cpu"}

    usual = train(squares, output=tmp_path / "a", **plain).plan.recipe
    named = train(squares, output=tmp_path / "b", recipe="default", **plain).plan.recipe

    wanted = load_recipe("fine-tune")
    assert usual.start_size_fraction == wanted.start_size_fraction != named.start_size_fraction
    assert usual.epochs == 1


def test_few_images_get_the_steps_of_the_recipe(
    squares: Path, undrawn: None, tmp_path: Path
) -> None:
    images = len(load_dataset(squares).split("train"))
    recipe = Recipe(epochs=1, batch=images, min_steps=3, size=64, width_mult=0.125, precision="32")

    result = train(squares, recipe=recipe, output=tmp_path / "run", accelerator="cpu")

    assert result.plan.recipe.epochs == result.epochs == 3
    assert train(resume=result.folder, accelerator="cpu").epochs == 3


def test_a_flag_wins_over_the_base_and_the_base_over_the_recipe(
    squares: Path, undrawn: None, tmp_path: Path, saved: Saved
) -> None:
    plans: list[Plan] = []

    class Listener(TrainingCallback):
        def before_train(self, plan: Plan, folder: str) -> None:
            plans.append(plan)

    base = saved(_metadata(**UNLIKE_THE_RECIPE))
    recipe = Recipe().replace(scale_x_y=1.05, anchors="default", width_mult=1.0, resize="rect")
    plain = {"recipe": recipe, "pretrained": base, "epochs": 1, "batch": 4, "precision": "32"}
    quiet = {"accelerator": "cpu", "callback": Listener(), "attention": "none"}
    train(squares, output=tmp_path / "a", **plain, **quiet)
    given = {"scale_x_y": 1.7, "anchors": "default", "size": 64, "resize": "rect"}
    train(squares, output=tmp_path / "b", **plain, **quiet, **given)

    followed, own = plans
    assert followed.differing_from_pretrained == ()
    assert followed.recipe.scale_x_y == 1.3
    assert own.metadata.scale_x_y == 1.7
    assert own.metadata.anchors[0] == pytest.approx((10 * 64 / 416, 14 * 64 / 416))
    assert [phrase.split()[0] for phrase in own.differing_from_pretrained] == [
        "input",
        "resize",
        "anchors",
        "scale_x_y",
    ]
    assert own.differing_from_pretrained[0] == "input 64 px (pretrained: 96 x 64 px)"
    config = yaml.safe_load((tmp_path / "b/config.yaml").read_text())
    assert config["recipe"]["scale_x_y"] == 1.7


def test_the_levels_of_the_base_are_kept_unless_a_third_is_asked_for(
    squares: Path, undrawn: None, tmp_path: Path, saved: Saved
) -> None:
    base = saved(_metadata(scale_x_y=1.3))
    plain = {"pretrained": base, "epochs": 1, "batch": 4, "precision": "32", "accelerator": "cpu"}

    kept = train(squares, output=tmp_path / "a", **plain).plan
    more = train(squares, output=tmp_path / "b", levels=3, **plain)
    again = train(squares, output=tmp_path / "c", **plain | {"pretrained": more.last}).plan

    assert len(kept.metadata.anchor_masks) == 2
    assert more.plan.network.strides == again.network.strides == (32, 16, 8)
    assert more.plan.recipe.scale_x_y == 1.3
    assert "levels 3 (pretrained: 2)" in more.plan.differing_from_pretrained
    assert more.plan.transfer is not None
    fresh = set(more.plan.network.state_dict()) - set(more.plan.transfer.loaded)
    layers = {name.split(".")[0] for name in fresh}
    assert (
        {"conv_up2", "head_p3", "out_p3"}
        <= layers
        <= {"conv_up2", "head_p3", "out_p3", "out_p4", "out_p5"}
    )
    with pytest.raises(ConfigError, match=r"levels must be 2 .* Set --anchors auto"):
        train(squares, output=tmp_path / "d", levels=3, anchors="base", **plain)


def test_a_network_of_bgr_images_is_trained_on_bgr(
    squares: Path, tmp_path: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch, saved: Saved
) -> None:
    seen: dict[str, list[torch.Tensor]] = {"rgb": [], "bgr": []}
    for color, batches in seen.items():
        described = _metadata(preprocess={"resize": "rect", "color": color}, input_hw=(64, 64))
        base = saved(described)
        honest = type(load_weights(base)[0]).forward

        def spy(
            self: Any, images: torch.Tensor, honest: Any = honest, batches: Any = batches
        ) -> Any:
            if self.training:
                batches.append(images.clone())
            return honest(self, images)

        with monkeypatch.context() as patch:
            patch.setattr("attendet.models.yolov4_tiny.YoloV4Tiny.forward", spy)
            train(
                squares,
                pretrained=base,
                attention="none",
                epochs=1,
                batch=4,
                precision="32",
                accelerator="cpu",
                output=tmp_path / color,
            )

    assert len(seen["rgb"]) == len(seen["bgr"]) == 3
    for rgb, bgr in zip(seen["rgb"], seen["bgr"], strict=True):
        assert torch.equal(bgr, rgb.flip(1))
        assert not torch.equal(bgr, rgb)


# Attention ----------------------------------------------------------------------------------------


def test_without_a_word_the_attention_is_that_of_the_base(quick: Quick, saved: Saved) -> None:
    result = quick(pretrained=saved(_metadata(attention="se@p5+ca@up")), epochs=1)

    metadata = load_weights(result.last)[1]
    assert (metadata.attention, metadata.attention_init) == ("se@p5+ca@up", "paper")
    assert load_weights(quick(epochs=1).last)[1].attention == "ca"


def test_attention_that_fits_stays_what_it_is_and_new_starts_as_the_identity(
    squares: Path, tmp_path: Path, saved: Saved
) -> None:
    base = saved(_metadata(attention="ca"))

    plan = _plan(squares, base, attention=EVERYWHERE)

    assert plan.metadata.attention_init == {
        "stage1": "identity",
        "stage2": "identity",
        "stage3": "identity",
        "p4": "paper",
        "p5": "paper",
        "up": "paper",
    }
    assert plan.transfer is not None
    assert plan.transfer.skipped == ()
    old, new, x = load_weights(base)[0], plan.network.eval(), torch.rand(2, 3, 64, 64)
    assert all(map(torch.equal, new(x), old(x)))
    again, metadata = load_weights(save_weights(tmp_path / "b.safetensors", new, plan.metadata))
    assert metadata == dataclasses.replace(plan.metadata, version=attendet.__version__)
    assert all(map(torch.equal, again(x), old(x)))
