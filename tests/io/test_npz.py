"""npz cases: every variant that the format's description names, and every way to get it wrong."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io.npz import case_header, find_cases, read_case, write_case
from medsam2_ft.io.npz_fields import modality_from_name
from medsam2_ft.types import MODALITIES, Case, Geometry, IntensityRule

GRAY = np.arange(30, dtype=np.uint8).reshape(2, 3, 5)
OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


def save(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


# --- what is read -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("imgs", "gts", "axes", "expected"),
    [
        ((2, 5, 6), None, None, (2, 5, 6)),
        ((2, 5, 6), (2, 5, 6), None, (2, 5, 6)),
        ((2, 5, 6, 3), None, None, (2, 5, 6, 3)),
        ((2, 5, 6, 3), (2, 5, 6), None, (2, 5, 6, 3)),
        ((5, 6), None, None, (1, 5, 6)),
        ((5, 6), (5, 6), None, (1, 5, 6)),
        ((5, 6), (1, 5, 6), None, (1, 5, 6)),
        ((1, 5, 6), (5, 6), None, (1, 5, 6)),
        ((5, 6, 3), None, None, (1, 5, 6, 3)),
        ((5, 6, 3), (5, 6), None, (1, 5, 6, 3)),
        ((5, 6, 3), (1, 5, 6), None, (1, 5, 6, 3)),
        ((5, 6, 3), (5, 6, 3), None, (5, 6, 3)),  # a volume three voxels wide
        ((5, 6, 4), (5, 6, 4), None, (5, 6, 4)),
        ((5, 6, 3), None, "zyx", (5, 6, 3)),
        ((5, 6, 3), None, "yxc", (1, 5, 6, 3)),
        ((5, 6, 4), None, "zyx", (5, 6, 4)),
    ],
)
def test_axes(
    tmp_path: Path, imgs: Any, gts: Any, axes: str | None, expected: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, imgs, dtype=np.uint8)
    arrays: dict[str, Any] = {"imgs": image}
    if gts:
        arrays["gts"] = rng.integers(0, 3, gts, dtype=np.uint8)
    if axes:
        arrays["axes"] = axes
    path = save(tmp_path / "x.npz", **arrays)
    case = read_case(path)
    np.testing.assert_array_equal(case.image, image.reshape(expected))
    assert [m.shape for m in case.label_maps] == ([expected[:3]] if gts else [])
    header = case_header(path)
    assert header.image_zyx == expected[:3]
    assert header.colour == (len(expected) == 4)
    assert header.label_keys == (("gts",) if gts else ())


@pytest.mark.parametrize(
    ("imgs", "gts", "message"),
    [
        ((2, 5, 6), (2, 6, 5), "grid"),
        ((2, 5, 6), (5, 6), "grid"),
        ((3, 5, 6), (5, 6), "grid"),  # colour first
        ((2, 5, 6, 3), (2, 5, 6, 3), "grid"),
        ((5, 6, 4), (5, 6), "channels"),
        ((5, 6, 4), None, "channels"),
        ((5, 6, 1), None, "channels"),
        ((2, 5, 6, 4), None, "RGBA"),
        ((2, 5, 6, 1), None, "pick one"),
        ((1, 2, 5, 6, 3), None, "neither"),
        ((7,), None, "neither"),
        ((), None, "neither"),
        ((0, 5, 6), None, "empty"),
        ((2, 0, 6), None, "empty"),
        ((0, 6), None, "empty"),
    ],
)
def test_shapes_that_are_refused(tmp_path: Path, imgs: Any, gts: Any, message: str) -> None:
    arrays = {"imgs": np.zeros(imgs, np.uint8)}
    if gts:
        arrays["gts"] = np.zeros(gts, np.uint8)
    path = save(tmp_path / "x.npz", **arrays)
    for read in (read_case, case_header):
        with pytest.raises(UserError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int64, ">i4", np.float32, np.float64])
def test_images_of_other_types_within_range(tmp_path: Path, dtype: Any) -> None:
    case = read_case(save(tmp_path / "x.npz", imgs=(GRAY * 10).astype(dtype)))
    assert case.image.dtype == np.uint8
    np.testing.assert_array_equal(case.image, GRAY * 10)


def test_a_float_image_is_rounded_and_fortran_order_is_turned(tmp_path: Path) -> None:
    image = np.asfortranarray(GRAY + np.float32(0.6))
    case = read_case(save(tmp_path / "x.npz", imgs=image))
    np.testing.assert_array_equal(case.image, GRAY + 1)
    assert case.image.flags.c_contiguous


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (GRAY.astype(np.float32) - 1, "prepare"),
        (GRAY.astype(np.int16) * 100, "prepare"),
        (GRAY / 255, "between 0 and 1"),
        (np.where(GRAY == 5, np.nan, GRAY), "NaN"),
        (np.where(GRAY == 5, np.inf, GRAY), "NaN or an infinity"),
        (GRAY > 5, "uint8"),
        (GRAY.astype(complex), "uint8"),
        (GRAY.astype(str), "uint8"),
    ],
)
def test_images_that_are_refused(tmp_path: Path, image: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_case(save(tmp_path / "x.npz", imgs=image))


@pytest.mark.parametrize(
    ("dtype", "top", "expected"),
    [
        (np.uint8, 255, np.uint8),
        (np.uint16, 3, np.uint16),
        (np.int16, 255, np.uint8),
        (np.int64, 256, np.uint16),
        (np.uint32, 65535, np.uint16),
        (np.float32, 4, np.uint8),
        (bool, 1, np.uint8),
    ],
)
def test_label_types(tmp_path: Path, dtype: Any, top: int, expected: Any) -> None:
    labels = np.zeros(GRAY.shape, dtype)
    labels[0, 0, 0] = top
    (label_map,) = read_case(save(tmp_path / "x.npz", imgs=GRAY, gts=labels)).label_maps
    assert label_map.dtype == expected
    np.testing.assert_array_equal(label_map, labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (GRAY.astype(np.int16) - 1, "range from -1 to 28"),
        (GRAY.astype(np.uint32) * 10000, "65535"),
        (GRAY * 0.25, "fractions"),
        (np.full(GRAY.shape, np.nan), "NaN"),
        (GRAY.astype(str), "uint8 or uint16"),
    ],
)
def test_labels_that_are_refused(tmp_path: Path, labels: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_case(save(tmp_path / "x.npz", imgs=GRAY, gts=labels))


def test_overlapping_maps(tmp_path: Path) -> None:
    one, two = (GRAY > 5).astype(np.uint8), (GRAY > 7).astype(np.uint8) * 2
    path = save(tmp_path / "x.npz", imgs=GRAY, gts_1=two, gts=one)
    for label_map, expected in zip(read_case(path).label_maps, (one, two), strict=True):
        np.testing.assert_array_equal(label_map, expected)
    assert case_header(path).label_keys == ("gts", "gts_1")
    with pytest.raises(UserError, match="id 1 occurs in two"):
        read_case(save(tmp_path / "y.npz", imgs=GRAY, gts=one, gts_1=one))
    with pytest.raises(UserError, match="gap"):
        read_case(save(tmp_path / "z.npz", imgs=GRAY, gts_1=one))
    with pytest.raises(UserError, match="gap"):
        read_case(save(tmp_path / "z.npz", imgs=GRAY, gts=one, gts_2=two))
    with pytest.raises(UserError, match="gts_1 has shape"):
        read_case(save(tmp_path / "z.npz", imgs=GRAY, gts=one, gts_1=two[:1]))


def test_a_parallel_folder_of_labels(tmp_path: Path) -> None:
    for images in (tmp_path / "a" / "imgs", tmp_path / "b"):
        gts = tmp_path / images.relative_to(tmp_path).parts[0] / "gts"
        images.mkdir(parents=True)
        gts.mkdir()
        path = save(images / "x.npz", imgs=GRAY)
        assert read_case(path).label_maps == ()
        save(gts / "x.npz", gts=GRAY % 3, label_names=json.dumps({"1": "lung"}))
        case = read_case(path)
        np.testing.assert_array_equal(case.label_maps[0], GRAY % 3)
        assert case.label_names == {1: "lung"}
        assert case_header(path).labels_path == gts / "x.npz"
        save(gts / "x.npz", gts=GRAY[:1])
        with pytest.raises(UserError, match=r"gts/x\.npz: gts has shape"):
            read_case(path)
        save(gts / "x.npz", segs=GRAY)
        with pytest.raises(UserError, match="no array 'gts'"):
            read_case(path)


def test_find_cases(tmp_path: Path) -> None:
    for name in ("b.npz", "a.npz", ".hidden.npz", "note.txt", "imgs/c.npz", "gts/c.npz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = [str(path.relative_to(tmp_path)) for path in find_cases(tmp_path)]
    assert names == ["a.npz", "b.npz", "imgs/c.npz"]
    with pytest.raises(UserError, match="prepare"):
        find_cases(_empty(tmp_path))
    with pytest.raises(UserError, match="no such folder"):
        find_cases(tmp_path / "gone")


def _empty(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_geometry_is_turned_into_array_order(tmp_path: Path) -> None:
    case = read_case(
        save(
            tmp_path / "x.npz",
            imgs=GRAY,
            spacing=np.array([0.5, 0.7, 5.0]),
            origin=np.array([1, 2, 3]),
            direction=np.array(OBLIQUE).reshape(3, 3),
        )
    )
    assert case.geometry == Geometry((5.0, 0.7, 0.5), (1.0, 2.0, 3.0), OBLIQUE)
    flat = read_case(save(tmp_path / "y.npz", imgs=GRAY[0], spacing=np.array([0.5, 0.7])))
    assert flat.geometry == Geometry((1.0, 0.7, 0.5))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("spacing", [0.0, 1, 1], "positive"),
        ("spacing", [1.0, -1, 1], "positive"),
        ("spacing", [1.0, np.nan, 1], "positive"),
        ("spacing", [1.0, np.inf, 1], "positive"),
        ("spacing", [1.0], "3 numbers"),
        ("spacing", ["1", "1", "1"], "3 numbers"),
        ("origin", [np.nan, 0, 0], "not finite"),
        ("direction", [np.inf] * 9, "not finite"),
        ("direction", [0.0] * 9, "perpendicular"),
        ("direction", [1e200] * 9, "perpendicular"),
        ("direction", [1.0, 0.5, 0, 0, 1, 0, 0, 0, 1], "perpendicular"),
        ("direction", [1.0, 0, 0, 1], "9 numbers"),
    ],
)
def test_geometry_that_is_refused(tmp_path: Path, key: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_case(save(tmp_path / "x.npz", imgs=GRAY, **{key: np.array(value)}))


def test_boxes(tmp_path: Path) -> None:
    labels = np.zeros(GRAY.shape, np.uint8)
    labels[0, 0, 0], labels[1, 1, 1] = 7, 3
    boxes = np.array([[1, 1, 1, 1], [0, 0, 2, 1]])
    case = read_case(save(tmp_path / "x.npz", imgs=GRAY, gts=labels, boxes=boxes))
    assert case.boxes is not None
    assert case.boxes.dtype == np.float32
    np.testing.assert_array_equal(case.boxes, boxes)
    assert case.box_labels == (3, 7)  # i-th id in ascending order
    unlabelled = read_case(save(tmp_path / "y.npz", imgs=GRAY, boxes=boxes))
    assert unlabelled.box_labels == (1, 2)
    named = save(tmp_path / "z.npz", imgs=GRAY, boxes=boxes, box_labels=np.array([9, 9]))
    assert read_case(named).box_labels == (9, 9)
    single = read_case(save(tmp_path / "s.npz", imgs=GRAY, boxes=np.array([0, 0, 0, 3, 2, 1])))
    assert single.boxes is not None
    assert single.boxes.shape == (1, 6)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"boxes": np.zeros((2, 5))}, "shape"),
        ({"boxes": np.zeros((1, 2, 4))}, "shape"),
        ({"boxes": np.array([["a"] * 4])}, "type"),
        ({"boxes": np.array([[0, 0, 1, 1], [2, 0, 1, 1]])}, "box 1 .*out of order"),
        ({"boxes": np.array([[0, 0, np.nan, 1]])}, "box 0"),
        ({"boxes": np.array([[0, 0, np.inf, 1]])}, "box 0"),
        ({"boxes": np.array([[5, 0, 6, 1]])}, "outside the image"),
        ({"boxes": np.array([[0, 0, 5, 1, 1, 6]])}, "out of order"),
        ({"boxes": np.array([[0, 0, 1, 1]]), "box_labels": np.array([1, 2])}, "box_labels"),
        ({"boxes": np.array([[0, 0, 1, 1]]), "box_labels": np.array([0])}, "box_labels"),
        ({"boxes": np.array([[0, 0, 1, 1]]), "box_labels": np.array(["a"])}, "box_labels"),
        ({"boxes": np.array([[0, 0, 1, 1]] * 30), "gts": (GRAY > 5) * 1}, "30 label ids"),
    ],
)
def test_boxes_that_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_case(save(tmp_path / "x.npz", imgs=GRAY, **arrays))


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("2DBox_Dermoscopy_x", "dermoscopy"),
        ("3DBox_CT_x", "CT"),
        ("CT_Abd_x", "CT"),
        ("CT_Lesion_000001_02", "CT"),
        ("2DBox_X-Ray_demo", "xray"),
        ("2DBox_XRay_demo", "xray"),
        ("2DBox_CXR_demo", "xray"),
        ("2DBox_Microscope_1", "microscopy"),
        ("2DBox_Mamm_1", "mammography"),
        ("2DBox_US_1", "ultrasound"),
        ("MRI-7", "MR"),
        ("PET.7", "PET"),
        ("OCT_1", "OCT"),
        ("Endoscopy_1", "endoscopy"),
        ("2DBox_Fundus_1", "fundus"),
        ("case_ct_1", None),
        ("CTA_1", None),
        ("xrays_1", None),
        ("", None),
    ],
)
def test_modality_from_the_name(name: str, modality: str | None) -> None:
    assert modality_from_name(name) == modality


def test_texts(tmp_path: Path) -> None:
    path = save(
        tmp_path / "CT_x.npz",
        imgs=GRAY,
        modality="mri",
        label_names=json.dumps({"1": "Leber", "300": "ö"}),
        regions=json.dumps({"whole": [1, 300]}),
        intensity=IntensityRule("window", -160.0, 240.0).to_json(),
    )
    case = read_case(path)
    assert case.modality == "MR"  # what is stored outranks the name
    assert case_header(path).modality == "MR"
    assert case.label_names == {1: "Leber", 300: "ö"}
    assert case.regions == {"whole": (1, 300)}
    assert case.intensity == IntensityRule("window", -160.0, 240.0)
    empty = save(tmp_path / "CT_y.npz", imgs=GRAY, modality="", regions="", intensity="")
    assert read_case(empty).modality == "CT"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("modality", "telepathy"),
        ("modality", np.array([1, 2])),
        ("modality", np.array(["CT", "MR"])),
        ("axes", "xyz"),
        ("axes", "yx"),
        ("label_names", "spleen"),
        ("label_names", '["spleen"]'),
        ("label_names", '{"spleen": 1}'),
        ("label_names", '{"0": "background"}'),
        ("label_names", '{"1": 1}'),
        ("label_names", '{"99999999999": "x"}'),
        ("regions", '{"whole": 1}'),
        ("regions", '{"whole": []}'),
        ("regions", '{"whole": [true]}'),
        ("regions", "[" * 100000),
        ("intensity", "{}"),
        ("intensity", "nonsense"),
        ("intensity", '{"kind": "window", "lower": 3, "upper": 1}'),
    ],
)
def test_texts_that_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(UserError, match=key):
        read_case(save(tmp_path / "x.npz", imgs=GRAY, **{key: value}))


# --- files that are damaged or hostile ----------------------------------------------------------


def test_missing_keys_and_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no array 'imgs' \(arrays: image, gts\)"):
        read_case(save(tmp_path / "x.npz", image=GRAY, gts=GRAY))
    with pytest.raises(UserError, match="no such file"):
        read_case(tmp_path / "gone.npz")
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(UserError, match="truncated, damaged or not npz"):
        read_case(tmp_path / "empty.npz")
    with pytest.raises(UserError, match="cannot be read"):
        read_case(tmp_path)


class _Bomb:
    """Would create a file if it were ever unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["BOMB_TARGET"],)


