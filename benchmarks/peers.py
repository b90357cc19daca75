"""Milliseconds from a JPEG file to its detections, attendet and its peers, in one run.

    benchmarks/peers.sh
    .venv/bin/python benchmarks/peers.py ../shared/data/bccd --weights w.onnx w_openvino

Candidates are processes that run alternately, --images images each, in an order that reverses each
time; while one runs, the others are stopped. All read the same files at the same input size. Peers'
weights are random and so is attendet's without --weights; lowest scores are then set so that about
--boxes-before-nms boxes an image go into suppression, as with a trained network. Each candidate
uses as many threads as it likes, or --threads.

attendet resizes a 640 x 480 image to 416 x 320; peers to 416 x 416 unless their export is made for
another shape. So that like is compared with like, each runs both ways: "letterbox" and "rect".
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from candidates import Candidate, describe_machine, warn_of_load

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".venvs" / "peers" / "bin" / "python"
NETWORK_INPUTS = ("letterbox", "rect")


def random_weights(folder: Path, classes, size: int, attention: str) -> Path:
    """Write a weights file of the reference network before training, with scores that spread.

    The heads as they start give every box about the same score, below what OpenCV lets through.
    """
    import torch

    from attendet.models import WeightsMetadata, build_from_metadata, save_weights

    torch.manual_seed(0)
    metadata = WeightsMetadata(classes=classes, attention=attention, input_hw=(size, size))
    network = build_from_metadata(metadata).eval()
    heads = (network.out_p5, network.out_p4)
    with torch.no_grad():
        for head, raw_map in zip(heads, network(torch.rand(1, 3, size, size)), strict=True):
            head.weight.mul_(1.5 / (raw_map - head.bias[:, None, None]).std())
            head.bias.zero_()
    return save_weights(folder / f"random-{attention}.safetensors", network, metadata)


def darknet_files(folder: Path, classes, size: int) -> Path:
    """Write yolov4-tiny with random weights as darknet's files; return their common stem."""
    from attendet.interop.darknet.convert import export_darknet
    from attendet.models import load_weights

    network, metadata = load_weights(random_weights(folder, classes, size, "none"))
    return export_darknet(network, metadata, folder, stem="yolov4-tiny")[0].with_suffix("")


def ultralytics_files(
    folder: Path, files: Path, size_hw: tuple[int, int], log: Path
) -> dict[str, str]:
    """Have Ultralytics export its networks for one shape; return name to path."""
    command = [PEERS, HERE / "peers" / "prediction.py", "export", folder, files, "--size"]
    command += size_hw
    environment = {"PYTHONPATH": str(HERE)}
    with log.open("wb") as stream:
        answer = subprocess.run(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=stream,
            env={**os.environ, **environment},
            check=False,
        )
    if answer.returncode:
        raise SystemExit(f"Ultralytics' export failed; see {log}")
    written: dict[str, str] = json.loads(answer.stdout.splitlines()[-1])["written"]
    return written


def own_candidates(args, files: Path, logs: Path, weights: list[Path]) -> list[Candidate]:
    """Return attendet's candidates: each file through each runtime, on both network inputs."""
    from attendet.inference.loading import installed_runtimes

    candidates = []
    for path in weights:
        for runtime in installed_runtimes(path):
            for padded in args.network_input:
                command = [sys.executable, HERE / "attendet_prediction.py", files]
                command += ["--weights", path, "--runtime", runtime, "--network-input", padded]
                command += ["--size", args.size, *common_arguments(args)]
                if args.weights:
                    command += ["--confidence", args.confidence]
                name = f"attendet {path.name}, {runtime}, {padded}"
                candidates.append(Candidate(name, command, logs / f"{name}.log"))
    return candidates


def common_arguments(args) -> list[object]:
    return [
        "--images",
        args.images,
        "--boxes-before-nms",
        args.boxes_before_nms,
        "--threads",
        args.threads,
    ]


def peer_candidates(args, files: Path, logs: Path, folder: Path, classes) -> list[Candidate]:
    """Return the peers' candidates; the usual project and OpenCV stretch images."""
    seed = [sys.executable, HERE / "attendet_prediction.py", files, "--size", args.size]
    seed += ["--classes", len(classes), *common_arguments(args)]
    candidates = [Candidate("seed baseline, torch, square", seed, logs / "seed.log")]
    peer = HERE / "peers" / "prediction.py"
    darknet = darknet_files(folder, classes, args.size)
    for padded in args.network_input:
        height = args.size if padded == "letterbox" else rect_height(args.size)
        shape = ["--size", height, args.size, *common_arguments(args)]
        name = f"OpenCV DNN yolov4-tiny, {padded}"
        command = [PEERS, peer, "opencv", darknet, files, *shape]
        candidates.append(Candidate(name, command, logs / f"{name}.log"))
        exported = folder / f"ultralytics-{padded}"
        log = logs / f"export-{padded}.log"
        written = ultralytics_files(exported, files, (height, args.size), log)
        for kind, path in written.items():
            name = f"Ultralytics {kind}, {padded}"
            command = [PEERS, peer, "ultralytics", path, files, *shape]
            candidates.append(Candidate(name, command, logs / f"{name}.log"))
    return candidates


