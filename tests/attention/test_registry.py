"""Names, registration in code, and plug-ins of other distributions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import nn

from attendet.attention import (
    AttentionBlock,
    CoordinateAttention,
    SqueezeExcite,
    attention_names,
    create_attention,
    register_attention,
    registry,
)
from attendet.errors import ConfigError


@pytest.fixture(autouse=True)
def _fresh_registry() -> Iterator[None]:
    before = dict(registry._registered)
    registry._plugins.cache_clear()
    yield
    registry._registered.clear()
    registry._registered.update(before)
    registry._plugins.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that puts a distribution with entry points on the import path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def lay(distribution: str, module: str, source: str, entries: dict[str, str]) -> None:
        (tmp_path / f"{module}.py").write_text(source)
        monkeypatch.delitem(sys.modules, module, raising=False)
        folder = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        lines = [f"{name} = {value}" for name, value in entries.items()]
        (folder / "entry_points.txt").write_text("\n".join(["[attendet.attention]", *lines, ""]))
        registry._plugins.cache_clear()

    return lay


GOOD = """
from attendet.attention import AttentionBlock

class Half(AttentionBlock):
    def gates(self, x):
        return {"channel": x.new_full((1, 1, 1, 1), 0.5)}
"""


def test_built_in_names_come_first_and_none_before_all():
    assert attention_names()[:6] == ("none", "se", "cbam", "eca", "ca", "ca-authors")


def test_none_is_the_identity_and_takes_no_options():
    assert isinstance(create_attention("none", 8), nn.Identity)
    with pytest.raises(ConfigError, match="Its options: none"):
        create_attention("none", 8, reduction=2)


def test_ca_is_the_yolo_preset_and_ca_authors_that_of_the_paper():
    ca, authors = create_attention("ca", 512), create_attention("ca-authors", 512)
    assert isinstance(ca, CoordinateAttention)
    assert isinstance(authors, CoordinateAttention)
    assert (ca.squeeze.out_channels, ca.squeeze.bias) == (32, None)
    assert isinstance(ca.activation, nn.ReLU)
    assert authors.squeeze.out_channels == 16
    assert authors.height.bias is not None
    assert isinstance(authors.activation, nn.Hardswish)


def test_options_reach_the_block_and_unknown_ones_are_named():
    assert create_attention("se", 64, reduction=4).reduce.out_features == 16
    with pytest.raises(ConfigError, match=r"'ratio'.*Its options: reduction"):
        create_attention("se", 64, ratio=4)


@pytest.mark.parametrize(("given", "meant"), [("cabm", "cbam"), ("CA", "ca"), ("ecaa", "eca")])
def test_unknown_names_are_answered_with_the_nearest(given, meant):
    with pytest.raises(ConfigError, match=f"got {given!r}.*'{meant}'"):
        create_attention(given, 8)


def test_a_number_is_answered_with_the_name_that_it_had():
    with pytest.raises(ConfigError, match=r"not a number; got '4'.*phi 4 was 'ca'"):
        create_attention(4, 64)


def test_registering_and_replacing():
    register_attention("mine", SqueezeExcite)
    assert "mine" in attention_names()
    assert isinstance(create_attention("mine", 32, reduction=2), SqueezeExcite)
    with pytest.raises(ConfigError, match="replace=True"):
        register_attention("mine", CoordinateAttention)
    register_attention("mine", CoordinateAttention, replace=True)
    assert isinstance(create_attention("mine", 32), CoordinateAttention)
    registry.unregister_attention("mine")
    assert "mine" not in attention_names()
    with pytest.raises(ConfigError, match="must be registered in this process"):
        registry.unregister_attention("mine")


def test_a_built_in_block_is_replaced_only_on_purpose_and_comes_back():
    with pytest.raises(ConfigError, match="taken"):
        register_attention("se", CoordinateAttention)
    register_attention("se", CoordinateAttention, replace=True)
    assert isinstance(create_attention("se", 32), CoordinateAttention)
    assert attention_names().count("se") == 1
    registry.unregister_attention("se")
    assert isinstance(create_attention("se", 32), SqueezeExcite)


@pytest.mark.parametrize("name", ["", "none", "a@b", "a+b", "a,b", "4", "Mine", "a b"])
def test_names_that_cannot_stand_in_a_spec_are_refused(name):
    with pytest.raises(ConfigError, match="name of an attention block"):
        register_attention(name, SqueezeExcite)


def test_a_factory_must_be_callable_and_return_a_block():
    with pytest.raises(ConfigError, match="must be callable"):
        register_attention("mine", "SqueezeExcite")
    register_attention("mine", lambda channels: nn.Conv2d(channels, channels, 1))
    with pytest.raises(ConfigError, match="must return an AttentionBlock; got Conv2d"):
        create_attention("mine", 8)


def test_a_plug_in_is_listed_without_import_and_made_on_demand(install):
    install("half-attention", "half_attention_ok", GOOD, {"half": "half_attention_ok:Half"})
    assert attention_names()[-1] == "half"
    assert "half_attention_ok" not in sys.modules
    block = create_attention("half", 3)
    assert isinstance(block, AttentionBlock)
    assert block.channels == 3


def test_a_broken_plug_in_is_named_and_harms_no_other(install):
    install("broken-attention", "broken_attention", "1 / 0", {"broken": "broken_attention:Block"})
    install("half-attention", "half_attention_too", GOOD, {"half": "half_attention_too:Half"})
    assert attention_names()[-2:] == ("broken", "half")
    with pytest.raises(
        ConfigError, match=r"'broken-attention' cannot be imported .*ZeroDivisionError"
    ):
        create_attention("broken", 8)
    assert isinstance(create_attention("half", 8), AttentionBlock)
    assert isinstance(create_attention("ca", 8), AttentionBlock)


def test_a_plug_in_without_its_object_is_named(install):
    install("half-attention", "half_attention_gone", GOOD, {"half": "half_attention_gone:Hlaf"})
    with pytest.raises(ConfigError, match=r"'half-attention' cannot be imported .*AttributeError"):
        create_attention("half", 8)


def test_two_plug_ins_of_one_name_are_refused_by_their_distributions(install):
    install("half-one", "half_attention_one", GOOD, {"half": "half_attention_one:Half"})
    install("half-two", "half_attention_two", GOOD, {"half": "half_attention_two:Half"})
    with pytest.raises(ConfigError, match=r"'half-.+', 'half-.+'. Uninstall all but one"):
        create_attention("half", 8)


def test_a_plug_in_cannot_take_a_built_in_name(install):
    install("bold-attention", "bold_attention", GOOD, {"ca": "bold_attention:Half"})
    with pytest.warns(UserWarning, match="'ca' of 'bold-attention' is ignored"):
        assert attention_names().count("ca") == 1
    assert isinstance(create_attention("ca", 8), CoordinateAttention)


def test_names_and_specs_need_no_torch():
    code = (
        "import sys; from attendet.attention import attention_names, parse_attention_spec as parse;"
        "parse('ca', default_sites=('p5',), sites=('p5',), known=attention_names());"
        "raise SystemExit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
