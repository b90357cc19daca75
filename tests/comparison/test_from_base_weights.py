"""Studies whose runs begin with base weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from attendet.comparison.callback import StudyCallback
from attendet.comparison.study import Study, compare
from attendet.errors import ConfigError
from attendet.models import WeightsMetadata, build_from_metadata, read_metadata, save_weights
from attendet.models.graph import Convolutional, Graph, Route, Upsample, Yolo

Make = Callable[..., Study]


def test_base_weights_are_part_of_the_key(made_up: Any, study: Make, finished: Study) -> None:
    base = finished.folder / finished.records[0]["weights"]

    made = study(seeds=1, pretrained=base)

    assert made.summary["pretrained"] == "best.safetensors"
    with pytest.raises(ConfigError, match="--pretrained differs"):
        study(seeds=1)


def test_a_study_from_base_weights_is_made_whole(study: Make, finished: Study) -> None:
    """Its runs begin with the base's own record, epoch 0, which is no epoch of training."""
    base = finished.folder / finished.records[0]["weights"]

    made = study(seeds=1, pretrained=base, epochs=2)

    assert made.summary["failed"] == []
    for record in made.records:
        assert [epoch["epoch"] for epoch in record["curve"]] == [0, 1, 2]
        assert record["epochs_done"] == 2
        assert record["memory_mib"] > 0
        assert record["seconds"] == pytest.approx(
            sum(epoch["seconds"] for epoch in record["curve"][1:]), abs=0.01
        )
    first = [record["curve"][0]["ap"] for record in made.records]
    assert first[0] == first[1]  # new attention begins as the identity


def test_a_study_from_weights_with_layers_of_their_own(
    runs_here: Any, finished: Study, shapes: Path, tmp_path: Path
) -> None:
    classes = read_metadata(finished.folder / finished.records[0]["weights"]).classes
    conv = partial(Convolutional, size=3, padding=1, batch_normalize=True, activation="leaky")
    head = Convolutional((5 + len(classes)), activation="linear")
    layers = [conv(8, stride=2) for _ in range(5)] + [conv(8), conv(8), head, Yolo()]
    layers += [Route((5,)), Upsample(2), Route((10, 3)), conv(8), head, Yolo()]
    metadata = WeightsMetadata(
        classes=classes,
        architecture="darknet-graph",
        graph=Graph(tuple(layers)).to_mappings(),
        anchors=((40.0, 40.0), (20.0, 20.0)),
        anchor_masks=((0,), (1,)),
        input_hw=(64, 64),
    )
    base = save_weights(tmp_path / "base.safetensors", build_from_metadata(metadata), metadata)

    made = compare(
        shapes,
        attention=["none", "ca", "se@stage3"],
        seeds=1,
        pretrained=base,
        output=tmp_path / "study",
        accelerator="cpu",
        runtimes=("torch",),
        epochs=1,
    )

    assert made.summary["failed"] == []
    names = [record["variant_name"] for record in made.records]
    assert names == ["none", "ca@p4,p5,up", "se@stage3"]
    measured = read_metadata(made.folder / made.records[1]["weights"])
    assert (measured.architecture, measured.attention) == ("darknet-graph", "ca")


def test_base_weights_say_what_no_flag_does(
    made_up: Any, finished: Study, shapes: Path, tmp_path: Path
) -> None:
    made = compare(
        shapes,
        attention=["none", "eca"],
        seeds=1,
        pretrained=finished.folder / finished.records[0]["weights"],
        output=tmp_path / "study",
        accelerator="cpu",
        runtimes=("torch",),
        size=96,
        epochs=1,
    )

    recipe = made.summary["recipe"]
    assert (recipe["size"], recipe["width_mult"], recipe["anchors"]) == (96, 0.125, "base")
    assert made.summary["setup"]["recipe"]["width_mult"] == 0.125


def test_a_flag_wins_over_base_weights_in_every_run(study: Make, finished: Study) -> None:
    base = finished.folder / finished.records[0]["weights"]

    made = study(seeds=1, pretrained=base, size=96, epochs=1)

    for record in made.records:
        config = yaml.safe_load((made.folder / record["folder"] / "config.yaml").read_text())
        assert max(config["input_hw"]) == config["recipe"]["size"] == 96


@pytest.mark.parametrize("batch_norm", ["train", "frozen"])
def test_runs_have_the_recipe_of_the_study(study: Make, finished: Study, batch_norm: str) -> None:
    base = finished.folder / finished.records[0]["weights"]

    made = study(seeds=1, pretrained=base, epochs=1, batch_norm=batch_norm)

    expected = made.summary["recipe"]
    assert expected["batch_norm"] == batch_norm
    for record in made.records:
        config = yaml.safe_load((made.folder / record["folder"] / "config.yaml").read_text())
        differing = {k for k, value in expected.items() if config["recipe"][k] != value}
        assert differing <= {"attention_init"}


def test_attention_that_the_base_brings_stays(study: Make, finished: Study) -> None:
    brought = next(each for each in finished.records if each["variant_name"] == "eca@p5")
    callback = Notes()

    made = study(
        attention=["none", "eca@p5"],
        seeds=1,
        pretrained=finished.folder / brought["weights"],
        epochs=1,
        callback=callback,
    )

    assert [record["variant_name"] for record in made.records] == ["none", "eca@p5"]
    whole, less = sorted(callback.notes)
    assert whole.startswith("eca@p5: pretrained weights: 100 %")
    assert "not copied: attention.p5" in less
    assert "attention at p5 is eca in the file, none in the network" in less


class Notes(StudyCallback):
    """Remembers the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_budget_holds_for_base_weights_too(study: Make, finished: Study) -> None:
    base = finished.folder / finished.records[0]["weights"]

    made = study(seeds=1, pretrained=base, epochs=4, budget=3600.0)

    assert [record["stopped"] for record in made.records] == [None, None]
    assert [record["epochs_done"] for record in made.records] == [4, 4]
    for record in made.records:
        resumed = record["curve"][-2:]  # after the probe of two epochs
        seconds = sum(epoch["seconds"] + epoch.get("evaluation_seconds", 0) for epoch in resumed)
        assert record["start_seconds"] + seconds == pytest.approx(record["wall_seconds"], abs=0.01)
