"""More than sixty wrong calls, each answered by one sentence that names what was wrong."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import shapkit
from shapkit import table_game

ROOT = Path(shapkit.__file__).parent
GAME = table_game([0.0, 1.0, 2.0, 5.0], names=["a", "b"])
MANY = shapkit.weighted_voting(range(1, 31), quota=200)
ROWS = np.random.default_rng(0).normal(size=(20, 3))
ROW = ROWS[0]
IMAGE = np.zeros((8, 8))


def linear(rows):
    return np.asarray(rows) @ np.ones(3)


PHI = shapkit.exact(GAME)

CALLS = {
    # games
    "value": lambda: shapkit.Game([1, 2], 2),
    "n_players": lambda: shapkit.Game(len, -1),
    "n_players as a float": lambda: shapkit.Game(len, 2.0),
    "names": lambda: shapkit.Game(len, 2, names=["a"]),
    "names twice": lambda: shapkit.Game(len, 2, names=["a", "a"]),
    "names as a string": lambda: shapkit.Game(len, 2, names="ab"),
    "batch_size": lambda: shapkit.Game(len, 2, batch_size=0),
    "executor": lambda: shapkit.Game(len, 2, executor=4),
    "coalitions of integers": lambda: GAME(np.array([[0, 1]])),
    "coalitions of one axis": lambda: GAME(np.array([True, False])),
    "value returned": lambda: shapkit.Game(lambda coalitions: ["x"] * len(coalitions), 2)(np.ones((1, 2), bool)),
    "value returned NaN": lambda: shapkit.Game(lambda c: np.full(len(c), np.nan), 2)(np.ones((1, 2), bool)),
    "value returned shape": lambda: shapkit.Game(lambda c: 1.0, 2)(np.ones((3, 2), bool)),
    "values of a table": lambda: table_game([1, 2, 3]),
    "weights": lambda: shapkit.weighted_voting(["x"], quota=1),
    "costs": lambda: shapkit.airport_game([-1, 2]),
    "player of a carrier": lambda: shapkit.unanimity_sum(2, [(0, 5)], [1.0]),
    # models
    "predict": lambda: shapkit.model_game(3, ROW, ROWS),
    "row": lambda: shapkit.model_game(linear, ROW[:2], ROWS),
    "background": lambda: shapkit.model_game(linear, ROW, np.zeros((0, 3))),
    "background is None": lambda: shapkit.model_game(linear, ROW, None),
    "fill": lambda: shapkit.model_game(linear, ROW, ROWS, fill="zeros"),
    "groups": lambda: shapkit.model_game(linear, ROW, ROWS, groups={"x": [0]}),
    "groups twice": lambda: shapkit.model_game(linear, ROW, ROWS, groups={"x": [0, 1], "y": [1, 2]}),
    "groups of none": lambda: shapkit.model_game(linear, ROW, ROWS, groups=[0, 1, 2]),
    "max_rows": lambda: shapkit.model_game(linear, ROW, ROWS, max_rows=0),
    "output": lambda: shapkit.model_game(linear, ROW, ROWS, output="yes"),
    "link": lambda: shapkit.model_game(linear, ROW, ROWS, link="log"),
    "row lacks": lambda: shapkit.model_game(linear, pd.Series({"a": 1.0}), pd.DataFrame(ROWS, columns=list("abc"))),
    "predict returned": lambda: shapkit.exact(shapkit.model_game(lambda rows: 1.0, ROW, ROWS)),
    "rows": lambda: shapkit.explain_rows(linear, [], ROWS),
    "loss": lambda: shapkit.loss_game(linear, ROWS, ROWS[:, 0], ROWS, loss="hinge"),
    "targets": lambda: shapkit.loss_game(linear, ROWS, [1.0], ROWS),
    "model": lambda: shapkit.data_game(3, ROWS, np.zeros(20), ROWS, np.zeros(20)),
    "n_neighbours": lambda: shapkit.knn_values(ROWS, np.zeros(20), ROWS, np.zeros(20), n_neighbours=0),
    "n_rows": lambda: shapkit.summarize(ROWS, 0),
    "image": lambda: shapkit.image_game(len, np.zeros((2, 8, 8, 3))),
    "segments": lambda: shapkit.image_game(len, IMAGE, segments=np.zeros((2, 2))),
    "absent": lambda: shapkit.image_game(len, IMAGE, segments=(2, 2), absent="black"),
    "text": lambda: shapkit.text_game(len, ""),
    "ask": lambda: shapkit.ConcurrentCalls("https://example.org"),
    # values and estimates
    "index": lambda: shapkit.exact(GAME, "nucleolus"),
    "order": lambda: shapkit.exact(GAME, "SII", order=0),
    "players that are too many": lambda: shapkit.exact(shapkit.weighted_voting(range(70), quota=9)),
    "orders": lambda: shapkit.exact(GAME, orders=[["a"]]),
    "player of a hierarchy": lambda: shapkit.exact(GAME, orders=shapkit.Hierarchy([["a", "x"]])),
    "after": lambda: shapkit.exact(GAME, orders=shapkit.Precedence({"a": ["b"], "b": ["a"]})),
    "method": lambda: shapkit.estimate(MANY, 500, method="monte carlo"),
    "budget": lambda: shapkit.estimate(MANY, 0),
    "budget that is too small": lambda: shapkit.estimate(MANY, 3, method="permutation"),
    "neither budget nor stop": lambda: shapkit.estimate(MANY),
    "stop": lambda: shapkit.estimate(MANY, stop=60),
    "seed": lambda: shapkit.estimate(MANY, 500, seed=-1),
    "tolerance": lambda: shapkit.StandardError(0.0),
    "seconds": lambda: shapkit.Seconds(-1),
    "index of a method": lambda: shapkit.estimate(MANY, 500, method="kernel", index="SII"),
    # results
    "player": lambda: PHI["c"],
    "output of a scalar": lambda: PHI.output(0),
    "level": lambda: shapkit.estimate(MANY, 100).interval(95),
    "names of two games": lambda: PHI + shapkit.exact(table_game([0.0, 1.0, 2.0, 5.0])),
    "data": lambda: PHI.to_shap(data=[1.0]),
    "extended": lambda: PHI.extend(100),
    "payoff": lambda: PHI.sample_mean(),
}


@pytest.mark.parametrize("what", CALLS)
def test_one_sentence_that_names_what_was_wrong(what):
    with pytest.raises((ValueError, KeyError, TypeError)) as caught:
        CALLS[what]()
    message = caught.value.args[0]
    subject = what.split(" ")[0].removesuffix("s")
    assert subject in message, message
    assert "\n" not in message and 20 < len(message) < 400, message
    assert message[0] == message[0].lower() or message.startswith(("NaN",)), message
    # Not what NumPy or Python say of something further inside
    assert caught.traceback[-1].path.parts[-2] in {"shapkit", *(p.name for p in ROOT.iterdir() if p.is_dir())} or any(
        p.name == caught.traceback[-1].path.name for p in ROOT.rglob("*.py")
    ), caught.traceback[-1]


def test_there_are_many():
    assert len(CALLS) >= 60
