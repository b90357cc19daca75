"""The Hub's library against a loopback stand-in, its cache without network, and what goes wrong."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("huggingface_hub")
torch = pytest.importorskip("torch")

from attendet.errors import ConfigError, MissingExtraError, WeightsError  # noqa: E402
from attendet.interop.hub import HubFile, hub_file, local_weights, model_card, push_to_hub  # noqa: E402
from attendet.models import (  # noqa: E402
    WeightsMetadata,
    build_from_metadata,
    save_weights,
)

TOKEN = "hf_secret"
METADATA = WeightsMetadata(
    classes=("red cell", "a|b"),
    attention="ca@p5",
    width_mult=0.125,
    input_hw=(64, 96),
    seed=3,
    data={"images": {"train": 7, "val": 2}, "fingerprints": {"train": "abc123"}},
    measured={"split": "val", "epoch": 4, "ap": 0.58125, "ap50": 0.9},
)


class StandIn(ThreadingHTTPServer):
    """As much of the Hub as fetching and pushing regular files needs, in memory."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.asked: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repo: str) -> str:
        """Return the name of a repository's one commit: it changes with the files."""
        return hashlib.sha1(repr(sorted(self.repos[repo].items())).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Stay silent."""

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def _fail(self, status: int, code: str) -> None:
        self._answer(status, b"{}", X_Error_Code=code, X_Error_Message=code)

    def do_GET(self) -> None:
        server = self.server
        path = self.path.split("?")[0]
        server.asked.append(f"{self.command} {path}")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/.*", path):
            files = server.repos[found[1]].items()
            self._json(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                    for name, content in files
                ]
            )
            return
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if found is None or found[1] not in server.repos:
            self._fail(401 if found else 404, "RepoNotFound")
        elif found[1] in server.gated:
            self._fail(403, "GatedRepo")
        elif found[2] not in ("main", server.commit(found[1])):
            self._fail(404, "RevisionNotFound")
        elif found[3] not in server.repos[found[1]]:
            self._fail(404, "EntryNotFound")
        else:
            content = server.repos[found[1]][found[3]]
            tag = f'"{hashlib.sha1(content).hexdigest()}"'
            self._answer(200, content, ETag=tag, X_Repo_Commit=server.commit(found[1]))

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        server = self.server
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.asked.append(f"POST {self.path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._fail(401, "")
        elif self.path == "/api/repos/create":
            said = json.loads(content)
            repo = f"{said['organization']}/{said['name']}"
            known = repo in server.repos
            server.repos.setdefault(repo, {})
            self._json({"url": f"{server.endpoint}/{repo}"}, 409 if known else 200)
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(content)["files"]
            plain = {"uploadMode": "regular", "shouldIgnore": False}
            self._json({"files": [{"path": file["path"], **plain} for file in files]})
        elif found := re.match(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
            for line in content.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    held = base64.b64decode(item["value"]["content"])
                    server.repos[found[1]][item["value"]["path"]] = held
            commit = server.commit(found[1])
            url = f"{server.endpoint}/{found[1]}/commit/{commit}"
            self._json({"commitUrl": url, "commitOid": commit, "pullRequestUrl": None})
        else:
            self._fail(404, "")


@pytest.fixture
def hub() -> Iterator[StandIn]:
    """A stand-in for the Hub on this machine."""
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return save_weights(tmp_path / "cells.safetensors", build_from_metadata(METADATA), METADATA)


Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a program in a process of its own, as the Hub's library reads its settings once."""

    def call(program: str, *words: str, endpoint: str, **environment: str) -> Any:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        settings = {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "hf"),
            "NO_PROXY": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            "HOME": str(tmp_path),
        }
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            env={**kept, **settings, **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert "thrown while requesting" not in done.stderr  # a log of the library
        return json.loads(done.stdout.splitlines()[-1])

    return call


PUSH = """
import json, sys
from attendet.interop.hub import push_to_hub
print(json.dumps([push_to_hub(sys.argv[1], "ann/cells", license="apache-2.0", message="First")]))
"""
LOAD = """
import json, sys
import numpy as np
import attendet
image = np.arange(64 * 96 * 3, dtype=np.uint8).reshape(64, 96, 3)
answers = []
for name in sys.argv[1:]:
    detector = attendet.load(name, device="cpu")
    found = detector.predict(image, confidence=0.0, max_detections=5)
    answers.append([list(detector.classes), found.scores.tolist()])
print(json.dumps(answers))
"""
EXPORT = """
import json, sys
import attendet
print(json.dumps(attendet.export(sys.argv[1], "torchscript", output=sys.argv[2]).path.name))
"""
TRY = """
import json, sys
from attendet.errors import AttendetError
from attendet.interop.hub import local_weights, push_to_hub
said = []
for words in sys.argv[1:]:
    name, _, weights = words.partition(" ")
    try:
        said.append(push_to_hub(weights, name) if weights else str(local_weights(name)))
    except AttendetError as error:
        said.append(f"{error.exit_code} {error}")
print(json.dumps(said))
"""


def _closed() -> str:
    """Return an address where nobody listens."""
    with contextlib.closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}"


