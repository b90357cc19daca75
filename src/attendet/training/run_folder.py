"""The folder of a run: what is written while it goes on, and by the first process alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from attendet.errors import ConfigError, TrainingError
from attendet.extras import require
from attendet.files import write_atomically

__all__ = ["RunFolder", "free_folder"]

CONFIG = "config.yaml"
RESULTS = "results.jsonl"


def free_folder(parent: Path, stem: str) -> Path:
    """Return ``parent/stem``, or the first of ``stem-2``, ``stem-3``... that is not there."""
    folder = parent / stem
    number = 2
    while folder.exists():
        folder = parent / f"{stem}-{number}"
        number += 1
    return folder


class RunFolder:
    """Files of one run.

    Attributes:
        path: the folder.
        best: weights with the best AP on the validation split.
        last: weights of the last epoch.
        state: resume state.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path / "best.safetensors"
        self.last = path / "last.safetensors"
        self.state = path / "resume.pt"
        self._board: Any = None

    @classmethod
    def create(cls, path: Path, config: dict[str, Any]) -> RunFolder:
        """Return a new run's folder with its config.yaml.

        Raises:
            ConfigError: if the folder holds a run already.
        """
        if (path / CONFIG).exists():
            raise ConfigError(
                f"output must be a folder without a run; {path} holds one (--output). "
                f"Go on with --resume {path}, or choose another folder."
            )
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(path / CONFIG, yaml.safe_dump(config, sort_keys=False))
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> tuple[RunFolder, dict[str, Any]]:
        """Return the folder of a run that is there, and its configuration.

        Raises:
            TrainingError: if it holds no run.
        """
        try:
            config = yaml.safe_load((path / CONFIG).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise TrainingError(f"no run can be resumed from {path}: {error}.") from None
        if not isinstance(config, dict):
            raise TrainingError(f"no run can be resumed from {path}: {CONFIG} is no map.")
        return cls(path), config

    def records(self) -> list[dict[str, Any]]:
        """Return the epoch records so far."""
        file = self.path / RESULTS
        if not file.exists():
            return []
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]

    def keep_records(self, epochs: int) -> list[dict[str, Any]]:
        """Drop records after an epoch (those that a killed run will do again); return the rest."""
        kept = [record for record in self.records() if record["epoch"] <= epochs]
        lines = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomically(self.path / RESULTS, lines)
        return kept

    def add_record(self, record: dict[str, Any]) -> None:
        """Append one epoch's record to results.jsonl and to TensorBoard's events."""
        with (self.path / RESULTS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
        board = self._tensorboard()
        for name, value in _flat(record):
            board.add_scalar(name, value, record["epoch"])
        board.flush()

    def _tensorboard(self) -> Any:
        if self._board is None:
            require("tensorboard", extra="train", purpose="training")
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.path / "tensorboard"))
        return self._board

    def close(self) -> None:
        """Finish TensorBoard's events."""
        if self._board is not None:
            self._board.close()
            self._board = None


def _flat(record: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    pairs: list[tuple[str, float]] = []
    for name, value in record.items():
        if isinstance(value, dict):
            pairs += _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name != "epoch":
            pairs.append((f"{prefix}{name}", float(value)))
    return pairs
