"""Folder of a run with weights, resume state and records, and a thread that writes them."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import yaml

from attendet.config import from_mapping
from attendet.errors import ConfigError, TrainingError, first_line
from attendet.files import json_line, read_json_lines, replacing, write_atomically
from attendet.training.recipe import Recipe

STATE_VERSION = 2

T = TypeVar("T")


class BackgroundWriter(Generic[T]):
    """Thread that writes the newest submitted value, at most once per interval.

    Args:
        write: writes a value; called in the thread.
        seconds: shortest time between the starts of two calls.
    """

    def __init__(self, write: Callable[[T], None], seconds: float) -> None:
        self._write, self._seconds = write, seconds
        self._changed = threading.Condition()
        self._waiting: T | None = None
        self._closing = False
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def submit(self, value: T) -> None:
        """Schedule a value to be written once the interval allows; it replaces one that waits.

        Raises:
            Exception: the error of an earlier write, such as `OSError` on a full disk.
        """
        with self._changed:
            self._raise_error()
            self._waiting = value
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Write the value that still waits, and end the thread.

        Raises:
            Exception: the error of a write that was not raised yet.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        self._raise_error()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        due = time.monotonic()
        while (value := self._next(due)) is not None:
            due = time.monotonic() + self._seconds
            try:
                self._write(value)
            except Exception as error:  # raised later, in the training thread
                self._error = error

    def _next(self, due: float) -> T | None:
        """Return the next value when it is due; None if the writer is closed and no value waits."""
        with self._changed:
            while not self._closing:
                rest = due - time.monotonic()
                if self._waiting is not None and rest <= 0:
                    break
                self._changed.wait(None if self._waiting is None else rest)
            value, self._waiting = self._waiting, None
            return value


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write a resume state of tensors and plain values atomically.

    Raises:
        OSError: if it cannot be written, such as on a full disk.
    """
    packed = io.BytesIO()  # torch.save to a file does not report a full disk
    torch.save({"state_version": STATE_VERSION, **state}, packed)
    with replacing(path) as partial, partial.open("wb") as stream:
        stream.write(packed.getbuffer())


def read_state(path: Path) -> dict[str, Any]:
    """Return a resume state, loaded without running code from the file.

    Raises:
        TrainingError: if it is missing, damaged or of another version.
    """
    if not path.is_file():
        raise TrainingError(f"there is nothing to resume ({path} is missing). Start a new run.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        kind = type(error).__name__
        raise TrainingError(f"resume state is damaged ({path}; {kind}). Start a new run.") from None
    if not isinstance(state, dict) or state.get("state_version") != STATE_VERSION:
        raise TrainingError(f"resume state has an unsupported version ({path}). Start a new run.")
    return state


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
    "log",
    "recipe",
)
"""Keys of config.yaml that a resume needs."""


def free_folder(parent: Path, stem: str) -> Path:
    """Return ``parent/stem``, or the first of ``stem-2``, ``stem-3``, ... that does not exist."""
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

    @staticmethod
    def check_free(path: Path) -> None:
        """Raise a `ConfigError` if a path contains a run already, or is a file."""
        if path.exists() and not path.is_dir():
            raise ConfigError(f"output must be a folder; {path} is a file (--output).")
        if (path / CONFIG).exists():
            started = (path / STATE).exists()
            advice = f"Continue it with --resume {path}, or choose" if started else "Choose"
            raise ConfigError(
                f"output must be a folder without a run; {path} contains one (--output). "
                f"{advice} another folder."
            )

    @classmethod
    def create(cls, path: Path, config: dict[str, Any]) -> RunFolder:
        """Return a new run's folder with its config.yaml.

        Raises:
            ConfigError: if the folder contains a run already.
        """
        cls.check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(path / CONFIG, yaml.safe_dump(config, sort_keys=False))
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> tuple[RunFolder, dict[str, Any]]:
        """Return the folder of an existing run and its configuration.

        Raises:
            TrainingError: if it contains no run.
        """
        try:
            config = yaml.safe_load((path / CONFIG).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = getattr(error, "strerror", None) or first_line(error)
            raise TrainingError(
                f"resume must be the folder of a run; got {str(path)!r} ({CONFIG}: {reason})."
            ) from None
        if not isinstance(config, dict):
            raise TrainingError(f"{CONFIG} must be a mapping of settings ({path / CONFIG}).")
        missing = [key for key in REQUIRED if key not in config]
        if missing:
            raise TrainingError(f"{CONFIG} lacks {', '.join(missing)} ({path / CONFIG}).")
        return cls(path), config

    def recipe(self, config: dict[str, Any]) -> Recipe:
        """Return the settings in a configuration.

        Raises:
            TrainingError: if a setting is unknown or wrong, such as in a run of another version.
        """
        try:
            return from_mapping(Recipe, config["recipe"], source=str(self.path / CONFIG))
        except ConfigError as error:
            raise TrainingError(f"{error} The run cannot be resumed; start a new one.") from None

    def records(self) -> list[dict[str, Any]]:
        """Return the epoch records so far; a last line that a kill truncated is ignored."""
        return read_json_lines(self.path / RESULTS)

    def rewind(self, epochs: int) -> list[dict[str, Any]]:
        """Remove records after an epoch and unfinished files; return the remaining records."""
        for leftover in self.path.glob(".*.part"):
            leftover.unlink(missing_ok=True)
        kept = [record for record in self.records() if record["epoch"] <= epochs]
        write_atomically(self.path / RESULTS, "".join(map(json_line, kept)))
        return kept

    def add_record(self, record: dict[str, Any]) -> None:
        """Append an epoch's record to results.jsonl."""
        with (self.path / RESULTS).open("a", encoding="utf-8") as stream:
            stream.write(json_line(record))
