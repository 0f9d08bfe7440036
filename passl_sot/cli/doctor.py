"""`passl-sot doctor`: is this machine fit, is this installation whole, and what mends what isn't.

What needs Paddle runs in processes of its own, one with the fast settings and one without: so both speeds are
measured, and a Paddle that crashes is one more finding.
"""

import importlib
import importlib.util
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any, Literal, NamedTuple

from passl_sot.cli.command import command
from passl_sot.cli.options import Parser
from passl_sot.launch.cpu_env import MARK, cpu_fact, read_cpu, settings, usable_cores
from passl_sot.utils.memory import machine_memory
from passl_sot.utils.require import MissingPaddleError, require_paddle
from passl_sot.utils.suites import INSTALL, SUITES, installed_version
from passl_sot.version import __version__

_Level = Literal["ok", "note", "FAULT"]  # a note: work goes on, but slower, or with less to show
_FAST = "'passl_sot[fast]'"
# By module: what pip calls the package, what is amiss without it, and how bad that is.
_PACKAGES: dict[str, tuple[str, str, _Level]] = {
    "numpy": ("'numpy>=2,<2.6'", "nothing works", "FAULT"),
    "PIL": ("'pillow>=11'", "no image can be read", "FAULT"),
    "safetensors": ("safetensors", "no checkpoint can be read or written", "FAULT"),
    "numba": (_FAST, "images are prepared more slowly", "note"),
    "simplejpeg": (_FAST, "JPEG files are read more slowly", "note"),
    "matplotlib": ("matplotlib", "no charts are drawn", "note"),
    "cv2": ("opencv-python-headless", "scripts of your own may miss it", "note"),
    "visualdl": ("visualdl==2.5.3", "metrics.jsonl is written, curves are not", "note"),
}
# By extra: its modules, only looked for, as some take seconds to import; and what is missing without.
_EXTRAS = {
    "export": (
        ("paddle2onnx", "onnx", "onnxruntime", "openvino", "nncf"),
        "no ONNX, OpenVINO or int8, and no engine but Paddle's",
    ),
    "serve": (("fastapi", "uvicorn", "python_multipart", "prometheus_client"), "no passl-sot serve"),
    "text": (("tokenizers",), "no models of texts"),
    "judging": (("sklearn",), "no linear probe"),
    "dense": (
        ("filelock", "prettytable", "pycocotools", "requests", "scipy", "six", "sklearn"),
        "no segmentation, no detection",
    ),
}
_PADDLE = "3.3.1"
_INSTALL = f"pip install paddlepaddle=={_PADDLE}"
# A model of each family: what makes it small, and its first logits by `first_logits`. These were computed in
# float64 by the code whose full-size models agree with the official code's numbers (tests/fixtures/golden).
FAMILIES: dict[str, tuple[str, list[float]]] = {
    "sot_tiny": ("embed_dim=48 depth=2", [-1.56655, 1.38614, 0.28325, -2.370442]),
    "so_vit_7": ("embed_dim=64 depth=2", [-1.178843, -0.351778, 0.92867, -1.60644]),
    "t2t_vit_7": ("embed_dim=64 depth=2", [0.961932, 0.902814, -0.31546, -0.360429]),
    "pit_ti": ("head_dim=8 depths=[1,1,1]", [1.89876, 0.429384, 0.123517, 2.161367]),
    "stvit_small": ("embed_dim=[16,32,80,64] depths=[1,1,1,1]", [0.766139, -2.324478, 1.040786, -0.638286]),
    "deit_tiny": ("embed_dim=48 depth=2", [-1.072479, -0.821728, -0.066425, 0.654272]),
    "swin_tiny": ("embed_dim=24 depths=[1,1,1,1]", [0.324405, -0.409834, 0.02499, 1.965822]),
}
# The widths of tokens that pyramids give, where their heads name them.
_WIDTHS = {"pit_ti": 64, "swin_tiny": 192}
_TOLERANCES = {"cpu": 1e-4, "gpu:0": 2e-2}  # a GPU may multiply with 10 bits of mantissa
_PRODUCT = (1576, 384, 1536)  # the first Linear of DeiT-S's MLP for 8 images
_TIMED = "deit_tiny"
_LEAST_GB = 1.0


