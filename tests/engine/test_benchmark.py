"""The benchmark tool with real peers: it alternates, takes medians, and says what a bad peer did."""

import json
import shlex
import sys

import pytest

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
def test_figures_and_ratio(experiment, tool, peer, mode):
    # Two answers while we warm up, then 0.5 s at the median of 0.4, 0.5, 0.9.
    command = peer("[99, 99, 0.4, 0.9, 0.5][number]")
    arguments = ["--mode", mode, "--batch", 4, "--repeats", 3, "--json", "--compare", command]
    done = tool("benchmark", "-c", experiment, *arguments)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["peer_seconds"] == 0.5
    assert result["ratio"] == pytest.approx(0.5 / result["seconds"])
    assert result["images_per_s"] == pytest.approx(4 / result["seconds"])
    passes = 3 if mode == "train" else 1
    assert result["gflops_per_s"] == pytest.approx(passes * result["gflops"] * result["images_per_s"])
    assert 0.1 < result["memory_gb"] < 10


def test_without_a_peer(experiment, tool):
    done = tool("benchmark", "-c", experiment, "--repeats", 1)
    assert done.returncode == 0, done.stderr
    assert "images_per_s" in done.stdout
    assert "ratio" not in done.stdout


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("'fast'", "printed 'fast' where the seconds"),
        ("sys.exit(3)", "ended with status 3 before it printed"),
    ],
)
def test_a_peer_that_breaks_the_protocol(experiment, tool, peer, answer, message):
    done = tool("benchmark", "-c", experiment, "--compare", peer(answer))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_peer_that_is_not_there(experiment, tool):
    done = tool("benchmark", "-c", experiment, "--compare", "no-such-program 1")
    assert done.returncode == 2
    assert "can't start 'no-such-program 1'" in done.stderr


def test_the_input_pipeline_by_stages(experiment, tool, peer):
    # Seconds of a batch of 4: 0.2 at the median of the two that count.
    command = peer("[99, 0.1, 0.3][number]")
    arguments = ["--mode", "data", "--batch", 4, "--repeats", 2, "--json", "--compare", command]
    done = tool("benchmark", "-c", experiment, *arguments)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    stages = ["read", "decode, RandomResizedCrop", "RandomHorizontalFlip", "Normalize", "batch: stack"]
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


def test_a_peer_by_its_name_needs_its_library(experiment, tool):
    done = tool("benchmark", "-c", experiment, "--mode", "data", "--repeats", 1, "--compare", "timm")
    if done.returncode == 0:  # an interpreter that has it
        assert "ratio to peer" in done.stdout
    else:
        assert done.returncode == 2
        assert "data_peers.py timm" in done.stderr and "ended with status 1 before it printed" in done.stderr
        assert "No module named" in done.stderr
