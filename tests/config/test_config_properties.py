"""Properties that hold for any configuration, found by hypothesis."""

import copy
import pickle
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from passl_sot.config import Config, ConfigError, diff, format_tree, get_config, nearest

FAST = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

text = st.text(max_size=8) | st.sampled_from(
    ["5e-4", "1e", "yes", "12:30", "null", "${a}", "$${", "=", "<<", "~"]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text
keys = st.text(min_size=1, max_size=6).filter(lambda key: key != "_base_") | st.sampled_from(
    ["name", "a", "b"]
)
simple_keys = st.sampled_from(["a", "b", "c", "name", "items", "drop_path", "0"])


def trees(key: st.SearchStrategy[str]) -> st.SearchStrategy[dict]:
    values = st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(key, inner, max_size=3),
        max_leaves=8,
    )
    return st.dictionaries(key, values, max_size=4)


def write(folder: str, content: str, name: str = "x.yaml") -> Path:
    path = Path(folder) / name
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    return path


@FAST
@given(trees(keys))
def test_dump_and_tree_load_back(parse_config, tree: dict):
    cfg = Config(tree)
    again = parse_config(cfg.dump())
    assert again.to_dict() == tree and list(again) == list(tree)
    assert diff(cfg, again) == ""
    assert pickle.loads(pickle.dumps(again)) == again == copy.deepcopy(again)
    assert parse_config(format_tree(cfg)).to_dict() == tree or any("\n" in str(key) for key in tree)


@FAST
@given(trees(simple_keys), trees(simple_keys))
def test_merging(a: dict, b: dict):
    def merged(*trees: dict) -> Config:
        with tempfile.TemporaryDirectory() as folder:
            for number, tree in enumerate(trees):
                write(folder, Config(tree).dump(), f"{number}.yaml")
            bases = [f"{number}.yaml" for number in range(len(trees))]
            return get_config(write(folder, Config(_base_=bases).dump()))

    once = merged(a, b)
    assert merged(a, b, b) == once  # idempotent
    assert merged({}, b) == b and merged(a, {}) == a
    assert set(once) == set(a) | set(b)
    assert all(once[key] == b[key] for key in b if not isinstance(b[key], dict))


@FAST
@given(trees(simple_keys), st.data())
def test_an_override_is_read_back(tree: dict, data: st.DataObject):
    with tempfile.TemporaryDirectory() as folder:
        file = write(folder, Config(tree).dump())
        path = ".".join(data.draw(st.lists(st.sampled_from(["x", "y", "z"]), min_size=1, max_size=4)))
        value = data.draw(scalars)
        source = Config(v=value).dump().partition(":")[2].strip()
        cfg = get_config(file, [f"+{path}={source}"])
        got: object = cfg
        for part in path.split("."):
            got = got[part]  # type: ignore[index]
        assert got == value and type(got) is type(value)
        assert {key: item for key, item in cfg.to_dict().items() if key not in "xyz"} == tree
        assert get_config(file, [f"{path}={source}"][:0]).to_dict() == tree


@FAST
@given(st.text(max_size=60) | st.text(alphabet="ab:-[]{}&*!#|>'\"%@`,? \n\t0.$=_<", max_size=60))
def test_random_text_gives_a_config_or_a_config_error(parse_config, content: str):
    with tempfile.TemporaryDirectory() as folder:
        try:
            cfg = get_config(write(folder, content))
        except ConfigError as error:
            assert str(error) and error.faults
        else:
            assert parse_config(cfg.dump()) == cfg or ".nan" in cfg.dump()


@FAST
@given(trees(simple_keys), st.lists(st.text(alphabet="abc.0=+-[]{}:$ name", max_size=16), max_size=4))
def test_random_overrides_give_a_config_or_a_config_error(tree: dict, overrides: list[str]):
    with tempfile.TemporaryDirectory() as folder:
        file = write(folder, Config(tree).dump())
        try:
            get_config(file, overrides)
        except ConfigError as error:
            assert str(error)


@FAST
@given(
    st.dictionaries(
        simple_keys, st.sampled_from(["${a}", "${b.c}", "${c}", "$${a}", "${name.0}"]) | trees(simple_keys)
    )
)
def test_random_references_end(tree: dict):
    with tempfile.TemporaryDirectory() as folder:
        file = write(folder, Config(tree).dump().replace("$$", "$"))
        try:
            get_config(file)
        except ConfigError as error:
            assert str(error)


@FAST
@given(st.text(max_size=12), st.lists(st.text(max_size=12)))
def test_nearest_is_one_of_the_candidates(word: str, names: list[str]):
    near = nearest(word, names)
    assert near is None or (near in names and near != word)
