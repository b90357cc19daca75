#!/usr/bin/env bash
#
# Makes .venvs/peers, the environment of the projects that the benchmarks compare with. It sees the
# packages of .venv, above all PyTorch, which is several GB and has to be the same on both sides.
# Run it after ./dev setup; a second run only looks that all is there.

set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
own=$root/.venv/bin/python
peers=$root/.venvs/peers
wanted=$root/benchmarks/peers/requirements.txt
stamp=$peers/.installed

export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf 'peers: %s\n' "$*" >&2; }

if ! "$own" -c 'import torch, torchvision' 2>/dev/null; then
  say "PyTorch and torchvision must be in .venv first: ./dev setup"
  exit 1
fi
if cmp -s "$wanted" "$stamp"; then
  say "all there in $peers"
  exit 0
fi

packages_of() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

say "making $peers"
"$own" -m venv --clear "$peers"
packages_of "$own" >"$(packages_of "$peers/bin/python")/project.pth"
"$peers/bin/python" -m pip install --quiet --requirement "$wanted"
# Ultralytics asks for the OpenCV with windows, which needs libGL; the one without serves as well. Both
# put their files in the same place, so that the one is taken out before the other goes in.
"$peers/bin/python" -m pip uninstall --quiet --yes opencv-python opencv-python-headless
"$peers/bin/python" -m pip install --quiet --no-deps "$(grep '^opencv-python-headless' "$wanted")"
cp "$wanted" "$stamp"
say "ready: $("$peers/bin/python" -c 'from importlib.metadata import version as v
import cv2
print("ultralytics", v("ultralytics"), "with torch", v("torch"), "and OpenCV", cv2.__version__)')"
