"""The shell: commands, options that stand for settings, names of other projects, and how much is said."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from passl_sot import __version__, cli
from passl_sot.cli.other_projects import _OPTIONS, _PADDLECLAS, _TIMM, override_here
from passl_sot.config import ConfigError, find_config, get_config, known_keys
from passl_sot.engine.schema import Experiment, load_config
from passl_sot.utils.logger import get_logger

DIGITS = ["-c", "sot_digits"]


@pytest.fixture(autouse=True)
def volume():
    """Leaves the logger as it was."""
    yield
    get_logger().setLevel("INFO")


@pytest.fixture
def shell(monkeypatch, capfd):
    """Runs `passl-sot` here: status, standard output, standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["passl-sot", *map(str, words)])
        try:
            status = cli.main()
        except SystemExit as end:
            status = end.code
        return status, *capfd.readouterr()

    return run


# -- commands -------------------------------------------------------------------------------------


def test_help_has_a_line_for_each_command(shell):
    status, out, err = shell("--help")
    assert (status, err) == (0, "")
    for name in cli.COMMANDS:
        assert re.search(rf"^  {name} +\w.{{10,80}}$", out, re.M), name
    assert shell() == (2, "", out)


def test_version_of_the_module(shell):
    assert shell("--version")[:2] == (0, f"passl_sot {__version__}\n")
    command = [sys.executable, "-m", "passl_sot", "--version"]
    assert subprocess.run(command, check=True, capture_output=True).stdout.decode() == shell("--version")[1]


@pytest.mark.parametrize(
    ("word", "said"),
    [("trian", "'train'"), ("evaluate", "'eval'"), ("infer", "'predict'"), ("make_cache", "'make-cache'")],
)
def test_the_nearest_command_is_named(shell, word, said):
    status, _, err = shell(word, "-c", "x")
    assert status == 2
    assert err.startswith(f"error: there is no command '{word}'; did you mean {said}?\n")


def test_options_follow_the_command(shell):
    assert "the command comes first" in shell("-c", "sot_small")[2]


# -- settings -------------------------------------------------------------------------------------


def test_plain_options_are_overrides_in_their_order(shell):
    words = ["--epochs=3", "-o", "epochs=4", "--lr=5e-4", "--seed=7", "--batch-size=8", "--output=2026"]
    status, out, _ = shell("print-config", *DIGITS, *words, "--epochs=5")
    assert status == 0
    for line in ("epochs: 5 ", "learning_rate: 0.0005 ", "seed: 7 ", "batch_size: 8 ", "output_dir: '2026' "):
        assert re.search(rf"^ *{line} *# command line$", out, re.M), line


def test_a_wrong_value_of_a_plain_option(shell):
    status, _, err = shell("train", *DIGITS, "--epochs", "many", "--dry-run")
    assert status == 2
    assert "command line: epochs: expected an integer, got 'many'" in err


def test_a_run_by_plain_options(experiment, tmp_path):
    words = ["--epochs", "1", "--batch-size", "4", "--output", str(tmp_path / "o 1"), "-q"]
    assert cli.train(["-c", str(experiment), *words]) == 0
    written = get_config(tmp_path / "o 1" / "run" / "config.yaml")
    assert (written.epochs, written.dataloader.train.sampler.batch_size) == (1, 4)
    weights = ["--weights", str(tmp_path / "o 1" / "run" / "best")]
    assert cli.evaluate(["-c", str(experiment), *weights, "--batch-size", "2"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--weight-decay", "0.1"], "--weight-decay is a setting: write -o optimizer.weight_decay=0.1"),
        (["--img_size=64"], "write -o model.architecture.img_size=64"),
        (["--model.head.num-classes", "5"], "write -o model.head.num_classes=5"),
        (["--warmup-epochs", "1", "--epochs", "2"], "write -o lr_scheduler.warmup_epochs=1"),
        (["--label-smoothing"], "write -o loss.label_smoothing=..."),
        (
            ["--num-workers", "4"],
            "-o dataloader.train.loader.num_workers=4 or -o dataloader.val.loader.num_workers=4",
        ),
        (["--drop-path", "0.1"], "did you mean '-o model.architecture.drop_path_rate=0.1'?"),
        (["--batch_size", "8"], "there is no option --batch_size; did you mean '--batch-size'?"),
        (["--rezume", "auto"], "did you mean '--resume'?"),
        (["epochs=3"], "unexpected argument 'epochs=3'; settings go after -o"),
    ],
)
def test_unknown_options_lead_to_known_ones(shell, words, said):
    status, out, err = shell("train", *DIGITS, *words)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("error:") == 1


