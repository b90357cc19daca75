from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attendet.comparison.callback import StudyCallback
from attendet.comparison.records import read_detections, read_runs, study_json
from attendet.comparison.run_job import run_job
from attendet.comparison.study import Study, compare
from attendet.comparison.variants import Job, Variant
from attendet.data import load_dataset
from attendet.errors import ConfigError
from attendet.evaluation.metrics import compute_metrics
from attendet.inference import load
from attendet.system import can_pass_files
from attendet.training.plan import LoadedData
from attendet.training.recipe import Recipe

Make = Callable[..., Study]

VERDICTS = ("helps", "hurts", "no difference", "not enough seeds", "nothing learned")


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(each) for key, each in value.items())
    if isinstance(value, list):
        return all(map(_plain, value))
    return value is None or isinstance(value, str | int | float | bool)


# --- what a study leaves -------------------------------------------------------------------------


def test_there_is_a_record_a_run(finished: Study) -> None:
    records = read_runs(finished.folder)

    assert [(record["variant_name"], record["seed"]) for record in records] == [
        ("none", 0),
        ("ca@p4,p5,up", 0),
        ("eca@p5", 0),
        ("none", 1),
        ("ca@p4,p5,up", 1),
        ("eca@p5", 1),
    ]
    for record in records:
        assert record["stopped"] is None
        assert record["epochs_done"] == len(record["curve"]) == 2
        assert record["seconds"] == pytest.approx(
            sum(e["seconds"] for e in record["curve"]), abs=0.01
        )
        assert record["wall_seconds"] > record["seconds"] > 0
        assert min(record[name] for name in ("memory_mib", "parameters", "macs")) > 0
        assert record["metrics"]["counts"]["images"] == 3
        assert set(record["versions"]) == {"attendet", "python", "torch", "numpy"}
        assert record["machine"]["device"] == "cpu"
        assert (finished.folder / record["weights"]).is_file()
        assert not (finished.folder / record["folder"] / "resume.pt").exists()
    assert _plain(records)


def test_detections_are_kept_and_give_the_recorded_ap(finished: Study, shapes: Path) -> None:
    record = finished.records[1]
    data = load_dataset(shapes)

    keys, found = read_detections(finished.folder / record["detections"])

    samples = data.split("test")
    assert keys == [sample.key for sample in samples]
    again = compute_metrics(samples, found, data.classes)
    assert again["ap"] == record["metrics"]["ap"]
    whole = json.loads((finished.folder / record["evaluation"]).read_text())
    assert whole["confusion"] == json.loads(json.dumps(again["confusion"]))


def test_the_best_weights_are_those_that_were_measured(finished: Study, shapes: Path) -> None:
    record = finished.records[0]
    detector = load(finished.folder / record["weights"], device="cpu")

    assert Path(record["weights"]).name == "best.safetensors"
    assert detector.metadata.measured is not None
    assert detector.metadata.measured["split"] == "val"
    assert detector.metadata.seed == record["run_seed"] == 0


def test_the_gt_is_kept_beside(finished: Study, shapes: Path) -> None:
    gt = np.load(finished.folder / finished.summary["gt"])

    samples = load_dataset(shapes).split("test")
    assert gt["keys"].tolist() == [sample.key for sample in samples]
    assert [shapes / path for path in gt["paths"]] == [sample.path for sample in samples]
    assert gt["counts"].tolist() == [len(sample.class_ids) for sample in samples]
    assert gt["boxes_xyxy"].shape == (gt["counts"].sum(), 4)


def test_an_image_that_cannot_be_decoded_is_not_measured(
    shapes: Path, study: Make, tmp_path: Path
) -> None:
    data = shutil.copytree(shapes, tmp_path / "data")
    broken = data / "images/test/train01.png"
    broken.write_bytes(broken.read_bytes()[:-60])

    made = study(data, seeds=1, epochs=1)

    assert made.summary["data"]["measured_images"] == 2
    gt = np.load(made.folder / made.summary["gt"])
    for record in made.records:
        keys, found = read_detections(made.folder / record["detections"])
        assert keys == gt["keys"].tolist()
        assert len(found) == record["metrics"]["counts"]["images"] == 2


