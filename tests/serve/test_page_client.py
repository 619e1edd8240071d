"""The page from Python: the same handlers that the browser calls, with boxes instead of a model."""

import io
import re
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import nibabel
import numpy as np
import pytest
from gradio_client import handle_file
from gradio_client.exceptions import AppError
from live import Client, running
from pages import User, dicom_zip, nifti, video

from medsam2_ft.data.datamodule import SliceDataModule
from medsam2_ft.io.npz import read_case
from medsam2_ft.serve.backend import FakeBackend
from medsam2_ft.serve.engine import FakeEngine
from medsam2_ft.serve.settings import Settings

BOX = (10, 8, 24, 20)


class Pace:
    """Lets a test hold the model at a frame."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, _: int) -> None:
        time.sleep(self.seconds)


PACE = Pace()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def port(root: Path) -> Iterator[int]:
    settings = Settings(work_dir=root / "work", accept_dir=root / "accepted", max_sessions=30)
    with running(FakeEngine(FakeBackend(PACE)), settings, page=True) as number:
        yield number
    assert not list((root / "work").iterdir())


@pytest.fixture
def user(port: int, tmp_path: Path) -> User:
    PACE.seconds = 0.0
    return User(port, tmp_path / "downloads")


def labels_of(path: Path) -> Any:
    return np.asarray(nibabel.load(path).dataobj)


def box_mask(shape: tuple[int, ...], box: tuple[int, ...] = BOX) -> Any:
    mask = np.zeros(shape, bool)
    mask[box[0] : box[2] + 1, box[1] : box[3] + 1] = True  # nibabel's order: x first
    return mask


def test_a_volume_from_file_to_mask(user: User, tmp_path: Path) -> None:
    path = nifti(tmp_path / "ct.nii.gz")
    opened = user.open("volume", path, "auto", "lung", None, None)
    assert "window -910 to 590" in str(opened)
    assert "12 × 32 × 40" in str(opened)  # noqa: RUF001
    shown = user("volume_box", 1, 0, 6, *BOX)
    assert shown[0]["index"] == 6
    assert shown[0]["mask"]
    assert shown[0]["prompts"][0]["box"] == list(BOX)
    bars = [update[0] for update in user.client.submit(
        1, 0, 6, 3, 9, "both", "auto", api_name="/volume_propagate"
    )]  # fmt: skip
    assert "done: 8 in" in bars[-1]  # the first slice is passed in both directions
    saved = user.save("volume", "nii.gz")
    source, mask = nibabel.load(path), nibabel.load(saved)
    np.testing.assert_allclose(mask.affine, source.affine, atol=1e-4)
    expected = np.zeros(source.shape, bool)
    expected[..., 3:10] = box_mask(source.shape)[..., 3:10]
    assert np.array_equal(labels_of(saved) == 1, expected)
    user("volume_undo", 1, 0, 6)
    table = user("volume_redo", 1, 0, 6)[2]
    cm3 = expected.sum() * abs(np.linalg.det(source.affine[:3, :3])) / 1000
    assert f"{cm3:.2f} cm³" in table


def test_a_propagation_tells_how_far_it_is_and_is_cancelled(user: User, tmp_path: Path) -> None:
    user.open("volume", nifti(tmp_path / "ct.nii.gz", (40, 32, 60)))
    user("volume_box", 1, 0, 0, *BOX)
    PACE.seconds = 0.1
    job = user.client.submit(1, 0, 0, 0, 59, "forward", "auto", api_name="/volume_propagate")
    bars = []
    for update in job:
        bars.append(update[0])
        if len(bars) == 4:
            user("volume_cancel")
    done = [int(found) for bar in bars for found in re.findall(r'data-done="(\d+)"', bar)]
    assert done == sorted(done)
    assert len(set(done)) > 3
    assert f"cancelled after {done[-1]} of 60" in bars[-1]
    assert 1 < done[-1] < 40
    PACE.seconds = 0.0
    labels = labels_of(user.save("volume", "nii.gz"))
    assert np.flatnonzero(labels.any(axis=(0, 1))).tolist() == list(range(done[-1]))
    undone = user("volume_undo", 1, 0, 0)
    assert undone[0]["mask"]  # the prompt is a step of its own
    labels = labels_of(user.save("volume", "nii.gz"))
    assert np.flatnonzero(labels.any(axis=(0, 1))).tolist() == [0]
    with pytest.raises(Exception, match="No propagation is running"):
        user("volume_cancel")


def test_corrections_on_another_slice_and_axis(user: User, tmp_path: Path) -> None:
    user.open("volume", nifti(tmp_path / "ct.nii.gz"))
    user("volume_box", 1, 0, 6, *BOX)
    cut = user("volume_minus", 1, 0, 6, 12, 10)
    assert {"point": [12.0, 10.0], "label": 0} in cut[0]["prompts"]
    assert cut[0]["prompts"][0]["box"] == list(BOX)  # what was said before stays
    labels = labels_of(user.save("volume", "nii.gz"))
    assert not labels[11:14, 9:12, 6].any()
    assert labels[..., 6].sum() == 15 * 13 - 9
    turned = user("volume_turn", 1, 1)
    assert turned[3]["axis"] == 1
    assert (turned[3]["width"], turned[3]["height"]) == (40, 12)
    assert turned[3]["aspect"] == pytest.approx(5.0 / 0.8, rel=1e-3)
    user("volume_box", 1, 1, 16, 2, 2, 5, 9)
    labels = labels_of(user.save("volume", "nii.gz"))
    assert labels[2:6, 16, 2:10].all()
    user("volume_clear_slice", 1, 1, 16)
    labels = labels_of(user.save("volume", "nii.gz"))
    assert not labels[2:6, 16, 2:6].any()


def test_another_window_keeps_masks_and_undo(user: User, tmp_path: Path) -> None:
    before = user.open("volume", nifti(tmp_path / "ct.nii.gz"))
    user("volume_box", 1, 0, 6, *BOX)
    after = user("volume_reopen", None, "CT", "own", 40, 300, 0, 6, 1)
    assert "window -110 to 190" in str(after)
    image = next(part for part in after if isinstance(part, dict) and "image" in part)
    first = next(part for part in before if isinstance(part, dict) and "image" in part)
    assert image["mask"]
    assert image["image"] != first["image"]
    user("volume_undo", 1, 0, 6)
    with pytest.raises(Exception, match="There is no mask yet"):
        user.save("volume", "nii.gz")


def test_objects_with_names_become_training_cases(user: User, tmp_path: Path, root: Path) -> None:
    for seed in range(2):
        path = nifti(tmp_path / f"ct_{seed}.nii.gz", seed=seed)
        user.open("volume", path, "CT", "soft_tissue", None, None)
        user("volume_box", 1, 0, 6, *BOX)
        user("volume_new_object", 0, 6)
        user("volume_rename", 2, "spleen")
        user("volume_box", 2, 0, 6, 20, 14, 35, 28)
        said = user("volume_accept")
    cases = sorted((root / "accepted").glob("*.npz"))
    assert len(cases) == 2
    assert any(path.name in str(said) for path in cases)
    case = read_case(cases[0])
    assert case.modality == "CT"
    assert dict(case.label_names) == {2: "spleen"}
    assert case.intensity is not None
    assert (case.intensity.lower, case.intensity.upper) == (-160, 240)
    assert len(case.label_maps) == 2  # the objects overlap, and both are whole
    assert sorted({int(v) for m in case.label_maps for v in np.unique(m)}) == [0, 1, 2]
    data = SliceDataModule(str(root / "accepted"), image_size=64, batch_size=1, num_workers=0)
    data.setup("fit")
    assert next(iter(data.train_dataloader())).masks.any()


def test_a_picture(user: User, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    opened = user.open("image", tmp_path / "a.png")
    assert "30 × 50" in str(opened)  # noqa: RUF001
    user("image_box", 1, 0, 0, 5, 6, 20, 22)
    mask = cv2.imread(str(user.save("image", "png")), cv2.IMREAD_UNCHANGED)
    expected = np.zeros((30, 50), np.uint8)
    expected[6:23, 5:21] = 1
    assert np.array_equal(mask, expected)
    with pytest.raises(Exception, match="several slices"):
        user.open("image", nifti(tmp_path / "ct.nii.gz"))


def test_a_video_both_ways(user: User, tmp_path: Path) -> None:
    video(tmp_path / "a.mp4")
    opened = user.open("video", tmp_path / "a.mp4", rate=6)
    assert "6 × 48 × 48, 6 frames per second" in str(opened)  # noqa: RUF001
    user("video_box", 1, 0, 3, 6, 16, 30, 31)
    list(user.client.submit(1, 0, 3, 0, 5, "both", "auto", api_name="/video_propagate"))
    with zipfile.ZipFile(user.save("video", "masks.zip")) as archive:
        names = archive.namelist()
        planes = [
            cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_UNCHANGED)
            for name in names
        ]
    assert names == [f"frame_{number:05d}.png" for number in range(6)]
    assert all(plane[16:32, 6:31].all() and plane.sum() == 16 * 25 for plane in planes)
    with av.open(str(user.save("video", "overlay.mp4"))) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == Fraction(6)
        assert sum(1 for _ in film.decode(video=0)) == 6


def test_a_dicom_zip(user: User, tmp_path: Path, test_data: Path) -> None:
    path = dicom_zip(tmp_path / "a.zip", test_data / "CT/ibsi_sts_dicom/STS_008/CT/image")
    opened = user.open("volume", path)
    assert "window -160 to 240" in str(opened)  # CT, as the files say
    assert "axial" in str(opened)
    user("volume_box", 1, 0, 5, 10, 10, 60, 60)
    assert labels_of(user.save("volume", "nii.gz")).sum() == 51 * 51


def bomb() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(300 << 20))
    return content.getvalue()


def climber() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("../../evil.dcm", b"DICM")
    return content.getvalue()


@pytest.mark.parametrize(
    ("tab", "name", "content", "said"),
    [
        ("volume", "a.nii.gz", lambda: b"", "the file"),
        ("volume", "a.nii.gz", lambda: b"\x1f\x8b nonsense", "the file"),
        ("volume", "a.nrrd", lambda: b"NRRD0004\nnonsense", "the file"),
        ("volume", "a.npz", lambda: b"PK nonsense", "the file"),
        ("volume", "a.exe", lambda: b"MZ", "suffix"),
        ("volume", "a.mp4", lambda: b"", "tab Video"),
        ("volume", "a.png", lambda: b"", "tab Image"),
        ("volume", "a.zip", bomb, "the file"),
        ("volume", "a.zip", climber, "the file"),
        ("image", "a.png", lambda: b"\x89PNG nonsense", "the file"),
        ("video", "a.mp4", lambda: b"nonsense", "the file"),
        ("video", "a.nii.gz", lambda: b"", "no video"),
    ],
)
def test_bad_files_are_refused_in_one_line(
    user: User,
    tmp_path: Path,
    root: Path,
    tab: str,
    name: str,
    content: Callable[[], bytes],
    said: str,
) -> None:
    (tmp_path / name).write_bytes(content())
    with pytest.raises(AppError) as caught:
        user.open(tab, tmp_path / name)
    line = str(caught.value)
    assert said in line
    assert "\n" not in line
    assert str(root) not in line
    assert "Traceback" not in line
    assert "made a mistake" not in line
    assert not list((root / "work").rglob(f"*{name}")), "the upload stayed"


def test_an_address_is_not_fetched(user: User) -> None:
    address = {"path": "http://127.0.0.1:9/a.nii.gz", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(Exception, match="not its address"):
        user("volume_open", address, None, "auto", "auto", None, None, 0)


def test_fields_that_do_not_fit_are_said(user: User, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="Open one first"):
        user("volume_box", 1, 0, 0, *BOX)
    user.open("volume", nifti(tmp_path / "ct.nii.gz"))
    with pytest.raises(Exception, match="side of the box is missing"):
        user("volume_box", 1, 0, 6, 1, None, 3, 4)
    over = user("volume_propagate", 1, 0, 6, 0, 11, "both", "auto")
    assert "there is no prompt on a slice of axis 0: give one first." in over[0]
    with pytest.raises(Exception, match="first not above last"):
        user("volume_propagate", 1, 0, 6, 9, 3, "both", "auto")
    with pytest.raises(Exception, match="There is no such model"):
        user("volume_reopen", "other", "auto", "auto", None, None, 0, 6, 1)
    assert user("volume_box", 1, 0, 6, *BOX)[0]["mask"]  # the session is as it was


def test_users_do_not_meet(port: int, user: User, tmp_path: Path, root: Path) -> None:
    user.open("volume", nifti(tmp_path / "ct.nii.gz"))
    user("volume_box", 1, 0, 6, *BOX)
    saved = user.save("volume", "nii.gz")
    assert saved.is_file()
    made = max((root / "work").rglob("mask.nii.gz"), key=lambda path: path.stat().st_mtime_ns)
    assert re.fullmatch(r"[0-9a-f]{24}-[\w-]{22}", made.parent.name)  # nobody guesses this
    assert (made.parent.stat().st_mode & 0o777) == 0o700
    other = User(port, tmp_path / "other")
    with pytest.raises(Exception, match="Open one first"):
        other("volume_save", "nii.gz")
    opener = Client(port).opener
    base = f"http://127.0.0.1:{port}/ui/gradio_api/file="
    assert opener.open(base + str(made)).status == 200  # what the browser does
    (source,) = (root / "work").glob(f"*/{made.parent.name[:24]}/source.nii.gz")
    for place in (source, made.parent, "/etc/passwd"):
        with pytest.raises(Exception, match=r"40[34]"):
            opener.open(base + str(place))
    other.client.close()
    user.open("volume", nifti(tmp_path / "ct.nii.gz"))
    assert not made.exists()  # the first session has gone with its results
    assert not source.exists()


def test_two_propagations_at_once(port: int, user: User, tmp_path: Path) -> None:
    other = User(port, tmp_path / "other")
    for each in (user, other):
        each.open("volume", nifti(tmp_path / "ct.nii.gz"))
        each("volume_box", 1, 0, 0, *BOX)
    PACE.seconds = 0.05
    ends: list[float] = []

    def follow(each: User) -> None:
        list(each.client.submit(1, 0, 0, 0, 11, "forward", "auto", api_name="/volume_propagate"))
        ends.append(time.monotonic())

    threads = [threading.Thread(target=follow, args=[each]) for each in (user, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert abs(ends[0] - ends[1]) < 1.0  # slice by slice in turn
    for each in (user, other):
        assert labels_of(each.save("volume", "nii.gz")).any(axis=(0, 1)).all()
    other.client.close()


def test_a_session_that_has_ended_says_so(user: User, tmp_path: Path) -> None:
    user.open("volume", nifti(tmp_path / "ct.nii.gz"))
    (tmp_path / "bad.nii.gz").write_bytes(b"")
    with pytest.raises(Exception, match="the file"):
        user.open("volume", tmp_path / "bad.nii.gz")
    with pytest.raises(Exception, match=r"The session has ended. Open the file again"):
        user("volume_box", 1, 0, 6, *BOX)
    user.open("volume", nifti(tmp_path / "ct.nii.gz"))
    user("volume_close")
    with pytest.raises(Exception, match="Open one first"):
        user("volume_box", 1, 0, 6, *BOX)


def test_the_stateless_calls_need_a_model_that_can(user: User, tmp_path: Path) -> None:
    path = handle_file(str(nifti(tmp_path / "ct.nii.gz")))
    with pytest.raises(Exception, match="knows sessions only"):
        user("segment_volume", path, {"objects": [{"object_id": 1, "slices": [{"index": 2,
             "box": [1, 2, 8, 9]}]}]})  # fmt: skip
    with pytest.raises(Exception, match="prompts: objects"):
        user("segment_volume", handle_file(str(tmp_path / "ct.nii.gz")), {})
