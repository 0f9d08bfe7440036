"""Measures the server: its memory over many requests, and what batching gains. For docs/serving.md.

    python docs/results/serving.py [--requests 10000] [--model deit_tiny]

Models have random weights: what they answer doesn't matter. The first part serves a tiny model to several
clients with images of mixed sizes and formats, one to three a request, and prints the memory of the serving
process every thousandth. The second serves one image a request to clients that wait for their answers, with
batching and without, by the tiny model and by `--model`.
"""

import argparse
import contextlib
import http.client
import io
import itertools
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
BOUNDARY = "a-line-that-no-image-has"
CLIENTS = 8
NAMES = ("丹顶鹤", "金丝猴", "sot_digits: 7")
TINY = (
    "model.architecture.embed_dim=16",
    "model.architecture.depth=2",
    "model.architecture.num_heads=2",
    "model.head.wr_dim=4",
)


def write_random(path: Path, model: str, settings: Sequence[str] = (), names: Sequence[str] = NAMES) -> None:
    """Writes a checkpoint of a model as it starts, as training would, for classes of these names."""
    from passl_sot.engine.schema import load_config
    from passl_sot.tasks.base import header_for
    from passl_sot.weights import state
    from passl_sot.weights.checkpoint import write_checkpoint
    from passl_sot.zoo import find_config

    experiment = load_config(find_config(model), [*settings, f"model.head.num_classes={len(names)}"])
    arrays = state.training_arrays(experiment.model.build(), None, {})
    write_checkpoint(path, arrays, header_for(experiment, names))


@dataclass
class Server:
    """A server in a process of its own."""

    process: subprocess.Popen
    url: str

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.removeprefix("http://")

    def memory(self) -> float:
        """Megabytes that the process holds."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024

    def cpu_time(self) -> float:
        """Seconds that the process has computed."""
        text = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8")
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serving(model: Path, *options: object) -> Iterator[Server]:
    """Serves a model until the block ends; what the server says goes to `<model>.log` line by line."""
    words = [ROOT / "tools" / "serve.py", model, "--port", 0, *options]
    log = Path(f"{model}.log")
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with log.open("w", encoding="utf-8") as file:
        command = [sys.executable, *map(str, words)]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        found = None
        while not found:
            time.sleep(0.05)
            said = log.read_text(encoding="utf-8")
            found = re.search(r"serving .* at (http://\S+)", said)
            if process.poll() is not None and not found:
                raise RuntimeError(f"no server: {said}")
        yield Server(process, found[1])
    finally:
        process.terminate()
        process.wait()


def pictures(count: int, largest: int, seed: int = 0) -> list[bytes]:
    """Image files of many sizes, half of them JPEG and half PNG."""
    rng = np.random.default_rng(seed)
    files = []
    for number in range(count):
        height, width = rng.integers(8, largest, 2)
        coarse = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((int(width), int(height))).save(file, ("JPEG", "PNG")[number % 2])
        files.append(file.getvalue())
    return files


def form(files: Sequence[bytes]) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a request with these files."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="{number}"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for number, data in enumerate(files)
    ]
    body = b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])
    return body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def drive(server: Server, bodies: Sequence[tuple], requests: int, clients: int = CLIENTS) -> None:
    """Sends so many requests by several clients, each with one at a time; fails if one does."""
    numbers = itertools.count()
    faults: list[object] = []

    def send() -> None:
        connection = http.client.HTTPConnection(server.address)
        for number in numbers:
            if number >= requests or faults:
                break
            try:
                connection.request("POST", "/predict", *bodies[number % len(bodies)])
                answer = connection.getresponse()
                text = answer.read()
                if answer.status != 200:
                    faults.append(text)
            except OSError as error:
                faults.append(error)
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise RuntimeError(f"a request failed: {faults[0]!r}")


def memory_over(
    server: Server, requests: int, every: int, clients: int = CLIENTS, largest: int = 900
) -> Iterator[float]:
    """The server's memory in megabytes after each `every` of so many requests of mixed sizes."""
    files = pictures(60, largest)
    groups = [files[start : start + 1 + start % 3] for start in range(len(files))]
    bodies = [form(group) for group in groups]
    for _ in range(requests // every):
        drive(server, bodies, every, clients)
        yield server.memory()


def batching_gain(model: Path, requests: int, clients: int = 16) -> tuple[float, float]:
    """Images per second of CPU time, which other programs disturb little, with batching and without."""
    bodies = [form([data]) for data in pictures(16, 64)]
    speeds = []
    for options in ((), ("--max-batch", 1)):
        with serving(model, *options) as server:
            drive(server, bodies, clients, clients)
            began = server.cpu_time()
            drive(server, bodies, requests, clients)
            speeds.append(requests / (server.cpu_time() - began))
    return speeds[0], speeds[1]


def main() -> None:
    """Prints both parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--model", default="deit_tiny")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tiny = Path(folder, "tiny.safetensors")
        large = Path(folder, "large.safetensors")
        write_random(tiny, "sot_digits", TINY)
        with serving(tiny) as server:
            print(f"memory at the start: {server.memory():.0f} MB", flush=True)
            every = max(1, args.requests // 10)
            for number, megabytes in enumerate(memory_over(server, args.requests, every), 1):
                print(f"after {number * every:6} requests: {megabytes:.0f} MB", flush=True)
        write_random(large, args.model)
        for model, name in ((tiny, "the tiny model"), (large, args.model)):
            batched, single = batching_gain(model, args.requests // 40)
            print(
                f"{name}, 16 clients: {batched:.1f} images per second of CPU time with batching, "
                f"{single:.1f} without: {batched / single:.2f} times",
                flush=True,
            )


if __name__ == "__main__":
    main()
