from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from attendet.attention import attention_names  # noqa: E402
from attendet.cli import main  # noqa: E402

MAPS = ["--maps", "64x8x8", "32x4x4"]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_table_has_every_block_but_those_of_timm(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["blocks", "--fast", *MAPS]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert "any size" not in header
    assert [row.split()[0] for row in rows] == [n for n in attention_names()[1:] if ":" not in n]
    assert all(row.endswith("yes") for row in rows)  # identity init
    assert all("20" in row for row in rows)  # the year of the paper


def test_costs_are_measured_and_the_export_is_tried(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = ["--attention", "se", "timm:cbam"]
    assert main(["blocks", *blocks, *MAPS, "--rounds", "2", "--threads", "1", "--json"]) == 0
    se, cbam = map(json.loads, capsys.readouterr().out.splitlines())
    assert (se["parameters"], se["macs"]) == (
        2 * 64 * 4 + 2 * 32 * 2,
        512 + 128,
    )
    assert (se["gates"], cbam["gates"]) == (["channel"], [])
    assert (se["paper"], cbam["paper"]) == ("Hu 2018, arXiv:1709.01507", "timm, CbamModule")
    assert len(se["milliseconds"]) == 2
    assert min(se["milliseconds"]) > 0
    assert se["exports"] is True
    assert se["identity"] is cbam["identity"] is True


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--attention", "eac"], "Did you mean"),
        (["--attention", "timm:cbma"], "Did you mean 'timm:cbam'"),
        (["--maps", "64x8"], "maps must be CHANNELSxROWSxCOLUMNS, such as 512x13x13"),
        (["--maps", "0x8x8"], "maps must be CHANNELSxROWSxCOLUMNS, such as 512x13x13"),
        (["--rounds", "0"], "rounds must be at least 1"),
        (["--threads", "0"], "threads must be at least 1"),
    ],
)
def test_wrong_flags_are_refused(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["blocks", "--fast", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_no_time_and_no_export_on_request() -> None:
    from attendet.bench.attention_blocks import block_facts

    (one,) = block_facts(["ela"], [(32, 5, 7)], measure=False)
    assert (one.milliseconds, one.exports) == ((), None)
