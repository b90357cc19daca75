"""Weights files on the Hugging Face Hub: download by name, upload with a model card.

The address of a file is ``hf://owner/name``, ``hf://owner/name/FILE`` or, for a branch, tag or
commit, ``hf://owner/name@revision/FILE``; a slash in the revision is written ``%2F``. Files are
stored in the cache of the Hub library, so that they load offline afterwards. Needs no torch.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import yaml

from attendet import __version__
from attendet.errors import (
    AttendetError,
    ConfigError,
    WeightsError,
    did_you_mean,
    first_line,
    list_names,
)
from attendet.interop.zoo import zoo_entries, zoo_weights
from attendet.models.export_info import HEADER_FILE
from attendet.models.metadata import (
    WeightsMetadata,
    count_parameters,
    read_metadata,
    read_tensor_shapes,
)
from attendet.system import require

DEFAULT_FILE = "model.safetensors"
"""File of a repository that is used if the address names none."""

CARD = "README.md"

MAX_CARD_CLASSES = 40
"""Maximum number of class names in a card; for more classes it has only their number."""

_HTTP_CLIENTS = ("httpx", "httpx2", "requests", "urllib3")
"""HTTP clients of different versions of the Hub library; their errors mean no connection."""

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_ID = re.compile(rf"(?P<repo>{_PART}/{_PART})(@(?P<revision>[^/@]+))?(/(?P<file>[^@]+))?", re.ASCII)
_SCHEME = re.compile(r"hf:/{1,2}")
_FILES = (
    *(".safetensors", ".onnx", ".xml", ".param", ".pt", ".pth", ".pt2", ".torchscript"),
    *(".weights", ".cfg"),
)
"""File name suffixes; a source with one of them is a missing path, not a repository."""


@dataclass(frozen=True)
class HubFile:
    """File in a repository on the Hub."""

    repo: str
    """``owner/name``."""

    file: str = DEFAULT_FILE
    """Path in the repository."""

    revision: str | None = None
    """Branch, tag or commit; the main branch if None."""

    def __str__(self) -> str:
        """Return the address in the form that `hub_file` reads."""
        at = f"@{quote(self.revision, safe='')}" if self.revision else ""
        return f"hf://{self.repo}{at}/{self.file}"


def hub_file(source: str | Path) -> HubFile | None:
    """Return the file on the Hub that a source refers to, or None if the source is a path.

    Args:
        source: ``hf://owner/name[@revision][/FILE]``. Without ``hf://``, the source is an address
            only if neither this path nor its first folder exists, and ``name`` has no suffix of a
            weights file.

    Raises:
        ConfigError: if the text after ``hf://`` has another form.

    Example:
        >>> hub_file("hf://ann/cells@v2/small.safetensors")
        HubFile(repo='ann/cells', file='small.safetensors', revision='v2')
        >>> print(hub_file("ann/cells"))
        hf://ann/cells/model.safetensors
        >>> hub_file("runs/best.safetensors") is None
        True
    """
    text = source.as_posix() if isinstance(source, Path) else source
    scheme = _SCHEME.match(text)
    found = _ID.fullmatch(text[scheme.end() :] if scheme else text)
    if scheme and found is None:
        raise ConfigError(
            f"weights on the Hub must be named as hf://owner/name or hf://owner/name/FILE; "
            f"got {text!r}."
        )
    if found is None or (scheme is None and not _may_mean_the_hub(text, found["repo"])):
        return None
    revision = unquote(found["revision"]) if found["revision"] else None
    return HubFile(found["repo"], found["file"] or DEFAULT_FILE, revision)


def _may_mean_the_hub(text: str, repo: str) -> bool:
    owner = repo.split("/")[0]
    return not (Path(text).exists() or Path(owner).exists() or repo.lower().endswith(_FILES))


def weights_name(source: str | Path) -> str:
    """Return the name for files made from weights: the name of their file or repository.

    Example:
        >>> weights_name("runs/best.safetensors"), weights_name("yolo-fastest-xl")
        ('best', 'yolo-fastest-xl')
        >>> weights_name("hf://ann/cells-v1.5"), weights_name("hf://ann/cells/small.safetensors")
        ('cells-v1.5', 'small')
    """
    wanted = hub_file(source)
    if wanted is None:
        return Path(source).stem
    return wanted.repo.split("/")[1] if wanted.file == DEFAULT_FILE else Path(wanted.file).stem


def local_weights(source: str | Path) -> Path:
    """Return the local path of weights; they are downloaded at first use if necessary.

    A path with a folder or a suffix is returned without a check that it exists.

    Args:
        source: a path; a name of `attendet.interop.zoo` (a file or an exported folder of this name
            in the current folder takes precedence); or an address on the Hub for `hub_file`.

    Raises:
        WeightsError: if a name is unknown, or the weights cannot be downloaded.
        ConfigError: if an ``hf://`` address has another form.
        MissingExtraError: if ``source`` is an ``hf://`` address and the Hub's library is not
            installed, or a name of the zoo and torch is not installed.
    """
    wanted = hub_file(source)
    if wanted is None:
        path = Path(source)
        if path.name != str(source) or path.suffix:
            return path
        if path.is_file() or any((path / name).is_file() for name in ("model.xml", "model.param")):
            return path
        if path.name not in zoo_entries():
            if path.exists():
                return path
            rule = (
                "a file, an exported folder, hf://owner/name or a name from: attendet weights list"
            )
            advice = did_you_mean(path.name, zoo_entries())
            raise WeightsError.must("weights", rule, path.name, advice=advice)
        return zoo_weights(path.name)
    if not _SCHEME.match(str(source)):
        try:
            return download(wanted)
        except AttendetError as error:
            raise WeightsError(
                f"weights file not found ({source}): it is neither a local path nor on the Hub. "
                f"{error}"
            ) from None
    return download(wanted)


def download(wanted: HubFile) -> Path:
    """Return the path of a Hub file in the cache of the Hub library; download it if missing.

    Environment variables of the library apply: ``HF_TOKEN``, ``HF_HOME``, ``HF_ENDPOINT``,
    ``HF_HUB_OFFLINE``.

    Raises:
        WeightsError: if the repository, revision or file does not exist, access is denied, or the
            Hub cannot be reached and the cache has no copy.
        MissingExtraError: if the library is not installed.
    """
    library = require("huggingface_hub", extra="hub", purpose="loading from the Hugging Face Hub")
    files = [wanted.file]
    stem, _, suffix = wanted.file.rpartition(".")
    if suffix in ("xml", "param"):  # OpenVINO and ncnn have the weights in a second file
        files.append(f"{stem}.bin")
    if suffix == "param":
        files.append(f"{wanted.file.removesuffix('model.param')}{HEADER_FILE}")
    try:
        with _errors_only():
            paths = [
                library.hf_hub_download(
                    wanted.repo,
                    file,
                    revision=wanted.revision,
                    library_name="attendet",
                    library_version=__version__,
                )
                for file in files
            ]
    except Exception as error:  # errors of the library and of its HTTP client
        raise WeightsError(_why_not_fetched(library, error, wanted)) from None
    return Path(paths[0])


@contextlib.contextmanager
def _errors_only() -> Iterator[None]:
    """Suppress warnings of the library, such as one per retry; the final error is sufficient."""
    logs = import_module("huggingface_hub.utils.logging")
    before = logs.get_verbosity()
    logs.set_verbosity_error()
    try:
        yield
    finally:
        logs.set_verbosity(before)


def _why_not_fetched(library: Any, error: Exception, wanted: HubFile) -> str:
    errors = library.errors
    if isinstance(error, errors.GatedRepoError):
        return (
            f"repository {wanted.repo} is gated ({wanted}). Accept its terms on its page, then "
            "log in with: hf auth login"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"repository {wanted.repo} does not exist on the Hub, or is private ({wanted}). Check "
            "the name. For a private repository, log in with: hf auth login, or set HF_TOKEN."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"revision must exist in {wanted.repo}; got {wanted.revision!r} ({wanted})."
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"the Hub cannot be reached, and its cache has no copy ({wanted}). Check the network "
            "and HF_HUB_OFFLINE, or give the path of a file."
        )
    if isinstance(error, errors.EntryNotFoundError):
        there = _what_there_is(library, wanted)
        return f"file {wanted.file} does not exist in {wanted.repo}. {there}"
    return f"weights cannot be fetched ({wanted}): {type(error).__name__}: {first_line(error)}"


def _what_there_is(library: Any, wanted: HubFile) -> str:
    """Return a sentence that lists the weights files of a repository."""
    try:
        files = library.HfApi().list_repo_files(wanted.repo, revision=wanted.revision)
    except Exception:  # the list only improves the message of another error
        return "Check the name of the file."
    able = sorted(name for name in files if name.endswith((".safetensors", ".onnx")))
    if not able:
        return "The repository has no weights files."
    return f"Available files: {list_names(able)}."


def push_to_hub(
    weights: str | Path,
    repo: str,
    *,
    private: bool = False,
    license: str | None = None,
    replace_card: bool = False,
    message: str = "Weights of attendet",
    token: str | None = None,
) -> str:
    """Upload a weights file and a model card to the Hub; return the address.

    The file is named ``model.safetensors`` there, so that ``attendet.load("hf://owner/name")``
    finds it. The card is written from the metadata of the file. One commit adds both; an existing
    card is kept by default.

    Args:
        weights: a ``.safetensors`` weights file written by attendet.
        repo: ``owner/name``; created if it does not exist.
        private: whether a new repository is private.
        license: identifier of the license for the card, such as ``apache-2.0``.
        replace_card: replace an existing card.
        message: commit message.
        token: access token with write permission; default: the saved login, or ``HF_TOKEN``.

    Raises:
        WeightsError: if the file was not written by attendet, or the upload fails: no token, no
            permission, no connection.
        ConfigError: if ``repo`` does not have the form ``owner/name``.
        MissingExtraError: if the Hub's library is not installed.
    """
    path = Path(weights)
    metadata = read_metadata(path)
    if re.fullmatch(rf"{_PART}/{_PART}", repo, re.ASCII) is None:
        raise ConfigError(f"repository must be named owner/name; got {repo!r}.")
    library = require("huggingface_hub", extra="hub", purpose="pushing to the Hugging Face Hub")
    card = model_card(metadata, repo, count_parameters(read_tensor_shapes(path)), license=license)
    api = library.HfApi(token=token or True, library_name="attendet", library_version=__version__)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        files: dict[str, Any] = {DEFAULT_FILE: str(path)}
        if replace_card or not api.file_exists(repo, CARD):
            files[CARD] = card.encode()
        api.create_commit(
            repo,
            [
                library.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
                for name, content in files.items()
            ],
            commit_message=message,
        )
    except Exception as error:  # errors of the library and of its HTTP client
        raise WeightsError(_why_not_pushed(library, error, repo)) from None
    return f"hf://{repo}"


def _why_not_pushed(library: Any, error: Exception, repo: str) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, library.errors.LocalTokenNotFoundError):
        return f"a token is needed to push ({repo}). Log in with: hf auth login, or set HF_TOKEN."
    if status in (401, 403):
        return (
            f"the token must be allowed to write to {repo}; the Hub refused it ({status}). Log in "
            "with another: hf auth login"
        )
    if isinstance(error, library.errors.OfflineModeIsEnabled):
        return f"pushing needs the network ({repo}). Unset HF_HUB_OFFLINE."
    home = type(error).__module__.split(".")[0]
    if status is None and (isinstance(error, OSError) or home in _HTTP_CLIENTS):
        return f"the Hub cannot be reached ({repo}): {type(error).__name__}: {first_line(error)}"
    return f"weights cannot be pushed ({repo}): {type(error).__name__}: {first_line(error)}"


# --- the card ----------------------------------------------------------------------------------


def model_card(
    metadata: WeightsMetadata, repo: str, parameters: int, *, license: str | None = None
) -> str:
    """Return the model card (README.md) of a repository with one weights file.

    Args:
        metadata: description of the weights.
        repo: ``owner/name``.
        parameters: number of parameters.
        license: identifier such as ``apache-2.0``; omitted from the card if None.

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

A small real-time object detector, made with attendet. Network, attention, classes, preprocessing
and anchors are read from the metadata of the weights file.

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
        ("classes", f"{count}: {names}" if count <= MAX_CARD_CLASSES else str(count)),
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
        chosen = " (used to select the weights)" if measured.get("split") == "val" else ""
        facts.append((f"on the {measured.get('split', 'unknown')} split{chosen}", text))
    if metadata.seed is not None:
        facts.append(("seed", str(metadata.seed)))
    if metadata.origin:
        facts.append(("imported from", _cell(str(metadata.origin.get("format", "elsewhere")))))
    facts.append(("attendet version", metadata.version or "unknown"))
    return facts


def _cell(text: str) -> str:
    """Return text in a form that cannot end a Markdown table cell or line."""
    return " ".join(text.replace("|", "\\|").replace("`", "'").split())