@pytest.mark.parametrize("key", ["imgs", "gts", "spacing", "label_names", "boxes", "axes"])
def test_pickled_objects_are_never_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    target = tmp_path / "exploded"
    monkeypatch.setenv("BOMB_TARGET", str(target))
    arrays: dict[str, Any] = {"imgs": GRAY, key: np.array([_Bomb()], dtype=object)}
    path = save(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match="pickled object array"):
        read_case(path)
    with pytest.raises(UserError, match="pickled object array"):
        case_header(path)
    assert not target.exists()


def test_every_truncation_is_refused(make_case: Callable[..., Path]) -> None:
    path = make_case("CT_x", shape_zyx=(2, 8, 8))
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="truncated, damaged or not npz"):
            read_case(path)


def test_a_changed_byte_of_the_image_is_noticed(make_case: Callable[..., Path]) -> None:
    path = make_case("x", shape_zyx=(2, 16, 16))
    whole = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("imgs.npy")
    whole[entry.header_offset + 200] ^= 0xFF
    path.write_bytes(bytes(whole))
    with pytest.raises(UserError, match="'imgs' cannot be read"):
        read_case(path)


def test_the_size_limit_is_checked_before_anything_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "x.npz", imgs=GRAY)
    monkeypatch.setenv("MEDSAM2FT_MAX_VOXELS", "30")
    read_case(path)
    monkeypatch.setenv("MEDSAM2FT_MAX_VOXELS", "29")
    with pytest.raises(UserError, match="MEDSAM2FT_MAX_VOXELS"):
        read_case(path)
    assert case_header(path).image_zyx == (2, 3, 5)
    monkeypatch.setenv("MEDSAM2FT_MAX_VOXELS", "many")
    with pytest.raises(UserError, match="not a positive integer"):
        read_case(path)


