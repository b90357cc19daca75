"""Serve a detector on this machine: a page in the browser and a JSON interface.

WEIGHTS is a weights file or an exported file; ONNX, OpenVINO and ncnn need no torch. The page takes
images, videos and the camera. POST /predict with an image file as the body returns JSON;
/openapi.json describes it. Gates of attention blocks are shown for weights files.

By default, only this machine can connect; --host changes that. The server has no password.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from attendet.cli.arguments import RuntimeFlags, ThresholdFlags, add_settings, settings_from
from attendet.errors import ConfigError
from attendet.system import require
from attendet.web.limits import ServeLimits


@dataclass(frozen=True)
class _Flags:
    weights: Path
    """Weights file, exported file, hf://owner/name, or a name of: attendet weights list."""

    host: Annotated[str, "ADDRESS"] = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all network interfaces."""

    port: int = 8000
    """Port to listen on; 0 for any free port."""

    threads: int | None = None
    """CPU threads of the network (default: one per core)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    for flags in (_Flags, ThresholdFlags, RuntimeFlags, ServeLimits):
        add_settings(parser, flags)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted; return 0."""
    require("fastapi", extra="serve", purpose="attendet serve")
    uvicorn = require("uvicorn", extra="serve", purpose="attendet serve")
    from attendet.inference import Detector, load
    from attendet.interop.hub import local_weights, weights_name
    from attendet.web.app import create_app

    limits = ServeLimits(**settings_from(args, ServeLimits))
    with _bind(args.host, args.port) as listening:
        weights = local_weights(args.weights)
        runtime = load(weights, args.runtime, args.device, threads=args.threads).runtime
        detector = Detector(runtime, args.confidence, args.nms_iou, input_hw=args.input_hw)
        gates = _gate_reader(weights, args.device, args.input_hw)
        app = create_app(detector, name=weights_name(args.weights), limits=limits, gates=gates)
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"serving {args.weights} at http://{shown}:{port}/ (Ctrl+C stops)", flush=True)
        if not ipaddress.ip_address(host).is_loopback:
            note = "note: anyone who can reach this address can use the server"
            print(note, file=sys.stderr, flush=True)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=5,
        )
        with contextlib.suppress(KeyboardInterrupt):  # raised again after the server has stopped
            uvicorn.Server(config).run(sockets=[listening])
    return 0


def _bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        ConfigError: if the address cannot be used.
    """
    ConfigError.check(0 <= port <= 65535, "port", "from 0 to 65535", port, "--port")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"address must be free and belong to this machine; got {host}:{port} ({reason}). "
            "Choose another --port or --host."
        ) from None


def _gate_reader(weights: Path, device: str | None, input_hw: tuple[int, int] | None) -> Any:
    """Return a `GateReader`; None for exported files and for weights without gates."""
    if weights.suffix.lower() != ".safetensors":
        return None
    from attendet.web.gates import GateReader

    reader = GateReader(weights, device, input_hw)
    return reader if reader.sites else None
