"""Records of a made-up study, as `attendet compare` writes them."""

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
    "se": "no difference",
    "cbam": "hurts",
    "eca": "not enough seeds",
    "ca": "helps",
}

StudyFolder = Callable[..., Path]


def _metrics(ap: float, rng: np.random.Generator) -> dict[str, Any]:
    def near(value: float) -> float:
        return round(float(np.clip(value + rng.normal(0, 0.006), 0, 1)), 6)

    names = (
        "ap_small",
        "ap_medium",
        "ap_large",
        "ar_1",
        "ar_10",
        "ar_100",
        "ar_small",
        "ar_medium",
        "ar_large",
    )
    return {
        "ap": ap,
        "ap50": near(ap + 0.3),
        "ap75": near(ap + 0.05),
        **{name: near(ap - 0.1) for name in names},
        "per_class": {
            name: {"ap": near(ap + shift), "ap50": near(ap + 0.3), "gt": 60}
            for name, shift in zip(CLASSES, (-0.1, 0.0, 0.1), strict=True)
        },
        "counts": {"images": 6, "gt": 18, "detections": 40},
    }


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


def _run(variant: str, seed: int, epochs: int, rng: np.random.Generator) -> dict[str, Any]:
    ap = round(0.55 + GAINS[variant.split("@")[0]] + float(rng.normal(0, 0.006)), 6)
    curve = [
        {
            "epoch": epoch,
            "losses": {"box": 2 / epoch, "class": 1 / epoch},
            "seconds": 10.0,
            "ap": ap * (1 - 0.7**epoch) if epoch % 5 == 0 or epoch == epochs else None,
        }
        for epoch in range(1, epochs + 1)
    ]
    gate = {
        "mean": 0.45,
        "std_images": 0.03,
        "std_positions": 0.1,
        "std_channels": 0.05,
        "saturated": 0.01,
    }
    block = {"verdict": "works", "gates": {"height": gate}}
    return {
        "key": f"{variant}-{seed}",
        "variant_name": variant,
        "seed": seed,
        "variant": {
            "attention": variant.split("@")[0],
            "sites": ["p4", "p5", "up"],
            "init": "paper",
        },
        "metrics": _metrics(ap, rng),
        "curve": curve,
        "seconds": 600.0 + seed,
        "memory_mib": 1100,
        "parameters": 5_878_736 + 1000 * len(variant),
        "macs": 3_400_000_000 + 1_000_000 * len(variant),
        "epochs_done": epochs,
        "stopped": None,
        "folder": f"runs/{variant}-{seed}",
        "detections": f"runs/{variant}-{seed}/detections.npz",
        "gates": None if variant == "none" else {"p4": block, "p5": block},
        "versions": {"attendet": "0.1.0", "torch": "2.14.1"},
        "machine": {"system": "Linux x86_64", "device": "cpu", "cores": 2},
    }


@pytest.fixture
def study_folder(tmp_path: Path) -> StudyFolder:
    """Return a function that writes a study with its detections and returns its folder."""

    def make(
        variants: tuple[str, ...] = tuple(GAINS), seeds: int = 3, epochs: int = 20, **head: Any
    ) -> Path:
        rng = np.random.default_rng(0)
        folder = tmp_path / "study"
        data = tmp_path / "cells"
        data.mkdir()
        for index in range(6):
            image = rng.integers(0, 256, (100, 100, 3), dtype=np.uint8)
            Image.fromarray(image).save(data / f"p{index}.png")
        folder.mkdir()
        runs = [_run(variant, seed, epochs, rng) for variant in variants for seed in range(seeds)]
        for run in runs:
            path = folder / run["detections"]
            path.parent.mkdir(parents=True)
            scores = {"scores": rng.uniform(0, 1, 48).astype(np.float32)}
            _boxes(path, rng, 8, scores)
        paths = {
            "paths": np.array([f"p{index}.png" for index in range(6)]),
            "difficult": np.zeros(18, dtype=bool),
        }
        _boxes(folder / "ground_truth.npz", rng, 3, paths)
        means = {
            variant: np.mean(
                [run["metrics"]["ap"] for run in runs if run["variant_name"] == variant]
            )
            for variant in variants
        }
        verdicts = {
            variant: {
                "verdict": VERDICTS.get(variant.split("@")[0], "no difference"),
                "text": f"made up for {variant}.",
                "difference": means[variant] - means[variants[0]],
                "low": means[variant] - means[variants[0]] - 0.006,
                "high": means[variant] - means[variants[0]] + 0.006,
                "p": 0.01,
                "p_holm": 0.03,
                "seeds": list(range(seeds)),
                "further_seeds": 4 if variant == "eca" else None,
            }
            for variant in variants[1:]
        }
        latency = {
            variant: {
                "torch": {
                    "median_ms": 30.0 + index,
                    "low_ms": 29.5 + index,
                    "high_ms": 31.0 + index,
                }
            }
            for index, variant in enumerate(variants)
        }
        study = {
            "layout": "attendet/comparison/1",
            "command": "attendet compare cells --attention none se cbam eca ca --seeds 3",
            "data": {
                "root": str(data),
                "format": "voc",
                "fingerprint": "0644b95ad2d39800",
                "splits": {"train": 205, "val": 87, "test": 72},
                "classes": list(CLASSES),
            },
            "recipe": {"epochs": epochs, "size": 416, "lr": 0.001, "optimizer": "adamw"},
            "baseline": variants[0],
            "seeds": list(range(seeds)),
            "margin": 0.005,
            "variants": [{"name": variant} for variant in variants],
            "pretrained": None,
            "versions": {"attendet": "0.1.0", "torch": "2.14.1"},
            "budget": None,
            "latency": latency,
            "verdicts": verdicts,
            "gt": "ground_truth.npz",
            **head,
        }
        lines = [json.dumps(run) + "\n" for run in runs]
        (folder / "runs.jsonl").write_text("".join(lines))
        (folder / "study.json").write_text(json.dumps(study))
        return folder

    return make
