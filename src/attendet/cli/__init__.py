"""The command line: one module per command, imported only when the command is called.

A command module has ``add_arguments(parser)`` and ``run(args) -> int``; its docstring is the help
text. This package is the only part of attendet that prints.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from keyword import iskeyword
from types import ModuleType
from typing import NoReturn

from attendet import __version__
from attendet.errors import AttendetError, did_you_mean

__all__ = ["COMMANDS", "load_command", "main"]

COMMANDS = {
    "demo": "train, evaluate and write a report on the built-in sample set",
    "train": "train a detector on your images",
    "compare": "compare attention blocks on your images: accuracy, cost, verdict",
    "eval": "measure the average precision of a detector on a data set",
    "predict": "detect objects in images, videos and streams",
    "serve": "detect objects in the browser: a page and a JSON interface on this machine",
    "blocks": "list the attention blocks and what each costs",
    "bench": "measure the speed of files and runtimes on this machine",
    "data": "check, describe, convert or get a data set",
    "info": "describe a weights file",
    "weights": "list and download pretrained weights by name",
    "import": "convert darknet files or PyTorch checkpoints to a weights file",
    "export": "export a network for ONNX Runtime, OpenVINO, PyTorch, phones, browsers or darknet",
    "push": "upload a weights file to the Hugging Face Hub",
    "explain": "show what a detector looks at: gates, activation maps",
    "report": "write the report of a study from its records",
    "prune": "remove attention blocks that do nothing",
}


def _overview() -> str:
    lines = ["usage: attendet COMMAND [options]", ""]
    lines += ["Small real-time object detectors with plug-in attention.", "", "commands:"]
    width = max(map(len, COMMANDS))
    lines += [f"  {name:<{width}} {summary}" for name, summary in COMMANDS.items()]
    lines += [
        "",
        "attendet COMMAND --help lists the options of a command.",
        "attendet --version prints the version. --debug shows the traceback of an error.",
    ]
    return "\n".join(lines)


class _Parser(argparse.ArgumentParser):
    """Argument parser that prints errors in one line, without the list of all flags."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"attendet: {message}. See: {self.prog} --help\n")

    def check_known(self, words: Sequence[str]) -> None:
        """Exit with an error that suggests the nearest flag if there are unknown arguments."""
        if not words:
            return
        word = words[0].split("=")[0]
        if word.startswith("-"):
            near = did_you_mean(word, self._option_string_actions)
            if near.startswith("Did"):
                self.exit(2, f"attendet: unknown flag {word!r}. {near}\n")
            self.error(f"unknown flag {word!r}")
        self.error(f"unexpected argument {word!r}")


def load_command(command: str) -> ModuleType:
    """Return the module of a command: ``-`` becomes ``_``, Python keywords get a trailing ``_``."""
    name = command.replace("-", "_")
    return importlib.import_module(f"attendet.cli.{name}{'_' * iskeyword(name)}")


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, object]:
    command = arguments[0]
    module = load_command(command)
    parser = _Parser(
        prog=f"attendet {command}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    args, unknown = parser.parse_known_args(arguments[1:])
    parser.check_known(unknown)
    return args, module


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: words after ``attendet``; default: the arguments of the process.

    Returns:
        0, or the exit code of the error's class (see `attendet.errors`); 2 for a wrong flag.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or bool(os.environ.get("ATTENDET_DEBUG"))
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"attendet {__version__}")
        return 0
    if words[0] not in COMMANDS:
        print(
            f"attendet: unknown command {words[0]!r}. {did_you_mean(words[0], COMMANDS)}",
            file=sys.stderr,
        )
        return 2
    try:
        args, module = _parse(words)
        return int(module.run(args) or 0)  # type: ignore[attr-defined]
    except AttendetError as error:
        if debug:
            traceback.print_exc()
        print(f"attendet: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("attendet: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if debug:
            traceback.print_exc()
        name = f" ({error.filename})" if error.filename else ""
        print(f"attendet: {error.strerror or error}{name}", file=sys.stderr)
        return 1
