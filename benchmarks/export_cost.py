"""Measure the exported reference network by attention, graph and runtime, in milliseconds.

    python benchmarks/export_cost.py --threads 2
    python benchmarks/export_cost.py --attention none ca --operators
    python benchmarks/export_cost.py --threads 1 --clock cpu     # on a machine that is shared
    python benchmarks/export_cost.py --pretrained yolo-fastest --size 256 256 --json latency.json

The network is the reference network, or that of --pretrained. It has random weights, and int8
is calibrated on noise, so only its speed counts. Every round runs every candidate once, in random
order; the median and the tenth percentile are printed, and the cost over `none` in the same
runtime and graph. `written` is the graph of the modules as they are, `exported` that of
`attendet export`. --operators lists the milliseconds of each attention over `none` by kind of
operator.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import onnxruntime
import openvino
import torch
from candidates import describe_machine

from attendet.attention import AttentionBlock
from attendet.exporters import exported_network, int8, torch_files
from attendet.exporters.exported_network import ExportedNetwork
from attendet.exporters.onnx_file import build_onnx, write_onnx
from attendet.interop.hub import local_weights
from attendet.models import build, build_from_metadata, read_metadata

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
RUNTIMES = ("onnx float32", "onnx int8", "openvino float32", "openvino bfloat16", "openvino int8")


def exported(attention, form, args):
    """Return the ONNX graph of a network, and the names of its attention blocks."""
    torch.manual_seed(0)
    if args.pretrained:
        metadata = read_metadata(local_weights(args.pretrained))
        network = build_from_metadata(dataclasses.replace(metadata, attention=attention))
    else:
        network = build(["a", "b", "c"], attention=attention, width_mult=args.width_mult)
    network.eval()
    if form == "exported":
        made = ExportedNetwork(network)
    else:
        with mock.patch.object(exported_network, "_split_blocks"):
            made = ExportedNetwork(network)
    program = torch_files.trace(made, tuple(args.size), ("batch",))
    blocks = [name for name, part in made.named_modules() if isinstance(part, AttentionBlock)]
    return build_onnx(program, dynamic=("batch",)), blocks


def session(path, args, *, profile=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    options.log_severity_level = 3
    # As in attendet: idle threads would take time from the candidate that runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def compiled(model, precision, args):
    model.reshape([1, *args.size, 3])
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": args.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "PERF_COUNT": args.operators,
    }
    return openvino.Core().compile_model(model, "CPU", settings)


def candidates(attention, form, work, args):
    """Yield name, function that runs the network once, and runner for `by_operator`."""
    graph, blocks = exported(attention, form, args)
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (1, *args.size, 3), dtype=np.uint8) for _ in range(4)]
    stem = f"{attention}-{form}".replace("@", "_").replace(",", "_")
    source = write_onnx(graph, work / f"{stem}.onnx", {})
    kept = next(int8.int8_configurations(graph, blocks, dict)).kept
    for name in args.runtimes:
        library, precision = name.split()
        if library == "onnx":
            path = source
            if precision == "int8":
                smaller = int8.quantize_onnx(graph, noise, kept, work)
                path = write_onnx(smaller, work / f"{stem}-int8.onnx", {})
            prefix = work / f"{stem}-{precision}" if args.operators else None
            runner = session(path, args, profile=prefix)
            yield name, (lambda s=runner: s.run(None, {"images": noise[0]})), runner
        else:
            model = openvino.Core().read_model(source)
            if precision == "int8":
                model = int8.quantize_openvino(source, noise, kept)
            request = compiled(model, "bf16" if precision == "bfloat16" else "f32", args)
            request = request.create_infer_request()
            yield name, (lambda r=request: r.infer([noise[0]])), request


def by_operator(runner, runs):
    """Return milliseconds a run by kind of operator."""
    total = collections.Counter()
    if isinstance(runner, onnxruntime.InferenceSession):
        events = json.loads(Path(runner.end_profiling()).read_text())
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                total[event["args"]["op_name"]] += event["dur"] / 1e3 / runs
        return total
    for node in runner.profiling_info:
        total[node.node_type] += node.real_time.total_seconds() * 1e3
    return total


def measure(running, args):
    """Return candidate -> milliseconds of each round."""
    clock, order = CLOCKS[args.clock], random.Random(0)
    times = {key: [] for key in running}
    for number in range(args.rounds + 3):
        for key, (run, _) in order.sample(list(running.items()), len(running)):
            begun = clock()
            run()
            if number > 2:
                times[key].append(1e3 * (clock() - begun))
    return times


def table(times):
    print("| runtime | graph | attention | median ms | tenth percentile ms | over none |")
    print("|---|---|---|--:|--:|--:|")
    for (form, name, attention), values in sorted(times.items()):
        median = statistics.median(values)
        base = times.get((form, name, "none"))
        over = f"{100 * (median / statistics.median(base) - 1):+.1f} %" if base else ""
        low = np.percentile(values, 10)
        print(f"| {name} | {form} | {attention} | {median:.2f} | {low:.2f} | {over} |")


def records(times, args):
    """Return the latencies of the exported graphs as a study holds them."""
    latency = {attention: {} for attention in args.attention}
    for (form, name, attention), values in times.items():
        if form == "exported":
            low, median, high = np.percentile(values, [25, 50, 75]).round(3).tolist()
            latency[attention][name] = {"low_ms": low, "median_ms": median, "high_ms": high}
    machine = {**describe_machine(), "threads": args.threads}
    return {"latency": latency, "latency_machine": machine}


def operators(running, args):
    """Print, for each runtime and form, operators whose time differs from that of `none`."""
    found = {key: by_operator(runner, args.rounds + 3) for key, (_, runner) in running.items()}
    for (form, name, attention), total in sorted(found.items()):
        base = found.get((form, name, "none"))
        if attention == "none" or base is None:
            continue
        print(f"\n{name}, {form}, {attention} over none, ms by operator")
        for kind in sorted(total | base, key=lambda kind: base[kind] - total[kind]):
            if abs(total[kind] - base[kind]) >= 0.01:
                print(f"  {kind:<24} {total[kind] - base[kind]:+.3f}  (of {total[kind]:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--attention", nargs="+", default=["none", "se", "cbam", "eca", "ca"])
    add("--forms", nargs="+", choices=("written", "exported"), default=["exported"])
    add("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    add("--size", nargs=2, type=int, default=[416, 416], metavar=("H", "W"))
    add("--width-mult", type=float, default=1.0, help="multiplier of channels (default 1)")
    add("--rounds", type=int, default=60, help="timed rounds (default 60)")
    add("--threads", type=int, default=2, help="threads of each runtime (default 2)")
    add("--clock", choices=CLOCKS, default="wall", help="default wall")
    add("--operators", action="store_true", help="where the time goes, by kind of operator")
    add("--pretrained", help="network of these weights, in place of the reference network")
    add("--json", type=Path, help="file for the latencies as in the records of a study")
    args = parser.parse_args()
    running = {}
    with tempfile.TemporaryDirectory() as folder:
        for attention in args.attention:
            for form in args.forms:
                for name, run, runner in candidates(attention, form, Path(folder), args):
                    running[form, name, attention] = (run, runner)
        times = measure(running, args)
        print(
            f"{args.size[1]} x {args.size[0]} px, batch 1, {args.threads} threads, {args.clock}\n"
        )
        table(times)
        if args.json:
            args.json.write_text(json.dumps(records(times, args), indent=1) + "\n")
        if args.operators:
            operators(running, args)


if __name__ == "__main__":
    main()
