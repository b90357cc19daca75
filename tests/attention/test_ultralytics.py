"""The page on Ultralytics, run as it stands in the environment of benchmarks/peers.sh."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venvs/peers/bin/python"
PAGE = ROOT / "docs/ultralytics.md"

OFFLINE = """
import os, shutil, sys
from pathlib import Path
import matplotlib
from ultralytics import settings
from ultralytics.utils import USER_CONFIG_DIR
here = Path.cwd()
others = ("clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb")
settings.update({"sync": False, **dict.fromkeys(others, False)})
settings.update({name: str(here) for name in ("datasets_dir", "weights_dir", "runs_dir")})
font = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
shutil.copy(font, Path(USER_CONFIG_DIR) / "Arial.ttf")
import torch
torch.set_num_threads(1)
"""
CHECKED_AT_FIRST = """
assert same and kept
"""
CHECKED_AFTER_TRAINING = """
(checkpoint,) = Path.cwd().rglob("best.pt")
again = YOLO(checkpoint).model.float().eval()
blocks = inserted_blocks(again)
assert list(blocks) == list(SITES) == list(inserted_blocks(model.model)), list(blocks)
for block in blocks.values():
    assert block.init == "identity"
    assert all(layer.weight.abs().sum() > 0 for layer in block.logit_layers())  # zero at first
attended = again(x)[0]
for block in blocks.values():
    for layer in block.logit_layers():
        torch.nn.init.normal_(layer.weight)
changed = again(x)[0]
assert not torch.equal(attended, changed)
fused = again.fuse(verbose=False)(x)[0]  # as validation and prediction run it
torch.testing.assert_close(fused, changed, rtol=1e-3, atol=1e-2)
trainer = AttendedTrainer(overrides={"data": "data.yaml", "model": str(checkpoint)})
trainer.data = trainer.get_dataset()
gone_on = trainer.get_model(again.yaml, YOLO(checkpoint).model.float(), verbose=False)
kept = YOLO(checkpoint).model.float().state_dict()
names = [name for name in kept if "attention_block" in name]
assert names and all(torch.equal(gone_on.state_dict()[name], kept[name]) for name in names)
print("all well")
"""


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.exists(), reason="needs .venvs/peers (benchmarks/peers.sh)")
def test_the_page_works_as_it_stands(squares: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    shutil.copytree(squares, tmp_path / "squares")
    (tmp_path / "data.yaml").write_text(
        f"path: {tmp_path / 'squares'}\ntrain: images/train\nval: images/val\nnames: [red, green]\n"
    )
    shutil.copy(next((squares / "images/val").iterdir()), tmp_path / "image.png")
    first, second, third = blocks
    program = [OFFLINE, first, CHECKED_AT_FIRST, second, third, CHECKED_AFTER_TRAINING]
    (tmp_path / "page.py").write_text("\n".join(program))
    settings = {
        "YOLO_OFFLINE": "true",
        "YOLO_CONFIG_DIR": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT / "src"),
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
    }

    done = subprocess.run(
        [str(PYTHON), "page.py"],
        cwd=tmp_path,
        env=settings,
        capture_output=True,
        text=True,
        timeout=900,
    )

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.rstrip().endswith("all well")
