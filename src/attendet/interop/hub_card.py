"""The card of a weights file for the Hugging Face Hub, from nothing but its description."""

from __future__ import annotations

from typing import Any

import yaml

from attendet.models.metadata import WeightsMetadata

__all__ = ["model_card"]

MOST_CLASSES = 40
"""Class names beyond which the card gives their number alone."""


def model_card(
    metadata: WeightsMetadata, repo: str, parameters: int, *, license: str | None = None
) -> str:
    """Return the README.md of a repository with one weights file: what it is, and how to use it.

    Args:
        metadata: the description of the weights.
        repo: ``owner/name``.
        parameters: how many trained values there are.
        license: identifier such as ``apache-2.0``; not in the card if None.

    Example:
        >>> card = model_card(WeightsMetadata(classes=("cell",)), "ann/cells", 5_874_116)
        >>> card.splitlines()[:3]
        ['---', 'library_name: attendet', 'pipeline_tag: object-detection']
    """
    head = yaml.safe_dump(_front(metadata, repo, license), sort_keys=False, allow_unicode=True)
    rows = "\n".join(f"| {name} | {value} |" for name, value in _facts(metadata, parameters))
    return f"""---
{head}---

# {repo.split("/")[1]}

A small real-time object detector, made with attendet. The weights file describes itself: network,
attention, classes, preprocessing and anchors are read from it.

| | |
|---|---|
{rows}

## Use

```python
import attendet

detector = attendet.load("hf://{repo}")
detections = detector.predict("image.jpg")
```

```bash
pip install 'attendet[train,hub]'
attendet predict hf://{repo} image.jpg
```
"""


def _front(metadata: WeightsMetadata, repo: str, license: str | None) -> dict[str, Any]:
    front: dict[str, Any] = {"library_name": "attendet", "pipeline_tag": "object-detection"}
    if license is not None:
        front["license"] = license
    front["tags"] = ["object-detection", metadata.architecture]
    measured = metadata.measured or {}
    names = {"ap": "AP (IoU 0.50 to 0.95)", "ap50": "AP50"}
    metrics = [
        {"type": f"mean_average_precision_{name}", "name": title, "value": round(value, 4)}
        for name, title in names.items()
        if isinstance(value := measured.get(name), float)
    ]
    if metrics:
        split = str(measured.get("split", "unknown"))
        result = {
            "task": {"type": "object-detection"},
            "dataset": {"type": "unknown", "name": f"{split} split of the training data"},
            "metrics": metrics,
        }
        front["model-index"] = [{"name": repo.split("/")[1], "results": [result]}]
    return front


def _facts(metadata: WeightsMetadata, parameters: int) -> list[tuple[str, str]]:
    preprocess = metadata.preprocessing()
    height, width = metadata.input_hw
    count = len(metadata.classes)
    names = ", ".join(_cell(name) for name in metadata.classes)
    facts = [
        ("network", f"{metadata.architecture}, {parameters:,} parameters"),
        ("attention", f"`{metadata.attention}`"),
        ("classes", f"{count}: {names}" if count <= MOST_CLASSES else str(count)),
        ("input", f"{width} x {height} px, {preprocess.resize}, {preprocess.color}"),
    ]
    data, measured = metadata.data or {}, metadata.measured or {}
    images = data.get("images") or {}
    if images:
        facts.append(("images", ", ".join(f"{split} {number}" for split, number in images.items())))
    for split, fingerprint in (data.get("fingerprints") or {}).items():
        facts.append((f"fingerprint of {split}", f"`{fingerprint}`"))
    if isinstance(measured.get("ap"), float):
        text = f"AP {measured['ap']:.3f}"
        if isinstance(measured.get("ap50"), float):
            text += f", AP50 {measured['ap50']:.3f}"
        chosen = " (by which the weights were chosen)" if measured.get("split") == "val" else ""
        facts.append((f"on the {measured.get('split', 'unknown')} split{chosen}", text))
    if metadata.seed is not None:
        facts.append(("seed", str(metadata.seed)))
    if metadata.origin:
        facts.append(("imported from", _cell(str(metadata.origin.get("format", "elsewhere")))))
    facts.append(("version of attendet", metadata.version or "unknown"))
    return facts


def _cell(text: str) -> str:
    """Return text that cannot end a table's cell or line."""
    return " ".join(text.replace("|", "\\|").replace("`", "'").split())
