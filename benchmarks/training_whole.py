"""Wall time of one whole training, compared with the first epochs of the faster peer.

    benchmarks/peers.sh
    .venv/bin/python benchmarks/training_whole.py ../shared/data/bccd --output runs/whole

The peer trains for some epochs, validation included, before and again after our whole run, and its
whole time is estimated from them: start-up, and the median of its epochs times their number. Both
are the usual command, from the start of the program to its end, with all cores; nothing else may
run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from candidates import describe_machine, search_path, warn_of_load
from training_throughput import PEERS, write_images

HERE = Path(__file__).resolve().parent


def peer(data: Path, args: argparse.Namespace) -> list[float]:
    """Return the seconds from the peer's start to the end of each of its epochs."""
    command: list[object] = [PEERS, HERE / "peers" / "ultralytics_whole.py", data]
    for name in ("size", "batch", "epochs"):
        command += [f"--{name}", getattr(args, name)]
    command += ["--stop-after", args.peer_epochs]
    done = subprocess.run(
        list(map(str, command)),
        check=True,
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(search_path())},
    )
    ends: list[float] = json.loads(done.stdout)["epoch_ends"]
    print("peer: epochs ended after", ", ".join(f"{end:.1f}" for end in ends), file=sys.stderr)
    return ends


def ours(args: argparse.Namespace) -> float:
    """Train as a user would, and return the seconds."""
    command = [Path(sys.executable).with_name("attendet"), "train", args.data]
    command += ["--recipe", args.recipe, "--attention", args.attention, "--seed", args.seed]
    command += ["--epochs", args.epochs, "--size", args.size, "--output", args.output]
    begun = time.perf_counter()
    subprocess.run(list(map(str, command)), check=True, stdout=sys.stderr)
    return time.perf_counter() - begun


def whole(parts: list[list[float]], epochs: int) -> float:
    """Return the seconds that all epochs of the peer take, estimated from some.

    An epoch is timed from the end of the one before; the first, with the start, is apart.
    """
    first = statistics.median(ends[0] for ends in parts)
    later = [b - a for ends in parts for a, b in itertools.pairwise(ends)]
    return first + (epochs - 1) * statistics.median(later)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", help="data set in any form that attendet reads")
    add("--epochs", type=int, default=60, help="of both (default 60)")
    add("--size", type=int, default=416, help="long side, pixels (default 416)")
    add("--batch", type=int, default=16, help="of the peer (default 16); ours is the recipe's")
    add("--recipe", default="small-data", help="ours (default small-data)")
    add("--attention", default="ca", help="ours (default ca)")
    add("--seed", type=int, default=0, help="ours (default 0)")
    add("--peer-epochs", type=int, default=4, help="at either end (default 4)")
    add("--output", type=Path, required=True, help="run folder of our training")
    args = parser.parse_args()
    if args.peer_epochs < 2 or args.peer_epochs > args.epochs:
        parser.error("--peer-epochs must be from 2 to --epochs")
    if not PEERS.is_file():
        parser.error(f"{PEERS} is not there; make it by benchmarks/peers.sh")
    machine = describe_machine()
    warn_of_load(machine)
    with tempfile.TemporaryDirectory() as folder:
        data = write_images(args.data, Path(folder), None)
        before = peer(data, args)
        taken = ours(args)
        after = peer(data, args)
    expected = whole([before, after], args.epochs)
    answer = {
        "machine": machine,
        "cores": os.cpu_count(),
        "peer_epoch_ends": [before, after],
        "peer_seconds": round(expected, 1),
        "seconds": round(taken, 1),
        "ratio": round(taken / expected, 4),
    }
    (args.output / "whole.json").write_text(json.dumps(answer, indent=1))
    print("| training, whole | minutes | ratio to the peer |\n|---|--:|--:|")
    print(f"| attendet | {taken / 60:.1f} | {taken / expected:.2f} |")
    print(
        f"| Ultralytics YOLO11n, estimated from {2 * args.peer_epochs} epochs "
        f"| {expected / 60:.1f} | |"
    )


if __name__ == "__main__":
    main()
