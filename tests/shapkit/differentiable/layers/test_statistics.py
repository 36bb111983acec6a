"""BatchNorm under the penalty's extra runs, and what the penalty makes of half precision and absent regions."""

import copy

import pytest
import torch
from torch import nn

from shapkit.differentiable import DummyPlayerPenalty, Regions
from shapkit.differentiable.layers.statistics import statistics_kept

REGIONS = Regions.from_labels(torch.tensor([[[0, 0, 1, 1]] * 4]), {"right": [1]})
X = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("training", [True, False])
def test_the_penalty_leaves_statistics_mode_and_loss_as_they_were(training: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)).train(training)
    twin, before = copy.deepcopy(network), copy.deepcopy(network.state_dict())
    with statistics_kept(network):
        loss = DummyPlayerPenalty("exact")(network, X, REGIONS)
    loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network[1].training is training and network[1].track_running_stats
    torch.testing.assert_close(loss, DummyPlayerPenalty("exact")(twin, X, REGIONS), rtol=0, atol=0)


def test_statistics_are_tracked_again_after_an_error() -> None:
    layer = nn.BatchNorm2d(2)
    with pytest.raises(RuntimeError), statistics_kept(layer):
        raise RuntimeError
    assert layer.track_running_stats


def test_half_precision_does_not_overflow_the_squares() -> None:
    loss = DummyPlayerPenalty()(lambda x: 1000 * x.flip(3), X.half(), REGIONS)
    assert loss.dtype == torch.float32 and bool(torch.isfinite(loss)) and float(loss) > 65504


def test_an_absent_region_contributes_nothing() -> None:
    regions = object.__new__(Regions)
    object.__setattr__(regions, "masks", torch.cat([REGIONS.masks, torch.zeros(1, 1, 4, 4)], dim=1))
    object.__setattr__(regions, "names", ("right", "rest", "gone"))
    found = DummyPlayerPenalty("exact").unreduced(lambda x: x.flip(3), X, regions)
    assert bool((found[:, 2] == 0).all()) and bool((found[:, :2] > 0).all())
