"""The page in a browser: what a person does, from file to download."""

import time
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from browser import Visitor, chromium
from live import running
from pages import dicom_zip, nifti, video
from playwright.sync_api import Browser

from medsam2_ft.io.npz import read_case
from medsam2_ft.serve.backend import FakeBackend
from medsam2_ft.serve.engine import FakeEngine
from medsam2_ft.serve.settings import Settings

pytestmark = pytest.mark.ui
SIZE = (40, 32)
BOX = (10, 8, 24, 20)


class Pace:
    seconds = 0.0

    def __call__(self, _: int) -> None:
        time.sleep(self.seconds)


PACE = Pace()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def port(root: Path) -> Iterator[int]:
    settings = Settings(work_dir=root / "work", accept_dir=root / "accepted", max_sessions=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gradio.utils.get_heartbeat_rate", lambda: 0.25)  # tests would wait
        patch.setattr("medsam2_ft.serve.ui.desk.LEFT_S", 0.2)
        with running(FakeEngine(FakeBackend(PACE)), settings, page=True) as number:
            yield number


@pytest.fixture
def visitor(browser: Browser, port: int) -> Iterator[Visitor]:
    PACE.seconds = 0.0
    visitor = Visitor(browser, port)
    yield visitor
    visitor.context.close()
    assert visitor.outside == []
    assert visitor.errors == []


def labels_of(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def test_a_volume_from_file_to_download(visitor: Visitor, tmp_path: Path) -> None:
    source = nifti(tmp_path / "ct.nii.gz")
    visitor.go("Volume").open("volume", source)
    visitor.page.locator("#volume-window input").click()
    visitor.page.get_by_role("option", name="CT soft tissue").click()
    visitor.page.locator("#volume-status", has_text="window -160 to 240").wait_for()
    assert visitor.canvas("volume").get_attribute("data-index") == "6"
    visitor.drag("volume", BOX, SIZE)
    visitor.canvas("volume", '[data-masked="yes"]')
    assert visitor.numbers("volume") == list(BOX)
    visitor.propagate("volume")
    visitor.progress("volume", "done: 13 in")
    visitor.slider("volume", 9)
    visitor.canvas("volume", '[data-index="9"][data-masked="yes"]')
    visitor.click("volume", "minus", 12, 10, SIZE)
    visitor.page.locator("#volume-index").scroll_into_view_if_needed()
    stamp = visitor.stamp("volume")
    visitor.propagate("volume")
    visitor.progress("volume", "done")
    visitor.after("volume", stamp)
    path = visitor.download("volume", tmp_path)
    assert path.name == "mask.nii.gz"
    image, mask = nibabel.load(source), nibabel.load(path)
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-4)
    labels = labels_of(path)
    assert labels.shape == image.shape
    assert np.flatnonzero(labels.any(axis=(0, 1))).tolist() == list(range(12))
    expected = np.zeros(SIZE, bool)
    expected[10:25, 8:21] = True
    assert np.array_equal(labels[..., 6] == 1, expected)
    expected[11:14, 9:12] = False
    assert np.array_equal(labels[..., 9] == 1, expected)


@pytest.mark.parametrize("box", [(0, 0, 39, 31), (3, 5, 4, 6), (17, 0, 22, 31), (38, 30, 39, 31)])
def test_boxes_arrive_as_exact_pixels(
    visitor: Visitor, tmp_path: Path, box: tuple[int, int, int, int]
) -> None:
    visitor.go("Volume").open("volume", nifti(tmp_path / "ct.nii.gz"))
    visitor.drag("volume", box, SIZE)
    assert visitor.numbers("volume") == list(box)
    labels = labels_of(visitor.download("volume", tmp_path))
    x, y, _ = np.nonzero(labels)
    assert (x.min(), y.min(), x.max(), y.max()) == box


def test_slices_that_are_shown_flipped_get_the_pixels_under_the_pointer(
    visitor: Visitor, tmp_path: Path
) -> None:
    """A coronal slice has the head at the top, which is the array's last row."""
    visitor.go("Volume").open("volume", nifti(tmp_path / "ct.nii.gz"))
    stamp = visitor.stamp("volume")
    visitor.page.locator("#volume-axis").get_by_label("coronal").check()
    visitor.after("volume", stamp)
    visitor.drag("volume", (5, 0, 20, 2), (40, 12))
    assert visitor.numbers("volume") == [5, 9, 20, 11]
    x, y, z = np.nonzero(labels_of(visitor.download("volume", tmp_path)))
    assert set(y) == {16}
    assert (x.min(), x.max(), z.min(), z.max()) == (5, 20, 9, 11)


def test_the_patients_right_is_at_the_left(visitor: Visitor, tmp_path: Path) -> None:
    visitor.go("Volume").open("volume", nifti(tmp_path / "ct.nii.gz", turned=True))
    visitor.drag("volume", (5, 3, 20, 10), SIZE)
    assert visitor.numbers("volume") == [19, 21, 34, 28]
    x, y, _ = np.nonzero(labels_of(visitor.download("volume", tmp_path)))
    assert (x.min(), y.min(), x.max(), y.max()) == (19, 21, 34, 28)


def test_cancel_stops_and_what_was_found_stays(visitor: Visitor, tmp_path: Path) -> None:
    visitor.go("Volume").open("volume", nifti(tmp_path / "ct.nii.gz", (40, 32, 100)))
    visitor.drag("volume", BOX, SIZE)
    PACE.seconds = 0.05
    visitor.propagate("volume")
    visitor.progress("volume", "of 101, about")
    visitor.page.locator("#volume-cancel:not([disabled])").click()
    line = visitor.progress("volume", "cancelled after")
    done = int(line.split("after ")[1].split()[0])
    assert 0 < done < 80
    PACE.seconds = 0.0
    labels = labels_of(visitor.download("volume", tmp_path))
    assert labels.any(axis=(0, 1)).sum() == done
    visitor.page.get_by_role("button", name="Undo").and_(
        visitor.page.locator(":visible")
    ).first.click()
    visitor.page.locator("#volume-table", has_text="0.70 cm³").wait_for()


def test_scrolling_is_fast(visitor: Visitor, tmp_path: Path) -> None:
    visitor.go("Volume").open("volume", nifti(tmp_path / "ct.nii.gz", (512, 512, 40)))
    visitor.drag("volume", (100, 100, 300, 300), (512, 512))
    visitor.propagate("volume")
    visitor.progress("volume", "done")
    visitor.canvas("volume").focus()
    first = int(visitor.canvas("volume").get_attribute("data-index"))
    times = []
    for step in range(1, 11):
        began = time.monotonic()
        visitor.page.keyboard.press("ArrowUp")
        visitor.canvas("volume", f'[data-index="{first + step}"]')
        times.append(time.monotonic() - began)
    assert float(np.median(times)) < 0.3, times  # measured: about 0.1 s on two cores
    area = visitor.canvas("volume").bounding_box()
    visitor.page.mouse.move(area["x"] + 50, area["y"] + 50)
    for _ in range(5):
        visitor.page.mouse.wheel(0, -100)
    visitor.canvas("volume", f'[data-index="{first + 5}"]')


def test_accepted_cases_and_three_dimensions(visitor: Visitor, tmp_path: Path, root: Path) -> None:
    visitor.go("Volume").open("volume", nifti(tmp_path / "ct.nii.gz"))
    visitor.page.locator("#volume-name textarea, #volume-name input").fill("liver")
    visitor.drag("volume", BOX, SIZE)
    visitor.page.locator("#volume-table", has_text="liver").wait_for()
    visitor.page.locator("#volume-accept").click()
    visitor.page.locator("#volume-status", has_text="Accepted as case_").wait_for()
    (path,) = (root / "accepted").glob("*.npz")
    assert dict(read_case(path).label_names) == {1: "liver"}
    visitor.page.locator("#volume-3d button").first.click()
    visitor.page.wait_for_timeout(500)  # it unfolds
    visitor.page.locator("#volume-show-solid").click()
    visitor.page.locator('#volume-solid canvas[data-volumes="2"]').wait_for()


def test_a_picture_and_points(visitor: Visitor, tmp_path: Path) -> None:
    import cv2

    pixels = np.random.default_rng(0).integers(0, 255, (32, 40, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    visitor.go("Image").open("image", tmp_path / "a.png")
    visitor.click("image", "plus", 20, 12, SIZE)
    mask = cv2.imread(str(visitor.download("image", tmp_path)), cv2.IMREAD_UNCHANGED)
    expected = np.zeros((32, 40), np.uint8)
    expected[11:14, 19:22] = 1
    assert np.array_equal(mask, expected)


def test_a_video_with_its_overlay(visitor: Visitor, tmp_path: Path) -> None:
    video(tmp_path / "a.mp4")
    visitor.go("Video").open("video", tmp_path / "a.mp4")
    visitor.slider("video", 4)
    visitor.drag("video", (8, 14, 30, 34), (48, 48))
    visitor.propagate("video")
    visitor.progress("video", "done: 13 in")
    visitor.page.get_by_role("radio", name="overlay.mp4").check()
    path = visitor.download("video", tmp_path)
    assert path.suffix == ".mp4"
    film = visitor.page.locator("#video-film video")
    film.wait_for(state="visible")
    visitor.page.wait_for_function(
        "document.querySelector('#video-film video').videoWidth > 0"
    )  # the browser can play it


def test_a_dicom_zip(visitor: Visitor, tmp_path: Path, test_data: Path) -> None:
    path = dicom_zip(tmp_path / "a.zip", test_data / "CT/ibsi_sts_dicom/STS_008/CT/image")
    visitor.go("Volume").open("volume", path)
    visitor.page.locator("#volume-status", has_text="window -160 to 240").wait_for()


def test_a_bad_file_is_said_in_a_line(visitor: Visitor, tmp_path: Path) -> None:
    (tmp_path / "bad.nii.gz").write_bytes(b"\x1f\x8b nonsense")
    visitor.go("Volume")
    visitor.page.locator("#volume-file input[type=file]").set_input_files(tmp_path / "bad.nii.gz")
    toast = visitor.page.get_by_test_id("toast-body")
    toast.wait_for()
    assert "the file" in toast.inner_text()
    assert "Traceback" not in toast.inner_text()


def test_a_closed_tab_gives_its_session_back(
    browser: Browser, port: int, tmp_path: Path, root: Path
) -> None:
    path = nifti(tmp_path / "ct.nii.gz")
    for _ in range(2):
        visitor = Visitor(browser, port)
        visitor.go("Volume").open("volume", path)
        assert list((root / "work").rglob("source.nii.gz"))
        visitor.context.close()
        until = time.monotonic() + 20
        while list((root / "work").rglob("source.nii.gz")) and time.monotonic() < until:
            time.sleep(0.1)
        assert not list((root / "work").rglob("source.nii.gz"))


def test_the_tabs_without_a_file(visitor: Visitor) -> None:
    visitor.go("Models")
    visitor.page.locator("#models-table", has_text="fake (default)").wait_for()
    visitor.page.get_by_text("Use via API").click()
    visitor.page.get_by_text("/segment_volume").first.wait_for()
