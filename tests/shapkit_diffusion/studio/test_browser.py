"""The region editor in a real browser: clicked, drawn on, dragged, given an image, undone; a picture of each state.

Chromium is Debian's; where there is none, or no gradio and playwright, these tests say so and are left out.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shapkit_diffusion import open_domain, shipped_model
from shapkit_diffusion.studio.canvas import METADATA

pytest.importorskip("gradio", reason="the studio's tests need gradio")
playwright = pytest.importorskip("playwright.sync_api", reason="the studio's tests need playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")

WAIT = 30_000  # milliseconds, at most


class Editor:
    """The page, and what a person does on it."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def told(self) -> str:
        return str(self.page.locator("#told").inner_text())

    def until(self, text: str) -> None:
        """Wait until the page says so."""
        self.page.wait_for_function(
            "text => document.querySelector('#told').innerText.includes(text)", arg=text, timeout=WAIT
        )

    def click_pixel(self, x: int, y: int) -> None:
        box = self.page.locator("#click img").first.bounding_box()
        self.page.mouse.click(box["x"] + (x + 0.5) * box["width"] / 32, box["y"] + (y + 0.5) * box["height"] / 32)

    def region(self) -> str:
        return str(self.page.locator("#region input:checked").get_attribute("value"))

    def wait_for_region(self, name: str) -> None:
        self.page.wait_for_function(
            "name => document.querySelector('#region input:checked')?.value === name", arg=name, timeout=WAIT
        )

    def ratio(self, model: str) -> float:
        """Change outside over inside, as the table says."""
        (row,) = [line for line in self.told().splitlines() if line.startswith(model)]
        return float(row.split("\t")[3])


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    from shapkit_diffusion.studio.page import served

    models = {name: shipped_model(name) for name in ("local", "plain")}
    with served(models, open_domain("faces", count=2), steps=5) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def editor(server: str, browser: Any, tmp_path: Path) -> Iterator[Editor]:
    page = browser.new_page(viewport={"width": 1300, "height": 1600}, accept_downloads=True)
    elsewhere: list[str] = []
    page.on("request", lambda r: elsewhere.append(r.url) if re.match(r"https?://(?!127\.0\.0\.1)", r.url) else None)
    page.goto(server)
    page.wait_for_selector("#told table", timeout=WAIT)
    page.wait_for_selector("#click img", timeout=WAIT)
    yield Editor(page)
    page.screenshot(path=tmp_path / "end.png")
    page.close()
    assert elsewhere == [], "nothing is asked of other machines"


def test_a_region_is_clicked_and_gets_new_noise_and_is_undone(editor: Editor) -> None:
    assert "No edit yet" in editor.told()
    editor.click_pixel(11, 13)
    editor.wait_for_region("eyes")
    editor.page.click("#renew")
    editor.until("eyes seed 1, strength 1")
    assert editor.ratio("local") < editor.ratio("plain")
    assert "--image-seed 7 --region eyes --seed 1" in editor.page.locator("#command textarea").input_value()
    editor.page.click("#undo")
    editor.until("No edit yet")


def test_the_slider_changes_the_last_edit(editor: Editor) -> None:
    editor.page.click("#renew")
    editor.until("mouth seed 1, strength 1")
    slider = editor.page.locator("#strength input[type=range]")
    slider.focus()
    box = slider.bounding_box()
    editor.page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
    editor.page.wait_for_function(
        "() => /mouth seed 1, strength 0\\.[3-7]/.test(document.querySelector('#told').innerText)", timeout=WAIT
    )
    assert editor.told().count("seed") == 1, "it replaced the edit"


def test_another_face_and_another_seed(editor: Editor) -> None:
    editor.page.locator("#face-seed input").fill("12")
    editor.page.click("#new-face")
    editor.page.wait_for_timeout(1500)
    editor.page.locator("#noise-seed input").fill("5")
    editor.page.click("#other")
    editor.until("mouth from face 5")
    assert "there is none" in editor.page.locator("#command textarea").input_value()


def test_a_region_is_drawn(editor: Editor) -> None:
    editor.page.click("#draw button")
    canvas = editor.page.locator("#brush canvas").first
    canvas.wait_for(timeout=WAIT)
    editor.page.wait_for_timeout(1500)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    middle_x, middle_y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 3
    editor.page.mouse.move(middle_x - 40, middle_y)
    editor.page.mouse.down()
    for step in range(1, 9):
        editor.page.mouse.move(middle_x - 40 + 10 * step, middle_y + (step % 2) * 6)
    editor.page.mouse.up()
    editor.page.wait_for_timeout(800)
    editor.page.click("#take")
    editor.wait_for_region("own region")
    editor.page.click("#keep input")
    editor.page.click("#renew")
    editor.until("own region seed 1")
    editor.page.wait_for_function(
        "() => document.querySelector('#told').innerText.includes('0.000000')", timeout=WAIT
    )  # all else was put back


def test_an_image_is_uploaded_and_saved_with_its_seeds(editor: Editor, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).resize((64, 64)).save(tmp_path / "mine.png")
    editor.page.locator("#upload input[type=file], input[type=file]").first.set_input_files(tmp_path / "mine.png")
    editor.until("dB")
    editor.page.click("#renew")
    editor.until("mouth seed 1")
    with editor.page.expect_download() as download:
        editor.page.click("#save")
    download.value.save_as(tmp_path / "saved.png")
    with Image.open(tmp_path / "saved.png") as picture:
        facts = json.loads(picture.text[METADATA])  # type: ignore[attr-defined]
    assert facts["image_seed"] is None and facts["edits"][0]["region"] == "mouth"


def test_influence_is_shown(editor: Editor) -> None:
    editor.page.click("#influence button")
    editor.page.click("#measure")
    editor.page.wait_for_selector("#influences img", timeout=120_000)


def test_what_goes_wrong_is_said(editor: Editor) -> None:
    editor.page.click("#draw button")
    editor.page.wait_for_timeout(800)
    editor.page.click("#take")
    editor.page.wait_for_selector("text=draw a region first", timeout=WAIT)
