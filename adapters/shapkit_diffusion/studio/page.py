"""The region editor in a browser, with Gradio: what is clicked, drawn and dragged becomes an edit of a canvas."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from shapkit._optional import require
from shapkit_diffusion.data.folders import image_bytes
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.evaluation.domains import CONCEPTS, Domain
from shapkit_diffusion.noise.influence import influence_end_to_end
from shapkit_diffusion.noise.sampling import draw_noise, generate
from shapkit_diffusion.pictures.comparison import in_colours_of_change
from shapkit_diffusion.pictures.influence import picture_of_influences
from shapkit_diffusion.studio.canvas import OWN, Canvas, Step, View, pixels_of

if TYPE_CHECKING:
    from gradio import Blocks

SHOWN = 384
"""Pixels that an image is wide on the page."""

_COLOURS = {"eyes": "#56b4e9", "nose": "#e69f00", "mouth": "#cc79a7", OWN: "#ffffff"}  # Okabe and Ito's
_MOST_BYTES = "20mb"
_INFLUENCE_IMAGES, _INFLUENCE_STEPS = 4, 10


def page(models: Mapping[str, Denoiser], domain: Domain, steps: int = 25) -> Blocks:
    """The editor, not yet served.

    Args:
        models: by name; the first is the one that is clicked on.
        domain: finds regions.
        steps: of DDIM.

    Raises:
        ImportError: gradio is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    gradio: Any = require("gradio", extra="studio", purpose="the region editor")
    actions = _Actions(models, domain, steps, gradio)
    names = list(models)

    def click(canvas: Canvas, region: str, event: Any) -> Any:
        return actions.click(canvas, region, *event.index)

    click.__annotations__["event"] = gradio.SelectData  # by which Gradio knows what to hand over
    with gradio.Blocks(title="shapkit studio", analytics_enabled=False, delete_cache=(600, 600)) as blocks:
        canvas = gradio.State(None)
        gradio.Markdown(
            "# Region editor\nClick a region of the face and give it new noise. In the local model nothing else "
            "changes; the plain model stands beside it. A region that you draw is none of the model's own: other parts "
            "may follow, unless they are put back."
        )
        with gradio.Row():
            seed = gradio.Number(value=7, precision=0, minimum=0, label="face", elem_id="face-seed", scale=1)
            new = gradio.Button("Generate this face", elem_id="new-face", scale=1)
            upload = gradio.UploadButton("Upload an image", file_types=["image"], elem_id="upload", scale=1)
        with gradio.Row():
            with gradio.Column(scale=1, min_width=300):
                clicked = gradio.Image(
                    label=f"{names[0]}: click a region", interactive=False, elem_id="click", buttons=[], format="png"
                )
                region = gradio.Radio(list(CONCEPTS), value=CONCEPTS[-1], label="region", elem_id="region")
                strength = gradio.Slider(0.0, 1.0, value=1.0, step=0.05, label="strength", elem_id="strength")
                noise = gradio.Number(value=1, precision=0, minimum=0, label="seed of the noise", elem_id="noise-seed")
                keep = gradio.Checkbox(label="put all else back at every step", elem_id="keep")
                with gradio.Row():
                    renew = gradio.Button("New noise", variant="primary", elem_id="renew")
                    other = gradio.Button("From the face of that seed", elem_id="other")
                    undo = gradio.Button("Undo", elem_id="undo")
            with gradio.Column(scale=2, min_width=300):
                shown = gradio.Image(
                    label="edited, and what changed", interactive=False, elem_id="edited", buttons=[], format="png"
                )
                told = gradio.Markdown(elem_id="told")
        with gradio.Accordion("Draw a region of your own", open=False, elem_id="draw"):
            brush = gradio.ImageEditor(
                label="paint over the region", type="numpy", sources=[], transforms=None, layers=False, elem_id="brush",
                brush=gradio.Brush(default_size=30, colors=["#ffffff"], color_mode="fixed"), canvas_size=(SHOWN, SHOWN),
            )  # fmt: skip
            take = gradio.Button("Take this region", elem_id="take")
        with gradio.Accordion("Influence of the models", open=False, elem_id="influence"):
            measure = gradio.Button("Measure", elem_id="measure")
            influence = gradio.Image(label="who drives whom", interactive=False, elem_id="influences", format="png")
        with gradio.Row():
            command = gradio.Textbox(label="the same from the shell", interactive=False, elem_id="command")
            save = gradio.DownloadButton("Save as PNG, with its seeds", elem_id="save")

        outputs = [canvas, clicked, shown, told, region, command, save]
        new.click(actions.new, [seed], [*outputs, brush])
        blocks.load(actions.new, [seed], [*outputs, brush])
        upload.upload(actions.upload, [upload], [*outputs, brush])
        clicked.select(click, [canvas, region], [region])
        step = [canvas, region, noise, strength]
        renew.click(actions.renew, step, outputs)
        strength.release(actions.renew, step, outputs)
        other.click(actions.other, step, outputs)
        keep.input(actions.keep, [canvas, region, keep], outputs)
        undo.click(actions.undo, [canvas, region], outputs)
        take.click(actions.take, [canvas, brush], outputs)
        measure.click(actions.measure, [], [influence])
    return blocks  # type: ignore[no-any-return]


