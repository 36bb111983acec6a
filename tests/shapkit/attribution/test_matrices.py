"""What notebooks show of matrices of influence and of regions: well-formed, with every name and number, escaped."""

from xml.etree import ElementTree

import numpy as np
import pytest

import shapkit
from shapkit.attribution.matrices import matrix_html


def parsed(html):
    return ElementTree.fromstring(f"<all>{html}</all>")


def test_a_matrix_has_its_texts_and_shades():
    html = matrix_html(
        np.array([[0.0, 1.0], [2.0, np.nan]]), [["a<b", "1"], ["2", "3"]], ["r1", "r2"], ["c1", "c2"], "&"
    )
    cells = [cell for row in parsed(html).iter("tr") for cell in row if cell.tag == "td"]
    assert ["".join(cell.itertext()) for cell in cells] == ["a<b", "1", "2", "3"]
    shades = [float(cell.get("style").split(",")[-1].rstrip(")")) for cell in cells]
    assert shades == [0.0, 0.75, 0.75, 0.0]


def test_a_graph_shows_who_moves_what():
    game = shapkit.Game(lambda c: c @ np.array([[1, 0], [0, 3]]), 2, names=["<eyes>", "nose"])
    rows = [
        ["".join(cell.itertext()) for cell in row]
        for row in parsed(shapkit.influence_graph(game)._repr_html_()).iter("tr")
    ]
    assert rows == [["", "<eyes>", "nose"], ["output 0", "1", ""], ["output 1", "", "9"]]
    scalar = shapkit.influence_graph(shapkit.table_game([0, 1, 2, 5]))
    assert "payoff" in scalar._repr_html_()
    images = shapkit.influence_graph(shapkit.Game(lambda c: np.ones((len(c), 2, 2)), 2))
    assert "<table" not in images._repr_html_()


def test_regions_show_a_map():
    torch = pytest.importorskip("torch")
    from shapkit.differentiable import Regions

    labels = torch.zeros(2, 6, 4, dtype=torch.long)
    labels[:, 2:4, 1:3] = 1
    regions = Regions.from_labels(labels, {"<mouth>": [1]})
    assert repr(regions) == f"Regions: {', '.join(regions.names)}; masks (2, 2, 6, 4)"
    tree = parsed(regions._repr_html_())
    maps = list(tree.iter("svg"))
    assert len(maps) == 2 and [span.text for span in tree.iter("span")] == list(regions.names)
    area = {}
    for rect in maps[0]:
        area[rect.get("fill")] = area.get(rect.get("fill"), 0) + int(rect.get("width"))
    assert sorted(area.values()) == [4, 20]
    one = torch.ones(1, 1, 8)
    assert "<svg" not in Regions(one, ("all",))._repr_html_()
    large = Regions.grid(2, 2, height=512, width=512)
    assert len(large._repr_html_()) < 50_000