class Finding(NamedTuple):
    """A line of the report."""

    level: _Level
    what: str
    words: str
    cure: str = ""

    def __str__(self) -> str:
        line = f"{self.level:5} {self.what:17} {self.words}"
        if self.cure:
            line += f"\n{'':24}mend it by: {self.cure}"
        return line


@command
def doctor(argv: list[str] | None = None) -> int:
    """`passl-sot doctor`: checks this machine and this installation."""
    about = "Check this machine and this installation; the exit status is 1 after a fault, 0 otherwise."
    Parser(prog="passl-sot doctor", description=about).parse_args(argv)
    print(f"passl_sot {__version__}, Python {platform.python_version()}, {platform.platform()}")
    count = {"ok": 0, "note": 0, "FAULT": 0}
    for look in (_machine, _packages, _paddle):
        for finding in look():
            print(finding, flush=True)
            count[finding.level] += 1
    if count["FAULT"]:
        print(f"{count['FAULT']} faults, {count['note']} notes")
        return 1
    print("fit for work")
    return 0


def _machine() -> Iterator[Finding]:
    name = cpu_fact(read_cpu(), "model name") or platform.processor()
    yield Finding("ok", "cores", f"{usable_cores()} of {os.cpu_count()} may be used: {name}")
    yield Finding("ok", "memory", f"{machine_memory() / 2**30:.1f} GB")
    shared = "/dev/shm"
    if os.path.isdir(shared):
        size = shutil.disk_usage(shared).total / 2**30
        words = f"{size:.1f} GB"
        if size < _LEAST_GB:
            words += "; several GPUs of one machine talk through it"
            yield Finding("note", shared, words, "docker run --shm-size=8g ..., in a container")
        else:
            yield Finding("ok", shared, words)
    free = shutil.disk_usage(".").free / 2**30
    words = f"{free:.1f} GB free in {os.getcwd()}"
    if free < _LEAST_GB:
        yield Finding("FAULT", "disk", f"{words}: checkpoints take that much", "-o output_dir=ELSEWHERE")
    else:
        yield Finding("ok", "disk", words)


def _packages() -> Iterator[Finding]:
    homes = metadata.packages_distributions()
    for module, (package, without, level) in _PACKAGES.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # a package that was built for others raises errors of any type
            yield Finding(level, module, f"{_last_line(str(error))}: {without}", f"pip install {package}")
            continue
        versions = (f"{home} {metadata.version(home)}" for home in set(homes.get(module, ())))
        yield Finding("ok", module, ", ".join(versions))
    for extra, (modules, without) in _EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing:
            words = f"{', '.join(missing)} not installed: {without}"
            yield Finding("note", f"extra {extra}", words, f"pip install 'passl_sot[{extra}]'")
        else:
            yield Finding("ok", f"extra {extra}", ", ".join(modules))
    for module, (package, name) in SUITES.items():
        version = installed_version(module)
        if version:
            yield Finding("ok", name, f"{package} {version}")
        else:
            yield Finding("note", name, "not installed: no passl-sot dense with it", INSTALL)


def _paddle() -> Iterator[Finding]:
    fast = settings(read_cpu())
    # What the user set stays, as it does in other commands.
    ours = os.environ.get(MARK) is not None
    theirs = {name: value for name, value in os.environ.items() if not (ours and name in fast)}
    bare = {name: value for name, value in theirs.items() if name not in fast}
    environment = {**fast, **theirs}
    try:
        require_paddle()
        tuned = _in_process(environment, "examine")
        words = f"{tuned['paddle']}; {tuned['devices']}"
        if tuned["paddle"] == _PADDLE:
            yield Finding("ok", "paddle", words)
        else:
            yield Finding("note", "paddle", f"{words}; all was tried with {_PADDLE}", _INSTALL)
        for device, differences in tuned["families"].items():
            for name, difference in differences.items():
                label = name
                if device != "cpu":
                    label += f" {device}"
                yield _judge(label, difference, _TOLERANCES[device])
        yield _gain(tuned, _in_process(bare, "measure"), {name: environment[name] for name in fast})
    except MissingPaddleError as error:
        yield Finding("FAULT", "paddle", str(error))
    except _CrashError as error:
        yield Finding("FAULT", "paddle", str(error), f"{_INSTALL} --force-reinstall")


class _CrashError(RuntimeError):
    """A process with Paddle in it didn't end well."""


