from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

import attendet
from attendet.data import load_dataset
from attendet.errors import ConfigError, TrainingError
from attendet.images import read_image
from attendet.losses import DetectionLoss
from attendet.models import load_weights
from attendet.training import Recipe, load_recipe
from attendet.training.callback import TrainingCallback
from attendet.training.checkpoint import read_state
from attendet.training.trainer import TrainingResult, train

Quick = Callable[..., TrainingResult]
Same = Callable[[Path, Path], bool]


@pytest.fixture(scope="module")
def whole(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """A run as a user has it, figures and all."""
    return train(
        squares,
        output=tmp_path_factory.mktemp("runs") / "whole",
        accelerator="cpu",
        epochs=3,
        size=64,
        width_mult=0.125,
        batch=4,
        precision="32",
        seed=5,
        attention="ca@p5",
    )


def test_the_folder_records_what_was_run(whole: TrainingResult, squares: Path) -> None:
    config = yaml.safe_load((whole.folder / "config.yaml").read_text())

    assert (config["attention"], config["seed"], config["data"]) == ("ca@p5", 5, str(squares))
    assert config["version"] == attendet.__version__
    assert load_recipe("default", config["recipe"]) == Recipe().replace(
        epochs=3, size=64, width_mult=0.125, batch=4, precision="32"
    )


def test_attention_that_starts_as_the_identity_is_trained_and_says_so(quick: Quick) -> None:
    run = quick(attention="ca@p5", attention_init="identity")

    network, metadata = load_weights(run.last)
    assert metadata.attention_init == network.attention_init == "identity"
    block = network.attention_blocks()["p5"]
    assert all(layer.weight.abs().sum() > 0 for layer in block.logit_layers())  # zero at first
    gates = block.gates(torch.rand(1, block.channels, 3, 3))
    assert all(0.5 < gate.min() < 1 < gate.max() < 2 for gate in gates.values())


def test_results_hold_one_record_an_epoch(whole: TrainingResult) -> None:
    lines = (whole.folder / "results.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]

    assert records == whole.records
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert all(math.isfinite(value) for r in records for value in r["losses"].values())
    assert all(record["memory_mib"] > 0 for record in records)
    assert whole.epochs == 3
    assert whole.ap == max(record["ap"] for record in records if "ap" in record)


def test_tensorboard_has_the_curves(whole: TrainingResult) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole.folder / "tensorboard"))
    events.Reload()

    curve = [(point.step, point.value) for point in events.Scalars("losses/box")]
    assert curve == [(r["epoch"], pytest.approx(r["losses"]["box"])) for r in whole.records]
    assert {"ap50", "learning_rate", "images_per_second"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize(
    "name", ["curves.png", "detections.jpg", "confusion.png", "precision_recall.png"]
)
def test_images_of_the_run_show_something(whole: TrainingResult, name: str) -> None:
    image = cv2.imread(str(whole.folder / name))

    assert image is not None
    assert min(image.shape[:2]) >= 200
    assert image.std() > 10


def test_weights_describe_themselves(whole: TrainingResult, squares: Path) -> None:
    network, metadata = load_weights(whole.best)
    data = load_dataset(squares)

    assert metadata.classes == ("red", "green")
    assert metadata.measured is not None
    assert metadata.measured["ap"] == whole.ap
    assert metadata.data is not None
    assert metadata.data["fingerprints"] == {s: data.fingerprint(s) for s in data.splits}
    assert metadata.recipe is not None
    assert metadata.recipe["epochs"] == 3
    assert list(network.attention_blocks()) == ["p5"]
    assert len(attendet.load(whole.last).predict(data.split("val")[0].path)) >= 0


def test_nothing_half_written_is_left(whole: TrainingResult) -> None:
    assert not list(whole.folder.glob(".*"))
    assert set(read_state(whole.folder / "resume.pt")) == {
        *("state_version", "network", "average", "average_steps", "optimizer"),
        *("frozen", "epoch", "best_ap", "best_epoch"),
    }


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    quick: Quick, same: Same
) -> None:
    settings = {"mixup": 0.5, "multi_scale": 0.5, "size": 96, "start_size_fraction": 0.7}
    one, again, other = (quick(seed=seed, **settings) for seed in (1, 1, 2))

    assert same(one.last, again.last)
    assert same(one.best, again.best)
    assert not same(one.last, other.last)
    assert [r["losses"] for r in one.records] == [r["losses"] for r in again.records]


