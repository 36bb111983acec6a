"""Edit one region of generated faces through its noise, with the local model that comes with the package.

    python examples/edit.py          # half a minute; writes edit.png

The noise of the eyes, the nose or the mouth is drawn anew: that region changes, and nothing else does. With "plain" in
place of "local" everything changes a little.
"""

from __future__ import annotations

import sys
from pathlib import Path

import shapkit_diffusion as sd
from shapkit_diffusion.pictures.comparison import picture_of_samples
from shapkit_diffusion.pictures.pages import png

REGIONS = sd.shipped_model("local").regions  # where the eyes, the nose and the mouth are in these faces, and the rest


def main(
    name: str = "local", *, count: int = 8, steps: int = 25, out: str = "edit.png"
) -> dict[str, tuple[float, float]]:
    """Mean square change inside and outside of each edited region."""
    model = sd.shipped_model(name)
    original = sd.Original.from_noise(model, sd.draw_noise(model, count, seed=0), steps)
    rows, changes = {"original": original.reconstruction}, {}
    for concept in ("eyes", "nose", "mouth"):
        result = sd.edit_original(model, original, REGIONS, [sd.Edit(concept, seed=1)])
        change = (result.edited - original.reconstruction).square().mean(dim=1, keepdim=True)
        inside = REGIONS.mask(concept)
        changes[concept] = tuple(float((change * part).sum() / part.sum() / count) for part in (inside, 1 - inside))
        print("{}: mean square change {:.4f} inside, {:.6f} outside".format(concept, *changes[concept]))
        rows[f"new {concept}"] = result.edited
    Path(out).write_bytes(png(picture_of_samples(rows, count, f"New noise in one region: the {name} model")))
    return changes


if __name__ == "__main__":
    main(*sys.argv[1:])