def test_the_summary_describes_the_study(finished: Study) -> None:
    summary = study_json(finished.folder)

    assert summary is not None
    assert summary["command"] == "attendet compare shapes"
    assert summary["baseline"] == "none"
    assert summary["seeds"] == [0, 1]
    assert [variant["name"] for variant in summary["variants"]] == ["none", "ca@p4,p5,up", "eca@p5"]
    assert summary["variants"][1]["sites"] == ["p4", "p5", "up"]
    assert summary["data"]["splits"] == {"train": 7, "val": 4, "test": 3}
    assert summary["data"]["measured_split"] == "test"
    assert summary["recipe"]["epochs"] == 2
    assert set(summary["verdicts"]) == {"ca@p4,p5,up", "eca@p5"}
    assert _plain(summary)


def test_verdicts_hold_the_differences_of_the_seeds(finished: Study) -> None:
    ap = {(r["variant_name"], r["seed"]): r["metrics"]["ap"] for r in finished.records}

    for name, verdict in finished.verdicts.items():
        wanted = [ap[name, seed] - ap["none", seed] for seed in (0, 1)]
        assert verdict["differences"] == pytest.approx(wanted)
        assert verdict["difference"] == pytest.approx(np.mean(wanted))
        assert verdict["verdict"] in VERDICTS
        assert {"ap50", "ap75"} <= set(verdict["effects"]["parts"])
        assert set(verdict["effects"]["per_class"]) <= {"red", "green"}


def test_costs_stand_beside_the_gains(finished: Study) -> None:
    costs = finished.summary["variant_summaries"]

    assert costs["ca@p4,p5,up"]["parameters"] > costs["eca@p5"]["parameters"]
    assert costs["eca@p5"]["parameters"] > costs["none"]["parameters"]
    assert costs["ca@p4,p5,up"]["macs"] > costs["none"]["macs"]
    for name in costs:
        taken = finished.summary["latency"][name]["torch"]
        assert 0 < taken["low_ms"] <= taken["median_ms"] <= taken["high_ms"]


def test_gates_are_described_where_there_are_any(finished: Study) -> None:
    by_variant = {record["variant_name"]: record["gates"] for record in finished.records}

    assert by_variant["none"] is None
    assert set(by_variant["ca@p4,p5,up"]) == {"p4", "p5", "up"}
    assert set(by_variant["ca@p4,p5,up"]["p5"]["gates"]) == {"height", "width"}
    block = by_variant["eca@p5"]["p5"]
    channel = block["gates"]["channel"]
    assert 0.3 < channel["mean"] < 0.7  # two epochs after a start near 1/2
    assert 0 <= channel["saturated"] <= 1
    assert channel["std_channels"] > 0 == channel["std_positions"]
    assert block["kind"] == "EfficientChannelAttention"
    assert block["images"] >= 2
    assert block["sentence"]


def test_the_time_outside_of_the_runs_is_recorded(finished: Study) -> None:
    seconds = finished.summary["seconds"]

    assert seconds["total"] == pytest.approx(seconds["runs"] + seconds["overhead"], abs=0.01)
    known = seconds["waiting"] + seconds["statistics"] + seconds["latency"]
    assert known < seconds["overhead"] + 0.01


# --- what is there is not made again -----------------------------------------------------------


def test_a_second_start_makes_nothing(made_up: Any, study: Make) -> None:
    first = study()
    made = list(made_up.made)

    second = study()

    assert len(made) == 4
    assert made_up.made == made
    assert second.records == first.records
    assert second.verdicts == first.verdicts


def test_a_wider_grid_makes_what_is_new(made_up: Any, study: Make) -> None:
    study(seeds=1)
    made_up.made.clear()

    wider = study(attention=["none", "eca"], sites=["p4,p5,up", "p5"], seeds=2)

    assert made_up.made == [
        ("eca@p5", 0, None),
        ("none", 1, None),
        ("eca@p4,p5,up", 1, None),
        ("eca@p5", 1, None),
    ]
    assert len(wider.records) == 6
    narrower = study(seeds=1)
    assert len(made_up.made) == 4
    assert len(narrower.records) == 2


