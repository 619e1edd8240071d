"""``.seg.nrrd``: names, values and layers as slicerio, the reference reader, sees them."""

from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
import slicerio
from io_world import affine_of, rotation

from medsam2_ft.errors import UserError
from medsam2_ft.io import read_labels, write_labels
from medsam2_ft.types import Geometry, LabelVolume

PACKAGE = Path(slicerio.__file__).parent / "data"
ONE = (np.arange(120).reshape(4, 5, 6) % 4).astype(np.uint8)
TWO = (np.arange(120).reshape(4, 5, 6) % 5 == 0).astype(np.uint8) * 7
OBLIQUE = Geometry(
    (4.0, 0.9, 0.7), (-12.5, 30.0, 7.0), tuple(float(v) for v in rotation(20, -35, 50).ravel())
)


def test_one_layer_agrees_with_slicerio() -> None:
    path = PACKAGE / "Segmentation.seg.nrrd"
    labels = read_labels(path)
    reference = slicerio.read_segmentation(str(path))
    np.testing.assert_array_equal(labels.maps, [reference["voxels"].T])
    names = {segment["labelValue"]: segment["name"] for segment in reference["segments"]}
    assert labels.label_names == names
    assert names[5] == "right lung"
    np.testing.assert_allclose(affine_of(labels.geometry), reference["ijkToLPS"], atol=1e-9)


def test_overlapping_layers_agree_with_slicerio() -> None:
    path = PACKAGE / "SegmentationOverlapping.seg.nrrd"
    labels = read_labels(path)
    reference = slicerio.read_segmentation(str(path))
    assert len(labels.maps) == 2
    ids = {name: label for label, name in labels.label_names.items()}
    assert len(ids) == len(reference["segments"]) == 8
    for segment in reference["segments"]:
        layer = reference["voxels"][segment["layer"]].T
        theirs = np.equal(layer, segment["labelValue"])
        ours = labels.maps[segment["layer"]] == ids[segment["name"]]
        assert theirs.any()
        np.testing.assert_array_equal(ours, theirs)
    assert ids["ribs"] == 1
    assert ids["overlapping sphere"] == 8  # its own value 1 is taken by the first layer
    np.testing.assert_allclose(affine_of(labels.geometry), reference["ijkToLPS"], atol=1e-9)


def test_the_same_file_of_the_test_data(test_data: Path) -> None:
    for path in sorted((test_data / "CT/slicerio_chest").glob("*.seg.nrrd")):
        assert read_labels(path).label_names[6] == "left lung"


@pytest.mark.parametrize(("maps", "wide"), [((ONE,), 1), ((ONE, TWO), 1), ((ONE, TWO), 100)])
def test_slicerio_reads_what_we_write(
    tmp_path: Path, maps: tuple[np.ndarray[Any, Any], ...], wide: int
) -> None:
    maps = tuple(m.astype(np.uint16) * wide if wide > 1 else m for m in maps)
    names = {wide: "left lung", 3 * wide: r"back\slash: a|b~c", 7 * wide: "sphere"}
    path = tmp_path / "x.seg.nrrd"
    write_labels(path, LabelVolume(maps, names, OBLIQUE))
    reference = slicerio.read_segmentation(str(path))
    np.testing.assert_allclose(reference["ijkToLPS"], affine_of(OBLIQUE), atol=1e-9)
    layers = reference["voxels"] if len(maps) > 1 else reference["voxels"][None]
    for layer, expected in zip(layers, maps, strict=True):
        np.testing.assert_array_equal(layer.T, expected)
    found = {s["labelValue"]: (s["name"], s["layer"]) for s in reference["segments"]}
    assert found[wide] == ("left lung", 0)
    assert found[2 * wide] == (f"Segment_{2 * wide}", 0)
    assert found[7 * wide] == ("sphere", len(maps) - 1)
    again = read_labels(path)
    np.testing.assert_array_equal(again.maps, maps)
    assert again.label_names == {**names, 2 * wide: f"Segment_{2 * wide}"}
    np.testing.assert_allclose(affine_of(again.geometry), affine_of(OBLIQUE), atol=1e-12)


