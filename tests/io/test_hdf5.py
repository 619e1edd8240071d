from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from medsam2_ft.errors import UserError
from medsam2_ft.io import LabelValues, read_labels, read_volume

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(-99, 99, (4, 5, 6)).astype(np.int16)
LABEL = RNG.integers(0, 3, (4, 5, 6)).astype(np.uint8)


def write(path: Path, **arrays: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
    return path


@pytest.mark.parametrize(("image", "label"), [
    ("image", "label"), ("IMG", "Mask"), ("raw", "gts"), ("t0/Volume", "t0/segmentation"),
])  # fmt: skip
def test_usual_names(tmp_path: Path, image: str, label: str) -> None:
    path = write(tmp_path / "a.h5", **{image: IMAGE, label: LABEL, "scribble": LABEL})
    volume, labels = read_volume(path), read_labels(path)
    np.testing.assert_array_equal(volume.array, IMAGE)
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(labels.maps[0], LABEL)
    assert not volume.has_geometry
    assert not labels.has_geometry


def test_keys_and_what_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", one=IMAGE, two=LABEL)
    with pytest.raises(UserError, match=r"image: no data set .* one \(4, 5, 6\), two \(4, 5, 6\)"):
        read_volume(path)
    with pytest.raises(UserError, match="label: no data set"):
        read_labels(path)
    np.testing.assert_array_equal(read_volume(path, "/one").array, IMAGE)
    np.testing.assert_array_equal(read_labels(path, LabelValues(key="two")).maps[0], LABEL)
    with pytest.raises(UserError, match=r"no data set 'three'; it holds one"):
        read_volume(path, "three")
    path = write(tmp_path / "b.h5", **{"a/image": IMAGE, "b/image": IMAGE})
    with pytest.raises(UserError, match=r"several .* a/image"):
        read_volume(path)
    path = write(tmp_path / "c.h5", lone=IMAGE)
    np.testing.assert_array_equal(read_volume(path).array, IMAGE)
    path = write(tmp_path / "d.h5", label=LABEL)
    with pytest.raises(UserError, match="image: no data set"):  # the only one, but a label
        read_volume(path)


def test_shapes(tmp_path: Path) -> None:
    colour = RNG.integers(0, 256, (2, 5, 6, 3), np.uint8)
    for stored, expected in (
        (IMAGE[0], IMAGE[:1]), (colour, colour), (colour[0], colour[:1]), (IMAGE[..., None], IMAGE),
    ):  # fmt: skip
        path = write(tmp_path / "a.h5", image=stored)
        np.testing.assert_array_equal(read_volume(path).array, expected)
    for bad in (RNG.random((5, 6, 4)), RNG.random((2, 5, 6, 4)), RNG.random((5, 6, 3))):
        path = write(tmp_path / "a.h5", image=bad)
        with pytest.raises(UserError, match=r"looks like \d channels"):
            read_volume(path)
    layers = np.zeros((5, 6, 3), np.uint8)
    layers[0, :2, 0] = layers[0, 1:3, 2] = 1
    path = write(tmp_path / "a.h5", mask=layers)
    with pytest.raises(UserError, match="looks like channels"):
        read_labels(path)
    first, second = read_labels(path, LabelValues("channels")).maps
    assert first[0, 0].tolist() == [1, 1, 0, 0, 0, 0]
    assert second[0, 0].tolist() == [0, 3, 3, 0, 0, 0]


def test_spacing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", image=IMAGE, label=LABEL)
    with h5py.File(path, "a") as file:
        file["image"].attrs["element_size_um"] = (2500.0, 800, 700)
        file.attrs["spacing"] = (2.5, 0.8, 0.7)
    for geometry in (read_volume(path).geometry, read_labels(path).geometry):
        np.testing.assert_allclose(geometry.spacing_mm, (2.5, 0.8, 0.7))
    assert "element_size_um" in read_volume(path).notes[0]
    with h5py.File(path, "a") as file:
        file["image"].attrs["spacing"] = (0.0, 1, 1)
        del file["image"].attrs["element_size_um"]
    with pytest.raises(UserError, match="spacing"):
        read_volume(path)


def test_nothing_from_other_files(tmp_path: Path) -> None:
    write(tmp_path / "other.h5", image=IMAGE)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["image"] = h5py.ExternalLink("other.h5", "image")
        file["label"] = LABEL
    with pytest.raises(UserError, match="no data set with a usual name"):
        read_volume(path)
    with pytest.raises(UserError, match="'image' lies in another file"):
        read_volume(path, "image")
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout(IMAGE.shape, IMAGE.dtype)
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "image", IMAGE.shape)
        file.create_virtual_dataset("image", layout)
        (tmp_path / "raw").write_bytes(bytes(8))
        file.create_dataset("label", (2, 4), np.uint8, external=[(str(tmp_path / "raw"), 0, 8)])
    for read in (read_volume, read_labels):
        with pytest.raises(UserError, match="from other files"):
            read(path)


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        empty = file.create_dataset("image", (1000, 1000, 1000), np.float64, chunks=(1, 100, 100))
    with pytest.raises(UserError, match="never written"):
        read_volume(path)
    with h5py.File(path, "a") as file:
        empty = file["image"]
        empty[0, :100, :100] = 1.0
    with pytest.raises(UserError, match="declares 8000000000 bytes"):
        read_volume(path)
    with h5py.File(path, "w") as file:  # a chunk that is larger than its data set
        image = file.create_dataset("image", (2, 2), "u1", chunks=(64, 64), maxshape=(None, None))
        image[:] = 1
    monkeypatch.setenv("MEDSAM2FT_MAX_VOXELS", "4096")
    assert read_volume(path).array.size == 4
    monkeypatch.setenv("MEDSAM2FT_MAX_VOXELS", "4095")
    with pytest.raises(UserError, match="declares 4096 values"):
        read_volume(path)
    write(path, image=IMAGE)
    monkeypatch.setenv("MEDSAM2FT_MAX_VOXELS", "100")
    with pytest.raises(UserError, match="MEDSAM2FT_MAX_VOXELS"):
        read_volume(path)


def test_no_array_of_numbers(tmp_path: Path) -> None:
    for bad in ("text", np.zeros(5), np.zeros((0, 4)), np.zeros((2, 2), "c8"), h5py.Empty("f4")):
        path = write(tmp_path / "a.h5", image=bad)
        with pytest.raises(UserError, match=r"array of numbers|2, 3 or 4 axes"):
            read_volume(path)
    with h5py.File(path, "w") as file:
        file.create_group("image")
    with pytest.raises(UserError, match="holds no data set"):
        read_volume(path)
    path.write_bytes(b"no HDF5")
    with pytest.raises(UserError, match="not HDF5"):
        read_volume(path)
    with pytest.raises(UserError, match="no such file"):
        read_volume(tmp_path / "gone.h5")