@contextmanager
def served(
    models: Mapping[str, Denoiser], domain: Domain, steps: int = 25, port: int | None = None, *, browser: bool = False
) -> Iterator[str]:
    """Serve the editor on this machine alone; yields its address. What was uploaded is gone at the end.

    Args:
        models, domain, steps: as for `page`.
        port: to listen on; a free one from 7860 on if None.
        browser: open it in the browser.

    Raises:
        ImportError: gradio is not installed.
        OSError: the port is taken.
    """
    gradio: Any = require("gradio", extra="studio", purpose="the region editor")
    with tempfile.TemporaryDirectory(prefix="shapkit-studio-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # which components read when they are made
        blocks: Any = page(models, domain, steps)
        try:
            _, address, _ = blocks.launch(
                server_name="127.0.0.1",
                server_port=port,
                inbrowser=browser,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=_MOST_BYTES,
                footer_links=[],
                show_error=True,
                theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            )
            yield str(address)
        finally:
            blocks.close(verbose=False)
            del os.environ["GRADIO_TEMP_DIR"]


class _Actions:
    """What happens when something on the page is used; every method returns what is then shown."""

    def __init__(self, models: Mapping[str, Denoiser], domain: Domain, steps: int, gradio: Any) -> None:
        self.models, self.domain, self.steps, self.gradio = models, domain, steps, gradio

    def new(self, seed: float | None) -> tuple[Any, ...]:
        canvas = self._tried(lambda: Canvas.of_seed(self.models, self.domain, int(seed or 0), self.steps))
        return (*self._shown(canvas, CONCEPTS[-1]), self._to_draw_on(canvas))

    def upload(self, path: str) -> tuple[Any, ...]:
        def opened() -> Canvas:
            with Image.open(path) as picture:
                channels, height, width = next(iter(self.models.values())).image_shape
                pixels = image_bytes(picture.convert("RGB"), channels, (height, width))
            return Canvas.of_image(self.models, self.domain, to_unit_range(torch.tensor(pixels)), self.steps)

        canvas = self._tried(opened)
        return (*self._shown(canvas, CONCEPTS[-1]), self._to_draw_on(canvas))

    def click(self, canvas: Canvas, region: str, x: int, y: int) -> Any:
        scale = _scale(canvas)
        found = canvas.region_at(x // scale, y // scale)
        return self.gradio.update(value=found or region)

    def renew(self, canvas: Canvas, region: str, seed: float, strength: float) -> tuple[Any, ...]:
        return self._edited(canvas, Step(region, int(seed), float(strength)))

    def other(self, canvas: Canvas, region: str, seed: float, strength: float) -> tuple[Any, ...]:
        return self._edited(canvas, Step(region, int(seed), float(strength), other=True))

    def undo(self, canvas: Canvas, region: str) -> tuple[Any, ...]:
        return self._shown(canvas.undone(), region)

    def keep(self, canvas: Canvas, region: str, kept: bool) -> tuple[Any, ...]:
        return self._shown(canvas.keeping("replay" if kept else "free"), region)

    def take(self, canvas: Canvas, drawn: Any) -> tuple[Any, ...]:
        def taken() -> Canvas:
            layers = (drawn or {}).get("layers") or []
            painted = (
                np.any([np.asarray(layer)[..., -1] > 0 for layer in layers], axis=0) if layers else np.zeros((1, 1))
            )
            height, width = canvas.image(canvas.first).shape[-2:]
            if not np.any(painted):
                raise ValueError("draw a region first: paint over some of the face")
            small = Image.fromarray(255 * painted.astype(np.uint8)).resize(
                (int(width), int(height)), Image.Resampling.BOX
            )
            return canvas.drawn(np.asarray(small) > 127)

        return self._shown(self._tried(taken), OWN)

    def measure(self) -> NDArray[Any]:
        maps = {}
        for name, model in self.models.items():
            noise = draw_noise(model, _INFLUENCE_IMAGES, 2)
            regions = self.domain.regions(model.decode(generate(model, noise, _INFLUENCE_STEPS)), CONCEPTS)
            maps[name] = {"noise to image": influence_end_to_end(model, noise, regions, _INFLUENCE_STEPS)}
        figure = picture_of_influences(maps, "Share (%) of a region's change that each region of the noise drives")
        figure.canvas.draw()
        drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]
        figure.clear()
        return drawn

    def _edited(self, canvas: Canvas, step: Step) -> tuple[Any, ...]:
        return self._shown(self._tried(lambda: canvas.edited(step)), step.region)

    def _tried(self, make: Any) -> Canvas:
        """What `make` returns; errors of the user's making are shown on the page."""
        try:
            found: Canvas = make()
        except (ValueError, OSError) as error:
            raise self.gradio.Error(str(error)) from None
        return found

    def _shown(self, canvas: Canvas, region: str) -> tuple[Any, ...]:
        choices = [*CONCEPTS, *([] if canvas.own is None else [OWN])]
        return (
            canvas,
            outlined(canvas),
            sheet(canvas),
            numbers(canvas),
            self.gradio.update(choices=choices, value=region if region in choices else choices[-1]),
            canvas.command() or "there is none: regions of your own, uploads and faces of others are only here",
            self._saved(canvas),
        )

    def _saved(self, canvas: Canvas) -> str:
        folder = Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR")))
        path = folder / "face.png"
        path.write_bytes(canvas.png())
        return str(path)

    def _to_draw_on(self, canvas: Canvas) -> Any:
        return {"background": _large(pixels_of(canvas.views[canvas.first].before)), "layers": [], "composite": None}


def outlined(canvas: Canvas) -> NDArray[Any]:
    """The image of the first model, large, with its regions outlined: uint8 (height, width, 3)."""
    scale = _scale(canvas)
    large = Image.fromarray(_large(pixels_of(canvas.views[canvas.first].after)))
    draw = ImageDraw.Draw(large)
    for name, mask in canvas.masks().items():
        framed = np.pad(mask, 1)
        colour = _COLOURS.get(name, "#ffffff")
        for y, x in np.argwhere(mask):
            left, top, right, bottom = x * scale, y * scale, (x + 1) * scale - 1, (y + 1) * scale - 1
            if not framed[y, x + 1]:
                draw.line((left, top, right, top), colour, 2)
            if not framed[y + 2, x + 1]:
                draw.line((left, bottom, right, bottom), colour, 2)
            if not framed[y + 1, x]:
                draw.line((left, top, left, bottom), colour, 2)
            if not framed[y + 1, x + 2]:
                draw.line((right, top, right, bottom), colour, 2)
    return np.asarray(large)


def sheet(canvas: Canvas) -> NDArray[Any]:
    """For every model a row: before, after, and what changed; uint8 (height, width, 3)."""
    rows = []
    for view in canvas.views.values():
        three = pixels_of(view.before), pixels_of(view.after), in_colours_of_change(view.change)
        rows.append(np.concatenate([_large(pixels) for pixels in three], axis=1))
    return np.concatenate(rows)


def numbers(canvas: Canvas) -> str:
    """What the edits changed, as a table in Markdown."""
    lines = [
        "| model | MSE inside | MSE outside | outside ÷ inside | milliseconds | round trip |",
        "|---|---|---|---|---|---|",
    ]
    exact = "generated" if canvas.uploaded is None else "as it is"
    lines += [f"| {name} | {_row(view, exact)} |" for name, view in canvas.views.items()]
    edits = "; ".join(
        f"{s.region} {'from face' if s.other else 'seed'} {s.seed}, strength {s.strength:g}" for s in canvas.done
    )
    columns = "Columns above: before, after, what changed. "
    return columns + (f"Edits: {edits}" if edits else "No edit yet.") + "\n\n" + "\n".join(lines)


def _row(view: View, exact: str) -> str:
    trip = exact if np.isinf(view.psnr) else f"{view.psnr:.1f} dB"
    if np.isnan(view.inside):
        return f" | | | | {trip}"
    ratio = view.outside / view.inside if view.inside else float("nan")
    return f"{view.inside:.4f} | {view.outside:.6f} | {ratio:.4f} | {view.milliseconds:.0f} | {trip}"


def _scale(canvas: Canvas) -> int:
    return max(1, SHOWN // int(canvas.image(canvas.first).shape[-1]))


def _large(pixels: NDArray[Any]) -> NDArray[Any]:
    scale = max(1, SHOWN // pixels.shape[1])
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)
