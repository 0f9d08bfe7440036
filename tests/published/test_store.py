"""Weights by name: fetched once, converted, kept with a note; in Python and by the commands."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from passl_sot import cli, create_model
from passl_sot.config import ConfigError, find_config, list_models, model_config
from passl_sot.engine.schema import load_config
from passl_sot.published.cards import Card, NotPublishedError, card_of, cards, find_card, unreleased
from passl_sot.published.fetch import FetchError
from passl_sot.published.store import local_source, local_weights, published_weights
from passl_sot.tasks.base import check_card, header_for
from passl_sot.utils.logger import get_logger
from passl_sot.weights import CheckpointError
from passl_sot.weights.checkpoint import read_checkpoint

PARAMETERS = Path(__file__).parent.parent / "fixtures" / "parameters"
OTHER_HEAD = """
model:
  architecture: {name: SoT, img_size: 32, embed_dim: 16, depth: 2, num_heads: 2, mlp_ratio: 2.0,
    token_embed: Naive_linear}
  head: {name: LinearHead, num_classes: 3, in_channels: 16}
"""


def same_logits(model, other) -> None:
    images = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 3, 32, 32), "f4"))
    np.testing.assert_array_equal(model(images).numpy(), other(images).numpy())


def test_every_model_has_a_card_or_says_why_not():
    shipped = set(cards())
    begun = {name for name in list_models() if name not in shipped and find_card(name)}
    assert set(list_models()) - shipped - begun == set(unreleased()) and not shipped & set(unreleased())
    for name, entry in unreleased().items():
        assert entry.get("nearest", "deit_tiny") in shipped
        with pytest.raises(NotPublishedError, match=f"no weights of {name} are published"):
            card_of(name)


def test_cards_are_in_order():
    for card in cards().values():
        assert not card.url or card.url.startswith("https://"), card
        assert card.url or card.drive, card
        assert not card.sha256 or f"-{card.sha256}.pth" in card.file, card
        assert 0 < card.sizes()[0] <= card.sizes()[1], card
        assert card.config in list_models(), card
        classes = model_config(card.config, tuple(card.settings))["model"]["head"]["num_classes"]
        assert (card.classes == "imagenet-1k") == (classes == 1000), card


def test_checkpoints_of_published_weights_say_enough_for_every_command():
    others = ("deit_small_distilled", "pit_s", "so_vit_7", "stvit_small", "t2t_vit_14_cifar10")
    for card in cards().values():
        if card.settings or card.name in others:
            experiment = load_config(find_config(card.config), card.settings)
            check_card(card.name, header_for(experiment))


def test_sizes():
    fields = {"name": "a", "page": "", "file": "a", "config": "deit_tiny"}
    assert Card(**fields, size=5).sizes() == (5, 5)
    least, most = Card(**fields, size="85.08 MB").sizes()
    assert least <= 85_080_000 <= 85.08 * 2**20 <= most < 1.01 * 85.08 * 2**20


def test_by_name(published, capfd):
    get_logger().setLevel(logging.INFO)  # a command of another test may have asked for less
    model = create_model(published.config, pretrained="tiny")
    said = capfd.readouterr().out
    assert "all keys accounted for" in said and "licence of the weights: not stated" in said
    same_logits(model, published.model)
    folder = published.home / "tiny"
    names = {".lock", "tiny.pth", "tiny.safetensors", "tiny.json"}
    assert {path.name for path in folder.iterdir()} == names
    note = json.loads((folder / "tiny.json").read_text())
    assert note["sha256"] == published.sha256 and note["url"] == published.web.address + "tiny.pth"
    assert note["code_license"] == "MIT" and note["weights_license"] == "not stated"
    # From then on nobody is asked.
    del published.web.answers["tiny.pth"]
    same_logits(create_model(published.config, pretrained="tiny"), published.model)
    assert published.web.asked == [("/tiny.pth", None)]
    fewer = create_model(published.config, pretrained="tiny", num_classes=2)
    assert set(fewer.weights_report.left_new) == {n for n in fewer.state_dict() if re.match(r"head\..*fc", n)}
    assert len(published.web.asked) == 1


def test_another_version_converts_anew_without_fetching(published):
    kept = local_weights("tiny")
    path = published.home / "tiny" / "tiny.json"
    note = json.loads(path.read_text())
    path.write_text(json.dumps({**note, "version": "0.0.1"}))
    kept.write_bytes(b"of another version")
    same_logits(create_model(published.config, pretrained="tiny"), published.model)
    assert json.loads(path.read_text()) == note and len(published.web.asked) == 1
    path.write_text("[]")
    with pytest.raises(CheckpointError, match=r"tiny\.json is damaged .*: delete it"):
        local_weights("tiny")


def test_a_read_only_folder_and_files_of_the_same_name(published, tmp_path, monkeypatch):
    kept = local_weights("tiny")
    (kept.parent / ".lock").unlink()
    kept.parent.chmod(0o555)
    monkeypatch.chdir(tmp_path)
    assert local_weights("tiny") == kept and not (kept.parent / ".lock").exists()
    for name in ("tiny.pdparams", "tiny/inference.yml"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        assert local_weights("tiny") == kept  # a folder alone is none
        file.touch()
        assert local_weights("tiny") == Path("tiny")
        assert published_weights("tiny") == kept
        file.unlink()
    kept.parent.chmod(0o755)


def test_offline_and_by_hand(published, monkeypatch):
    monkeypatch.setenv("PASSL_SOT_OFFLINE", "1")
    place = published.home / "tiny" / "tiny.pth"
    with pytest.raises(FetchError, match=r"PASSL_SOT_OFFLINE is set.*put it at " + re.escape(str(place))):
        local_weights("tiny")
    with pytest.raises(FetchError, match=r"-o model\.architecture\.img_size=384 model\.architecture\.window"):
        local_weights("swin_base_384")
    place.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=r"tiny\.pth: it has 14 bytes and should have .*: delete it"):
        local_weights("tiny")
    place.write_bytes(published.content)
    same_logits(create_model(published.config, pretrained="tiny"), published.model)
    assert json.loads((place.parent / "tiny.json").read_text())["url"] == "by hand"
    monkeypatch.setenv("PASSL_SOT_OFFLINE", "0")
    with pytest.raises(FetchError, match="can only be fetched by hand") as caught:
        local_weights("by_hand")
    place = published.home / "by_hand" / "hand.pth"
    for words in ("https://drive.google.com/x", "https://example.org/tiny", str(place), "passl-sot convert"):
        assert words in str(caught.value)
    place.write_text("<!DOCTYPE html>")
    with pytest.raises(CheckpointError, match=r"hand\.pth is a web page: the download failed"):
        local_weights("by_hand")
    place.write_bytes(published.content)
    assert local_weights("by_hand").is_file() and not published.web.asked


def test_a_mirror(published, monkeypatch):
    """Has all files, those of other places' pages too; hashes are the same."""
    monkeypatch.setenv("PASSL_SOT_MIRROR", published.web.address + "mirror/")
    for name in ("tiny.pth", "hand.pth"):
        published.web.put(f"mirror/{name}", published.content)
    assert local_weights("by_hand").is_file()
    assert local_source("tiny").read_bytes() == published.content
    assert [path for path, _ in published.web.asked] == ["/mirror/hand.pth", "/mirror/tiny.pth"]
    for file in (published.home / "tiny").iterdir():
        file.unlink()
    published.web.put("mirror/tiny.pth", published.content[:-1] + b"x")
    with pytest.raises(FetchError, match=r"its sha256 is .*By hand: fetch tiny\.pth from "):
        local_weights("tiny")


