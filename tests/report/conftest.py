"""Records of a made-up study, in the layout that `attendet compare` writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CLASSES = ("Platelets", "RBC", "WBC")
GAINS = {"none": 0.0, "se": 0.001, "cbam": -0.02, "eca": 0.0, "ca": 0.015}
VERDICTS = {
    "se": "no difference", "cbam": "hurts", "eca": "not enough seeds", "ca": "helps",
}  # fmt: skip

StudyFolder = Callable[..., Path]


def _metrics(ap: float, rng: np.random.Generator) -> dict[str, Any]:
    def near(value: float) -> float:
        return round(float(np.clip(value + rng.normal(0, 0.006), 0, 1)), 6)

    names = ("ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100", "ar_small",
             "ar_medium", "ar_large")  # fmt: skip
    return {
        "ap": ap, "ap50": near(ap + 0.3), "ap75": near(ap + 0.05),
        **{name: near(ap - 0.1) for name in names},
        "per_class": {name: {"ap": near(ap + shift), "ap50": near(ap + 0.3), "truths": 60}
                      for name, shift in zip(CLASSES, (-0.1, 0.0, 0.1), strict=True)},
        "counts": {"pictures": 6, "truths": 18, "detections": 40},
    }  # fmt: skip


def _boxes(path: Path, rng: np.random.Generator, count: int, extra: dict[str, Any]) -> None:
    corners = rng.uniform(0, 60, (count * 6, 2))
    np.savez_compressed(
        path,
        keys=np.array([f"p{index}" for index in range(6)]),
        classes=np.array(CLASSES),
        image_hw=np.full((6, 2), 100),
        counts=np.full(6, count),
        boxes_xyxy=np.concatenate([corners, corners + 30], axis=1).astype(np.float32),
        class_ids=rng.integers(0, 3, count * 6),
        **extra,
    )


def _run(arm: str, seed: int, epochs: int, rng: np.random.Generator) -> dict[str, Any]:
    ap = round(0.55 + GAINS[arm.split("@")[0]] + float(rng.normal(0, 0.006)), 6)
    curve = [
        {
            "epoch": epoch, "losses": {"box": 2 / epoch, "class": 1 / epoch}, "seconds": 10.0,
            "ap": ap * (1 - 0.7**epoch) if epoch % 5 == 0 or epoch == epochs else None,
        }
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip
    gate = {"mean": 0.45, "spread": 0.12, "between_pictures": 0.03, "saturated": 0.01}
    return {
        "key": f"{arm}-{seed}", "arm_name": arm, "seed": seed,
        "arm": {"attention": arm.split("@")[0], "sites": ["p4", "p5", "up"], "start": "paper"},
        "metrics": _metrics(ap, rng), "curve": curve, "seconds": 600.0 + seed, "memory_mib": 1100,
        "parameters": 5_878_736 + 1000 * len(arm), "macs": 3_400_000_000 + 1_000_000 * len(arm),
        "epochs_done": epochs, "stopped": None, "folder": f"runs/{arm}-{seed}",
        "detections": f"runs/{arm}-{seed}/detections.npz",
        "gates": None if arm == "none" else {"p4": {"height": gate}, "p5": {"height": gate}},
        "versions": {"attendet": "0.1.0", "torch": "2.14.1"},
        "machine": {"system": "Linux x86_64", "device": "cpu", "cores": 2},
    }  # fmt: skip


@pytest.fixture
def study_folder(tmp_path: Path) -> StudyFolder:
    """Writes a study of some arms and seeds with its detections; returns its folder."""

    def make(
        arms: tuple[str, ...] = tuple(GAINS), seeds: int = 3, epochs: int = 20, **head: Any
    ) -> Path:
        rng = np.random.default_rng(0)
        folder = tmp_path / "study"
        data = tmp_path / "cells"
        data.mkdir()
        for index in range(6):
            picture = rng.integers(0, 256, (100, 100, 3), dtype=np.uint8)
            Image.fromarray(picture).save(data / f"p{index}.png")
        folder.mkdir()
        runs = [_run(arm, seed, epochs, rng) for arm in arms for seed in range(seeds)]
        for run in runs:
            path = folder / run["detections"]
            path.parent.mkdir(parents=True)
            scores = {"scores": rng.uniform(0, 1, 48).astype(np.float32)}
            _boxes(path, rng, 8, scores)
        paths = {"paths": np.array([f"p{index}.png" for index in range(6)]),
                 "difficult": np.zeros(18, dtype=bool)}  # fmt: skip
        _boxes(folder / "truth.npz", rng, 3, paths)
        means = {arm: np.mean([run["metrics"]["ap"] for run in runs if run["arm_name"] == arm])
                 for arm in arms}  # fmt: skip
        verdicts = {
            arm: {
                "verdict": VERDICTS.get(arm.split("@")[0], "no difference"),
                "text": f"made up for {arm}.",
                "difference": means[arm] - means[arms[0]],
                "low": means[arm] - means[arms[0]] - 0.006,
                "high": means[arm] - means[arms[0]] + 0.006,
                "p": 0.01, "p_holm": 0.03, "seeds": list(range(seeds)),
                "further_seeds": 4 if arm == "eca" else None,
            }
            for arm in arms[1:]
        }  # fmt: skip
        latency = {arm: {"torch": {"median_ms": 30.0 + index, "low_ms": 29.5 + index,
                                   "high_ms": 31.0 + index}}
                   for index, arm in enumerate(arms)}  # fmt: skip
        study = {
            "layout": "attendet/study/1",
            "command": "attendet compare cells --attention none se cbam eca ca --seeds 3",
            "data": {"root": str(data), "format": "voc", "fingerprint": "0644b95ad2d39800",
                     "splits": {"train": 205, "val": 87, "test": 72}, "classes": list(CLASSES)},
            "recipe": {"epochs": epochs, "size": 416, "lr": 0.001, "optimizer": "adamw"},
            "baseline": arms[0], "seeds": list(range(seeds)), "margin": 0.005,
            "arms": [{"name": arm} for arm in arms], "budget": None, "latency": latency,
            "verdicts": verdicts, "truth": "truth.npz", **head,
        }  # fmt: skip
        lines = [json.dumps(run) + "\n" for run in runs]
        (folder / "runs.jsonl").write_text("".join(lines))
        (folder / "study.json").write_text(json.dumps(study))
        return folder

    return make
