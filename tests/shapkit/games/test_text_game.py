"""Games of texts: which words there are, what is left without them, and what is refused."""

import pickle

import numpy as np
import pytest

import shapkit
from shapkit import exact, text_game

SCORES = {"good": 2.0, "bad": -3.0, "not": 0.5}


def score(texts):
    return [sum(SCORES.get(word.strip(".,").lower(), 0.0) for word in text.split()) for text in texts]


def test_words_that_add_up_have_their_scores():
    found = exact(text_game(score, "A good film, not bad."))
    assert found.names == ("A", "good", "film,", "not", "bad.")
    np.testing.assert_allclose(found.values, [0, 2, 0, 0.5, -3], atol=1e-12)


def test_absent_words_are_left_out_or_masked():
    seen = []

    def predict(texts):
        seen.extend(texts)
        return [len(text) for text in texts]

    some = np.array([[True, False, True]])
    text_game(predict, "  one two\nthree ")(some)
    text_game(predict, "  one two\nthree ", absent="[MASK]")(some)
    text_game(predict, ["un", "##believ", "able"], join=" ".join)(some)
    text_game(predict, "one-two-three", tokenizer=lambda text: text.split("-"), join="-".join)(some)
    assert seen == ["  one three ", "  one [MASK]\nthree ", "un able", "one-three"]


def test_words_that_come_again_are_numbered():
    assert text_game(score, "good good bad").names == ("good", "good (2)", "bad")
    assert text_game(score, ["a", "a (2)", "a"]).names == ("0: a", "1: a (2)", "2: a")
    assert text_game(score, ["a", " "]).names == ("a", "token 1")


def test_several_outputs_tensors_and_other_processes():
    torch = pytest.importorskip("torch")

    def predict(texts):
        return torch.tensor([[len(text), -len(text)] for text in texts], dtype=torch.float32, requires_grad=True)

    found = exact(text_game(predict, "one three"))
    np.testing.assert_allclose(found.values, [[4, -4], [5, -5]])
    copied = pickle.loads(pickle.dumps(text_game(score, "good bad")))
    np.testing.assert_allclose(exact(copied).values, [2, -3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "   "}, "text must be a text with words in it, or a list of tokens"),
        ({"text": [1, 2]}, "text must be a text with words in it, or a list of tokens"),
        ({"predict": "score"}, "predict must be a function of a list of texts, got str"),
        ({"predict": lambda texts: 1.0}, r"predict returned shape \(\) for 1 texts, expected \(1, ...\)"),
        ({"predict": lambda texts: ["x"] * len(texts)}, "predict's result holds dtype"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        exact(text_game(**{"predict": score, "text": "good bad"} | arguments))


def test_the_text_is_shown_with_its_values():
    found = exact(text_game(score, "A good & <bad> film"))
    html = shapkit.text_html(found)
    assert "&lt;bad&gt;" in html and "&amp;" in html and html.count("<span") == 6
    grounds = [part.split(";")[0] for part in html.split("background:")[1:]]
    assert grounds[1].startswith("rgba(0,114,178,0.65") and grounds[0].endswith("0.00)")
    exact_text = shapkit.text_html(found, ["A ", "good ", "& ", "<bad> ", "film"])
    assert ">good </span>" in exact_text
    with pytest.raises(ValueError, match="tokens has 2 entries, expected 5"):
        shapkit.text_html(found, ["a", "b"])
