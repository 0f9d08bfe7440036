"""The benchmark tool with real peers: it alternates, takes medians, and says what a bad peer did."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from passl_sot.bench import peers
from passl_sot.bench.data import measure_data
from passl_sot.bench.model import measure
from passl_sot.bench.peers import PEERS
from passl_sot.cli import benchmark
from passl_sot.cli.packing import make_cache
from passl_sot.engine.schema import load_config
from passl_sot.utils.peer import PeerError
from passl_sot.zoo import find_config

PEER = """
import sys
print("warming up", flush=True)
print("ready", flush=True)
for number, line in enumerate(sys.stdin):
    print({answer}, flush=True)
"""


@pytest.fixture
def peer(tmp_path):
    def command(answer: str) -> str:
        path = tmp_path / "peer program.py"
        path.write_text(PEER.format(answer=answer))
        return shlex.join([sys.executable, str(path)])

    return command


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_figures_and_ratio(experiment, peer, mode):
    # Two answers while we warm up, then 0.5 s at the median of 0.4, 0.5, 0.9.
    command = peer("[99, 99, 0.4, 0.9, 0.5][number]")
    result = measure(load_config(experiment), mode=mode, batch=4, repeats=3, compare=command)
    assert result["peer_seconds"] == 0.5
    assert result["ratio"] == pytest.approx(0.5 / result["seconds"])
    assert result["images_per_s"] == pytest.approx(4 / result["seconds"])
    passes = 3 if mode == "train" else 1
    assert result["gflops_per_s"] == pytest.approx(passes * result["gflops"] * result["images_per_s"])
    assert 0.1 < result["memory_gb"] < 20


def test_the_command(experiment, tool, peer):
    done = tool("benchmark", "-c", experiment, "--repeats", 1)
    assert done.returncode == 0, done.stderr
    assert "images_per_s" in done.stdout
    assert "ratio" not in done.stdout
    arguments = ["--mode", "data", "--batch", 4, "--repeats", 1, "--json", "--compare", peer("0.5")]
    done = tool("benchmark", "-c", experiment, *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["peer (images/s)"] == pytest.approx(8)


def test_several_processes_beside_one(experiment, tool):
    """Real runs, of which nothing is left; the ratios are those of the medians."""
    arguments = ["--mode", "processes", "--batch", 4, "--repeats", 2, "--json"]
    done = tool("benchmark", "-c", experiment, *arguments, "-o", f"output_dir={experiment.parent}/out")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    one, together, separate = (found[f"{name} (s)"] for name in ("one", "2 together", "2 separate"))
    assert found["ratio to one"] == pytest.approx(one / together)
    assert found["limit: ratio of separate ones"] == pytest.approx(one / separate)
    assert found["of that limit"] == pytest.approx(separate / together)
    assert not (experiment.parent / "out").exists()
    done = tool("benchmark", "-c", experiment, *arguments[:3], 3)
    assert done.returncode == 2 and "--batch must be a multiple of --nproc" in done.stderr


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("'fast'", "printed 'fast' where the seconds"),
        ("sys.exit(3)", "ended with status 3 before it printed"),
    ],
)
def test_a_peer_that_breaks_the_protocol(experiment, peer, answer, message):
    with pytest.raises(PeerError, match=message):
        measure(load_config(experiment), mode="infer", batch=1, repeats=1, compare=peer(answer))


def test_a_peer_that_is_not_there(experiment):
    with pytest.raises(PeerError) as caught:
        measure(load_config(experiment), mode="infer", batch=1, repeats=1, compare="no-such-program 1")
    assert "can't start 'no-such-program 1'" in str(caught.value)
    assert "names of libraries (timm, torchvision, ...) are for --mode data" in str(caught.value)


def test_the_input_pipeline_by_stages(experiment, peer):
    # Seconds of a batch of 4: 0.2 at the median of the two that count.
    command = peer("[99, 0.1, 0.3][number]")
    result = measure_data(load_config(experiment), batch=4, repeats=2, compare=command)
    stages = ["read", "decode, RandomResizedCrop, RandomHorizontalFlip", "Normalize", "batch: stack"]
    stages.append("batch: to Paddle")
    assert [name for name in result if name.endswith("(us/image)")] == [
        f"{name} (us/image)" for name in [*stages, "all stages"]
    ]
    total = sum(result[f"{name} (us/image)"] for name in stages)
    assert result["all stages (us/image)"] == pytest.approx(total)
    assert result["one core (images/s)"] == pytest.approx(1e6 / total)
    assert result["loader, 0 workers (images/s)"] > 0
    assert result["limit: whole decode alone (images/s)"] > 0
    assert 0.1 < result["limit: memory copy (GB/s)"] < 1000
    assert result["peer (images/s)"] == pytest.approx(4 / 0.2)
    assert result["ratio to peer"] == pytest.approx(0.05e6 / total)


@pytest.fixture
def photographs(tmp_path) -> list[Path]:
    """Four JPEG files of odd sizes, one of them CMYK."""
    flower = load_sample_image("flower.jpg")
    for number in range(4):
        cut = Image.fromarray(flower[40 * number :, 30 * number :][: 97 + number, :130])
        (cut.convert("CMYK") if number == 2 else cut).save(tmp_path / f"{number}.jpg")
    return sorted(tmp_path.glob("*.jpg"))


def test_pixels_of_one_size_are_one_stage(experiment, tool, tmp_path):
    """They are read and changed a batch at a time, so that is what is timed."""
    pytest.importorskip("numba")
    packed = tmp_path / "packed"
    assert make_cache([str(tmp_path / "train"), str(packed), "--raw"]) == 0
    transforms = "[{name: RandomCrop, size: 32, padding: 4}, {name: RandomHorizontalFlip}, {name: Normalize}]"
    node = f"{{name: PackedImages, dataroot: {packed}, transforms: {transforms}}}"
    cfg = load_config(experiment, [f"dataloader.train.dataset={node}"])
    result = measure_data(cfg, batch=8, repeats=3)
    named = [name for name in result if name.endswith("(us/image)")]
    whole, transfer = "batch: read, RandomCrop, RandomHorizontalFlip, Normalize", "batch: to Paddle"
    assert named == [f"{name} (us/image)" for name in (whole, transfer, "all stages")]
    assert 0 < result[named[0]] < 1e4
    assert [name for name in result if name.startswith("limit: ")] == ["limit: memory copy (GB/s)"]


@pytest.mark.parametrize("name", PEERS)
def test_a_library_that_is_missing_is_named(name, photographs, tmp_path):
    """The program by itself, which imports nothing of the project: it serves, or says how to install."""
    job = {"paths": [*map(str, photographs)], "batch": 4, "side": [32, 32], "batch_transforms": None}
    job["transforms"] = [{"name": "RandomResizedCrop", "size": 32}, {"name": "Normalize"}]
    listed = tmp_path / "jobs.json"
    listed.write_text(json.dumps([job]))
    script = Path(peers.__file__)
    command = [sys.executable, str(script), name, str(listed)]
    done = subprocess.run(command, input="\n\n", capture_output=True, text=True, check=False, timeout=300)
    if done.returncode == 0:  # an interpreter that has it
        _, ready, *seconds = done.stdout.splitlines()
        assert ready == "ready" and len(seconds) == 2 and min(map(float, seconds)) >= 0
    else:
        words = (
            r"No module named '[a-z]+'\. Install it there \(.*pip install .*\) or name an interpreter that"
        )
        assert re.match(
            rf"{re.escape(sys.executable)} can't run {name}: {words} has it by --peer-python", done.stderr
        )
        assert "Traceback" not in done.stderr


def test_a_peer_by_its_name_needs_its_library(experiment, capfd):
    cfg = load_config(experiment)
    try:
        assert measure_data(cfg, batch=8, repeats=1, compare="timm")["ratio to peer"] > 0
    except PeerError as error:  # an interpreter that hasn't it
        assert "peers.py timm" in str(error) and "ended with status 1 before it printed" in str(error)
        assert re.search(r"No module named .* --peer-python / ", capfd.readouterr().err)


# Stand-ins for timm and PyTorch, which print what they are asked for.
STANDINS = {
    "torch.py": "",
    "timm/__init__.py": "",
    "timm/data/__init__.py": """