def test_what_is_pushed_loads_by_name_and_afterwards_without_network(
    hub: StandIn, weights: Path, run: Run
) -> None:
    endpoint = hub.endpoint

    assert run(PUSH, str(weights), endpoint=endpoint, HF_TOKEN=TOKEN) == ["hf://ann/cells"]

    files = hub.repos["ann/cells"]
    assert set(files) == {"model.safetensors", "README.md"}
    assert files["model.safetensors"] == weights.read_bytes()
    names = ["hf://ann/cells", "ann/cells", "ann/cells/model.safetensors"]
    here, *there = run(LOAD, str(weights), *names, endpoint=endpoint)
    assert there == [here] * len(names)
    assert here[0] == ["red cell", "a|b"]
    exported = run(EXPORT, "hf://ann/cells", str(weights.parent / "out"), endpoint=endpoint)
    assert exported == "cells.torchscript"
    asked = len(hub.asked)
    names.append(f"hf://ann/cells@{hub.commit('ann/cells')}")
    offline = run(TRY, *names, endpoint=endpoint, HF_HUB_OFFLINE="1")
    assert len(hub.asked) == asked
    for path in (*offline, *run(TRY, "hf://ann/cells", endpoint=_closed())):
        assert Path(path).read_bytes() == weights.read_bytes()


def test_a_card_that_is_there_stays(hub: StandIn, weights: Path, run: Run) -> None:
    hub.repos["ann/cells"] = {"README.md": b"mine"}

    run(PUSH, str(weights), endpoint=hub.endpoint, HF_TOKEN=TOKEN)

    assert hub.repos["ann/cells"]["README.md"] == b"mine"
    assert hub.repos["ann/cells"]["model.safetensors"] == weights.read_bytes()


def test_what_goes_wrong_is_one_clear_line(hub: StandIn, weights: Path, run: Run) -> None:
    hub.repos = {"ann/cells": {"a.safetensors": b"", "x.txt": b""}, "ann/shut": {}, "ann/bare": {}}
    hub.gated = {"ann/shut"}
    cases = {
        "hf://ann/gone": r"4 repository ann/gone does not exist on the Hub, or is private .*HF_TO",
        "ann/gone": r"4 weights file not found \(ann/gone\): it is neither a local path nor on the",
        "hf://ann/shut": r"4 repository ann/shut is gated .*Accept its terms .*hf auth login",
        "hf://ann/cells@old": r"4 revision must exist in ann/cells; got 'old'",
        "hf://ann/cells": r"4 file model.* does not exist in ann/cells\. .*files: a\.safetensors\.",
        "hf://ann/bare": r"4 file .* does not exist in ann/bare\. The repository has no weights f",
        "hf://cells": r"2 weights on the Hub must be named as hf://owner/name or .*'hf://cells'",
        f"ann/new {weights}": r"4 a token is needed to push \(ann/new\)\. Log in with: hf auth",
        f"new {weights}": r"2 repository must be named owner/name; got 'new'",
        "ann/new x.safetensors": r"4 weights file not found \(x\.safetensors\)",
    }

    said = run(TRY, *cases, endpoint=hub.endpoint)

    for (case, pattern), line in zip(cases.items(), said, strict=True):
        assert re.match(pattern, line), f"{case}: {line}"
        assert "\n" not in line
    assert run(TRY, f"ann/new {weights}", endpoint=hub.endpoint, HF_TOKEN="hf_wrong")[0].startswith(
        "4 the token must be allowed to write to ann/new; the Hub refused it (401)"
    )


