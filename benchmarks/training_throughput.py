"""Images a second through the training loop, attendet and its peers, in one interleaved run.

    benchmarks/peers.sh
    .venv/bin/python benchmarks/training_throughput.py ../shared/data/bccd

Every candidate is a process; they run alternately, one training epoch each, in an order that
reverses every time, and are stopped while the others run. The first --warmup steps of the first
epoch are not counted. All read the same images and labels and train at the same size and batch,
each by its own default recipe; loading of data counts, validation does not. An image counts once
an epoch.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from candidates import Candidate, describe_machine, warn_of_load

from attendet.data import load_dataset
from attendet.data.convert import convert_dataset

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".venvs" / "peers" / "bin" / "python"
OURS = ("attendet square", "attendet rect", "attendet square graphs")
RESIZE = {name: "rect" if "rect" in name else "letterbox" for name in OURS}
NAMES = (*OURS, "ultralytics", "ultralytics all cores", "seed baseline")
DEFAULT_NAMES = ("attendet square", "attendet rect", "ultralytics", "seed baseline")


def write_images(data: str, folder: Path, limit: int | None) -> Path:
    """Write a data set in YOLO layout without unreadable labels, and return its data.yaml."""
    dataset = load_dataset(data)
    splits = {name: samples[:limit] for name, samples in dataset.splits.items()}
    convert_dataset(dataclasses.replace(dataset, splits=splits), folder, "yolo")
    document = (folder / "data.yaml").read_text(encoding="utf-8")
    # Ultralytics looks for relative paths in a folder of its settings.
    (folder / "data.yaml").write_text(f"path: {folder}\n{document}", encoding="utf-8")
    return folder / "data.yaml"


def command_of(name: str, data: Path, args: argparse.Namespace) -> list[object]:
    """Return the command that starts a candidate."""
    same = [data, "--size", args.size, "--batch", args.batch]
    if name != "seed baseline":
        same += ["--accelerator", args.accelerator]
    if name in OURS:
        ours = [sys.executable, HERE / "attendet_training.py", *same, "--resize", RESIZE[name]]
        graphs = ["--cuda-graphs"] if name.endswith("graphs") else []
        return [*ours, *graphs, "--recipe", args.recipe, "--attention", args.attention]
    if name == "seed baseline":
        return [sys.executable, HERE / "seed_baseline.py", *same]
    threads = os.cpu_count() if name.endswith("all cores") else 0
    return [PEERS, HERE / "peers" / "ultralytics_training.py", *same, "--threads", threads]


def rate_of(answer: dict, skip: int) -> float:
    """Return the images a second of an epoch, without its first steps."""
    steps = answer["steps"]
    skip = min(skip, len(steps) - 1)
    begun = steps[skip - 1][0] if skip else 0.0
    return sum(images for _, images in steps[skip:]) / (steps[-1][0] - begun)


def run_rounds(candidates: list[Candidate], rounds: int, warmup: int) -> dict[str, list[dict]]:
    """Return the answers of each candidate, one a round, with their rates."""
    for candidate in candidates:
        print(f"starting {candidate.name}", file=sys.stderr)
        candidate.start()
    answers: dict[str, list[dict]] = {candidate.name: [] for candidate in candidates}
    for number in range(rounds):
        order = candidates if number % 2 == 0 else candidates[::-1]
        for candidate in order:
            answer = candidate.run_round()
            answer["images_per_second"] = rate_of(answer, 0 if number else warmup)
            answers[candidate.name].append(answer)
            rate = answer["images_per_second"]
            print(f"round {number + 1}: {candidate.name} {rate:.2f} images/s", file=sys.stderr)
    return answers


def summarize(answers: dict[str, list[dict]]) -> dict[str, dict]:
    """Return the figures of the table."""
    table = {}
    for name, records in answers.items():
        rates = [record["images_per_second"] for record in records]
        fractions = [record["overhead_fraction"] for record in records if name in OURS]
        table[name] = {
            "images_per_second": round(statistics.median(rates), 3),
            "lowest": round(min(rates), 3),
            "highest": round(max(rates), 3),
            "overhead_fraction": round(statistics.median(fractions), 4) if fractions else None,
            "memory_mib": max(
                record.get("process_memory_mib", record["memory_mib"]) for record in records
            ),
        }
    peers = [row["images_per_second"] for name, row in table.items() if name not in OURS]
    for name in OURS:
        if name in table and peers:
            own = table[name]["images_per_second"]
            table[name]["times_the_fastest_peer"] = round(own / max(peers), 3)
    return table


def print_table(table: dict[str, dict]) -> None:
    """Print the figures as Markdown."""
    print(
        "| candidate | images/s, median | lowest to highest | times the fastest peer |"
        " outside forward/backward/step | peak memory, MiB |"
    )
    print("|---|--:|--:|--:|--:|--:|")
    for name, row in table.items():
        ratio = row.get("times_the_fastest_peer")
        fraction = row["overhead_fraction"]
        print(
            f"| {name} | {row['images_per_second']:.2f} "
            f"| {row['lowest']:.2f} to {row['highest']:.2f} "
            f"| {'' if ratio is None else f'{ratio:.2f}'} "
            f"| {'' if fraction is None else f'{100 * fraction:.1f} %'} | {row['memory_mib']} |"
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", help="data set in any form that attendet reads")
    add("--size", type=int, default=416, help="long side, pixels (default 416)")
    add("--batch", type=int, default=16, help="images a step (default 16)")
    add("--rounds", type=int, default=3, help="epochs of each candidate (default 3)")
    add("--warmup", type=int, default=3, help="steps not counted at first (default 3)")
    add(
        "--only",
        nargs="+",
        choices=NAMES,
        default=list(DEFAULT_NAMES),
        metavar="NAME",
        help=f"candidates out of: {', '.join(NAMES)}",
    )
    add("--recipe", default="default", help="attendet's recipe (default: default)")
    add("--attention", default="ca", help="attendet's attention (default: ca)")
    add(
        "--accelerator",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cuda: not the seed baseline, which runs on a CPU only (default: cpu)",
    )
    add("--images", type=int, help="take so many images of each split, to try things out")
    add("--output", type=Path, default=Path("runs/training-throughput.json"), metavar="FILE")
    args = parser.parse_args()
    if args.accelerator != "cuda" and "attendet square graphs" in args.only:
        parser.error("CUDA graphs take --accelerator cuda")
    if args.accelerator != "cpu" and "seed baseline" in args.only:
        args.only.remove("seed baseline")
    if any(name.startswith("ultralytics") for name in args.only) and not PEERS.exists():
        parser.error(f"Ultralytics is not in {PEERS}; run benchmarks/peers.sh, or choose --only")
    return args


def main() -> None:
    args = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    machine = describe_machine()
    warn_of_load(machine)
    begun = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="attendet-throughput-"))
    candidates: list[Candidate] = []
    try:
        data = write_images(args.data, folder / "images", args.images)
        for name in args.only:
            log = args.output.with_suffix("") / f"{name.replace(' ', '-')}.log"
            candidates.append(Candidate(name, command_of(name, data, args), log))
        answers = run_rounds(candidates, args.rounds, args.warmup)
    finally:
        for candidate in candidates:
            candidate.close()
        shutil.rmtree(folder, ignore_errors=True)
    table = summarize(answers)
    print_table(table)
    record = {
        "machine": machine,
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "seconds": round(time.perf_counter() - begun, 1),
        "table": table,
        "rounds": answers,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{record['seconds']:.0f} s; {args.output}")


if __name__ == "__main__":
    main()
