"""Runs of small files: the record, failed candidates, planned candidates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attendet.bench import BenchSettings, Candidate, measure, plan_candidates, run_bench
from attendet.bench import candidates as candidates_module
from attendet.bench.measure import _verdicts
from attendet.errors import ConfigError, DataError, WeightsError

Paths = dict[str, Path]


@pytest.fixture(autouse=True)
def cpu_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan the same candidates on every CPU; a test of bfloat16 patches this again."""
    monkeypatch.setattr(candidates_module, "has_bfloat16", lambda: False)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.jpg" for number in range(3)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (60, 96, 3), dtype=np.uint8)).save(path)
    return paths


def test_a_run_measures_every_candidate(exported: Paths, images: list[Path]) -> None:
    plan = plan_candidates([exported["onnx"]], threads=[1])
    steps: list[str] = []
    asked: list[Candidate] = []

    def measure_ap(candidate: Candidate) -> tuple[float, float]:
        asked.append(candidate)
        return (0.5, 0.8) if candidate.runtime == "onnx" else (0.4, 0.7)

    settings = BenchSettings(batches=(1, 2), rounds=5, seconds=0.005, confidence=0.4)
    record = run_bench(plan, images, settings, measure_ap=measure_ap, progress=steps.append)

    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert [(row["runtime"], row["batch"]) for row in record["rows"]] == [
        ("onnx", 1),
        ("onnx", 2),
        ("openvino", 1),
        ("openvino", 2),
    ]
    assert asked == plan
    for row in record["rows"]:
        assert row["precision"] == "float32"
        assert row["input_hw"] == [96, 96]
        assert row["runtime_version"]
        assert row["file_mib"] > 0.1
        assert row["cold_start_s"]["count"] == 3
        assert 0.1 < row["cold_start_s"]["median"] < 60
        assert row["memory_mib"] is None or 20 < row["memory_mib"] < 2000
        for thing in ("whole_ms", "network_ms", "around_ms"):
            assert row[thing]["count"] >= 15
            assert 0 < row[thing]["q1"] <= row[thing]["median"] <= row[thing]["q3"]
        assert len(row["rounds"]["images_per_s"]) == 5
        assert row["ap"] == (0.5 if row["runtime"] == "onnx" else 0.4)
    for key in ("latency", "throughput"):
        verdict = record["verdicts"][key]
        assert "openvino" not in f"{verdict['fastest']} {verdict['tied']}"
    assert any(line.startswith("round 5 of 5") for line in steps)


