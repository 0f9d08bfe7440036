"""Makes the table of docs/performance.md that sets BERT-base in eager mode beside `transformers`.

    python docs/results/text_speed.py --peer-python PYTHON [--rounds 7]

PYTHON is an interpreter that has torch and transformers. One core, processor time, in turns: 8 texts that
fill 128 tokens each, and 8 of 16 to 128 tokens in one batch; a forward pass, and an update by AdamW.
"""

import argparse
import os
import shlex
import statistics
import tempfile
from pathlib import Path

import numpy as np
from text_engines import batch_of, spent

from passl_sot.bench.model import step_of
from passl_sot.engine.schema import load_config
from passl_sot.launch.cpu_env import describe_cpu, tune
from passl_sot.tasks.base import build_task
from passl_sot.utils.cache import versions_of
from passl_sot.utils.peer import Peer
from passl_sot.zoo import find_config

LENGTHS = {"128": [128] * 8, "16 to 128": [128, 16, 32, 48, 64, 80, 96, 112]}
MODES = ("infer", "train")
# What the other interpreter runs: a peer with the same numbers of words and classes.
PEER = """
import sys, time, numpy, torch, transformers
torch.set_num_threads(1)
mode, file = sys.argv[1:]
config = transformers.BertConfig(vocab_size=28996)
model = transformers.BertForSequenceClassification(config).train(mode == "train")
ids, mask, types = torch.from_numpy(numpy.load(file))
given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
labels = torch.zeros(len(ids), dtype=torch.long)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)

def infer():
    with torch.no_grad():
        model(**given)

def train():
    model(**given, labels=labels).loss.backward()
    optimizer.step()
    optimizer.zero_grad()

step = {"infer": infer, "train": train}[mode]
step()
print("ready", flush=True)
for _ in sys.stdin:
    began = time.process_time()
    step()
    print(time.process_time() - began, flush=True)
"""


def seconds(mode: str, lengths: list[int], peer_python: str, rounds: int) -> tuple[float, float]:
    """Median seconds of ours, a recipe of GLUE, and of the peer's."""
    experiment = load_config(find_config("bert_base_cola"))
    task = build_task(experiment.task, experiment.loss)
    batch = batch_of(lengths)
    step = step_of(experiment, task, experiment.model.build(), list(batch), mode)
    ours = []
    theirs = []
    with tempfile.TemporaryDirectory() as scratch:
        file = str(Path(scratch, "batch.npy"))
        np.save(file, batch)
        command = shlex.join([peer_python, "-W", "ignore", "-c", PEER, mode, file])
        with Peer(command) as peer:
            step()
            for _ in range(rounds):
                ours.append(spent(step))
                theirs.append(peer.run())
    return statistics.median(ours), statistics.median(theirs)


def main() -> None:
    """Measures and prints a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    # The peer takes over these settings of the memory, which make it faster too.
    tune()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(
        f"{describe_cpu()}, one core; {', '.join(versions_of(('paddlepaddle',)))}; medians of {args.rounds}\n"
    )
    print("| pass | tokens of 8 texts | ours, s | transformers, s | times as fast |")
    print("|---|---|---|---|---|")
    for mode in MODES:
        for name, lengths in LENGTHS.items():
            ours, theirs = seconds(mode, lengths, args.peer_python, args.rounds)
            print(f"| {mode} | {name} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.2f} |", flush=True)


if __name__ == "__main__":
    main()
