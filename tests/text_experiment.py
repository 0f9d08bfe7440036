"""A small model of texts as if it had been trained, for tests of export, engines and server."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.data.text_files import write_vocab

ROOT = Path(__file__).parent.parent
NAMES = ["动物", "place", "time"]
WORDS = (
    "the cat sat on a mat and the dog ran",
    "in the town at the sea",
    "it was two on that day: a long day",
)
CONFIG = """
_base_: {base}
epochs: 1
device: cpu
output_dir: {folder}/output
model:
  architecture: {{name: BERT, vocab_size: 242, max_positions: 48, embed_dim: 16, depth: 2, num_heads: 2,
    mlp_ratio: 2.0}}
  head: {{name: CrossCovarianceHead, num_classes: 3, in_channels: 16, reduction: [6, 4],
    normalization: {{name: SvPN, num_iters: 2}}}}
dataloader:
  train:
    loader: {{num_workers: 0}}
    sampler: {{batch_size: 8}}
    dataset: &data
      name: TextTable
      file: {folder}/train.csv
      class_names: [动物, place, time]
      max_length: 48
      tokenizer: {{format: wordpiece, path: {folder}}}
  val:
    loader: {{num_workers: 0}}
    dataset: {{<<: *data, file: {folder}/val.csv}}
"""


def write_text_experiment(folder: Path) -> Path:
    """Writes `run.yaml`, its vocabulary, and 24 training and 9 validation texts of different lengths."""
    write_vocab(folder)
    for split, count in (("train", 8), ("val", 3)):
        lines = ["text,label"]
        for label, name in enumerate(NAMES):
            words = WORDS[label].split()
            for number in range(count):
                text = " ".join(words[: 1 + number] * (1 + (number + label) % 3))
                lines.append(f"{text},{name}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = folder / "run.yaml"
    base = ROOT / "configs" / "_base_" / "text.yaml"
    path.write_text(CONFIG.format(base=base, folder=folder), encoding="utf-8")
    return path


def make_checkpoint(folder: Path, stir: Callable[[Any], Any]) -> tuple[Path, Path]:
    """The config and the checkpoint."""
    from passl_sot.engine.schema import load_config
    from passl_sot.tasks.base import header_for
    from passl_sot.weights.checkpoint import write_checkpoint

    config = write_text_experiment(folder)
    experiment = load_config(config)
    model = stir(experiment.model.build())
    arrays = {f"model.{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    checkpoint = folder / "text_run" / "best.safetensors"
    write_checkpoint(checkpoint, arrays, header_for(experiment, NAMES))
    return config, checkpoint


def make_trained(folder: Path, stir: Callable[[Any], Any]) -> SimpleNamespace:
    """`config`; `checkpoint`; `texts`, those of its validation; `folder`, the export in all formats."""
    from passl_sot import cli

    config, checkpoint = make_checkpoint(folder, stir)
    exported = folder / "export"
    assert cli.export(["--weights", str(checkpoint), "--out", str(exported)]) == 0
    lines = (folder / "val.csv").read_text(encoding="utf-8").splitlines()[1:]
    texts = [line.rpartition(",")[0] for line in lines]
    return SimpleNamespace(config=config, checkpoint=checkpoint, texts=texts, folder=exported)
