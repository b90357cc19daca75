from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("mlxtend")
pytest.importorskip("skimage")

from attendet.cli import main
from attendet.models import read_metadata

TINY = ("--epochs", "1", "--size", "64", "--width-mult", "0.125", "--images", "6")


class _Headings(HTMLParser):
    """Collects the headings of a page, and what it would load from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = False
        self.headings: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag == "h2"
        addresses = [value or "" for name, value in attrs if name in ("src", "href")]
        self.fetched += [address for address in addresses if not address.startswith("data:")]

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.headings.append(data)
            self.inside = False


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_small_demo_writes_weights_and_an_offline_page(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/attendet", "demo", *TINY, "--debug"])

    assert main() == 0

    said = capsys.readouterr().out.splitlines()
    assert re.match(r"test: AP \d\.\d{3}, AP50 \d\.\d{3} \(2 images, \d+ digits\)", said[-3])
    assert said[-2:] == ["weights: demo/run/best.safetensors", "report: demo/report.html"]
    metadata = read_metadata(here / "demo/run/best.safetensors")
    assert (metadata.attention, metadata.width_mult) == ("ca", 0.125)
    assert metadata.recipe is not None
    assert metadata.recipe["flip_lr"] == 0  # a mirrored digit is not a digit
    page = (here / "demo/report.html").read_text(encoding="utf-8")
    assert f">attendet demo {' '.join(TINY)}<" in page
    parser = _Headings()
    parser.feed(page)
    assert all(address.startswith("#") for address in parser.fetched)
    assert parser.headings == [
        "Quality on the test split",
        "Detections and ground truth",
        "What the attention does",
        "Training curves",
        "Confusion matrix",
        "Time and versions",
        "Files and next steps",
    ]
    for gate in ("p4 height", "p4 width", "up width"):
        assert f"<td>{gate}</td>" in page
    assert (here / "demo/detections.jpg").read_bytes().startswith(b"\xff\xd8\xff")


def test_a_demo_without_attention_has_no_gates_and_gets_its_own_run_folder(
    here: Path,
) -> None:
    (here / "demo/run").mkdir(parents=True)

    assert main(["demo", *TINY, "--attention", "none"]) == 0

    assert (here / "demo/run-2/best.safetensors").is_file()
    assert "What the attention does" not in (here / "demo/report.html").read_text(encoding="utf-8")


def test_channel_gates_are_a_table_and_sorted_curves(here: Path) -> None:
    assert main(["demo", *TINY, "--attention", "se@p5"]) == 0

    page = (here / "demo/report.html").read_text(encoding="utf-8")
    assert "<td>p5 channel</td>" in page
    assert "p5: channel gates, sorted" in page


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--images", "0"), "counts['train'] must be at least 1; got 0"),
        (("--size", "100"), "size must be a multiple of 32"),
        (("--attention", "cq"), "attention must name a known block; got 'cq'"),
    ],
)
def test_a_wrong_flag_is_a_one_line_error(
    here: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    assert main(["demo", *TINY, *flags]) == 2

    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (here / "demo/run").exists()


@pytest.mark.slow
def test_the_demo_reaches_its_promised_accuracy_and_time(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = time.perf_counter()

    assert main(["demo"]) == 0

    seconds = time.perf_counter() - begun
    found = re.search(r"AP50 (\d\.\d+)", capsys.readouterr().out.splitlines()[-3])
    assert found is not None
    assert float(found[1]) >= 0.80
    assert seconds < 300