def _raw_npz(path: Path, data: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("imgs.npy", data)
    return path


def _npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999, 99999, 99999)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-2, -3, 4)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3, 6)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3, 4)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': 30}",
        "{'descr': '|V0', 'fortran_order': False, 'shape': (2, 3, 5)}",
        "{'descr': 'nonsense', 'fortran_order': False, 'shape': (2, 3, 5)}",
        "{'descr': '|u1', 'shape': (2, 3, 5)}",
        "__import__('os').abort()",
        "(" * 110,
    ],
)
def test_headers_that_lie(tmp_path: Path, header: str) -> None:
    path = _raw_npz(tmp_path / "x.npz", _npy(header, bytes(30)))
    for read in (read_case, case_header):
        with pytest.raises(UserError, match="'imgs'"):
            read(path)


def test_other_compressions_and_no_npy_at_all(tmp_path: Path) -> None:
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3, 5)}"
    data = _npy(header, bytes(30))
    assert not read_case(_raw_npz(tmp_path / "stored.npz", data, zipfile.ZIP_STORED)).image.any()
    with pytest.raises(UserError, match="compression"):
        read_case(_raw_npz(tmp_path / "lzma.npz", data, zipfile.ZIP_LZMA))
    with pytest.raises(UserError, match="cannot be read"):
        read_case(_raw_npz(tmp_path / "text.npz", b"no npy"))