def rect_height(size: int) -> int:
    """Return the height of the network input of a 4:3 image, a multiple of 32."""
    return -(-round(size * 0.75) // 32) * 32


def run_rounds(candidates: list[Candidate], rounds: int) -> dict[str, list[dict]]:
    """Return the answers of each candidate, one a round; without the first, a warm-up."""
    answers: dict[str, list[dict]] = {candidate.name: [] for candidate in candidates}
    for number in range(rounds + 1):
        for candidate in candidates if number % 2 else candidates[::-1]:
            answer = candidate.run_round()
            answer["ms"] = [1e3 * seconds for _, seconds in answer.pop("steps")]
            if number:
                answers[candidate.name].append(answer)
        print(f"round {number} of {rounds}", file=sys.stderr)
    return answers


def summarize(answers: dict[str, list[dict]]) -> dict[str, dict]:
    """Return the figures of the table, the fastest first."""
    table = {}
    for name, records in answers.items():
        times = [ms for record in records for ms in record["ms"]]
        low, median, high = np.percentile(times, (25, 50, 75))
        table[name] = {
            "median_ms": round(float(median), 2),
            "q1_ms": round(float(low), 2),
            "q3_ms": round(float(high), 2),
            "detections_a_image": round(
                sum(record["detections"] for record in records) / len(times), 1
            ),
            "memory_mib": max(record["memory_mib"] for record in records),
        }
    table = dict(sorted(table.items(), key=lambda item: item[1]["median_ms"]))
    ours = next((name for name in table if name.startswith("attendet")), None)
    for name, row in table.items():
        if ours is not None:
            pairs = zip(answers[name], answers[ours], strict=True)
            ratios = [
                statistics.median(one["ms"]) / statistics.median(own["ms"]) for one, own in pairs
            ]
            row["times_ours"] = round(statistics.median(ratios), 2)
            row["times_ours_range"] = [round(min(ratios), 2), round(max(ratios), 2)]
    return table


def print_table(table: dict[str, dict]) -> None:
    """Print the figures as Markdown."""
    print(
        "| candidate | median, ms | quartiles, ms | times the fastest of attendet (range of "
        "rounds) | detections an image | peak memory, MiB |"
    )
    print("|---|--:|--:|--:|--:|--:|")
    for name, row in table.items():
        ratio = row.get("times_ours")
        spread = row.get("times_ours_range", [0, 0])
        times = "" if ratio is None else f"{ratio:.2f} ({spread[0]:.2f} to {spread[1]:.2f})"
        print(
            f"| {name} | {row['median_ms']:.1f} | {row['q1_ms']:.1f} to {row['q3_ms']:.1f} "
            f"| {times} | {row['detections_a_image']:.1f} | {row['memory_mib']} |"
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", help="data set in any form that attendet reads")
    add("--split", default="test", help="whose images (default test)")
    add(
        "--weights",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="files of attendet: weights and exported ones (default: random weights)",
    )
    add("--confidence", type=float, default=0.25, help="with --weights (default 0.25)")
    add(
        "--size", type=int, default=416, help="long side of the network input, pixels (default 416)"
    )
    add("--network-input", nargs="+", choices=NETWORK_INPUTS, default=list(NETWORK_INPUTS))
    add("--rounds", type=int, default=15, help="number of rounds (default 15)")
    add("--images", type=int, default=10, help="per round (default 10)")
    add("--boxes-before-nms", type=int, default=40, help="boxes before suppression (default 40)")
    add("--threads", type=int, default=0, help="of each (default: as it chooses)")
    add("--only", nargs="+", default=[], metavar="WORD", help="candidates whose names hold a word")
    add("--output", type=Path, default=Path("runs/peers.json"), metavar="FILE")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    from attendet.data import load_dataset

    if not PEERS.exists():
        raise SystemExit("the peers' environment is not there: benchmarks/peers.sh")
    machine = describe_machine()
    warn_of_load(machine)
    begun = time.perf_counter()
    dataset = load_dataset(args.data, require_train=False)
    logs = args.output.with_suffix("") / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    candidates: list[Candidate] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = folder / "files.json"
        files.write_text(json.dumps([str(s.path.resolve()) for s in dataset.split(args.split)]))
        weights = args.weights or [random_weights(folder, dataset.classes, args.size, "ca")]
        candidates += own_candidates(args, files, logs, weights)
        candidates += peer_candidates(args, files, logs, folder, dataset.classes)
        if args.only:
            candidates = [c for c in candidates if any(word in c.name for word in args.only)]
        try:
            for candidate in candidates:
                print(f"starting {candidate.name}", file=sys.stderr)
                candidate.start()
            answers = run_rounds(candidates, args.rounds)
        finally:
            for candidate in candidates:
                candidate.close()
    table = summarize(answers)
    print_table(table)
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    settings["weights"] = [str(path) for path in args.weights]
    record = {
        "machine": machine,
        "settings": settings,
        "seconds": round(time.perf_counter() - begun, 1),
        "table": table,
        "answers": answers,
    }
    args.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{record['seconds']:.0f} s; {args.output}")


if __name__ == "__main__":
    main()
