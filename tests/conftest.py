"""What all tests share: a small labelled set of real image files and an experiment file over it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# The command line restarts Python to tune it; a test process must not be replaced.
os.environ["PASSL_SOT_TUNED"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parent.parent

EXPERIMENT = """
_base_: {base}
epochs: 2
seed: 1
device: cpu
output_dir: {folder}/output
model:
  architecture: {{img_size: 32, embed_dim: 16, depth: 2, num_heads: 2, mlp_ratio: 2.0, drop_path_rate: 0.2,
    token_embed: Naive_linear, drop_rate: 0.1}}
  head: {{num_classes: 3, num_heads: 2, wr_dim: 4}}
lr_scheduler: {{T_max: null, warmup_epochs: 0, reference_batch: 8, unit: step}}
ema: {{decay: 0.1}}
log: {{interval: 1, visualdl: false}}
dataloader:
  train:
    loader: {{num_workers: 0}}
    sampler: {{batch_size: 8}}
    dataset:
      dataroot: {folder}/train
      transforms:
        - {{name: RandomResizedCrop, size: 32, interpolation: random}}
        - {{name: RandomHorizontalFlip}}
        - {{name: Normalize}}
      batch_transforms: null
  val:
    loader: {{num_workers: 0}}
    sampler: {{batch_size: 8}}
    dataset: {{dataroot: {folder}/val}}
"""


def write_images(folder: Path, per_class: int, seed: int) -> None:
    """Files of three classes that a mean colour tells apart."""
    import cv2

    rng = np.random.default_rng(seed)
    for label, name in enumerate(("a b", "猫", "c")):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            image = rng.integers(0, 120, (36, 40, 3)).astype(np.uint8)
            image[..., label] += 110
            encoded = cv2.imencode(".png", image)[1]
            (folder / name / f"{number}.png").write_bytes(encoded.tobytes())


@pytest.fixture
def experiment(tmp_path) -> Path:
    """An experiment file, `run.yaml`, with 24 training and 10 or so validation images beside it."""
    write_images(tmp_path / "train", 8, seed=0)
    write_images(tmp_path / "val", 3, seed=1)
    path = tmp_path / "run.yaml"
    base = ROOT / "configs" / "_base_" / "sot.yaml"
    path.write_text(EXPERIMENT.format(base=base, folder=tmp_path), encoding="utf-8")
    return path


@pytest.fixture
def tool():
    """Runs a script of tools/ in a process of its own, as a user would."""

    def run(name: str, *arguments: object, **more) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
        options = {"capture_output": True, "text": True, "cwd": ROOT, "timeout": 300, **more}
        return subprocess.run(command, check=False, **options)

    return run


@pytest.fixture(scope="session")
def photos() -> list[np.ndarray]:
    """Cut-outs of scikit-learn's two photographs, a temple and a flower, of different sizes."""
    from sklearn.datasets import load_sample_images

    temple, flower = load_sample_images().images
    cuts = [temple[120:344, 80:304], flower[60:260, 180:420], temple[200:297, 400:531], flower[9:73, 300:364]]
    return [np.ascontiguousarray(cut) for cut in cuts]