def _in_process(environment: dict[str, str], function: str) -> dict[str, Any]:
    code = f"import json; from {__name__} import {function}; print(json.dumps({function}()))"
    process = [sys.executable, "-c", code]
    done = subprocess.run(process, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise _CrashError(f"ended with status {done.returncode}: {_last_line(done.stderr)}")
    result: dict[str, Any] = json.loads(_last_line(done.stdout))
    return result


def _judge(name: str, difference: float, tolerance: float) -> Finding:
    words = f"logits differ by {difference:.0e} from those of the fixture"
    if difference <= tolerance:  # not so of NaN
        return Finding("ok", name, words)
    cure = "passl-sot doctor, with MKL_DEBUG_CPU_TYPE=4 set: if that mends it, keep it set"
    return Finding("FAULT", name, f"{words}, more than {tolerance:.0e}", cure)


def _gain(tuned: dict, bare: dict, chosen: dict[str, str]) -> Finding:
    values = " ".join(f"{name}={value}" for name, value in chosen.items())
    product, model = (tuned[key] / bare[key] for key in ("gflops", "images_per_s"))
    words = (
        f"{values}: a matrix product {product:.2f} times as fast ({tuned['gflops']:.0f} GFLOP/s), "
        f"{_TIMED} {model:.2f} times ({tuned['images_per_s']:.1f} images/s)"
    )
    if model < 0.9:  # the noise of a machine that others use is less
        return Finding("note", "CPU settings", words, "--no-tune, which leaves them out, if that stays so")
    return Finding("ok", "CPU settings", words)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def examine() -> dict[str, Any]:
    """In a process of its own: Paddle's version and devices, a forward of each family, and `measure`."""
    import paddle

    gpus = paddle.device.cuda.device_count()
    names = [paddle.device.cuda.get_device_name(number) for number in range(gpus)]
    families = {}
    for device in ("cpu", "gpu:0")[: 1 + bool(gpus)]:
        paddle.set_device(device)
        families[device] = {name: _difference(name) for name in FAMILIES}
    devices = "no GPU"
    if names:
        devices = f"GPUs: {', '.join(names)}"
    return {"paddle": paddle.__version__, "devices": devices, "families": families, **measure()}


def measure() -> dict[str, float]:
    """In a process of its own: GFLOP/s of a matrix product and images/s of a model, on the CPU."""
    import paddle

    from passl_sot.zoo import create_model

    paddle.set_device("cpu")
    rows, inner, columns = _PRODUCT
    left, right = paddle.randn([rows, inner]), paddle.randn([inner, columns])
    model = create_model(_TIMED)
    images = paddle.randn([4, 3, *model.backbone.img_size])
    with paddle.no_grad():
        product = _best_seconds(lambda: paddle.matmul(left, right), 60)
        forward = _best_seconds(lambda: model(images), 8)
    return {"gflops": 2e-9 * math.prod(_PRODUCT) / product, "images_per_s": len(images) / forward}


def _best_seconds(run: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds[2:])


def _difference(name: str) -> float:
    expected = FAMILIES[name][1]
    return max(abs(a - b) for a, b in zip(first_logits(name), expected, strict=True))


def first_logits(name: str, dtype: Literal["float32", "float64"] = "float32") -> list[float]:
    """Four logits of a small model of a family for one image; all values are drawn from their names."""
    import numpy as np
    import paddle

    from passl_sot.modeling.schema import read_model

    def draw(key: str, shape: list[int]) -> np.ndarray:
        return np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape)

    small = [f"model.architecture.{setting}" for setting in f"img_size=64 {FAMILIES[name][0]}".split()]
    if name in _WIDTHS:
        small.append(f"model.head.in_channels={_WIDTHS[name]}")
    model = read_model(name, small).build().to(dtype=dtype)
    model.eval()
    for key, parameter in model.named_parameters():
        value = draw(key, parameter.shape)
        # Weights by the number of inputs: of a Linear [in, out], of a convolution [out, in, ...].
        if value.ndim == 2:
            value /= math.sqrt(value.shape[0])
        elif value.ndim > 2:
            value /= math.sqrt(math.prod(value.shape[1:]))
        elif key.endswith(("weight", "_variance")):
            value = 1 + 0.1 * np.abs(value)
        else:
            value *= 0.1
        parameter.set_value(paddle.to_tensor(value.astype(dtype)))
    image = paddle.to_tensor(draw("image", [1, 3, 64, 64]).astype(dtype))
    with paddle.no_grad():
        return model(image)[0, :4].tolist()
