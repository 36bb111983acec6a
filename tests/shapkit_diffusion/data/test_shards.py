"""Tar shards and tables: the same rows as in memory, the same training, read by place, and every complaint."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shapkit_diffusion.data import (
    FACE_LABELS,
    ImageShards,
    LabelledImages,
    open_dataset,
    open_shards,
    render_faces,
    write_shards,
)
from shapkit_diffusion.denoisers.denoiser import small_denoiser
from shapkit_diffusion.evaluation.domains import open_domain
from shapkit_diffusion.fingerprints import described_data
from shapkit_diffusion.training.config import PenaltyConfig, TrainConfig
from shapkit_diffusion.training.denoiser import train
from shapkit_diffusion.training.stop_signals import TrainingStopped
from tests.complaints import complaint

FACES = render_faces(11, size=16, seed=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(FACES, tmp_path / "shards", rows_per_shard=4)
    return tmp_path / "shards"


def png(pixels: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(content, "PNG")
    return content.getvalue()


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


# --- shards ---


def test_rows_are_the_images_in_the_order_asked_for(folder: Path) -> None:
    shards = open_shards(folder, size=16)
    images, labels = shards.rows([10, 0, 5, 5])
    assert images.dtype == labels.dtype == np.uint8
    assert np.array_equal(images, FACES.images[[10, 0, 5, 5]]) and np.array_equal(labels, FACES.labels[[10, 0, 5, 5]])
    assert (len(shards), shards.label_names) == (11, FACE_LABELS)
    assert [path.name for path in shards.shard_paths] == ["000000.tar", "000001.tar", "000002.tar"]
    assert shards.rows([])[0].shape == (0, 3, 16, 16)
    with pytest.raises(IndexError):
        shards.rows([11])


def test_samples_as_others_write_them(tmp_path: Path) -> None:
    """JPEG and captions beside label maps, folders in names, members of a sample in any order, names of any length."""
    grey, deep = np.full((4, 6), 200), "a" * 120 + "/2.5"
    path = tar(
        tmp_path / "x.tar",
        {
            "train/1.seg.png": png(grey * 0 + 1),
            "train/1.txt": b"a caption",
            "train/1.png": png(grey),
            f"{deep}.png": png(grey + 20),
            f"{deep}.seg.png": png(grey * 0),
            "0.seg.png": png(grey * 0),
        },
    )
    # What follows the first dot of a name is its kind, as WebDataset has it: "2.5.png" is of no kind that is known
    assert len(open_shards(path, ("no", "yes"), size=(4, 6), labels_suffix=".seg.png")) == 1
    renamed = tar(tmp_path / "y.tar", {f"{deep[:-2]}.PNG": png(grey + 20), f"{deep[:-2]}.seg.png": png(grey * 0)})
    shards = open_shards([renamed, path], ("no", "yes"), size=(2, 3), channels=1, labels_suffix=".seg.png")
    images, labels = shards.rows([0, 1])
    assert images[:, 0, 0, 0].tolist() == [220, 200] and labels[:, 0, 0].tolist() == [0, 1]
    assert images.shape == (2, 1, 2, 3)


def test_nothing_but_the_rows_asked_for_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards, read = open_shards(folder, size=16), []
    whole = sum(path.stat().st_size for path in shards.shard_paths)
    plain = Path.open

    class Counted:
        def __init__(self, file: Any) -> None:
            self.file, self.seek = file, file.seek

        def __enter__(self) -> Counted:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def read(self, count: int) -> bytes:
            content: bytes = self.file.read(count)
            read.append(len(content))
            return content

    def counting(path: Path, *arguments: Any, **options: Any) -> Any:
        file = plain(path, *arguments, **options)
        return Counted(file) if path.suffix == ".tar" else file

    monkeypatch.setattr(Path, "open", counting)
    shards.rows([7])
    assert 0 < sum(read) < whole / 8


def test_training_from_shards_is_training_from_memory(folder: Path, tmp_path: Path) -> None:
    """Bit for bit, also when it was stopped and goes on."""
    config = TrainConfig(steps=5, batch_size=4, save_every=2, log_every=1, flip=True, seed=4)
    config = replace(config, penalty=PenaltyConfig(weight=2.0, regions="label_maps"))

    def run(data: Any, name: str, resume: bool = False) -> list[dict[str, float]]:
        train(small_denoiser(16, channels=(8, 8), seed=1), data, config, tmp_path / name, resume=resume)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]

    class Stopping:
        """The shards, and a stop in the fourth step."""

        def __init__(self, shards: ImageShards, batches: int) -> None:
            self.shards, self.left, self.label_names = shards, batches, shards.label_names

        def __len__(self) -> int:
            return len(self.shards)

        def rows(self, indices: Any) -> Any:
            self.left -= len(indices) == 4
            if not self.left:
                raise TrainingStopped(3, 5, tmp_path)
            return self.shards.rows(indices)

    expected = run(FACES, "memory")
    assert run(open_shards(folder, size=16), "on disk") == expected
    with pytest.raises(TrainingStopped):
        run(Stopping(open_shards(folder, size=16), 4), "stopped")
    assert run(Stopping(open_shards(folder, size=16), -1), "stopped", resume=True) == expected


def test_a_domain_and_the_fingerprint(folder: Path) -> None:
    domain = open_domain(f"shards:{folder}", 16)
    assert len(domain.training) == 11 and len(domain.reference) == 11
    before = described_data(domain.training)
    assert before["count"] == 11 and before == described_data(open_shards(folder, size=16))
    last = folder / "000002.tar"
    last.write_bytes(last.read_bytes() + bytes(10240))  # another file of the same samples
    assert described_data(open_shards(folder, size=16))["images"] != before["images"]


def test_what_is_wrong_with_shards_is_said_in_a_line(folder: Path, tmp_path: Path) -> None:
    grey = png(np.zeros((4, 4)))

    def opening(members: dict[str, bytes], **options: Any) -> str:
        path = tar(tmp_path / "bad.tar", members)
        return complaint(lambda: open_shards(path, ("a",), size=4, **options).rows([0]))

    assert "bad.tar:1 has no label map: there is no member 1.labels.png" in opening({"1.png": grey})
    assert "is the second image of 1" in opening({"1.png": grey, "1.jpg": grey, "1.labels.png": grey})
    twice = tar(tar(tmp_path / "twice.tar", {"1.labels.png": grey}), {"1.labels.png": grey, "1.png": grey}, "a")
    assert "is the second label map of 1" in complaint(lambda: open_shards(twice, ("a",), size=4))
    assert "hold no png, jpg, jpeg, webp member" in opening({"1.txt": b"text"})
    message = opening({"1.png": grey, "1.labels.png": png(np.ones((4, 4)))})
    assert "bad.tar:1.labels.png holds the label 1, but names exist for 0 to 0" in message
    assert "but its image" in opening({"1.png": grey, "1.labels.png": png(np.zeros((4, 5)))})
    assert "bad.tar:1.png is no readable PNG, JPEG or WebP" in opening({"1.png": b"no png", "1.labels.png": grey})
    packed = tmp_path / "packed.tar"
    packed.write_bytes(gzip.compress((tmp_path / "bad.tar").read_bytes()))
    assert "packed.tar is no readable uncompressed tar file" in complaint(lambda: open_shards(packed, ("a",), size=4))
    cut = tmp_path / "cut.tar"
    cut.write_bytes((folder / "000000.tar").read_bytes()[:600])
    assert "cut.tar is cut off: 00000000.png goes beyond its end" in complaint(
        lambda: open_shards(cut, FACE_LABELS, size=4)
    )
    assert "nowhere.tar is missing" in complaint(lambda: open_shards(tmp_path / "nowhere.tar", ("a",), size=4))
    assert "must be a folder of .tar files" in complaint(lambda: open_shards([], ("a",), size=4))
    assert "so label_names must be given" in complaint(lambda: open_shards(packed, size=4))
    assert "holds something already" in complaint(lambda: write_shards(FACES, folder))


# --- tables ---


@pytest.fixture
def table(tmp_path: Path) -> Any:
    datasets = pytest.importorskip("datasets")
    columns = {
        "photo": [png(np.moveaxis(image, 0, -1)) for image in FACES.images],
        "parts": [png(labels) for labels in FACES.labels],
    }
    rows = {name: [{"bytes": content, "path": None} for content in contents] for name, contents in columns.items()}
    features = datasets.Features({name: datasets.Image() for name in columns})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "table"))
    return datasets.load_from_disk(str(tmp_path / "table"))


def test_rows_of_a_dataset_on_disk(table: Any) -> None:
    data = open_dataset(table, FACE_LABELS, image="photo", labels="parts", size=16)
    images, labels = data.rows([10, 0, 5])
    assert np.array_equal(images, FACES.images[[10, 0, 5]]) and np.array_equal(labels, FACES.labels[[10, 0, 5]])
    assert len(data) == 11 and data.label_names == FACE_LABELS
    assert described_data(data)["images"] == described_data(replace(data, size=(16, 16)))["images"]
    write_again = LabelledImages(*data.rows(range(11)), FACE_LABELS)
    assert np.array_equal(write_again.images, FACES.images)


def test_what_is_wrong_with_a_dataset_is_said_in_a_line(table: Any) -> None:
    options: dict[str, Any] = {"labels": "parts", "size": 16}
    assert "must have a column 'image', got 'photo', 'parts'" in complaint(
        lambda: open_dataset(table, FACE_LABELS, **options)
    )
    streamed = table.to_iterable_dataset()
    assert "must have rows by number, got IterableDataset" in complaint(
        lambda: open_dataset(streamed, FACE_LABELS, image="photo", **options)
    )
    assert "row 2, column 'parts' holds the label 11, but names exist for 0 to 0" in complaint(
        lambda: open_dataset(table, ("one",), image="photo", **options).rows([2])
    ).replace(f"label {int(FACES.labels[2].max())}", "label 11")
    empty = table.select([])
    assert "must have a row at least" in complaint(lambda: open_dataset(empty, FACE_LABELS, image="photo", **options))


def test_tables_that_are_lists(tmp_path: Path) -> None:
    """Anything with rows by number: decoded pictures, bytes and paths."""
    grey, zero = Image.fromarray(np.full((4, 4), 9, np.uint8)), png(np.zeros((4, 4)))
    (tmp_path / "zero.png").write_bytes(zero)
    rows: list[dict[str, Any]] = [
        {"image": grey, "labels": zero},
        {"image": grey, "labels": {"bytes": None, "path": str(tmp_path / "zero.png")}},
        {"image": 3, "labels": zero},
    ]
    data = open_dataset(rows, ("a",), size=4, channels=1)
    images, labels = data.rows([0, 1])
    assert (images == 9).all() and (labels == 0).all()
    assert "row 2, column 'image' must be a picture, got int" in complaint(lambda: data.rows([2]))
