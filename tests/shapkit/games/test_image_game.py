"""Games of images: what absent regions show, which regions there are, and what is refused."""

import numpy as np
import pytest
from scipy import ndimage

import shapkit
from shapkit import exact, image_game, image_segments

RNG = np.random.default_rng(0)
IMAGE = RNG.random((6, 8))
WEIGHTS = RNG.normal(size=(6, 8))


def linear(images):
    return (np.asarray(images) * WEIGHTS).sum(axis=(1, 2))


def of_regions(change, labels):
    return np.array([(WEIGHTS * change)[labels == label].sum() for label in np.unique(labels)])


@pytest.mark.parametrize(
    ("absent", "shown"),
    [
        (0.25, np.full((6, 8), 0.25)),
        ("mean", np.full((6, 8), IMAGE.mean())),
        ("grey", np.full((6, 8), (IMAGE.min() + IMAGE.max()) / 2)),
        ("blur", ndimage.gaussian_filter(IMAGE, 0.8)),
        (IMAGE[::-1], IMAGE[::-1]),
    ],
)
@pytest.mark.parametrize("segments", [(2, 2), (3, 4), RNG.integers(0, 3, size=(6, 8))])
def test_a_linear_model_s_values_are_what_each_region_changes(absent, shown, segments):
    labels = image_segments(IMAGE, segments)
    found = exact(image_game(linear, IMAGE, segments, absent))
    assert found.names == tuple(str(label) for label in np.unique(labels))
    np.testing.assert_allclose(found.values, of_regions(IMAGE - shown, labels), atol=1e-12)
    assert float(found.grand_value) == pytest.approx(linear(IMAGE[None])[0])
    assert float(found.empty_value) == pytest.approx(linear(shown[None])[0])


@pytest.mark.parametrize("channels", [0, -1])
def test_colours_belong_to_their_pixel(channels):
    colours = RNG.random((3, 6, 8))
    image = colours if channels == 0 else np.moveaxis(colours, 0, -1)

    def predict(images):
        assert images.shape[1:] == image.shape
        return linear(images.mean(axis=1 if channels == 0 else -1))

    found = exact(image_game(predict, image, (2, 2), "mean"))
    change = (colours - colours.mean(axis=(1, 2), keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(found.values, of_regions(change, image_segments(image, (2, 2))), atol=1e-12)
    again = exact(image_game(predict, image, (2, 2), "mean", channels=channels))
    np.testing.assert_array_equal(again.values, found.values)


def test_masks_have_names_and_a_rest():
    eyes, mouth = np.zeros((2, 6, 8), dtype=bool)
    eyes[1, 1:7], mouth[4, 2:6] = True, True
    found = exact(image_game(linear, IMAGE, {"eyes": eyes, "mouth": mouth}, 0.0))
    assert found.names == ("eyes", "mouth", "rest")
    np.testing.assert_allclose(found["mouth"], (WEIGHTS * IMAGE)[mouth].sum())
    assert set(np.unique(image_segments(IMAGE, {"all": np.ones((6, 8), dtype=bool)}))) == {"all"}


def test_superpixels_follow_the_image():
    pytest.importorskip("skimage")
    image = np.zeros((40, 40, 3))
    image[:, 20:] = [1.0, 0.5, 0.2]
    labels = image_segments(image, 8)
    assert labels.shape == (40, 40) and 2 <= len(np.unique(labels)) <= 16 and labels.min() == 0
    for label in np.unique(labels):  # no superpixel crosses the border
        columns = np.flatnonzero((labels == label).any(axis=0))
        assert columns.max() < 20 or columns.min() >= 20
    assert len(image_game(lambda images: images.sum(axis=(1, 2, 3)), image, 8).names) == len(np.unique(labels))
    assert image_segments(255 * image, 8).tolist() == labels.tolist()


def test_tensors_and_modules():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 4 * 6, 2))
    image = torch.rand(3, 6, 8)
    found = exact(image_game(net, image, (2, 2), "blur"))
    assert found.values.shape == (4, 2)
    with torch.no_grad():
        np.testing.assert_allclose(found.grand_value, net(image[None])[0], atol=1e-5)
    labels = torch.as_tensor(image_segments(image, (2, 2)))
    np.testing.assert_allclose(exact(image_game(net, image, labels, "blur")).values, found.values, atol=1e-6)
    three = torch.rand(3, 6, 3)  # as for torch: channels first, where both would do
    assert image_segments(three, (2, 1)).shape == (6, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": np.ones((2, 6, 8, 3))}, r"image has shape \(2, 6, 8, 3\), expected \(height, width\).*not several"),
        ({"image": np.ones((6, 8, 5))}, r"image has shape \(6, 8, 5\): say which axis holds the channels"),
        ({"image": np.ones((3, 8, 3))}, "say which axis holds the channels"),
        ({"image": np.ones((3, 8, 9)), "channels": 1}, "channels must be the first axis, 0, or the last, -1, got 1"),
        ({"segments": np.ones((8, 6))}, r"segments has shape \(8, 6\), expected \(6, 8\): a label for every pixel"),
        ({"segments": (2, 2, 2)}, r"segments is \(2, 2, 2\), expected \(rows, columns\)"),
        ({"segments": (0, 2)}, "segments must be an integer of at least 1, got 0"),
        ({"segments": {"a": np.ones((6, 8))}}, r"segments\['a'\] must be a mask, bool \(6, 8\), got float64"),
        ({"segments": {"a": IMAGE > 0.2, "b": IMAGE > 0.5}}, r"segments\['b'\] overlaps with a mask before"),
        ({"absent": "black"}, "absent must be 'blur', 'mean', 'grey', a number or an image, got 'black'"),
        ({"absent": np.ones((2, 2))}, r"absent has shape \(2, 2\), expected a number or an image of shape \(6, 8\)"),
        ({"predict": 3}, "predict must be a function of rows"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        image_game(**{"predict": linear, "image": IMAGE, "segments": (2, 2)} | arguments)


def test_values_go_back_to_their_pixels():
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot

    from shapkit.attribution.overlays import value_map

    labels = image_segments(IMAGE, (2, 2))
    found = exact(image_game(lambda images: np.stack([linear(images), -linear(images)], axis=1), IMAGE, labels, 0.0))
    mapped = value_map(found, labels, output=0)
    for label in range(4):
        assert (mapped[labels == label] == found.values[label, 0]).all()
    axes = shapkit.draw_on_image(found, IMAGE, labels, output=1)
    assert len(axes.images) == 2
    np.testing.assert_allclose(axes.images[1].get_array(), -mapped)
    low, high = axes.images[1].get_clim()
    assert low == -high and high == pytest.approx(np.abs(mapped).max())
    for channels_first in (True, False):
        colours = np.stack([IMAGE] * 3, axis=0 if channels_first else -1)
        shapkit.draw_on_image(found, colours, labels, output=1, ax=pyplot.subplots()[1])
    with pytest.raises(ValueError, match="labels that are no players: 7"):
        value_map(found, np.where(labels == 3, 7, labels), output=0)
    with pytest.raises(ValueError, match=r"image has shape \(2, 2\), expected \(6, 8\)"):
        shapkit.draw_on_image(found, np.ones((2, 2)), labels, output=0)
    pyplot.close("all")