def test_what_was_drawn_before_does_not_matter(quick: Quick, same: Same) -> None:
    one = quick(epochs=1)
    torch.manual_seed(99)
    torch.rand(7)
    before = torch.get_rng_state()
    other = quick(epochs=1)

    assert same(one.last, other.last)
    assert torch.equal(before, torch.get_rng_state())  # nor is the caller's generator moved


def test_a_taken_folder_is_refused_before_images_are_read(
    quick: Quick, tmp_path: Path, whole: TrainingResult
) -> None:
    before = (whole.folder / "config.yaml").read_bytes()

    with pytest.raises(ConfigError, match=r"without a run.*--resume"):
        quick(data=tmp_path / "no data here", output=whole.folder)
    assert (whole.folder / "config.yaml").read_bytes() == before

    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="must be a folder"):
        quick(output=tmp_path / "file")


def test_folders_are_numbered(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [quick(output=None, epochs=1).folder.as_posix() for _ in range(2)]

    assert names == ["runs/train", "runs/train-2"]


def test_a_set_without_validation_images_keeps_the_last_weights(
    quick: Quick, squares: Path, same: Same
) -> None:
    data = load_dataset(squares)
    alone = dataclasses.replace(data, splits={"train": data.split("train")})

    result = quick(data=alone)

    assert result.ap is None
    assert same(result.best, result.last)
    assert "ap" not in result.records[-1]


def test_a_validation_image_without_gt_is_no_trouble(
    squares: Path, tmp_path: Path, quick: Quick
) -> None:
    shutil.copytree(squares, tmp_path / "bare")
    for file in (tmp_path / "bare/labels/val").iterdir():
        file.write_text("")

    result = quick(data=tmp_path / "bare")

    assert result.best.exists()
    assert result.records[-1]["ap"] is None


def test_images_that_cannot_be_decoded_are_skipped(
    squares: Path, tmp_path: Path, quick: Quick
) -> None:
    shutil.copytree(squares, tmp_path / "broken")
    for name in ("train/train03.png", "val/val01.png"):
        file = tmp_path / "broken/images" / name
        file.write_bytes(file.read_bytes()[:3000])
    plans: list[Any] = []

    class Listener(TrainingCallback):
        def before_train(self, plan: Any, folder: str) -> None:
            plans.append(plan)

    result = quick(data=tmp_path / "broken", callback=Listener())

    assert result.ap is not None
    assert (len(plans[0].cache), len(plans[0].dataset.split("val"))) == (9, 3)
    assert {issue.file.name for issue in plans[0].dataset.issues} == {"train03.png", "val01.png"}
    assert train(resume=result.folder).epochs == 2


def test_the_best_weights_are_those_of_the_best_epoch(
    quick: Quick, same: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = _given_ap(monkeypatch, [0.1, 0.5, 0.2, 0.5])

    result = quick(epochs=4)

    assert (result.ap, given) == (0.5, [])
    assert load_weights(result.best)[1].measured["epoch"] == 2  # type: ignore[index]
    assert not same(result.best, result.last)


def test_a_run_stops_when_it_gets_no_better(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    given = _given_ap(monkeypatch, [0.1, 0.5, 0.4, 0.5, 0.9])

    result = quick(epochs=5, patience=2)

    assert (result.epochs, result.ap, given) == (4, 0.5, [0.9])


def test_patience_waits_for_an_evaluation(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    given = _given_ap(monkeypatch, [0.1, 0.5, 0.4, 0.3])

    result = quick(epochs=12, patience=1, evaluate_every=3, no_aug_fraction=0, mosaic=0)

    assert (result.epochs, given) == (9, [0.3])


def _given_ap(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> list[float]:
    names = ("ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_100")

    def validate(*_: object, **__: object) -> dict[str, Any]:
        return {**dict.fromkeys(names, 0.0), "ap": values.pop(0)}

    monkeypatch.setattr("attendet.training.trainer.validate", validate)
    return values


def test_validation_images_are_read_once(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(
        "attendet.evaluation.metrics.read_image",
        lambda path: read.append(path) or read_image(path),
    )

    kept = quick(epochs=3)

    assert len(read) == len(set(read)) == 4
    monkeypatch.setattr("attendet.training.trainer.VAL_CACHE_MEMORY_FRACTION", 0.0)
    again = quick(epochs=3)
    assert len(read) == 4 + 3 * 4
    assert [record["ap"] for record in again.records] == [record["ap"] for record in kept.records]


def test_lightning_prints_no_advice() -> None:
    code = (
        "from attendet.training.distributed import make_fabric; "
        "make_fabric(accelerator='cpu', precision='bf16').launch()"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert (done.stdout, done.stderr) == ("", "")


def test_an_absurd_rate_stops_the_run_and_leaves_good_weights(
    quick: Quick, tmp_path: Path, tensors: Callable[[Path], dict[str, Tensor]]
) -> None:
    with pytest.raises(TrainingError, match=r"must be finite.*lower --lr") as caught:
        quick(lr=1e30, epochs=3, output=tmp_path / "absurd")

    assert "\n" not in str(caught.value)
    kept = tensors(tmp_path / "absurd/last.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.values())
    assert max(tensor.abs().max() for tensor in kept.values()) < 100
    load_weights(tmp_path / "absurd/last.safetensors")


@pytest.mark.parametrize("where", ["DetectionLoss.__call__", "validate"])
def test_a_gpu_without_enough_memory_ends_the_run_with_advice(
    quick: Quick, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1024.00 GiB.\nMore.")

    monkeypatch.setattr(f"attendet.training.trainer.{where}", full)
    with pytest.raises(
        TrainingError, match=r"out of memory in epoch 1 .*--batch or --size"
    ) as caught:
        quick()

    assert "\n" not in str(caught.value)


def test_after_a_bad_loss_the_weights_are_those_of_the_epoch_before(
    quick: Quick, same: Same, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = DetectionLoss.__call__
    calls = 0

    def broken(self: DetectionLoss, *args: Any, **words: Any) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        terms = honest(self, *args, **words)
        return {**terms, "box": terms["box"] * float("nan")} if calls == 8 else terms

    two_epochs = quick(epochs=4, until_epoch=2)
    monkeypatch.setattr(DetectionLoss, "__call__", broken)
    with pytest.raises(TrainingError, match=r"epoch 3, step 2"):
        quick(epochs=4, output=tmp_path / "bad")

    assert same(tmp_path / "bad/last.safetensors", two_epochs.last)
    assert (tmp_path / "bad/best.safetensors").exists()
    assert len((tmp_path / "bad/results.jsonl").read_text().splitlines()) == 2


def test_one_goes_on_from_pretrained_weights(quick: Quick, whole: TrainingResult) -> None:
    plans: list[Any] = []

    class Listener(TrainingCallback):
        def before_train(self, plan: Any, folder: str) -> None:
            plans.append(plan)

    fresh = quick(attention="ca@p5", epochs=1)
    result = quick(attention="ca@p5", epochs=1, pretrained=whole.last, callback=Listener())

    total = len(load_weights(whole.last)[0].state_dict())
    assert (
        plans[0].transfer.summary()
        == f"pretrained weights: 100 % copied ({total} of {total} tensors)"
    )
    assert result.records[1]["losses"] != fresh.records[0]["losses"]


def test_a_recipe_object_is_taken_and_overridden(
    squares: Path, tmp_path: Path, undrawn: None
) -> None:
    recipe = Recipe().replace(epochs=5, size=64, width_mult=0.125, batch=4, precision="32")

    result = train(squares, recipe=recipe, epochs=1, output=tmp_path / "r", accelerator="cpu")

    assert result.epochs == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"seed": -1}, "seed must be from 0 to 9223372036854775807"),
        ({"attention": "cax"}, "Did you mean 'ca'"),
        ({"epoch": 3}, r"unknown setting 'epoch'.*Did you mean 'epochs'"),
        ({"devices": 0}, "devices and nodes must be at least 1"),
        ({"accelerator": "cpu", "precision": "16"}, "precision must be 32 or bf16 on a CPU"),
        ({"recipe": "defualt"}, "Did you mean 'default'"),
    ],
)
def test_a_wrong_argument_leaves_no_folder(
    quick: Quick, tmp_path: Path, words: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        quick(output=tmp_path / "none", **words)
    assert not (tmp_path / "none").exists()


def test_data_or_a_run_to_resume_must_be_given() -> None:
    with pytest.raises(ConfigError, match="data must be given"):
        train()


def test_a_split_without_boxes_measures_nothing_and_ends_nothing(
    squares: Path, quick: Quick, same: Same
) -> None:
    data = load_dataset(squares)
    none = {
        "boxes_xyxy": np.zeros((0, 4), dtype=np.float32),
        "class_ids": np.zeros(0, dtype=np.int64),
    }
    none["difficult"] = np.zeros(0, dtype=bool)
    empty = tuple(dataclasses.replace(sample, **none) for sample in data.splits["val"])
    bare = dataclasses.replace(data, splits={**data.splits, "val": empty})

    run = quick(bare, epochs=4, evaluate_every=1, patience=1)

    assert run.epochs == 4
    assert run.ap is None
    assert [record["ap"] for record in run.records] == [None] * 4
    assert same(run.best, run.last)
