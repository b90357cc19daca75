from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attendet.errors import ConfigError
from attendet.models import load_weights
from attendet.training.distributed import (
    SyncBatchNorm2d,
    make_fabric,
    sync_batch_norm,
)
from attendet.training.trainer import train

WORKER = """
import sys
import torch
import torch.distributed as dist
from attendet.training.distributed import SyncBatchNorm2d

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
case = torch.load(f"{folder}/case.pt")
norm = SyncBatchNorm2d(5, momentum=0.3)
norm.load_state_dict(case["norm"])
features = case["features"][rank::2].clone().requires_grad_()
out = norm(features)
(out * case["weights"][rank::2]).sum().backward()
for parameter in norm.parameters():
    dist.all_reduce(parameter.grad)
torch.save(
    {
        "out": out.detach(),
        "features": features.grad,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        "state": norm.state_dict(),
    },
    f"{folder}/rank{rank}.pt",
)
dist.destroy_process_group()
"""


def _run_all(commands: list[list[str]]) -> list[str]:
    """Run processes side by side to their ends; what each printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    children = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        for command in commands
    ]
    try:
        said = [child.communicate(timeout=400)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    for child, text in zip(children, said, strict=True):
        assert child.returncode == 0, text
        assert "deprecated" not in text
    return said


def test_batch_statistics_run_over_both_processes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = nn.BatchNorm2d(5, momentum=0.3)
    with torch.no_grad():
        for tensor in (whole.weight, whole.bias, whole.running_mean):
            assert tensor is not None
            tensor.normal_()
    features = torch.randn(6, 5, 3, 4) * torch.tensor([1, 2, 0.1, 3, 1]).view(-1, 1, 1) + 2
    weights = torch.randn(6, 5, 3, 4)
    torch.save(
        {"norm": whole.state_dict(), "features": features, "weights": weights},
        tmp_path / "case.pt",
    )
    (tmp_path / "worker.py").write_text(WORKER)

    _run_all([[sys.executable, str(tmp_path / "worker.py"), str(r), str(tmp_path)] for r in (0, 1)])
    parts = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]

    features.requires_grad_()
    out = whole(features)
    (out * weights).sum().backward()
    near: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
    for rank, part in enumerate(parts):
        torch.testing.assert_close(part["out"], out[rank::2].detach(), **near)
        assert features.grad is not None
        torch.testing.assert_close(part["features"], features.grad[rank::2], **near)
        torch.testing.assert_close(part["weight"], whole.weight.grad, **near)
        torch.testing.assert_close(part["bias"], whole.bias.grad, **near)
        for name, tensor in whole.state_dict().items():
            torch.testing.assert_close(part["state"][name], tensor, **near)


def test_alone_it_is_plain_batch_normalization() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm1d(4))
    names = list(network.state_dict())
    images = torch.rand(2, 3, 4, 4)
    expected = network[1](network[0](images))
    network[1].reset_running_stats()

    sync_batch_norm(network)

    assert [type(module) for module in network][1:] == [SyncBatchNorm2d, nn.BatchNorm1d]
    assert list(network.state_dict()) == names
    assert torch.equal(network[1](network[0](images)), expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"devices": 0}, "at least 1"),
        ({"nodes": 0}, "at least 1"),
        ({"precision": "16"}, "must be 32 or bf16 on a CPU"),
    ],
)
def test_what_cannot_be_had_is_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_fabric(**{"accelerator": "cpu", **words})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    found = r"no CUDA device here \(torch [\w.+]+ is built for (CUDA [\d.]+|CPUs only)\)"
    with pytest.raises(ConfigError, match=found):
        make_fabric(accelerator="cuda")


@pytest.fixture
def flags(squares: Path, tiny: dict[str, Any]) -> list[str]:
    settings = {**tiny, "epochs": 3, "mosaic": 0.5, "mixup": 0.5, "effective_batch": 8}
    settings["optimizer"] = "adamw"  # with bfloat16, Muon turns the last digits into differences
    named = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    return ["train", str(squares), "--accelerator", "cpu", "--seed", "2", *named]


def _records(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _check_like_one_process(folder: Path, alone: Path) -> None:
    records = _records(folder)
    assert [record["epoch"] for record in records] == [1, 2, 3]
    for record, other in zip(records, _records(alone), strict=True):
        assert record["losses"] == pytest.approx(other["losses"], rel=2e-3)
    state, expected = (
        load_weights(path / "last.safetensors")[0].state_dict() for path in (folder, alone)
    )
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, rtol=0.05, atol=5e-3, msg=name)


def test_two_processes_train_as_one(flags: list[str], tmp_path: Path) -> None:
    start = [sys.executable, "-m", "attendet", *flags]
    folders = [tmp_path / "alone", tmp_path / "two"]
    one, two = (
        _run_all([[*start, "--output", str(folder), f"--devices={devices}"]])[0]
        for devices, folder in enumerate(folders, start=1)
    )

    _check_like_one_process(folders[1], folders[0])
    # Only the first process prints and writes: each line once, and one file of events.
    for text in (one, two):
        assert text.count("epoch 3/3 ") == text.count("weights: ") == 1
    assert len(list((folders[1] / "tensorboard").iterdir())) == 1
    names = [{path.name for path in folder.iterdir()} for folder in folders]
    assert names[0] == names[1]


@pytest.mark.slow
def test_torchrun_starts_the_processes_too(flags: list[str], tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node=2", "-m", "attendet"]
    start = [sys.executable, "-m", "attendet"]
    _run_all([[*start, *flags, "--output", str(tmp_path / "alone")]])
    _run_all([[*launcher, *flags, "--devices=2", "--output", str(tmp_path / "two")]])

    _check_like_one_process(tmp_path / "two", tmp_path / "alone")


@pytest.mark.slow
def test_two_processes_stop_and_go_on_together(flags: list[str], tmp_path: Path) -> None:
    start = [sys.executable, "-m", "attendet"]
    folder = tmp_path / "two"
    with pytest.raises(AssertionError, match="must be finite"):
        _run_all([[*start, *flags, "--devices=2", "--lr=1e30", "--output", str(folder)]])
    assert not _records(folder) if (folder / "results.jsonl").exists() else True
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("lr: 1.0e+30", "lr: 0.001"))

    _run_all([[*start, "train", "--resume", str(folder)]])

    alone = [*start, *flags, "--output", str(tmp_path / "alone")]
    _run_all([alone])
    _check_like_one_process(folder, tmp_path / "alone")


def test_processes_must_divide_the_batch_evenly(squares: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"multiple of 3, the number of processes; got 16 \(--batch\)"
    ):
        train(squares, accelerator="cpu", devices=3)