def test_slicerios_own_writer_is_read(tmp_path: Path) -> None:
    reference = slicerio.read_segmentation(str(PACKAGE / "SegmentationOverlapping.seg.nrrd"))
    slicerio.write_segmentation(str(tmp_path / "x.seg.nrrd"), reference)
    ours = read_labels(tmp_path / "x.seg.nrrd")
    original = read_labels(PACKAGE / "SegmentationOverlapping.seg.nrrd")
    np.testing.assert_array_equal(ours.maps, original.maps)
    assert ours.label_names == original.label_names


def test_names_in_any_script_and_bytes_that_repeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {1: "Gefäß ✓", 2: "a\nb\tc", 3: "x:=y"}
    for seconds, name in enumerate(("a", "b")):
        monkeypatch.setattr("time.time", lambda now=1e9 + seconds: now)
        write_labels(tmp_path / f"{name}.seg.nrrd", LabelVolume((ONE,), names))
    assert read_labels(tmp_path / "a.seg.nrrd").label_names == {**names, 2: "a b c"}
    assert (tmp_path / "a.seg.nrrd").read_bytes() == (tmp_path / "b.seg.nrrd").read_bytes()


def test_an_empty_segmentation(tmp_path: Path) -> None:
    write_labels(tmp_path / "x.seg.nrrd", LabelVolume((ONE * 0,), {}))
    labels = read_labels(tmp_path / "x.seg.nrrd")
    assert labels.label_names == {}
    assert not labels.maps[0].any()


def save(path: Path, layers: np.ndarray[Any, Any], **texts: str) -> Path:
    header = {
        "space": "left-posterior-superior",
        "kinds": ["list", "domain", "domain", "domain"][4 - layers.ndim :],
        "space directions": np.vstack([np.full((layers.ndim - 3, 3), np.nan), np.eye(3)]),
        **texts,
    }
    nrrd.write(str(path), layers, header)
    return path


def test_files_from_before_values_and_layers(tmp_path: Path) -> None:
    layers = np.stack([ONE.T == 1, ONE.T >= 1]).astype(np.uint8)
    path = save(tmp_path / "x.seg.nrrd", layers, Segment0_Name="core", Segment1_ID="Segment_2")
    labels = read_labels(path)
    assert labels.label_names == {1: "core", 2: "Segment_2"}
    np.testing.assert_array_equal(labels.maps, [ONE == 1, (ONE >= 1) * 2])


def test_values_without_a_segment_keep_their_id(tmp_path: Path) -> None:
    path = save(tmp_path / "x.seg.nrrd", ONE.T.copy(), Segment0_ID="s", Segment0_LabelValue="2")
    labels = read_labels(path)
    assert labels.label_names == {2: "s"}
    np.testing.assert_array_equal(labels.maps[0], ONE)


@pytest.mark.parametrize(
    "texts",
    [
        {"Segment0_LabelValue": "0"},
        {"Segment0_LabelValue": "x"},
        {"Segment0_LabelValue": "70000"},
        {"Segment0_Layer": "1"},
        {"Segment0_Layer": "-1"},
    ],
)
def test_headers_that_are_refused(tmp_path: Path, texts: dict[str, str]) -> None:
    with pytest.raises(UserError, match="Segment0 names layer or label value"):
        read_labels(save(tmp_path / "x.seg.nrrd", ONE.T.copy(), **texts))


def test_ids_that_run_out(tmp_path: Path) -> None:
    layers = np.stack([ONE.T, ONE.T]).astype(np.uint16)
    layers[:, 0, 0, 0] = 65535
    with pytest.raises(UserError, match="above 65535"):
        read_labels(save(tmp_path / "x.seg.nrrd", layers))


def test_labels_with_fractions(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fractions"):
        read_labels(save(tmp_path / "x.seg.nrrd", ONE.T.astype(np.float32) / 2))


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ((ONE, ONE), "two label maps"),
        ((ONE, TWO[:1]), "share one"),
        ((ONE[0],), "share one"),
        ((ONE.astype(np.int16) - 1,), "range from"),
    ],
)
def test_what_is_not_written(tmp_path: Path, maps: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_labels(tmp_path / "x.seg.nrrd", LabelVolume(maps))
    assert list(tmp_path.iterdir()) == []