def test_newer_npy_versions(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for number, key in enumerate(("imgs", "gts")):
            with archive.open(f"{key}.npy", "w") as stream:
                np.lib.format.write_array(stream, GRAY, version=(2 + number, 0))
    np.testing.assert_array_equal(read_case(tmp_path / "x.npz").image, GRAY)


# --- what is written ----------------------------------------------------------------------------


def full_case(image: NDArray[np.uint8] = GRAY) -> Case:
    return Case(
        name="x",
        image=image,
        label_maps=((image > 3).astype(np.uint8), (image > 9).astype(np.uint16) * 500),
        geometry=Geometry((5.0, 0.1 + 0.2, 1 / 3), (-1.5, 1e-9, 3.0), OBLIQUE),
        modality="PET",
        label_names={1: "lung", 500: "Gefäß"},
        regions={"all": (1, 500)},
        intensity=IntensityRule("percentile", 0.5, 99.5),
        boxes=np.array([[0, 0, 1, 2.5]], np.float32),
        box_labels=(500,),
    )


def assert_equal_cases(one: Case, two: Case) -> None:
    for name in ("name", "geometry", "modality", "label_names", "regions", "intensity"):
        assert getattr(one, name) == getattr(two, name), name
    assert one.box_labels == two.box_labels
    np.testing.assert_array_equal(one.image, two.image)
    assert one.image.shape == two.image.shape
    assert len(one.label_maps) == len(two.label_maps)
    for a, b in zip(one.label_maps, two.label_maps, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    assert (one.boxes is None) == (two.boxes is None)
    if one.boxes is not None:
        np.testing.assert_array_equal(one.boxes, two.boxes)


def test_numpy_reads_what_we_write(tmp_path: Path) -> None:
    write_case(tmp_path / "x.npz", full_case())
    with np.load(tmp_path / "x.npz", allow_pickle=False) as stored:
        assert set(stored) == {
            *("imgs", "gts", "gts_1", "spacing", "direction", "origin", "modality"),
            *("label_names", "regions", "intensity", "boxes", "box_labels"),
        }
        np.testing.assert_array_equal(stored["imgs"], GRAY)
        np.testing.assert_array_equal(stored["spacing"], [1 / 3, 0.1 + 0.2, 5.0])  # x, y, z
        assert stored["modality"].dtype.kind == "U"
        assert json.loads(str(stored["label_names"])) == {"1": "lung", "500": "Gefäß"}
        assert str(stored["intensity"]) == IntensityRule("percentile", 0.5, 99.5).to_json()


def test_equal_cases_give_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_case(tmp_path / "a.npz", full_case())
    monkeypatch.setattr("time.time", lambda: 0.0)
    write_case(tmp_path / "b.npz", full_case())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    shape = draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=5))
    colour = draw(st.booleans())
    image = draw(hnp.arrays(np.uint8, (*shape, 3) if colour else shape))
    maps: list[NDArray[Any]] = []
    for i in range(draw(st.integers(0, 2))):
        dtype = draw(st.sampled_from([np.uint8, np.uint16]))
        ids = st.sampled_from([0, 3 * i + 1, 3 * i + 2])
        maps.append(draw(hnp.arrays(dtype, shape, elements=ids)))
    positive = st.floats(1e-6, 1e6)
    number = st.floats(-1e9, 1e9)
    z, y, x = shape
    boxes = np.array([[0, 0, 0, x - 1, y - 1, z - 1]] * draw(st.integers(0, 3)), np.float32)
    return Case(
        name="x",
        image=image,
        label_maps=tuple(maps),
        geometry=Geometry(
            draw(st.tuples(positive, positive, positive)),
            draw(st.tuples(number, number, number)),
            draw(st.sampled_from([Geometry().direction, OBLIQUE])),
        ),
        modality=draw(st.none() | st.sampled_from(MODALITIES)),
        label_names=draw(st.dictionaries(st.integers(1, 65535), st.text(max_size=5), max_size=3)),
        regions=draw(
            st.dictionaries(
                st.text(max_size=5),
                st.lists(st.integers(1, 65535), min_size=1, max_size=3).map(tuple),
                max_size=2,
            )
        ),
        intensity=draw(st.none() | st.just(IntensityRule("window", -0.1, 1 / 3))),
        boxes=boxes if len(boxes) else None,
        box_labels=tuple(range(1, len(boxes) + 1)),
    )


