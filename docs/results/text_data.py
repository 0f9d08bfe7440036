"""The data of text_study.py: real texts from two packages, as tables that TextTable reads.

Genres: passages of five sentences from the Brown corpus, labelled by genre; whole documents are held out.
Senses: an example sentence of WordNet and a definition, labelled by whether the word is used in that sense;
whole words are held out, and every definition is one that has examples, so that none betrays its label.
"""

import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

_PASSAGE = 5  # sentences
_EVERY = 5  # of so many documents of a genre, or words, one is held out
_GENRES = {
    "a": "reportage", "b": "editorial", "c": "reviews", "d": "religion", "e": "hobbies", "f": "lore",
    "g": "belles-lettres", "h": "government", "j": "learned", "k": "fiction", "l": "mystery",
    "m": "science fiction", "n": "adventure", "p": "romance", "r": "humor",
}  # fmt: skip
_POS = ("noun", "verb", "adj", "adv")
Row = dict[str, str]


def genres(folder: Path) -> tuple[list[Row], list[Row]]:
    """Passages of training and of held-out documents; `folder` holds the files ca01 to cr09."""
    documents: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob("c[a-r][0-9][0-9]")):
        documents[path.name[1]].append(path)
    train: list[Row] = []
    held_out: list[Row] = []
    for letter, paths in documents.items():
        for number, path in enumerate(paths):
            part = held_out if number % _EVERY == _EVERY - 1 else train
            sentences = _sentences(path)
            for i in range(0, len(sentences) - _PASSAGE + 1, _PASSAGE):
                part.append({"text": " ".join(sentences[i : i + _PASSAGE]), "label": _GENRES[letter]})
    rng = random.Random(0)
    rng.shuffle(train)
    rng.shuffle(held_out)
    return train, held_out


def _sentences(path: Path) -> list[str]:
    """The sentences of a document, whose words stand there as word/tag."""
    lines = path.read_text(encoding="latin-1").splitlines()
    words = [[word.rpartition("/")[0] for word in line.split()] for line in lines]
    return [" ".join(line).replace("``", '"').replace("''", '"') for line in words if line]


def senses(folder: Path) -> tuple[list[Row], list[Row]]:
    """Pairs of training and of held-out words; `folder` holds WordNet's data.noun and so on."""
    rng = random.Random(0)
    rows = [row for pos in _POS for row in _pairs(folder / f"data.{pos}", rng)]
    words = sorted({row["word"] for row in rows})
    rng.shuffle(words)
    held_out = {*words[::_EVERY]}
    rng.shuffle(rows)
    parts: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        parts[row.pop("word") in held_out].append(row)
    return parts


def _pairs(path: Path, rng: random.Random) -> Iterator[Row]:
    """A row for each example that holds its word, half of them with another sense of that word."""
    by_word = defaultdict(list)
    for words, definition, examples in _synsets(path):
        for word in words:
            by_word[word].append((definition, examples))
    seen = set()
    for word, entries in sorted(by_word.items()):
        if len(entries) < 2:
            continue
        for number, (definition, examples) in enumerate(entries):
            for example in examples:
                if example in seen or not re.search(rf"\b{re.escape(word)}", example, re.IGNORECASE):
                    continue
                seen.add(example)
                right = rng.random() < 0.5
                others = [text for i, (text, _) in enumerate(entries) if i != number]
                shown = definition if right else rng.choice(others)
                label = "this sense" if right else "another sense"
                yield {"word": word, "text": example, "definition": f"{word}: {shown}", "label": label}


def _synsets(path: Path) -> Iterator[tuple[list[str], str, list[str]]]:
    """Words, definition and examples of the synonym sets that have examples."""
    for line in path.read_text(encoding="latin-1").splitlines():
        if line.startswith(" "):  # the licence
            continue
        fields, _, gloss = line.partition(" | ")
        parts = fields.split()
        names = parts[4 : 4 + 2 * int(parts[3], 16) : 2]
        examples = re.findall(r'"([^"]+)"', gloss)
        definition = gloss.partition('; "')[0].strip()
        if examples and '"' not in definition:
            yield [re.sub(r"\(\w+\)$", "", name).replace("_", " ") for name in names], definition, examples


def write(rows: Sequence[Row], path: Path) -> None:
    """A file of a JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def baseline(train: Sequence[Row], held_out: Sequence[Row]) -> float:
    """Accuracy (%) of a logistic regression on TF-IDF of words and pairs of them."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True), LogisticRegression(C=10.0)
    )
    model.fit(*_texts_and_labels(train))
    return 100 * model.score(*_texts_and_labels(held_out))


def _texts_and_labels(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Texts, those of a pair as one, and labels."""
    texts = [" ".join(text for key, text in row.items() if key != "label") for row in rows]
    return texts, [row["label"] for row in rows]