def test_a_candidate_that_cannot_run_is_reported(
    exported: Paths, images: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    plan = plan_candidates([broken, exported["onnx"]], runtimes=["onnx"], threads=[1])
    settings = BenchSettings(rounds=5, seconds=0.001)

    record = run_bench(plan, images, settings)

    assert [row["weights"] for row in record["rows"]] == [str(exported["onnx"])]
    assert record["failed"][0]["name"] == "broken.onnx, onnx, 1 thread, latency"
    assert "cannot load the file" in record["failed"][0]["reason"]
    with pytest.raises(ConfigError, match=r"no candidate can run; broken.onnx.*cannot load"):
        run_bench(plan[:1], images, settings)


def test_a_crashed_candidate_is_reported_and_the_others_continue(
    exported: Paths, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, asked = measure._Worker.ask, []

    def break_down(worker: Any, task: dict[str, Any]) -> dict[str, Any]:
        if worker.candidate.runtime == "openvino" and "batch" in task:
            asked.append(task)
            if len(asked) == 3:
                worker._process.kill()
        return ask(worker, task)

    monkeypatch.setattr(measure._Worker, "ask", break_down)
    plan = plan_candidates([exported["onnx"]], threads=[1])
    settings = BenchSettings(rounds=5, seconds=0.001)

    record = run_bench(plan, images, settings)

    assert [row["runtime"] for row in record["rows"]] == ["onnx"]
    assert [one["name"] for one in record["failed"]] == [plan[1].name]
    assert "its process ended" in record["failed"][0]["reason"]
    asked.clear()
    with pytest.raises(ConfigError, match=r"no candidate can run; .*its process ended"):
        run_bench(plan[1:], images, settings)


def test_times_are_kept_if_average_precision_fails(exported: Paths, images: list[Path]) -> None:
    plan = plan_candidates([exported["onnx"]], runtimes=["onnx"], threads=[1])

    def fail(_: Candidate) -> Any:
        raise DataError("the ground truth is missing")

    record = run_bench(plan, images, BenchSettings(rounds=5, seconds=0.001), measure_ap=fail)

    assert record["rows"][0]["ap"] is None
    assert record["rows"][0]["whole_ms"]["median"] > 0
    assert record["failed"] == [
        {"name": f"AP of {plan[0].name}", "reason": "the ground truth is missing"}
    ]


def test_files_of_the_same_name_get_unique_labels(exported: Paths, images: list[Path]) -> None:
    folder = images[0].parent
    for name in "ab":
        (folder / name).mkdir()
        shutil.copy(exported["onnx"], folder / name / "best.onnx")
    files = [folder / name / "best.onnx" for name in "ab"]
    plan = plan_candidates(files, runtimes=["onnx"], threads=[1])
    precision = dict(zip(files, [0.9, 0.1], strict=True))

    record = run_bench(
        plan,
        images,
        BenchSettings(rounds=5, seconds=0.001),
        measure_ap=lambda candidate: (precision[candidate.weights], None),
    )

    assert [(row["file"], row["ap"]) for row in record["rows"]] == [
        ("a/best.onnx", 0.9),
        ("b/best.onnx", 0.1),
    ]
    assert len({row["name"] for row in record["rows"]}) == 2


def _row(name: str, ap: float | None, ms: float) -> dict[str, Any]:
    rounds = {"whole_ms": [ms] * 5, "images_per_s": [1000 / ms] * 5}
    return {"name": name, "ap": ap, "batch": 1, "rounds": rounds}


def test_the_fastest_is_within_the_ap_loss() -> None:
    rows = [_row("int8", 0.52, 10), _row("good int8", 0.5751, 20), _row("float", 0.58, 40)]

    assert _verdicts(rows, False, 0.5)["latency"]["fastest"] == "good int8"
    assert _verdicts(rows, False, 10)["throughput"]["fastest"] == "int8"
    assert _verdicts(rows, False, 0.0)["latency"]["fastest"] == "float"


def test_on_a_noisy_machine_no_fastest_is_named() -> None:
    verdicts = _verdicts([_row("a", None, 10), _row("b", None, 30)], True, 0.5)

    assert {verdict["fastest"] for verdict in verdicts.values()} == {None}
    assert verdicts["latency"]["reason"] == "the machine was too noisy"


# --- candidates ----------------------------------------------------------------------------------


def test_every_file_runs_in_every_runtime_that_can_run_it(exported: Paths) -> None:
    plan = plan_candidates(
        [exported["torch"], exported["onnx"], exported["openvino"]],
        threads=[1, 2],
        modes=["latency", "throughput"],
    )

    pairs = {(one.weights.name, one.runtime) for one in plan}
    assert pairs == {
        ("w.safetensors", "torch"),
        ("onnx.onnx", "onnx"),
        ("onnx.onnx", "openvino"),
        ("w_openvino", "openvino"),
    }
    assert len(plan) == 4 * 2 * 2
    assert len({one.name for one in plan}) == len(plan)
    assert {one.file_bytes for one in plan if one.weights.is_dir()} != {0}


def test_bfloat16_is_a_candidate_on_cpus_that_support_it(
    exported: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates_module, "has_bfloat16", lambda: True)

    plan = plan_candidates([exported["onnx"]], threads=[1])

    assert [(one.runtime, one.precision) for one in plan] == [
        ("onnx", "float32"),
        ("openvino", "float32"),
        ("openvino", "bfloat16"),
    ]
    assert plan[2].name == "onnx.onnx, openvino, bfloat16, 1 thread, latency"


def test_wrong_plans_are_refused(exported: Paths, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'openvino'"):
        plan_candidates([exported["onnx"]], runtimes=["openvin"])
    with pytest.raises(ConfigError, match=r"one that runs the files \(.onnx\); got torch"):
        plan_candidates([exported["onnx"]], runtimes=["torch"])
    with pytest.raises(WeightsError, match="not found"):
        plan_candidates([tmp_path / "none.onnx"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batches": (0,)}, "batch must be 1 or more"),
        ({"rounds": 4}, "rounds must be 5 or more; got 4"),
        ({"seconds": 0.0}, "seconds must be above 0"),
        ({"max_ap_loss": -1.0}, "max_ap_loss must be from 0 to 100"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BenchSettings(**settings)