import json, sys
FastCollateMixup = Mixup = None
def create_transform(size, **options):
    print(json.dumps({"size": size, **options}))
    sys.exit()
""",
    "timm/data/random_erasing.py": """
import json
def RandomErasing(prob, **options):
    print(json.dumps({"prob": prob, **options}))
""",
}


def test_timm_is_given_the_settings_of_the_config(tmp_path, monkeypatch):
    for name, text in STANDINS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def asked(config: str, split: str) -> list[dict]:
        section = getattr(load_config(find_config(config)).dataloader, split).dataset
        steps = {key: section.get(key) for key in ("transforms", "batch_transforms")}
        jobs = tmp_path / "jobs.json"
        jobs.write_text(json.dumps([{"paths": [], "batch": 4, "side": [224, 224], **steps}]))
        command = [sys.executable, peers.__file__, "timm", str(jobs)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    crop = {"scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3], "hflip": 0.5, "is_training": True}
    more = {"auto_augment": "rand-m9-mstd0.5-inc1", "color_jitter": None}
    # SoT mixes bytes, then normalizes and erases, as timm's loader does; DeiT's transforms do all but mixing.
    erasing, transform = asked("sot_small", "train")
    assert erasing["prob"] == 0.25 and erasing["mode"] == "pixel" and erasing["min_area"] == 0.02
    assert transform["interpolation"] == "random" and transform["use_prefetcher"] is True
    assert {**crop, **more}.items() <= transform.items() and "re_prob" not in transform
    (transform,) = asked("deit_small", "train")
    assert {"re_prob": 0.25, "re_mode": "pixel", "re_count": 1}.items() <= transform.items()
    assert transform["interpolation"] == "bicubic" and transform["use_prefetcher"] is False
    (transform,) = asked("sot_small", "val")
    assert {"size": [224, 224], "crop_pct": 0.875, "interpolation": "bicubic"}.items() <= transform.items()
    assert "is_training" not in transform


def test_a_step_without_a_counterpart_is_named(tmp_path):
    jobs = tmp_path / "jobs.json"
    transforms = [{"name": "RandomCrop", "size": 32}, {"name": "Normalize"}]
    jobs.write_text(json.dumps([{"transforms": transforms, "batch_transforms": None}]))
    with pytest.raises(peers.JobError, match="timm is given no counterpart of RandomCrop: compare by"):
        peers._steps("timm", json.loads(jobs.read_text())[0], set(peers._STEPS))


def test_the_table_of_the_input_pipeline(photographs, tmp_path):
    """All rows by one command, here without another library."""
    pytest.importorskip("numba")
    script = Path(__file__).parents[2] / "docs" / "results" / "pipeline.py"
    command = [sys.executable, str(script), str(tmp_path), "--compare", "none", "--batch", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    facts = next(line for line in lines if " photographs, medians of 2 batches of 2." in line)
    assert re.search(
        r"; Python [\d.]+, numba \S+, simplejpeg \S+, numpy \S+, Pillow \S+ \(libjpeg-turbo", facts
    )
    rows = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("| ")][1:]
    assert [row[1] for row in rows][:2] == ["the original files", "a packed copy, `--tile-only`"]
    assert len(rows) == 11 and all(float(row[3].replace(",", "")) > 0 for row in rows)
    assert rows[0][2] == "1.00" and [row[4:] for row in rows] == [["", "", ""]] * 11


def test_a_folder_or_packed_copy_of_one_s_own(experiment, tmp_path, capfd):
    """`--data`, and another dataset's name: transforms and all else that both have are kept."""
    photos = experiment.parent / "train"
    text = experiment.read_text().replace(
        f"dataroot: {photos}\n", f"dataroot: {photos}\n      extensions: [png]\n"
    )
    experiment.write_text(text)
    assert make_cache([str(photos), str(tmp_path / "packed"), "--tile-only", "--processes", "1"]) == 0
    common = ["-c", str(experiment), "--mode", "data", "--batch", "4", "--repeats", "1", "--json"]
    node = "dataloader.train.dataset"
    renamed = ["-o", f"{node}.name=PackedImages", f"{node}.dataroot={tmp_path}/packed"]
    found = []
    for more in (["--data", str(photos)], ["--data", str(tmp_path / "packed")], renamed):
        capfd.readouterr()
        assert benchmark([*common, *more]) == 0, capfd.readouterr().err
        out, err = capfd.readouterr()
        assert (f"{node}: PackedImages takes no extensions: left out" in err) == (more[-1] != str(photos))
        found.append(json.loads(out))
    stages = [[name for name in result if "us/image" in name] for result in found]
    assert stages[0] == stages[1] == stages[2] and len(stages[0]) > 3
    with pytest.raises(SystemExit):
        benchmark(["-c", str(experiment), "--data", str(photos)])
    assert "--data: goes with --mode data" in capfd.readouterr().err
