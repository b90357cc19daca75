"""OpenCV and Ultralytics as candidates of peers.py, which starts this; and Ultralytics' export.

Runs in the environment of benchmarks/peers.sh. Each predicts from the image's file by the call
that its documentation recommends: cv2.dnn.DetectionModel.detect, YOLO.predict.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from pathlib import Path

from candidates import Rounds
from ultralytics_training import go_offline


def passing_confidence(boxes_before_nms, scores):
    """Return the score that this many boxes per image reach, from all scores of each image."""
    pooled = sorted(itertools.chain.from_iterable(scores), reverse=True)
    return pooled[min(boxes_before_nms * len(scores), len(pooled)) - 1] * (1 - 1e-6)


def load_opencv(args, examples):
    """Return the function that predicts a file: darknet's yolov4-tiny in OpenCV's own network."""
    import cv2

    if args.threads:
        cv2.setNumThreads(args.threads)
    net = cv2.dnn.readNetFromDarknet(f"{args.model}.cfg", f"{args.model}.weights")
    model = cv2.dnn.DetectionModel(net)
    height, width = args.size
    model.setInputParams(size=(width, height), scale=1 / 255, swapRB=True)
    # Without suppression (0) every box above the lowest score comes back.
    every = [model.detect(cv2.imread(example), 1e-6, 0.0)[1] for example in examples]
    confidence = passing_confidence(
        args.boxes_before_nms, [list(map(float, scores)) for scores in every]
    )

    def predict(file):
        return model.detect(cv2.imread(file), confidence, 0.5)[0]

    return predict


def load_ultralytics(args, examples):
    """Return the function that predicts a file: a network exported and run by Ultralytics."""
    from ultralytics import YOLO

    model = YOLO(str(args.model), task="detect")
    same = {"imgsz": args.size, "device": "cpu", "verbose": False, "save": False}

    def found(file, confidence, iou, most):
        return model.predict(file, conf=confidence, iou=iou, max_det=most, **same)[0].boxes

    scores = [found(example, 1e-9, 1.0, 3000).conf.tolist() for example in examples]
    confidence = passing_confidence(args.boxes_before_nms, scores)
    return lambda file: found(file, confidence, 0.5, 300)


def wake_up(network, files, size_hw):
    """Give a network before training the activations of a trained one, and scores that spread.

    Before training the maps shrink from layer to layer to nothing: every box has the same score,
    and numbers near zero may be slow to compute with. So batch normalization takes its statistics
    from some of the images, and the last convolution of each class branch is scaled.
    """
    import cv2
    import numpy as np
    import torch

    resized = np.stack([cv2.resize(cv2.imread(file), size_hw[::-1]) for file in files])
    images = torch.from_numpy(resized).permute(0, 3, 1, 2) / 255

    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean
    with torch.no_grad():
        network.train()(images)

    detect = network.model[-1]
    branches = [*detect.cv3, *(getattr(detect, "one2one_cv3", None) or [])]
    given = {}
    for branch in branches:
        branch[-1].register_forward_hook(
            lambda conv, _, output: given.update({conv: output - conv.bias[:, None, None]})
        )
    with torch.no_grad():
        network.eval()(images)
        for conv, output in given.items():
            conv._forward_hooks.clear()
            conv.weight.mul_(0.4 / output.std())
            conv.bias.fill_(-5.0)


def export(args):
    """Write a network with random weights as ONNX and OpenVINO; print where they are, as JSON."""
    rounds = Rounds()
    with tempfile.TemporaryDirectory() as folder:
        go_offline(Path(folder))
        import torch
        from ultralytics import YOLO

        torch.manual_seed(0)
        files = json.loads(args.files.read_text())[:8]
        args.model.mkdir(parents=True, exist_ok=True)
        os.chdir(args.model)
        written = {}
        for name, kind in itertools.product(("yolo11n", "yolo26n"), ("onnx", "openvino")):
            model = YOLO(f"{name}.yaml")
            wake_up(model.model, files, args.size)
            path = model.export(format=kind, imgsz=args.size, device="cpu", verbose=False)
            written[f"{name} {kind}"] = str(Path(path).resolve())
        rounds._answer({"written": written})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("kind", choices=["opencv", "ultralytics", "export"])
    add("model", type=Path, help="the exported model; darknet files without suffix; a folder")
    add("files", type=Path, help="JSON list of image files")
    add("--size", type=int, nargs=2, default=[416, 416], metavar=("H", "W"))
    add("--boxes-before-nms", type=int, default=40)
    add("--threads", type=int, default=0)
    add("--images", type=int, default=10, help="per round")
    args = parser.parse_args()
    os.environ["YOLO_AUTOINSTALL"] = "false"
    if args.kind == "export":
        export(args)
        return
    rounds = Rounds()  # before anything is imported that prints
    files = json.loads(args.files.read_text())
    with tempfile.TemporaryDirectory() as folder:
        if args.kind == "ultralytics":
            go_offline(Path(folder))
        predict = (load_opencv if args.kind == "opencv" else load_ultralytics)(args, files[:5])
        for file in files[:3]:
            predict(file)
        remaining = itertools.cycle(files)
        while True:
            rounds.wait()
            rounds.begin_epoch()
            found = 0
            for _ in range(args.images):
                file = next(remaining)
                begun = time.perf_counter()
                detections = predict(file)
                rounds.end_step(time.perf_counter() - begun)
                found += len(detections)
            rounds.end_epoch(detections=found)


if __name__ == "__main__":
    main()
