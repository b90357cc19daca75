"""PyTorch checkpoints of the YOLOv4-tiny ports, against a module tree with their key layout.

The tree is written from the layout of the keys and the published blocks; it has no code in common
with the package.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from attendet.errors import ConfigError, WeightsError  # noqa: E402
from attendet.inference import load  # noqa: E402
from attendet.interop.checkpoints import import_checkpoint, read_anchors  # noqa: E402
from attendet.models import save_weights  # noqa: E402

BASE = 8
CLASSES = 2


class Conv(nn.Module):
    def __init__(self, before: int, after: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, size, stride, size // 2, bias=False)
        self.bn = nn.BatchNorm2d(after)

    def forward(self, x: Any) -> Any:
        return F.leaky_relu(self.bn(self.conv(x)), 0.1)


class Body(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.half = channels // 2
        self.conv1 = Conv(channels, channels, 3)
        self.conv2 = Conv(self.half, self.half, 3)
        self.conv3 = Conv(self.half, self.half, 3)
        self.conv4 = Conv(channels, channels, 1)

    def forward(self, x: Any) -> Any:
        x = self.conv1(x)
        route = x
        x = torch.split(x, self.half, dim=1)[1]
        x = self.conv2(x)
        route1 = x
        x = self.conv3(x)
        x = torch.cat([x, route1], 1)
        feat = self.conv4(x)
        return F.max_pool2d(torch.cat([route, feat], 1), 2, 2), feat


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = Conv(3, BASE // 2, 3, 2)
        self.conv2 = Conv(BASE // 2, BASE, 3, 2)
        self.resblock_body1 = Body(BASE)
        self.resblock_body2 = Body(2 * BASE)
        self.resblock_body3 = Body(4 * BASE)
        self.conv3 = Conv(8 * BASE, 8 * BASE, 3)

    def forward(self, x: Any) -> Any:
        x = self.conv2(self.conv1(x))
        x, _ = self.resblock_body1(x)
        x, _ = self.resblock_body2(x)
        x, feat1 = self.resblock_body3(x)
        return feat1, self.conv3(x)


class SE(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(1, channels // 16)
        self.fc = nn.Sequential(
            nn.Linear(channels, narrow, bias=False),
            nn.ReLU(),
            nn.Linear(narrow, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Any) -> Any:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class ChannelAttention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, max(1, channels // 8), 1, bias=False)
        self.fc2 = nn.Conv2d(max(1, channels // 8), channels, 1, bias=False)

    def forward(self, x: Any) -> Any:
        mean = self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1))))
        most = self.fc2(F.relu(self.fc1(F.adaptive_max_pool2d(x, 1))))
        return torch.sigmoid(mean + most)


class SpatialAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Any) -> Any:
        both = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return torch.sigmoid(self.conv1(both))


class CBAM(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channelattention = ChannelAttention(channels)
        self.spatialattention = SpatialAttention()

    def forward(self, x: Any) -> Any:
        x = x * self.channelattention(x)
        return x * self.spatialattention(x)


class ECA(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        size = int(abs((np.log2(channels) + 1) / 2))
        size += 1 - size % 2
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Any) -> Any:
        means = F.adaptive_avg_pool2d(x, 1)[:, :, :, 0].transpose(1, 2)
        return x * torch.sigmoid(self.conv(means)).transpose(1, 2)[..., None]


class CA(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(8, channels // 16)
        self.conv_1x1 = nn.Conv2d(channels, narrow, 1, bias=False)
        self.bn = nn.BatchNorm2d(narrow)
        self.F_h = nn.Conv2d(narrow, channels, 1, bias=False)
        self.F_w = nn.Conv2d(narrow, channels, 1, bias=False)

    def forward(self, x: Any) -> Any:
        _, _, height, width = x.shape
        along_h = x.mean(3, keepdim=True).permute(0, 1, 3, 2)
        along_w = x.mean(2, keepdim=True)
        both = F.relu(self.bn(self.conv_1x1(torch.cat((along_h, along_w), 3))))
        part_h, part_w = both.split([height, width], 3)
        gate_h = torch.sigmoid(self.F_h(part_h.permute(0, 1, 3, 2)))
        return x * gate_h * torch.sigmoid(self.F_w(part_w))


class Upsample(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.upsample = nn.Sequential(
            Conv(4 * BASE, 2 * BASE, 1), nn.Upsample(scale_factor=2, mode="nearest")
        )

    def forward(self, x: Any) -> Any:
        return self.upsample(x)


BLOCKS = {"se": SE, "cbam": CBAM, "eca": ECA, "ca": CA}


class Body4(nn.Module):
    def __init__(self, attention: str = "none") -> None:
        super().__init__()
        self.backbone = Backbone()
        self.conv_for_P5 = Conv(8 * BASE, 4 * BASE, 1)
        self.yolo_headP5 = self._head(4 * BASE, 8 * BASE)
        self.upsample = Upsample()
        self.yolo_headP4 = self._head(6 * BASE, 4 * BASE)
        self.attends = attention != "none"
        if self.attends:
            self.feat1_att = BLOCKS[attention](4 * BASE)
            self.feat2_att = BLOCKS[attention](8 * BASE)
            self.upsample_att = BLOCKS[attention](2 * BASE)

    @staticmethod
    def _head(before: int, middle: int) -> nn.Sequential:
        return nn.Sequential(Conv(before, middle, 3), nn.Conv2d(middle, 3 * (5 + CLASSES), 1))

    def forward(self, x: Any) -> Any:
        feat1, feat2 = self.backbone(x)
        if self.attends:
            feat1, feat2 = self.feat1_att(feat1), self.feat2_att(feat2)
        p5 = self.conv_for_P5(feat2)
        up = self.upsample(p5)
        if self.attends:
            up = self.upsample_att(up)
        return self.yolo_headP5(p5), self.yolo_headP4(torch.cat([up, feat1], 1))


def _home(attention: str = "none", *, seed: int = 0) -> Body4:
    torch.manual_seed(seed)
    network = Body4(attention)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.num_batches_tracked.fill_(40)
    return network.eval()


def _save(folder: Path, content: Any) -> Path:
    path = folder / "home.pth"
    torch.save(content, path)
    return path


@pytest.mark.parametrize("attention", ["none", *BLOCKS])
def test_raw_maps_are_those_of_the_home(attention: str, tmp_path: Path) -> None:
    home = _home(attention)

    imported = import_checkpoint(_save(tmp_path, home.state_dict()))

    assert imported.metadata.attention == attention
    assert imported.metadata.width_mult == BASE / 64
    assert len(imported.metadata.classes) == CLASSES
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        expected, found = home(images), imported.network.eval()(images)
    for one, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(one, wanted, atol=1e-5, rtol=1e-5)


def test_boxes_are_those_of_the_home(tmp_path: Path) -> None:
    """Their decode, for one cell: sigmoid plus the cell, anchor times exp, no stretch."""
    home = _home()
    network = import_checkpoint(_save(tmp_path, home.state_dict())).network
    with torch.inference_mode():
        raw = home(torch.rand(1, 3, 64, 64))
        boxes, scores = network.decode(list(raw))

    t = raw[0].view(3, 5 + CLASSES, 2, 2)[1, :, 1, 0]  # second anchor of row 1, column 0
    center = (t[:2].sigmoid() + torch.tensor([0.0, 1.0])) * 32
    size = torch.tensor([135.0, 169.0]) * t[2:4].exp()
    number = (1 * 2 + 0) * 3 + 1
    expected = torch.cat([center - size / 2, center + size / 2])
    torch.testing.assert_close(boxes[0, number], expected)
    torch.testing.assert_close(scores[0, number], t[4].sigmoid() * t[5:].sigmoid())


def test_settings_of_the_home_stand_in_the_weights_file(tmp_path: Path) -> None:
    path = _save(tmp_path, _home().state_dict())

    plain = import_checkpoint(path).metadata
    other = import_checkpoint(
        path, input_hw=(320, 416), resize="letterbox", color="bgr", anchors=((1, 2),) * 6
    ).metadata

    assert plain.preprocess == {"resize": "stretch", "color": "rgb"}
    assert (plain.scale_x_y, plain.bn_eps, plain.input_hw) == (1.0, 1e-5, (416, 416))
    assert plain.origin == {"format": "pytorch", "weights": "home.pth"}
    assert other.preprocess == {"resize": "letterbox", "color": "bgr"}
    assert (other.input_hw, other.anchors[0]) == ((320, 416), (1, 2))


def test_it_predicts_as_a_weights_file(tmp_path: Path) -> None:
    imported = import_checkpoint(_save(tmp_path, _home("ca").state_dict()), input_hw=(64, 64))
    path = save_weights(tmp_path / "a.safetensors", imported.network, imported.metadata)

    image = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    detections = load(path, device="cpu").predict(image, confidence=0.05)

    assert len(detections) > 0
    assert detections.image_hw == (40, 90)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"module." + name: one for name, one in state.items()},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {"module." + name: one for name, one in state.items()}},
        lambda state: {"model_state_dict": state, "optimizer": {"lr": 0.1}},
    ],
    ids=["module.", "state_dict", "model and module.", "model_state_dict"],
)
def test_wrapped_checkpoints(wrap: Any, tmp_path: Path) -> None:
    state = _home("se").state_dict()

    plain = import_checkpoint(_save(tmp_path, state)).network.state_dict()
    wrapped = import_checkpoint(_save(tmp_path, wrap(OrderedDict(state)))).network.state_dict()

    assert all(torch.equal(wrapped[name], one) for name, one in plain.items())


def test_blocks_that_never_ran_at_home_do_not_run_here(tmp_path: Path) -> None:
    home = _home("ca")
    for place in (home.feat1_att, home.feat2_att, home.upsample_att):
        place.bn.num_batches_tracked.zero_()
    home.attends = False

    imported = import_checkpoint(_save(tmp_path, home.state_dict()))

    assert imported.metadata.attention == "none"
    assert (
        "never run in training are skipped: feat1_att, feat2_att, upsample_att" in imported.notes[0]
    )
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for one, wanted in zip(imported.network(images), home(images), strict=True):
            torch.testing.assert_close(one, wanted, atol=1e-5, rtol=1e-5)


def test_attention_at_some_places_alone(tmp_path: Path) -> None:
    state = {
        name: one
        for name, one in _home("eca").state_dict().items()
        if not name.startswith("feat1_att")
    }

    assert import_checkpoint(_save(tmp_path, state)).metadata.attention == "eca@p5,up"


@pytest.mark.parametrize(
    ("drop", "add", "said"),
    [
        ("conv_for_P5.bn.weight", {}, "missing: conv_for_P5.bn.weight ("),
        ("yolo_headP4.0.conv.weight", {}, "missing: yolo_headP4.0.conv.weight"),
        ("backbone.resblock_body2.conv3.bn.running_var", {}, "resblock_body2.conv3.bn.running_var"),
        ("yolo_headP5.1.weight", {}, "must contain a 4-D tensor yolo_headP5.1.weight; it does not"),
        ("", {"neck.weight": (1,)}, "it also has neck.weight"),
        ("", {"backbone.conv9.conv.weight": (1,)}, "it also has"),
        ("", {"feat1_att.gamma": (1,)}, "must be SE, CBAM, ECA or CA; feat1_att has gamma"),
        ("", {"backbone.conv1.conv.weight": (4, 3, 5, 5)}, "conv1.conv.weight (4, 3, 5, 5), not"),
        ("", {"yolo_headP4.1.weight": (18, 32, 1, 1)}, "on both levels; got [18, 21]"),
        (
            "",
            {"feat1_att.fc.0.weight": (5, 32), "feat1_att.fc.2.weight": (32, 5)},
            "feat1_att (reduce.weight) (5, 32), not (2, 32)",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    drop: str, add: dict[str, tuple[int, ...]], said: str, tmp_path: Path
) -> None:
    state = dict(_home().state_dict())
    state.pop(drop, None)
    state |= {name: torch.zeros(shape) for name, shape in add.items()}

    with pytest.raises(WeightsError) as error:
        import_checkpoint(_save(tmp_path, state))

    assert said in str(error.value)
    assert "home.pth" in str(error.value)
    assert "\n" not in str(error.value)


def test_values_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    state = _home().state_dict()
    state["conv_for_P5.conv.weight"][0, 0] = float("nan")

    with pytest.raises(
        WeightsError, match=r"finite numbers; not finite: conv_for_P5\.conv\.weight"
    ):
        import_checkpoint(_save(tmp_path, state))


def test_the_names_must_be_those_of_the_network(tmp_path: Path) -> None:
    path = _save(tmp_path, _home().state_dict())
    (tmp_path / "names.txt").write_text("a\nb\nc\n")

    with pytest.raises(
        ConfigError, match=r"names must be 2, as in the network .*got 3 .*names\.txt"
    ):
        import_checkpoint(path, names=tmp_path / "names.txt")


class Harmful:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("content", ["module", "harmful", "list", "empty", "numbers"])
def test_what_is_no_state_dict_is_refused_and_not_executed(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    contents: dict[str, Any] = {
        "module": nn.Conv2d(1, 1, 1),
        "harmful": Harmful(),
        "list": [torch.zeros(1)],
        "empty": {},
        "numbers": {"a": 1},
    }
    path = _save(tmp_path, contents[content])

    with pytest.raises(WeightsError, match=r"checkpoint must contain") as error:
        import_checkpoint(path)

    assert "\n" not in str(error.value)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"words",
        b"\x80\x02}q\x00.",
        b"PK\x03\x04" + bytes(40),
        b"X\x01",
        b"version https://git-lfs.github.com/spec/v1\n",
    ],
)
def test_files_of_another_kind(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "home.pth"
    path.write_bytes(content)

    with pytest.raises(WeightsError, match=r"home\.pth") as error:
        import_checkpoint(path)

    assert "\n" not in str(error.value)
    assert "executed" not in str(error.value)
    with pytest.raises(WeightsError, match="not found"):
        import_checkpoint(tmp_path / "gone.pth")


def test_anchors_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "anchors.txt"
    path.write_text("10,14,  23,27,  37,58,  81,82,  135,169,  344,319\n")
    assert read_anchors(path)[5] == (344, 319)

    for text in ("10,14", "ten,14", "-1,14,  23,27,  37,58,  81,82,  135,169,  344,319"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"6 widths and heights.*anchors\.txt"):
            read_anchors(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_anchors(tmp_path / "gone.txt")
