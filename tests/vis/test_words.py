"""Words of texts in colours: word pieces merged, any script, either direction."""

import re

import numpy as np
import pytest

from passl_sot.data.token_files import TokenizerSection
from passl_sot.data.tokens import Place, Tokenizer
from passl_sot.vis import words
from passl_sot.vis.curves import HIGH, WIDE
from passl_sot.vis.overlay import Caption
from passl_sot.vis.words import Piece, Sentence, pieces_of
from tests.data.text_files import write_bpe, write_vocab


@pytest.fixture(scope="module", params=["wordpiece", "roberta", "gpt"])
def tokenizer(request, tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokens")
    section = write_vocab(folder) if request.param == "wordpiece" else write_bpe(folder, request.param)
    return Tokenizer.from_files(TokenizerSection(**section), 16)


def boxes(pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces if piece.value is not None]


def test_each_token_has_its_place(tokenizer):
    for text in ("thedog, 它是", ("the cat", "a dog"), "the cat sat on the mat " * 5):
        ids = tokenizer.encode([text])[0].ids.tolist()
        places = tokenizer.places(text)
        assert len(places) == len(ids) <= 16
        assert [place is None for place in places] == [number in tokenizer.added_ids for number in ids]
        texts = text if isinstance(text, tuple) else (text,)
        assert {place.text for place in places if place} == set(range(len(texts)))
        assert tokenizer.mask_id not in set(ids) - {tokenizer.pad_id}
    # An unknown word is no special token: its relevance counts.
    assert tokenizer.unknown_id not in tokenizer.added_ids


def test_tokens_of_a_word_share_a_box(tokenizer):
    text = "the thedog sat"
    places = tokenizer.places(text)
    assert len([place for place in places if place]) > 3
    scores = np.arange(20.0)  # as padded
    (pieces,) = pieces_of([text], places, scores)
    assert "".join(piece.text for piece in pieces) == text
    assert boxes(pieces) == ["the", "thedog", "sat"]
    values = [piece.value for piece in pieces if piece.value is not None]
    # The greatest of a word's tokens, scaled over the words.
    best = [
        max(s for s, p in zip(scores, places, strict=False) if p and p.word == word)
        for word in dict.fromkeys(p.word for p in places if p)
    ]
    assert values == pytest.approx([(b - best[0]) / (best[-1] - best[0]) for b in best])


def test_what_is_cut_off_has_no_box(tokenizer):
    text = "the cat " * 200
    (pieces,) = pieces_of([text], tokenizer.places(text), np.ones(16))
    assert set(boxes(pieces)) <= {"the", "cat"} and 4 < len(boxes(pieces)) < 16
    assert pieces[-1].value is None and pieces[-1].text.endswith("…") and len(pieces[-1].text) == 201
    first, second = pieces_of(("它是", ""), tokenizer.places(("它是", "")), np.ones(16))
    assert ("".join(boxes(first)), second) == ("它是", [])
    # Of equal words none is ahead.
    assert {piece.value for piece in first} == {0.0}


def test_colours_run_linearly_from_blue_to_green():
    def rgb(value: float) -> np.ndarray:
        return np.array([int(part, 16) for part in re.findall("..", words.color_of(value)[0][1:])])

    weak, strong = rgb(0), rgb(1)
    assert weak.argmax() == 2 and strong.argmax() == 1
    assert np.abs(rgb(0.25) - (0.75 * weak + 0.25 * strong)).max() <= 1
    assert [words.color_of(value)[1] for value in (0, 1)] == ["#ffffff", "#000000"]


def test_words_stand_in_the_order_in_which_they_are_read():
    def seen(text: str, from_right: bool) -> str:
        line = [words._Box(word, 1, 0.5) for word in text.split()]
        return " ".join(box.text for box in words._as_seen(line, from_right))

    assert seen("the שלום עולם cat", False) == "the עולם שלום cat"
    assert seen("القط على the mat هنا", True) == "هنا the mat على القط"
    assert words.runs_leftwards("12. שלום cat") and not words.runs_leftwards("12. cat שלום")
    assert not words.runs_leftwards("…")


def test_a_sheet_has_room_for_every_script():
    pieces = [Piece("猫" * 200, 1.0), Piece(" "), *(Piece("שלום", 0.0), Piece(" ")) * 60, Piece("rest …")]
    chart = np.zeros((2 * HIGH, 2 * WIDE, 3), np.uint8)
    rows = {
        'What speaks for "$x$"': [
            Sentence([pieces, pieces[2:4]], Caption("ClassT", "猫 99 %", True, "n", chart))
        ]
        * 4
    }
    figure = words.sheet("1. 猫", rows)
    width, height = figure.get_size_inches() * figure.dpi
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, text
    assert sum(text.get_text() == "שלום" for text in figure.texts) == 4 * 61


def test_markup_escapes():
    sentence = Sentence([[Piece("<b>", 0.5), Piece(" & ")]], Caption("<i>", "<u>", None, "<s>"))
    html = words.markup(sentence)
    assert not re.search("<[bius]>", html.replace("<b>&lt;i&gt;</b>", "")) and "&amp;" in html


def test_places_of_the_second_text_count_there():
    places = [None, Place(0, 0, 0, 2), None, Place(1, 0, 0, 1), Place(1, 0, 1, 2), Place(1, 1, 3, 3)]
    first, second = pieces_of(("ab", "cd e"), places, np.array([9.0, 1, 9, 5, 2, 7]))
    assert first == [Piece("ab", 0.0)]
    assert second == [Piece("cd", 1.0), Piece(" e")]