@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # beartype draws samples
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cases())
def test_round_trip(tmp_path: Path, case: Case) -> None:
    write_case(tmp_path / "x.npz", case)
    assert_equal_cases(read_case(tmp_path / "x.npz"), case)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": GRAY[..., None]}, "channel"),
        ({"image": GRAY[:0]}, "empty"),
        ({"label_maps": (GRAY[:1],)}, "grid"),
        ({"label_maps": (GRAY.astype(np.int16) - 5,)}, "range from"),
        ({"label_maps": (GRAY, GRAY)}, "two label maps"),
        ({"geometry": Geometry((0.0, 1.0, 1.0))}, "spacing"),
        ({"geometry": Geometry(direction=(1.0,) * 9)}, "direction"),
        ({"modality": "telepathy"}, "modality"),
        ({"box_labels": ()}, "box_labels"),
        ({"boxes": np.array([[9, 0, 1, 1]], np.float32)}, "out of order"),
    ],
)
def test_cases_that_are_not_written(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    case = Case(**{**full_case().__dict__, **change})
    with pytest.raises(UserError, match=message):
        write_case(tmp_path / "x.npz", case)
    assert list(tmp_path.iterdir()) == []


def test_the_suffix_and_the_folder_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in \.npz"):
        write_case(tmp_path / "x.nii", full_case())
    with pytest.raises(UserError, match="cannot be written"):
        write_case(tmp_path / "gone" / "x.npz", full_case())


# --- real files ---------------------------------------------------------------------------------


def test_real_lesion_files(test_data: Path, tmp_path: Path) -> None:
    paths = find_cases(test_data / "CT" / "medsam2_recist_npz")
    assert len(paths) == 3
    for path in paths:
        case = read_case(path)
        with np.load(path, allow_pickle=False) as stored:
            np.testing.assert_array_equal(case.image, stored["imgs"])
            np.testing.assert_array_equal(case.label_maps[0], stored["gts"])
            np.testing.assert_array_equal(case.geometry.spacing_mm[::-1], stored["spacing"])
            np.testing.assert_array_equal(case.geometry.direction, stored["direction"])
        assert case.modality == "CT"
        assert case.geometry.spacing_mm[0] == 5.0  # slices lie 5 mm apart
        write_case(tmp_path / path.name, case)
        assert_equal_cases(read_case(tmp_path / path.name), case)


def test_generated_folder(case_folder: Path) -> None:
    found = [read_case(path) for path in find_cases(case_folder)]
    assert [c.image.shape for c in found] == [
        (6, 48, 56),
        (5, 64, 64),
        (1, 80, 60),
        (9, 40, 40, 3),
    ]
    _, labels = synthetic.make_volume((5, 64, 64), seed=1)
    np.testing.assert_array_equal(found[1].label_maps[0], labels)