def test_a_wider_study_that_is_killed_has_the_verdicts_of_before(
    made_up: Any, study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = study().verdicts

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(made_up, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        study(seeds=3)

    held = study_json(tmp_path / "study")
    assert held is not None
    assert held["verdicts"] == before
    assert held["seeds"] == [0, 1, 2]


def test_another_recipe_wants_another_folder(made_up: Any, study: Make) -> None:
    study(seeds=1)

    with pytest.raises(
        ConfigError, match=r"--epochs differs from the study in .* Choose another --output"
    ):
        study(seeds=1, epochs=3)


def test_other_data_wants_another_folder(
    made_up: Any, study: Make, shapes: Path, tmp_path: Path
) -> None:
    study(seeds=1)
    other = tmp_path / "other"
    shutil.copytree(shapes, other)
    label = next((other / "labels" / "train").glob("*.txt"))
    label.write_text("0 0.5 0.5 0.25 0.25\n")

    with pytest.raises(ConfigError, match="the data differs from the study in"):
        study(other, seeds=1)


def test_moved_data_is_the_same_data(
    made_up: Any, study: Make, shapes: Path, tmp_path: Path
) -> None:
    study(seeds=1)
    moved = tmp_path / "moved"
    shutil.copytree(shapes, moved)
    made_up.made.clear()

    study(moved, seeds=1)

    assert made_up.made == []


def test_a_run_that_failed_is_reported_and_tried_again(made_up: Any, study: Make) -> None:
    made_up.broken = {("eca@p4,p5,up", 1)}
    first = study()
    failed = [record for record in first.records if record["stopped"] == "failed"]
    assert [(record["variant_name"], record["seed"]) for record in failed] == [("eca@p4,p5,up", 1)]
    assert first.summary["failed"] == [
        {"variant_name": "eca@p4,p5,up", "seed": 1, "error": "loss is not finite"}
    ]
    assert first.verdicts["eca@p4,p5,up"]["seeds"] == [0]

    made_up.broken = set()
    made_up.made.clear()
    second = study()
    assert made_up.made == [("eca@p4,p5,up", 1, None)]
    assert second.summary["failed"] == []
    assert second.verdicts["eca@p4,p5,up"]["seeds"] == [0, 1]


# --- special grids ------------------------------------------------------------------------------


def test_without_a_test_split_the_last_weights_are_measured_on_val(
    study: Make, squares: Path
) -> None:
    made = study(squares, seeds=1, epochs=1)

    assert made.summary["data"]["measured_split"] == "val"
    assert {Path(record["weights"]).name for record in made.records} == {"last.safetensors"}


def test_a_budget_cuts_variants_and_the_records_say_so(made_up: Any, study: Make) -> None:
    made_up.shake = {"none": 2.0, "eca@p5": 3.0, "eca@up": 1.0}
    grid = {"attention": ["none", "eca@p5", "eca@up"], "seeds": 2, "epochs": 8}

    # The whole grid: 2 seeds x 3 variants x 8 epochs of a second, of which 6 are tried first. As no
    # time passes while runs are made up, all of the budget is left then.
    made = study(**grid, budget=40)

    budget = made.summary["budget"]
    assert budget["rungs"] == [{"variants": 2, "epochs": 4}, {"variants": 1, "epochs": 8}]
    assert budget["whole_grid_seconds"] == pytest.approx(42, abs=2)
    assert [(cut["variant_name"], cut["after_epochs"]) for cut in budget["cuts"]] == [("eca@p5", 4)]
    assert made.verdicts["eca@p5"]["verdict"] == "cut"
    assert made.verdicts["eca@up"]["seeds"] == [0, 1]
    stopped = {
        (r["variant_name"], r["seed"]): (r["stopped"], r["epochs_done"]) for r in made.records
    }
    cut_runs = [stopped.pop(("eca@p5", seed)) for seed in (0, 1)]
    assert cut_runs == [("budget", 4)] * 2
    assert set(stopped.values()) == {(None, 8)}

    made_up.made.clear()
    whole = study(**grid)  # with more time, what was cut is gone on with, and nothing else is made
    assert made_up.made == [("eca@p5", 0, None), ("eca@p5", 1, None)]
    assert {record["epochs_done"] for record in whole.records} == {8}


def test_a_run_that_pauses_ends_as_one_that_does_not(
    finished: Study, runs_here: Any, shapes: Path, tmp_path: Path
) -> None:
    straight, setup = finished.records[1], finished.summary["setup"]
    job = Job(
        variant=Variant("ca", ("p4", "p5", "up")),
        seed=0,
        setup={**setup, "recipe": {**setup["recipe"], "evaluate_every": 2}},
        data=str(shapes),
        format=None,
        pretrained=None,
        accelerator="cpu",
        study=str(tmp_path),
    )

    paused = run_job(dataclasses.replace(job, until=1), lambda _: None)
    record = run_job(job, lambda _: None)

    assert (paused["stopped"], paused["epochs_done"], paused["metrics"]) == ("budget", 1, None)
    assert paused["val_ap"] == paused["curve"][0]["ap"] == record["curve"][0]["ap"]
    assert (record["stopped"], record["epochs_done"]) == (None, 2)
    assert record["curve"][1]["ap"] == straight["curve"][1]["ap"]
    assert [e["losses"] for e in record["curve"]] == [e["losses"] for e in straight["curve"]]
    assert record["base_weights"] == paused["base_weights"] == straight["base_weights"]


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"margin": 0}, "margin must be above 0"),
        ({"margin": math.nan}, "margin must be above 0"),
        ({"budget": -1.0}, "budget must be above 0"),
        (
            {"recipe": Recipe().replace(attention_init="identity")},
            "attention_init must not be set in the recipe of a comparison; got 'identity'",
        ),
        ({"epoch": 3}, "Did you mean 'epochs'"),
        ({"baseline": "se"}, "baseline must be one of the variants"),
        ({"runtimes": ["torch", "tflite"]}, r"runtime must be a known name; got 'tflite'"),
    ],
)
def test_a_wrong_argument_stops_before_anything_is_made(
    shapes: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(shapes, output=tmp_path / "study", **{"accelerator": "cpu", **changes})

    assert not (tmp_path / "study" / "study.json").exists()


def test_a_split_without_a_box_cannot_be_measured_on(shapes: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(shapes, bare)
    for labels in (bare / "labels/test").iterdir():
        labels.write_text("")

    with pytest.raises(ConfigError, match="a box that is not difficult in its test split"):
        compare(bare, output=tmp_path / "study", accelerator="cpu")


def test_output_that_is_a_file_is_refused(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="is a file"):
        compare(shapes, output=tmp_path / "file")


def test_numbers_of_the_study_are_finite(finished: Study) -> None:
    def numbers(value: Any) -> list[float]:
        if isinstance(value, dict):
            return [n for each in value.values() for n in numbers(each)]
        if isinstance(value, list):
            return [n for each in value for n in numbers(each)]
        return [value] if isinstance(value, float) else []

    assert all(map(math.isfinite, numbers(finished.summary)))


# --- data that the runs have in common ------------------------------------------------------------


@pytest.fixture
def loaded(made_up: Any, monkeypatch: pytest.MonkeyPatch) -> list[LoadedData]:
    """The data of each run, loaded as for runs in processes."""
    found: list[LoadedData] = []
    run = made_up.run

    def load_and_make(jobs: Iterable[Job], load: Callable[[], LoadedData]) -> Iterator[Any]:
        for job in jobs:
            found.append(load())
            yield from run([job])

    monkeypatch.setattr(made_up, "run", load_and_make)
    return found


def test_a_run_of_loaded_data_reads_no_label_and_decodes_no_training_image(
    loaded: list[LoadedData],
    finished: Study,
    study: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study()
    assert all(each is loaded[0] for each in loaded)
    if not can_pass_files():
        pytest.skip("no files in arguments of processes")
    assert loaded[0].images is not None
    assert isinstance(loaded[0].images.images, np.memmap)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("attendet.training.plan.load_dataset", refuse)
    monkeypatch.setattr("attendet.training.plan.ImageCache", refuse)
    straight = finished.records[1]
    job = Job(
        variant=Variant("ca", ("p4", "p5", "up")),
        seed=0,
        setup=finished.summary["setup"],
        data="/nowhere",
        format=None,
        pretrained=None,
        accelerator="cpu",
        study=str(tmp_path / "other"),
    )
    record = run_job(job, lambda _: None, loaded[0])

    assert record["key"] == straight["key"]
    assert record["metrics"]["ap"] == straight["metrics"]["ap"]
    assert [e["losses"] for e in record["curve"]] == [e["losses"] for e in straight["curve"]]


def test_runs_decode_their_images_themselves_where_the_disk_is_full(
    loaded: list[LoadedData], study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    callback = StudyCallback()
    monkeypatch.setattr(callback, "note", notes.append)
    monkeypatch.setattr("attendet.comparison.study.can_pass_files", lambda: True)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))

    study(callback=callback)

    assert [each.images for each in loaded] == [None] * 4
    (note,) = (note for note in notes if "decodes" in note)
    assert note.startswith("each run decodes the images itself: the image cache needs")
