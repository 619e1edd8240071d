"""Debian's chromium, driven by Playwright, on a page that asks nobody but its own server."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, sync_playwright

ARGS = (
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
)
WAIT_MS = 12_000


@contextmanager
def chromium() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium: apt-get install chromium, or name one with CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGS))
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """Somebody in front of the page.

    Attributes:
        outside: Addresses that were asked for and are not the server's.
        errors: What the browser's console and its scripts complained about.
    """

    def __init__(self, browser: Browser, port: int) -> None:
        self.context = browser.new_context(
            viewport={"width": 1400, "height": 1000}, accept_downloads=True
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.base = f"http://127.0.0.1:{port}"
        self.outside: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", self._asked)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _asked(self, request: Request) -> None:
        place = urlsplit(request.url)
        if place.scheme not in ("data", "blob") and f"{place.scheme}://{place.netloc}" != self.base:
            self.outside.append(request.url)

    def go(self, tab: str) -> "Visitor":
        self.page.goto(f"{self.base}/")
        return self.to(tab)

    def to(self, tab: str) -> "Visitor":
        self.page.get_by_role("tab", name=tab).click()
        return self

    def open(self, kind: str, path: Path) -> None:
        self.page.locator(f"#{kind}-file input[type=file]").set_input_files(str(path))
        self.canvas(kind, "[data-stamp]")

    def canvas(self, kind: str, state: str = "") -> Any:
        found = self.page.locator(f"#{kind}-canvas canvas{state}")
        found.wait_for(state="visible")
        return found

    def stamp(self, kind: str) -> int:
        return int(self.canvas(kind).get_attribute("data-stamp"))

    def after(self, kind: str, stamp: int) -> None:
        """Waits for another picture than the one of that stamp."""
        self.page.wait_for_function(
            "([kind, stamp]) => Number(document.querySelector("
            "`#${kind}-canvas canvas`).dataset.stamp) > stamp",
            arg=[kind, stamp],
        )

    def place(self, kind: str, x: float, y: float, size: tuple[int, int]) -> tuple[float, float]:
        """Where on the screen the middle of an image pixel lies."""
        area = self.canvas(kind).bounding_box()
        width, height = size
        return (
            area["x"] + (x + 0.5) / width * area["width"],
            area["y"] + (y + 0.5) / height * area["height"],
        )

    def drag(self, kind: str, box: tuple[int, int, int, int], size: tuple[int, int]) -> None:
        self.canvas(kind).scroll_into_view_if_needed()
        stamp = self.stamp(kind)
        self.page.mouse.move(*self.place(kind, box[0], box[1], size))
        self.page.mouse.down()
        self.page.mouse.move(*self.place(kind, box[2], box[3], size), steps=4)
        self.page.mouse.up()
        self.after(kind, stamp)

    def click(self, kind: str, tool: str, x: int, y: int, size: tuple[int, int]) -> None:
        self.page.locator(f"#{kind}-canvas [data-tool={tool}]").click()
        self.canvas(kind).scroll_into_view_if_needed()
        stamp = self.stamp(kind)
        self.page.mouse.click(*self.place(kind, x, y, size))
        self.after(kind, stamp)

    def numbers(self, kind: str) -> list[int]:
        """The fields for the box."""
        if not self.page.locator(f"#{kind}-x0").is_visible():
            self.page.get_by_role("tabpanel").locator("button:visible").filter(
                has_text="Coordinates instead of the mouse"
            ).click()
        return [
            int(self.page.locator(f"#{kind}-{side} input").input_value())
            for side in ("x0", "y0", "x1", "y1")
        ]

    def slider(self, kind: str, value: int) -> None:
        stamp = self.stamp(kind)
        field = self.page.locator(f"#{kind}-index input[type=number]")
        field.fill(str(value))
        field.press("Enter")
        self.after(kind, stamp)

    def propagate(self, kind: str) -> None:
        self.page.locator(f"#{kind}-propagate").click()

    def progress(self, kind: str, text: str) -> str:
        bar = self.page.locator(f"#{kind}-progress", has_text=text)
        bar.wait_for()
        return str(bar.inner_text())

    def download(self, kind: str, folder: Path) -> Path:
        self.page.locator(f"#{kind}-save").click()
        link = self.page.locator(f"#{kind}-result a[download]").first
        link.wait_for()
        with self.page.expect_download() as coming:
            link.click()
        path = folder / coming.value.suggested_filename
        coming.value.save_as(path)
        return path

    def table(self, kind: str) -> str:
        return str(self.page.locator(f"#{kind}-table").inner_text())
