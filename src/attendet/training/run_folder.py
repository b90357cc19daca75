"""The folder of a run: what is written while it goes on, and by the first process alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from attendet.config import from_mapping
from attendet.errors import ConfigError, TrainingError
from attendet.files import write_atomically
from attendet.system import require
from attendet.training.recipe import Recipe

__all__ = ["RunFolder", "free_folder"]

CONFIG = "config.yaml"
RESULTS = "results.jsonl"
STATE = "resume.pt"
REQUIRED = (
    "data",
    "format",
    "attention",
    "seed",
    "accelerator",
    "devices",
    "nodes",
    "fingerprints",
    "recipe",
)
"""Keys of config.yaml that a resume needs."""


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
        self.state = path / STATE
        self._board: Any = None
        self._redone_from: int | None = None

    @staticmethod
    def check_free(path: Path) -> None:
        """Raise a `ConfigError` if a path holds a run already, or can hold none."""
        if path.exists() and not path.is_dir():
            raise ConfigError(f"output must be a folder; {path} is a file (--output).")
        if (path / CONFIG).exists():
            begun = (path / STATE).exists()
            ways = f"Go on with --resume {path}, or choose" if begun else "Choose"
            raise ConfigError(
                f"output must be a folder without a run; {path} holds one (--output). "
                f"{ways} another folder."
            )

    @classmethod
    def create(cls, path: Path, config: dict[str, Any]) -> RunFolder:
        """Return a new run's folder with its config.yaml.

        Raises:
            ConfigError: if the folder holds a run already.
        """
        cls.check_free(path)
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
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise TrainingError(
                f"resume must be the folder of a run; got {str(path)!r} ({CONFIG}: {reason})."
            ) from None
        if not isinstance(config, dict):
            raise TrainingError(f"{CONFIG} must be a map of settings ({path / CONFIG}).")
        missing = [key for key in REQUIRED if key not in config]
        if missing:
            raise TrainingError(f"{CONFIG} lacks {', '.join(missing)} ({path / CONFIG}).")
        return cls(path), config

    def recipe(self, config: dict[str, Any]) -> Recipe:
        """Return the settings in a configuration.

        Raises:
            TrainingError: if one is unknown or wrong: it is of another version, say.
        """
        try:
            return from_mapping(Recipe, config["recipe"], source=str(self.path / CONFIG))
        except ConfigError as error:
            raise TrainingError(f"{error} The run cannot go on; train anew.") from None

    def records(self) -> list[dict[str, Any]]:
        """Return the epoch records so far; a last line that a kill cut short is left out."""
        file = self.path / RESULTS
        if not file.exists():
            return []
        records = []
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break
            records.append(record)
        return records

    def rewind(self, epochs: int) -> list[dict[str, Any]]:
        """Drop what a killed run left after an epoch, as it will be done again.

        Returns:
            The records up to that epoch.
        """
        for leftover in self.path.glob(".*.part"):
            leftover.unlink(missing_ok=True)
        kept = [record for record in self.records() if record["epoch"] <= epochs]
        lines = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomically(self.path / RESULTS, lines)
        self._redone_from = epochs + 1
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

            self._board = SummaryWriter(
                str(self.path / "tensorboard"), purge_step=self._redone_from
            )
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
