"""The exact words of what the loader says about unreadable and malformed files."""

# ruff: noqa: E501 (messages are kept on one line)

import pickle
from pathlib import Path

import pytest

from passl_sot.config import ConfigError, Fault, Origin, get_config


def message(path: str) -> str:
    with pytest.raises(ConfigError) as caught:
        get_config(path)
    return str(caught.value)


CASES = {
    "tab": ("a: 1\nm:\n\tb: 3\n", "x.yaml:3: not valid YAML: a tab stands where YAML wants spaces; indent with "
            "spaces; the line reads: b: 3"),
    "empty": ("# nothing\n", "x.yaml: the file is empty"),
    "list": ("\n- a\n", "x.yaml:2: the top level must be keys with values (key: value); it is a list"),
    "scalar": ("a:3\n", "x.yaml:1: the top level must be keys with values (key: value); it is 'a:3' "
               "(a space must follow the colon)"),
    "colon": ("a: b: 3\n", "x.yaml:1: not valid YAML: a ':' where no key can stand; mend the indentation, or "
              "put quotes around text; the line reads: a: b: 3"),
    "indent": ("m:\n  a: 1\n b: 2\n", "x.yaml:3: not valid YAML: the line's indentation fits none of the lines "
               "above; the line reads: b: 2"),
    "bracket": ("a: [1, 2\nb: 3\n", "x.yaml:2: not valid YAML: a comma is missing, or the '[' of line 1 is "
                "never closed; the line reads: b: 3"),
    "flow_reference": ("m: {a: ${b.c}}\n", 'x.yaml:1: not valid YAML: inside [ ] or { } a reference needs quotes: '
                       '"${...}"; the line reads: m: {a: ${b.c}}'),
    "quote": ('a: "x\nb: 2\n', 'x.yaml:1: not valid YAML: a quote is opened and never closed; the line reads: '
              'a: "x'),
    "percent": ("a: %5\n", "x.yaml:1: not valid YAML: put quotes around text that begins with a special "
                "character; the line reads: a: %5"),
    "star": ("a: *.jpg\n", "x.yaml:1: not valid YAML: put quotes around text that begins with '*' or '&'; the "
             "line reads: a: *.jpg"),
    "two": ("a: 1\n---\nb: 2\n", "x.yaml:2: not valid YAML: a second document begins; a file holds only one; "
            "the line reads: ---"),
    "tag": ("a:\n  b: !foo c\n", "x.yaml:2: a.b: the tag '!foo' is not supported; values are plain YAML"),
    "number_key": ("1: a\n", "x.yaml:1: keys are text; YAML reads 1 as a number, so write '1' with the quotes"),
    "nested_number_key": ("m:\n  1.5: a\n", "x.yaml:2: m: keys are text; YAML reads 1.5 as a number, so write '1.5' "
                          "with the quotes"),
    "bool_key": ("m:\n  on: a\n", "x.yaml:2: m: keys are text; YAML reads on as true or false, so write 'on' with "
                 "the quotes"),
    "template": ("a: {{ b }}\n", "x.yaml:1: a: a key must be a single word, not a list or mapping (is a '{' or '[' "
                 "meant as text?)"),
    "alias": ("a: &x [1, *x]\n", "x.yaml:1: a.1: an alias (*) stands inside what it stands for"),
    "int": ("a: !!int x\n", "x.yaml:1: a: 'x' is not an integer"),
    "nul": ('a: 1\nb: "\0"\n', "x.yaml:2: the character '\\x00' is not allowed in YAML"),
    "deep": ("a: " + "[" * 150 + "]" * 150, "x.yaml:1: nested too deeply"),
    "laughs": ("a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)),
        "x.yaml:1: more than 100000 values; do aliases multiply?"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "line"), CASES.values(), ids=CASES.keys())
def test_malformed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: str):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(text, encoding="utf-8")
    assert message("x.yaml") == f"1 fault in the configuration:\n{line}\n（YAML 格式错误）"


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("secret token here\n", "it is no mapping"),
        ("- secret token\n", "it is no mapping"),
        ("root:*:secret token:0\n*secret\n", "x.conf:1: "),
        ("a: 1\n\tsecret: token\n", "x.conf:2: not valid YAML: a tab stands"),
        ("secret: 'token\n", "x.conf:1: not valid YAML: a quote is opened"),
        ('a: "\\Usecrettoken"\n', "x.conf:1: not valid YAML"),
        ("# secret\n", "x.conf: the file is empty"),
    ],
)
def test_nothing_of_a_base_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str, said: str):
    """A config may come from someone else, and name any file of this machine."""
    monkeypatch.chdir(tmp_path)
    Path("x.conf").write_text(secret, encoding="utf-8")
    Path("leaf.yaml").write_text("_base_: x.conf\n", encoding="utf-8")
    text = message("leaf.yaml")
    assert said in text and "secret" not in text and "token" not in text


def test_duplicate_keys_name_both_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text("a: 1\nm:\n  b: 1\n  c: 2\n  b: 3\na: 2\n", encoding="utf-8")
    assert message("x.yaml") == (
        "2 faults in the configuration:\n"
        "x.yaml:5: m.b: the key 'b' is given twice, first in line 3; keep one of the two\n"
        "x.yaml:6: a: the key 'a' is given twice, first in line 1; keep one of the two\n"
        "（重复的配置项）"
    )


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("configs/sot").mkdir(parents=True)
    Path("configs/sot/sot_small.yaml").write_text("a: 1\n", encoding="utf-8")
    Path("latin.yaml").write_bytes("a: 1\nb: caf\xe9\n".encode("latin-1"))
    tail = "（无法读取配置文件；是否想写 'configs/sot/sot_small.yaml'？）"
    for wrong in (
        "configs/sot/sot_smal.yaml",
        "config/sot_small.yaml",
        "sot_small.yaml",
        "configs/sot/sot_small",
    ):
        line = f"{wrong}: no such file; did you mean 'configs/sot/sot_small.yaml'?"
        assert message(wrong) == f"1 fault in the configuration:\n{line}\n{tail}"
    assert "configs/sot: this is a folder, not a file; it holds configs/sot/sot_small.yaml\n" in message(
        "configs/sot"
    )
    assert "latin.yaml:2: the file is not UTF-8 text; save it as UTF-8\n" in message("latin.yaml")
    assert "cannot be read" in message("a\0b")


def test_an_error_survives_pickling_and_is_a_value_error():
    error = ConfigError([Fault("a.b", "is wrong", Origin("x.yaml", 3), "type", "c")])
    twin = pickle.loads(pickle.dumps(error))
    assert isinstance(error, ValueError) and twin.faults == error.faults
    assert str(twin) == (
        "1 fault in the configuration:\nx.yaml:3: a.b: is wrong\n（值的类型不对；是否想写 'c'？）"
    )
