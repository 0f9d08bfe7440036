"""The findings of `passl-sot doctor`, and where its numbers come from."""

import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest

from passl_sot.cli import doctor as command
from passl_sot.cli.doctor import FAMILIES, first_logits
from passl_sot.config import get_config, list_models
from passl_sot.zoo import find_config

doctor = sys.modules["passl_sot.cli.doctor"]  # by its name alone one gets the function
Usage = namedtuple("Usage", "total free")
REPORT = {
    "paddle": "3.3.1",
    "devices": "no GPU",
    "families": {"cpu": {"sot_tiny": 1e-7}},
    "gflops": 90.0,
    "images_per_s": 20.0,
}


def test_there_is_a_model_of_every_family_of_images():
    images = [name for name in list_models() if find_config(name).parent.name != "text"]
    names = [get_config(find_config(name)).model.architecture.name for name in images]
    assert {get_config(find_config(name)).model.architecture.name for name in FAMILIES} == set(names)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_numbers_are_those_of_float64(name):
    """Of the code that the golden tests hold against the official one. float32 stays far below the limit."""
    expected = FAMILIES[name][1]
    np.testing.assert_allclose(first_logits(name, "float64"), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(first_logits(name), expected, rtol=0, atol=2e-5)


@pytest.fixture
def look(monkeypatch, capsys):
    """Runs the command with stand-ins for its measurements; gives its status and its lines."""

    def run(bare: dict | None = None, **changes) -> tuple[int, str]:
        reports = {"examine": {**REPORT, **changes}, "measure": {**REPORT, **(bare or {})}}
        monkeypatch.setattr(doctor, "_in_process", lambda environment, function: reports[function])
        return command([]), capsys.readouterr().out

    return run


def test_a_fit_machine(look):
    status, text = look({"gflops": 30.0, "images_per_s": 10.0})
    assert status == 0 and text.splitlines()[-1] == "fit for work"
    assert "a matrix product 3.00 times as fast (90 GFLOP/s), deit_tiny 2.00 times (20.0 images/s)" in text
    assert "FLAGS_use_stride_kernel=0" in text


@pytest.mark.parametrize("difference", [1e-3, float("nan")])
def test_wrong_logits_are_a_fault(look, difference):
    status, text = look(families={"cpu": {"sot_tiny": 1e-7, "swin_tiny": difference}})
    assert status == 1 and text.splitlines()[-1].startswith("1 fault")
    assert "FAULT swin_tiny" in text and "ok    sot_tiny" in text


def test_settings_that_slow_down_are_noted(look):
    status, text = look({"images_per_s": 40.0})
    assert status == 0 and "note  CPU settings" in text and "--no-tune" in text


def test_what_is_missing_is_named_with_its_cure(look, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    status, text = look()
    assert status == 0  # slower, and nothing else
    assert "note  numba" in text and "mend it by: pip install 'passl_sot[fast]'" in text
    monkeypatch.setitem(sys.modules, "safetensors", None)
    status, text = look()
    assert status == 1 and "FAULT safetensors" in text
    assert "ok    extra export" in text
    monkeypatch.setitem(doctor._EXTRAS, "export", (("json", "no_such_module"), "no ONNX"))
    _, text = look()
    assert "note  extra export      no_such_module not installed: no ONNX" in text
    assert "mend it by: pip install 'passl_sot[export]'" in text


def test_a_full_disk_and_a_small_shared_memory(look, monkeypatch):
    small = Usage(total=64 * 2**20, free=10 * 2**20)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: small)
    status, text = look()
    assert status == 1
    assert "FAULT disk" in text and "output_dir=ELSEWHERE" in text
    assert "--shm-size" in text


def test_a_paddle_that_crashes_is_a_finding(monkeypatch, capsys):
    def crash(*_, **__) -> subprocess.CompletedProcess:
        return subprocess.CompletedProcess([], -4, "", "warning\nIllegal instruction\n")

    monkeypatch.setattr(doctor.subprocess, "run", crash)
    assert command([]) == 1
    text = capsys.readouterr().out
    assert "FAULT paddle" in text and "status -4: Illegal instruction" in text
    assert "pip install paddlepaddle==3.3.1 --force-reinstall" in text


def test_both_environments(monkeypatch):
    """The user's own settings stay in both; those that an earlier restart made count as ours."""
    seen = {}
    monkeypatch.setattr(doctor, "settings", lambda cpu: {"FLAGS_a": "0", "MKL_b": "7"})
    monkeypatch.setattr(
        doctor, "_in_process", lambda environment, function: seen.update({function: environment}) or REPORT
    )
    monkeypatch.setenv("FLAGS_a", "mine")
    monkeypatch.delenv(doctor.MARK, raising=False)
    list(doctor._paddle())
    assert (seen["examine"]["FLAGS_a"], seen["examine"]["MKL_b"]) == ("mine", "7")
    assert "MKL_b" not in seen["measure"]
    monkeypatch.setenv(doctor.MARK, "1")
    list(doctor._paddle())
    assert seen["examine"]["FLAGS_a"] == "0" and "FLAGS_a" not in seen["measure"]