def test_without_network_and_copy_it_says_so(weights: Path, run: Run) -> None:
    words = ["hf://ann/cells", f"ann/new {weights}"]

    for offline in ("0", "1"):
        fetched, pushed = run(
            TRY, *words, endpoint=_closed(), HF_TOKEN=TOKEN, HF_HUB_OFFLINE=offline
        )
        assert fetched.startswith("4 the Hub cannot be reached, and its cache has no copy")
        rule = "pushing needs the network" if offline == "1" else "the Hub cannot be reached"
        assert pushed.startswith(f"4 {rule} (ann/new)")


# Names and cards ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "meant"),
    [
        ("hf://ann/cells", HubFile("ann/cells")),
        ("hf:/ann/cells", HubFile("ann/cells")),  # as pathlib writes it
        ("ann/cells/a/b.onnx", HubFile("ann/cells", "a/b.onnx")),
        ("ann/cells@v1.2", HubFile("ann/cells", revision="v1.2")),
        ("hf://ann/cells@refs%2Fpr%2F3/a.onnx", HubFile("ann/cells", "a.onnx", "refs/pr/3")),
        ("cells.safetensors", None),
        ("runs/best.safetensors", None),
        ("runs/best.ONNX", None),
        ("/runs/cells", None),
        ("./runs/cells", None),
        ("../runs/cells", None),
        ("here/cells", None),
        ("here/there/cells.safetensors", None),
    ],
)
def test_a_name_means_the_hub_or_a_path(
    source: str, meant: HubFile | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()

    assert hub_file(source) == meant
    assert hub_file(Path(source)) == (None if source.startswith("./") else meant) or "./" in source


@pytest.mark.parametrize("revision", [None, "v1.2", "refs/pr/3", "100%"])
def test_an_address_reads_as_it_was_written(revision: str | None) -> None:
    file = HubFile("ann/cells", "a/b.onnx", revision)

    assert hub_file(str(file)) == file


@pytest.mark.parametrize("source", ["hf://", "hf://cells", "hf://ann/cells@", "hf://ann/ce lls"])
def test_an_address_that_is_none_is_refused(source: str) -> None:
    with pytest.raises(ConfigError, match=r"must be named as hf://owner/name"):
        local_weights(source)


def test_without_the_library_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, weights: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(MissingExtraError, match=r"attendet\[hub\]"):
        local_weights("hf://ann/cells")
    with pytest.raises(MissingExtraError, match=r"attendet\[hub\]"):
        push_to_hub(weights, "ann/cells")
    with pytest.raises(WeightsError, match=r"not found \(ann/cells\).*attendet\[hub\]"):
        local_weights("ann/cells")
    assert local_weights(weights) == weights


def test_the_card_says_what_the_file_says() -> None:
    card = model_card(METADATA, "ann/cells", 1234567, license="mit")

    _, front, body = card.split("---\n", 2)
    head = yaml.safe_load(front)
    assert (head["library_name"], head["license"]) == ("attendet", "mit")
    metrics = head["model-index"][0]["results"][0]["metrics"]
    assert [metric["value"] for metric in metrics] == [0.5813, 0.9]
    for row in (
        "| network | yolov4-tiny, 1,234,567 parameters |",
        "| attention | `ca@p5` |",
        r"| classes | 2: red cell, a\|b |",
        "| input | 96 x 64 px, rect, rgb |",
        "| images | train 7, val 2 |",
        "| fingerprint of train | `abc123` |",
        "| on the val split (used to select the weights) | AP 0.581, AP50 0.900 |",
        'detector = attendet.load("hf://ann/cells")',
    ):
        assert row in body


def test_a_card_of_unmeasured_weights_claims_nothing() -> None:
    card = model_card(WeightsMetadata(classes=tuple(map(str, range(99)))), "ann/cells", 1)

    assert "model-index" not in card
    assert "license" not in card
    assert "AP" not in card
    assert "| classes | 99 |" in card