def test_a_password_in_a_mirrors_address_is_shown_nowhere(published, monkeypatch, capfd):
    monkeypatch.setenv("PASSL_SOT_MIRROR", published.web.address.replace("//", "//someone:secret@"))
    assert cli.export(["--weights", "tiny", "--out", str(published.home / "out")]) == 2
    said = "".join(capfd.readouterr())
    assert "holds a user's name or password" in said and "secret" not in said
    monkeypatch.setenv("PASSL_SOT_MIRROR", "file:///etc")
    with pytest.raises(FetchError, match="only https"):
        local_weights("tiny")


def test_a_link_in_a_shared_folder_is_not_written_through(published, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = published.home / "tiny"
    folder.mkdir(parents=True)
    for name in ("tiny.pth.part", "tiny.pth.part.tag"):
        (folder / name).symlink_to(victim)
    (folder / "tiny.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"tiny\.json is damaged"):
        local_weights("tiny")
    (folder / "tiny.json").unlink()
    local_weights("tiny")
    assert victim.read_text() == "mine"


def test_a_checksum_that_nobody_states_is_kept(published):
    source = local_source("unstated")
    source.unlink()
    published.web.put("unstated.pth", published.content + b"more")
    with pytest.raises(
        FetchError, match=r"its sha256 is .*have changed the file, delete .*unstated\.json too"
    ):
        local_source("unstated")
    published.web.put("unstated.pth", published.content)
    assert local_source("unstated").read_bytes() == published.content


def test_weights_that_do_not_convert_leave_no_result(published):
    text = published.cards.read_text().replace(f"config: {published.config}, top1", "config: deit_tiny, top1")
    published.cards.write_text(text)
    with pytest.raises(ValueError, match="for tiny: the state dict does not fit"):
        local_weights("tiny")
    assert {path.name for path in (published.home / "tiny").iterdir()} == {".lock", "tiny.pth"}


def test_a_card_with_faults(published):
    published.cards.write_text("families: {F: {page: p, files: {a: {file: ../a}}}}")
    with pytest.raises(ValueError, match=r"cards\.yaml: families\.F\.files\.a: no name of a file: '\.\./a'"):
        cards()
    published.cards.write_text("families: {F: {page: p, files: {a: {file: a, sise: 3}}}}")
    with pytest.raises(ValueError, match="sise"):
        cards()
    for entry, words in {
        "{file: '..', url: 'https://x/y'}": r"no name of a file: '\.\.'",
        "{file: .lock}": "no name of a file",
        "{file: a.json}": "no name of a file",
        "{file: a, sha256: 12345678}": r"cards\.yaml: families\.F\.files\.a\.sha256: expected text",
        "3": r"families\.F\.files\.a: must be a section",
    }.items():
        published.cards.write_text(f"families: {{F: {{page: p, files: {{a: {entry}}}}}}}")
        with pytest.raises(ConfigError, match=words):
            cards()
    for text in ("3", "families: 3", "families: {F: }", "unreleased: {a: 3}"):
        published.cards.write_text(text)
        with pytest.raises(ConfigError, match="must "):
            unreleased()
            cards()


def test_related_models_take_what_fits(published, tmp_path):
    config = tmp_path / "other.yaml"
    config.write_text(OTHER_HEAD)
    model = create_model(config, pretrained="tiny")
    report = model.weights_report
    assert report.ok and set(report.left_new) == {n for n in model.state_dict() if n.startswith("head.")}
    for name, value in published.model.backbone.state_dict().items():
        np.testing.assert_array_equal(model.backbone.state_dict()[name].numpy(), value.numpy())
    # The same weights as a file are strict, and those of quite another model refused.
    with pytest.raises(CheckpointError, match="doesn't fit the model"):
        create_model(config, pretrained=local_weights("tiny"))
    with pytest.raises(CheckpointError, match="these are weights of another model"):
        create_model("deit_tiny", pretrained="tiny", depth=1, img_size=32)


def test_names_without_weights(published):
    with pytest.raises(NotPublishedError, match="the nearest start is so_vit_14: pretrained='so_vit_14'"):
        create_model("sot_small", True)
    with pytest.raises(NotPublishedError, match="so_vit_7, of another width: nothing of it fits"):
        create_model("sot_tiny", pretrained=True)
    with pytest.raises(NotPublishedError, match="nearest start is tiny"):
        create_model("sot_tiny", pretrained="never")
    with pytest.raises(NotPublishedError, match="made by the demo"):
        create_model("sot_digits", pretrained=True)
    with pytest.raises(ValueError, match="pretrained=True is for models of list_models"):
        create_model(published.config, pretrained=True)
    with pytest.raises(TypeError, match="create_model has no weights here: write pretrained=FILE"):
        create_model("sot_tiny", weights="a.pdparams")


def test_the_commands(published, tmp_path, capfd):
    photos = published.folder
    short = ["epochs=1", f"output_dir={tmp_path}/out", "device=cpu"]
    assert cli.train(["--pretrained", "tiny", "-o", *short]) == 0
    assert "all keys accounted for" in capfd.readouterr().out
    best = read_checkpoint(tmp_path / "out" / "tiny" / "best")
    assert best.meta["class_names"] == ["a b", "c", "猫"]  # the data's
    out = tmp_path / "metrics.json"
    assert cli.evaluate(["--weights", "tiny", "--data", str(photos), "--out", str(out)]) == 0
    assert json.loads(out.read_text())["images"] == 9
    capfd.readouterr()
    assert cli.predict(["--weights", "tiny", str(photos / "val" / "c")]) == 0
    assert re.search(r"0\.png  [012]  \d+\.\d\d %", capfd.readouterr().out)
    dst = tmp_path / "mine.pdparams"
    assert cli.convert(["--config", str(published.config), "--src", "tiny", "--dst", str(dst)]) == 0
    same_logits(create_model(published.config, pretrained=dst), published.model)
    assert len(published.web.asked) == 1
    assert cli.train(["-c", str(published.config), "--pretrained", "never"]) == 2
    assert "error: no weights of never are published; the nearest start is tiny" in capfd.readouterr().err


def test_two_processes_fetch_once(published):
    code = "from passl_sot.published.store import local_source; local_source('tiny')"
    asked = published.web.answers["tiny.pth"]
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    second = []

    def answer(handler):
        # Only while the first is at it does the second begin; it says that it waits.
        second.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True))
        assert "waiting for the process that fetches tiny" in second[0].stdout.readline()
        asked(handler)

    published.web.answers["tiny.pth"] = answer
    assert "fetching tiny from http" in first.communicate()[0]
    assert "fetching" not in second[0].communicate()[0]
    assert (first.returncode, second[0].returncode, len(published.web.asked)) == (0, 0, 1)


def test_a_run_of_two_processes_fetches_once(published, launch):
    done = launch(2, "--pretrained", "tiny", "--dry-run")
    assert done.returncode == 0, done.stdout
    assert len(published.web.asked) == 1 and (published.home / "tiny" / "tiny.safetensors").is_file()


def test_the_nearest_starts_fit():
    """At least half of a model's parameters, by name and shape, or as the cards say none of its blocks'."""

    def shapes(name: str) -> set[str]:
        text = (PARAMETERS / f"{name}.txt").read_text(encoding="utf-8")
        return {" ".join(re.match(r"(\S+)\s+(\[[^]]*\])", line).groups()) for line in text.splitlines()}

    for name, entry in unreleased().items():
        if "nearest" in entry:
            wanted = shapes(name)
            fraction = len(wanted & shapes(entry["nearest"])) / len(wanted)
            assert fraction >= 0.5 if entry.get("fits", True) else fraction < 0.1, (name, fraction)
