"""Order of answers, rate and memory of `attendet serve` under load.

    .venv/bin/python benchmarks/serve_load.py cells.onnx ../shared/data/bccd/JPEGImages

First 50 requests are sent at once, on connections that are open already; their answers must come in
the order in which they were sent. Then 2,000 requests are sent, 8 at a time; the memory of the
server (resident set) is read after each hundred.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
from candidates import describe_machine, warn_of_load

from attendet.images import image_files

AT_ONCE, REQUESTS, CLIENTS, STEP = 50, 2000, 8, 100


def request(path: Path) -> bytes:
    """Return a request with an image as its body."""
    body = path.read_bytes()
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def answer(reader: asyncio.StreamReader) -> dict:
    """Return the JSON of the next answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    body = await reader.readexactly(int(re.search(r"content-length: (\d+)", head, re.I)[1]))
    if not head.startswith("HTTP/1.1 200"):
        raise SystemExit(body.decode())
    return json.loads(body)


async def in_order(port: int, requests: list[bytes]) -> tuple[list[int], list[float]]:
    """Return the order in which answers came, and the milliseconds that each request waited."""
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(AT_ONCE)]
    order, waits = [], []

    async def receive(number: int, reader: asyncio.StreamReader) -> None:
        found = await answer(reader)
        order.append(number)
        waits.append(found["milliseconds"]["wait"])

    for number, (_, writer) in enumerate(connections):
        writer.write(requests[number % len(requests)])
        await writer.drain()
    await asyncio.gather(*(receive(i, reader) for i, (reader, _) in enumerate(connections)))
    for _, writer in connections:
        writer.close()
    return order, waits


async def many(port: int, requests: list[bytes], server: psutil.Process) -> tuple[list, list]:
    """Return the MiB after each hundred requests, and the seconds of each request."""
    numbers, memory, seconds = iter(range(REQUESTS)), [], []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            started = time.perf_counter()
            writer.write(requests[number % len(requests)])
            await answer(reader)
            seconds.append(time.perf_counter() - started)
            if len(seconds) % STEP == 0:
                memory.append(server.memory_info().rss / 2**20)
        writer.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return memory, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("images", type=Path, help="folder of images")
    args = parser.parse_args()
    machine = describe_machine()
    warn_of_load(machine)
    requests = [request(path) for path in image_files(args.images)[:50]]
    command = [sys.executable, "-m", "attendet", "serve", str(args.weights), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(re.search(r":(\d+)/ ", process.stdout.readline())[1])
            server = psutil.Process(process.pid)
            order, waits = asyncio.run(in_order(port, requests))
            started = time.perf_counter()
            memory, seconds = asyncio.run(many(port, requests, server))
            rate = REQUESTS / (time.perf_counter() - started)
        finally:
            process.terminate()
    swapped = sum(a > b for a, b in itertools.pairwise(order))
    print(f"{json.dumps(machine)}\n")
    print("| | |\n|---|--:|")
    print(f"| {AT_ONCE} requests at once, answers before an earlier one's | {swapped} |")
    print(f"| longest wait of these, ms | {max(waits):.0f} |")
    print(f"| requests per second, {CLIENTS} at a time | {rate:.1f} |")
    print(f"| median time of a request, ms | {1000 * statistics.median(seconds):.0f} |")
    print(f"| memory after {STEP} requests, MiB | {memory[0]:.0f} |")
    print(f"| memory after {REQUESTS // 2} requests, MiB | {memory[len(memory) // 2 - 1]:.0f} |")
    print(f"| memory after {REQUESTS} requests, MiB | {memory[-1]:.0f} |")
    print(f"| most at any hundred, MiB | {max(memory):.0f} |")


if __name__ == "__main__":
    main()
