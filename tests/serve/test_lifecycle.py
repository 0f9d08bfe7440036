"""From start to end: what can't be served, newer models, several processes, SIGTERM."""

import http.client
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from passl_sot.serve.hosted import Hosted
from passl_sot.serve.metrics import Metrics
from passl_sot.serve.settings import Settings
from passl_sot.weights.checkpoint import CheckpointError

pytestmark = pytest.mark.slow


def wait_for(what, process: subprocess.Popen) -> None:
    """Waits until something is true, as long as the server lives."""
    while not what():
        assert process.poll() is None
        time.sleep(0.05)


def children(process: subprocess.Popen) -> list[int]:
    """Process numbers of the workers: those that serve, not Python's own helper."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
    return [int(pid) for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture
def copy(tiny, tmp_path) -> Path:
    """A checkpoint of the test's own."""
    return Path(shutil.copy(tiny, tmp_path / "model.safetensors"))


def test_newer_models_and_the_end(serving, copy, ask, images):
    """One server sees it all: exchange by the path and by SIGHUP, a faulty file, and a drained end."""
    with serving.serving(copy, "--watch", 0.2, "--timeout", 600) as server:
        process = server.process

        def names() -> list[str]:
            return ask(server, "GET", "/model").json["class_names"]

        # The file is replaced, as training does it.
        newer = copy.with_name("newer.safetensors")
        serving.write_random(newer, "sot_digits", serving.TINY, ("甲", "乙"))
        kept = newer.read_bytes()
        newer.replace(copy)
        wait_for(lambda: names() == ["甲", "乙"], process)
        (row,) = ask(server, "POST", "/predict", [images[0]]).json["predictions"]
        assert sorted(row["names"]) == ["乙", "甲"]
        # A faulty one: the older goes on, and /model, the log and a metric say so.
        copy.with_name("faulty").write_bytes(kept[: len(kept) // 2])
        copy.with_name("faulty").replace(copy)
        wait_for(lambda: ask(server, "GET", "/model").json["fault"], process)
        assert names() == ["甲", "乙"]
        assert ask(server, "POST", "/predict", [images[0]]).json["predictions"] == [row]
        assert 'loads_total{result="refused"} 1.0' in ask(server, "GET", "/metrics").text
        said = Path(f"{copy}.log").read_text(encoding="utf-8")
        assert "the newer model is refused, and the older stays in service" in said
        # Whole again. By SIGHUP too, though nothing has changed.
        copy.write_bytes(kept)
        wait_for(lambda: not ask(server, "GET", "/model").json["fault"], process)
        since = ask(server, "GET", "/model").json["since"]
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: ask(server, "GET", "/model").json["since"] > since, process)
        # SIGTERM while a request is being sent: it is answered, others are not let in.
        body, headers = serving.form(images)
        running = http.client.HTTPConnection(server.address)
        running.putrequest("POST", "/predict")
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            running.putheader(key, value)
        running.endheaders(body[:100])
        wait_for(lambda: "queue_length 1.0" in ask(server, "GET", "/metrics").text, process)
        process.terminate()
        wait_for(lambda: ask(server, "GET", "/ready").status == 503, process)
        assert ask(server, "GET", "/health").status == 200
        refused = ask(server, "POST", "/predict", [images[0]])
        assert (refused.status, refused.json["error"]["code"]) == (503, "shutting_down")
        running.send(body[100:])
        answer = running.getresponse()
        assert answer.status == 200 and answer.read()
        assert process.wait() == 0
    said = Path(f"{copy}.log").read_text(encoding="utf-8")
    assert "Traceback" not in said


def test_several_processes(serving, copy, ask, images, number):
    with serving.serving(copy, "--workers", 2) as server:
        process = server.process
        wait_for(lambda: len(children(process)) == 2, process)
        for _ in range(20):
            assert ask(server, "POST", "/predict", [images[0]]).status == 200
        # The sum of both, whichever is asked.
        for _ in range(4):
            assert number(server, "passl_sot_batch_size_count") == 20
        before = children(process)
        wait_for(lambda: number(server, "passl_sot_model_loads_total", result="loaded") == 2, process)
        away = copy.rename(f"{copy}.away")
        os.kill(before[0], signal.SIGKILL)
        # The one in its place finds no model, and is tried until it does; the other goes on.
        log = Path(f"{copy}.log")
        wait_for(lambda: "error: no weights file" in log.read_text(encoding="utf-8"), process)
        assert ask(server, "POST", "/predict", [images[0]]).status == 200
        away.rename(copy)
        wait_for(lambda: number(server, "passl_sot_model_loads_total", result="loaded") == 3, process)
        for _ in range(10):
            assert ask(server, "POST", "/predict", [images[0]]).status == 200
        assert number(server, "passl_sot_requests_total", path="/predict", status="200") == 31
        process.send_signal(signal.SIGHUP)
        loads = number(server, "passl_sot_model_loads_total", result="loaded")
        wait_for(lambda: number(server, "passl_sot_model_loads_total", result="loaded") > loads, process)
        workers = children(process)
        process.terminate()
        assert process.wait() == 0
        assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    said = Path(f"{copy}.log").read_text(encoding="utf-8")
    assert "loading " in said.splitlines()[0]
    assert "Traceback" not in said
    # At most that of the process that was killed.
    assert re.findall(r"appear to be (\d+) leaked", said) in ([], ["1"])


def test_a_model_that_changes_while_it_is_loaded_is_not_served(copy):
    done = threading.Event()

    def touch() -> None:
        for second in itertools.count():
            os.utime(copy, (second, second))
            if done.wait(0.001):
                return

    with ThreadPoolExecutor() as pool:
        pool.submit(touch)
        with pytest.raises(CheckpointError, match="changes again and again while it is loaded"):
            Hosted(Settings(source=str(copy)), Metrics())
        done.set()
    assert Hosted(Settings(source=str(copy)), Metrics()).now.name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max-batch", "0"], "--max-batch must be at least 1"),
        (["--timeout", "nan"], "--timeout must be at least 0.1"),
        (["--host", ""], "--host is empty"),
        (["--port", "70000"], "--port must be from 0 to 65535"),
        (["--precision", "f64"], "invalid choice: 'f64'"),
        (["--max-queue", "9"], "--max-queue must be at least --max-files (64)"),
    ],
)
def test_options_are_checked(words, said, invoke):
    done = invoke("serve", "model", *words)
    assert done.returncode == 2
    assert said in done.stderr


def test_what_cannot_be_served_is_one_line(tiny, server, tmp_path, invoke, tool):
    port = server.address.partition(":")[2]
    done = invoke("serve", tiny, "--port", port)
    assert done.returncode == 2
    assert f"error: can't listen on 127.0.0.1, port {port} (Address already in use)" in done.stderr
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(tiny.read_bytes()[:5000])
    done = invoke("serve", damaged, "--port", 0)
    assert done.returncode == 2
    assert str(damaged) in done.stderr
    # Of several processes, the first says it for all.
    done = tool("serve", damaged, "--port", 0, "--workers", 3)
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr


def test_missing_packages_are_named(tiny, monkeypatch, invoke):
    for name in ("fastapi", "prometheus_client"):
        monkeypatch.setitem(sys.modules, name, None)
    done = invoke("serve", tiny)
    assert done.returncode == 2
    assert "serving needs fastapi, prometheus_client: run `pip install 'passl_sot[serve]'`" in done.stderr


def test_memory_is_flat(serving, server):
    """As docs/results/serving.py measures it, with fewer requests."""
    began = server.cpu_time()
    first, *_, last = serving.memory_over(server, 300, 60, clients=4, largest=200)
    assert last < first + 20
    assert server.cpu_time() > began
