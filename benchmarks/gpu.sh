#!/usr/bin/env bash
#
# Speed of training on one GPU, in one call of under 8 minutes: images/s at batch 8, 16 and 64
# against Ultralytics YOLO11n, a whole training, and a study of 5 variants x 2 seeds.
#
#     ./dev setup && benchmarks/peers.sh
#     benchmarks/gpu.sh ../shared/data/bccd [RUNS_PER_DEVICE]
#
# PYTHON: the interpreter (default .venv/bin/python). PEER=no: without Ultralytics. ACCELERATOR=cpu
# EPOCHS=1 SIZE=64: only to see that the script works.

set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
data=${1:?data set, such as ../shared/data/bccd}
runs_per_device=${2:-5}
python=${PYTHON:-$root/.venv/bin/python}
accelerator=${ACCELERATOR:-cuda}
epochs=${EPOCHS:-60}
size=${SIZE:-416}
output=$(mktemp -d)
trap 'rm -rf "$output"' EXIT

candidates=("attendet square")
graphs=()
if [ "$accelerator" = cuda ]; then
  candidates+=("attendet square graphs")
  graphs=(--cuda-graphs)
fi
[ "${PEER:-yes}" = no ] || candidates+=(ultralytics)

seconds_of() {
  local begun=$EPOCHREALTIME
  "$@" >"$output/log" 2>&1 || { tail -n 20 "$output/log" >&2; return 1; }
  "$python" -c "print(f'{$EPOCHREALTIME - $begun:.0f} s')"
}

"$python" -c 'import platform, torch
cuda = torch.cuda.is_available()
print(torch.cuda.get_device_name() if cuda else platform.processor(), "torch", torch.__version__)'
date +%F

for batch in 8 16 64; do
  printf '\n## Batch %s, %s px\n\n' "$batch" "$size"
  timeout 65 "$python" "$root/benchmarks/training_throughput.py" "$data" --accelerator "$accelerator" \
    --batch "$batch" --size "$size" --rounds 4 --only "${candidates[@]}" \
    --output "$output/throughput-$batch.json" 2>>"$output/stderr" ||
    { tail -n 20 "$output/stderr" >&2; echo "failed, or took over 65 s"; }
done

settings=(--accelerator "$accelerator" --recipe small-data --resize letterbox --size "$size")
settings+=(--epochs "$epochs" "${graphs[@]}")

printf '\n## Whole training, %s epochs: ' "$epochs"
seconds_of timeout 80 "$python" -m attendet train "$data" --attention ca "${settings[@]}" \
  --output "$output/train"

printf '## Study of 5 variants x 2 seeds, %s epochs, %s runs at once: ' "$epochs" "$runs_per_device"
seconds_of timeout 200 "$python" -m attendet compare "$data" --attention none se cbam eca ca --seeds 2 \
  --runs-per-device "$runs_per_device" --runtimes torch "${settings[@]}" --output "$output/study"
