"""Draws the pictures of the page in docs/images, with the model and the scan of the demo.

make demo && .venv/bin/python tests/serve/screenshots.py runs/demo/exports
"""

import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from browser import Visitor, chromium
from live import running

from medsam2_ft.demo import read_scan, scan_case
from medsam2_ft.io import write_volume
from medsam2_ft.io.video_write import write_mp4
from medsam2_ft.serve.engine import ModelEngine
from medsam2_ft.serve.registry import Registry
from medsam2_ft.serve.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
SIDE = 128


Box = tuple[int, int, int, int]


def lungs() -> tuple[int, dict[str, Box]]:
    """A slice in the middle, and the boxes of both lungs there; x grows to the patient's left."""
    case = scan_case()
    index = len(case.image) // 2
    boxes = []
    for label in case.label_names:
        y, x = np.nonzero(case.label_maps[0][index] == label)
        boxes.append((int(x.min()), int(y.min()), int(x.max()), int(y.max())))
    return index, dict(zip(("right lung", "left lung"), sorted(boxes), strict=True))


def upright(box: Box) -> Box:
    """The box on a slice that is turned upside down: pictures have no geometry to do it."""
    return box[0], SIDE - 1 - box[3], box[2], SIDE - 1 - box[1]


def shoot(visitor: Visitor, name: str) -> None:
    visitor.page.evaluate("window.scrollTo(0, 0)")
    visitor.page.wait_for_timeout(1500)  # toasts and transitions are over, videos have a frame
    visitor.page.screenshot(path=IMAGES / f"page_{name}.png", full_page=True)


def volume(visitor: Visitor, folder: Path, index: int, boxes: dict[str, Box]) -> None:
    write_volume(folder / "chest.nii.gz", read_scan()[0])
    visitor.to("Volume").open("volume", folder / "chest.nii.gz")
    visitor.page.locator("#volume-window input").click()
    visitor.page.get_by_role("option", name="CT lung").click()
    visitor.page.locator("#volume-status", has_text="window -910 to 590").wait_for()
    for number, (title, box) in enumerate(boxes.items()):
        if number:
            visitor.page.get_by_role("button", name="New object").and_(
                visitor.page.locator(":visible")
            ).click()
            visitor.page.locator("#volume-object").get_by_label("2").wait_for()
        name = visitor.page.locator("#volume-name textarea, #volume-name input")
        name.fill(title)
        name.press("Enter")
        visitor.drag("volume", box, (SIDE, SIDE))
    visitor.propagate("volume")
    visitor.progress("volume", "done")
    visitor.slider("volume", index)
    shoot(visitor, "volume")
    visitor.page.locator("#volume-3d button").first.click()
    visitor.page.wait_for_timeout(1000)  # it unfolds
    visitor.page.locator("#volume-show-solid").click()
    visitor.page.locator('#volume-solid canvas[data-volumes="2"]').wait_for()
    visitor.page.wait_for_timeout(3000)
    visitor.page.locator("#volume-3d").screenshot(path=IMAGES / "page_3d.png")


def image(visitor: Visitor, folder: Path, index: int, boxes: dict[str, Box]) -> None:
    cv2.imwrite(str(folder / "slice.png"), scan_case().image[index, ::-1])
    visitor.to("Image").open("image", folder / "slice.png")
    visitor.drag("image", upright(next(iter(boxes.values()))), (SIDE, SIDE))
    shoot(visitor, "image")


def video(visitor: Visitor, folder: Path, index: int, boxes: dict[str, Box]) -> None:
    frames = np.repeat(scan_case().image[:, ::-1, :, None], 3, axis=-1)
    write_mp4(folder / "chest.mp4", frames, Fraction(10))
    visitor.to("Video").open("video", folder / "chest.mp4")
    visitor.slider("video", index)
    visitor.drag("video", upright(next(iter(boxes.values()))), (SIDE, SIDE))
    visitor.propagate("video")
    visitor.progress("video", "done")
    visitor.page.get_by_role("radio", name="overlay.mp4").check()
    visitor.page.locator("#video-save").click()
    visitor.page.locator("#video-film video").wait_for()
    shoot(visitor, "video")


def main(exports: str) -> None:
    index, boxes = lungs()
    engine = ModelEngine(Registry(watch=[exports]), device="cpu")
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        folder = Path(name)
        settings = Settings(work_dir=folder / "work", accept_dir=folder / "accepted")
        with running(engine, settings, page=True) as port:
            visitor = Visitor(browser, port)
            visitor.page.set_default_timeout(60_000)
            visitor.page.goto(f"{visitor.base}/")
            image(visitor, folder, index, boxes)
            volume(visitor, folder, index, boxes)
            video(visitor, folder, index, boxes)
            visitor.to("Models")
            shoot(visitor, "models")
            visitor.context.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