def test_unknown_options_beside_a_config_that_cannot_be_read(shell):
    status, _, err = shell("train", "-c", "nothing", "--weight-decay", "1")
    assert (status, err) == (2, "error: there is no option --weight-decay\nsee: passl-sot train --help\n")


# -- other projects -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ours", "settings"),
    [
        ("swin_tiny_patch4_window7_224", "swin_tiny", []),
        ("swin_small_patch4_window7_224.ms_in1k", "swin_small", []),
        ("SwinTransformer_tiny_patch4_window7_224", "swin_tiny", []),
        ("swin_base_patch4_window12_384", "swin_base", ["img_size=384", "window_size=12"]),
        ("deit_tiny_patch16_224", "deit_tiny", []),
        ("DeiT_base_distilled_patch16_224", "deit_base_distilled", []),
        ("deit_base_patch16_384.fb_in1k", "deit_base_384", []),
        ("deit_base_distilled_patch16_384", "deit_base_distilled", ["img_size=384"]),
        ("pit_s_distilled_224", "pit_s_distilled", []),
        ("T2T_ViT_14", "t2t_vit_14", []),
        ("configs/SoT-Tiny.yaml", "sot_tiny", []),
    ],
)
def test_models_under_the_names_of_other_projects(name, ours, settings):
    with pytest.raises(ConfigError) as caught:
        find_config(name)
    said = str(caught.value)
    assert f"here it is '{ours}'" in said
    settings = [f"model.architecture.{text}" for text in settings]
    assert ("with -o " + " ".join(settings) in said) if settings else ("with -o" not in said)
    get_config(find_config(ours), settings)


def test_other_models_are_not_mistaken_for_ours():
    for name in ("swinv2_tiny_window8_256", "deit3_base_patch16_224", "vit_base_patch16_224", "384"):
        with pytest.raises(ConfigError) as caught:
            find_config(name)
        assert "here it is" not in str(caught.value)


def test_keys_of_paddleclas_lead_to_ours(shell):
    words = ["Global.epochs=3", "Optimizer.lr.learning_rate=0.1", "DataLoader.Eval.sampler.batch_size=4"]
    status, out, err = shell("train", *DIGITS, "-o", *words, "Global.image_shape=[3,64,64]", "Arch.name=x")
    assert (status, out) == (2, "")
    for line in (
        "Global.epochs=3 is PaddleClas's; here it is -o epochs=3\n",
        "here it is -o lr_scheduler.learning_rate=0.1\n",
        "here it is -o dataloader.val.sampler.batch_size=4\n",
        "here it is -o model.architecture.img_size=...\n",
        "here it is -c NAME",
    ):
        assert line in err
    assert override_here("epochs=3") is None


def test_options_of_timm_lead_to_ours(shell):
    status, _, err = shell("train", "--model", "deit_tiny_patch16_224", "--data-dir=x")
    assert status == 2
    assert err.startswith("error: there is no option --model; here it is -c NAME")
    assert "here it is --weights FILE" in shell("predict", "--checkpoint", "x", "photo.jpg")[2]
    assert "here it is" not in shell("predict", "--model", "x", "photo.jpg")[2]


def test_what_other_names_lead_to_exists():
    keys = known_keys(Experiment, find_config("sot_small"))
    sections = {key.rpartition(".")[0] for key in keys}
    for target in _PADDLECLAS.values():
        assert target in keys or target in sections, target
    for written in _TIMM.values():
        if written.startswith("-o "):
            load_config(find_config("sot_small"), written[3:].split())
    options = " ".join([*_TIMM.values(), *_OPTIONS.values()])
    for option in re.findall(r"--[\w-]+", options):
        assert any(f'"{option}"' in path.read_text() for path in Path(cli.__file__).parent.glob("*.py"))


# -- how much is said -----------------------------------------------------------------------------


def test_quiet_and_verbose(experiment, shell):
    train = ("train", "-c", experiment, "--epochs", "1", "--output", experiment.parent / "quiet")
    status, out, err = shell(*train, "-q")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"\[[\d:]+\] INFO finished: best top-1 .*\n", out)
    check = ("train", "-c", experiment, "--dry-run")
    assert "CPU settings" not in shell(*check)[1]
    assert "fast CPU settings: " in shell(*check, "-v")[1]
    assert "MALLOC_MMAP_MAX_" not in shell(*check)[1]
    assert shell(*check, "-q", "-v")[0] == 2
    weights = ("--weights", experiment.parent / "quiet" / "run" / "best")
    status, out, _ = shell("eval", "-c", experiment, *weights, "-q")
    assert sorted(line.split()[2] for line in out.splitlines()) == ["ema", "raw"]


def test_paddle_says_nothing_that_needs_no_action(experiment, tool):
    done = tool("train", "-c", experiment, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
