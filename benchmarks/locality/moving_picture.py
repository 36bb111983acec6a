"""The moving picture of the site's first page: the noise of the mouth walks, in the plain and in the local model.

    python -m benchmarks.locality.moving_picture     # docs/pictures/edit.gif, a minute

Between frames the noise of the mouth goes along the great circle from one sample to the next, which keeps it normal.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from shapkit_diffusion import draw_noise, generate, open_domain, shipped_model
from shapkit_diffusion.pictures.comparison import change_map, in_colours_of_change

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "pictures" / "edit.gif"
SAMPLES, BETWEEN, STEPS = 4, 6, 25
SIDE, MARGIN = 256, 24
SEED = 11


def frames() -> list[Image.Image]:
    """Both models side by side, what has changed since the first frame below them."""
    columns = {name: walk(name) for name in ("plain", "local")}
    found = []
    for number in range(SAMPLES * BETWEEN):
        sheet = Image.new("RGB", (2 * SIDE + 3 * MARGIN, 2 * SIDE + 3 * MARGIN), "white")
        for column, (name, images) in enumerate(columns.items()):
            x = MARGIN + column * (SIDE + MARGIN)
            pixels = ((images[number].permute(1, 2, 0) + 1) * 127.5).clamp(0, 255).byte().numpy()
            change = change_map(images[:1], images[number : number + 1])[0]
            for row, picture in enumerate((pixels, in_colours_of_change(change))):
                large = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.NEAREST)
                sheet.paste(large, (x, MARGIN + row * (SIDE + MARGIN)))
            ImageDraw.Draw(sheet).text((x, 6), f"{name} model: the noise of the mouth walks", fill="black")
            ImageDraw.Draw(sheet).text((x, SIDE + MARGIN + 6), "changed since the start", fill="black")
        found.append(sheet)
    return found


def walk(name: str) -> torch.Tensor:
    """Images (n_frames, 3, height, width) of one model, on CPU."""
    model, domain = shipped_model(name), open_domain("faces", count=2)
    face, mouths = draw_noise(model, 1, SEED), draw_noise(model, SAMPLES, SEED + 1)
    mouths[0] = face[0]
    region = domain.regions(generate(model, face, STEPS)).mask("mouth")
    angles = torch.arange(BETWEEN) / BETWEEN * (math.pi / 2)
    walked = [
        torch.cos(angle) * one + torch.sin(angle) * two
        for one, two in zip(mouths, mouths.roll(-1, dims=0), strict=True)
        for angle in angles
    ]
    noise = torch.stack(walked) * region + face * (1 - region)
    return generate(model, noise, STEPS).clamp(-1, 1).cpu()


def main() -> None:
    torch.set_num_threads(1)
    first, *others = frames()
    first.save(PICTURE, save_all=True, append_images=others, duration=160, loop=0, optimize=True)
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
