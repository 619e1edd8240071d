"""Masks of every form, against arrays written by hand and counts by Pillow, nibabel and numpy."""

from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
from numpy.typing import NDArray
from PIL import Image

from medsam2_ft.errors import UserError
from medsam2_ft.io import AUTO, LabelValues, Source, read_labels
from medsam2_ft.io.label_values import ZERO_LABEL
from medsam2_ft.io.masks import read_parts

sitk: Any = SimpleITK
RED, GREEN, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 0)


def save(path: Path, values: Any, **options: Any) -> Path:
    Image.fromarray(np.asarray(values, np.uint8)).save(path, **options)
    return path


def gray(tmp_path: Path, *values: int) -> Path:
    return save(tmp_path / "m.png", [values])


def counts(array: NDArray[Any]) -> dict[int, int]:
    found, numbers = np.unique(array, return_counts=True)
    return {int(v): int(n) for v, n in zip(found, numbers, strict=True) if v}


def read(path: Path, values: LabelValues = AUTO) -> list[int]:
    (label_map,) = read_labels(path, values).maps
    assert label_map.dtype in (np.uint8, np.uint16)
    assert label_map.ndim == 3
    return list(label_map.ravel().tolist())


@pytest.mark.parametrize(("stored", "labels"), [
    ((0, 255, 0), [0, 1, 0]),
    ((255, 255), [1, 1]),
    ((0, 0), [0, 0]),
    ((0, 1, 1), [0, 1, 1]),
    ((0, 2, 2), [0, 2, 2]),  # a picture that holds no more than label 2 of several
    ((0, 1, 3, 254), [0, 1, 3, 254]),
])  # fmt: skip
def test_auto_gray(tmp_path: Path, stored: tuple[int, ...], labels: list[int]) -> None:
    assert read(gray(tmp_path, *stored)) == labels


def test_a_background_that_is_not_zero_is_doubted(tmp_path: Path) -> None:
    for values, doubt in (((7, 7, 7, 3, 0), "label 7 fills 60 %"), ((7, 7, 3, 0), None)):
        notes = read_labels(gray(tmp_path, *values)).notes
        assert len(notes) == (doubt is not None)
        assert doubt is None or notes[0].startswith(doubt)


def test_white_beside_other_values_is_refused(tmp_path: Path) -> None:
    path = gray(tmp_path, 0, 128, 255)
    with pytest.raises(UserError, match=r"values 0, 128, 255: white \(255\) may be"):
        read(path)
    assert read(path, LabelValues("ids")) == [0, 128, 255]
    assert read(path, LabelValues("binary")) == [0, 1, 1]
    assert read(path, LabelValues("binary", threshold=128.0)) == [0, 0, 1]
    assert read(path, LabelValues(background=(0.0, 255.0))) == [0, 128, 0]


def test_backgrounds(tmp_path: Path) -> None:
    path = gray(tmp_path, 64, 128, 255)
    assert read(path, LabelValues(background=(64.0,))) == [0, 128, 255]
    assert read(path, LabelValues("ids", background=(255.0, 64.0))) == [0, 128, 0]
    path = gray(tmp_path, 240, 0, 30)
    labels = read_labels(path, LabelValues(background=(240.0,)))
    assert labels.maps[0].ravel().tolist() == [0, ZERO_LABEL, 30]
    assert str(ZERO_LABEL) in labels.notes[0]
    tifffile.imwrite(tmp_path / "m.tif", np.array([[0, 9, 256]], np.uint16))
    with pytest.raises(UserError, match="would become label 256"):
        read(tmp_path / "m.tif", LabelValues(background=(9.0,)))
    tifffile.imwrite(tmp_path / "m.tif", np.array([[-1, 9, 1.9999]], np.float32))
    assert read(tmp_path / "m.tif", LabelValues(background=(-1.0,))) == [0, 9, 2]


def test_one_bit_and_palettes(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    Image.fromarray(np.array([[False, True]])).save(path)
    assert read(path) == [0, 1]
    assert read(path, LabelValues("ids")) == [0, 1]
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.save(path)
    with pytest.raises(UserError, match=r"holds 3 colours .* or ids"):
        read(path)
    assert read(path, LabelValues("ids")) == [0, 1, 2]
    assert read(path, LabelValues(legend={(128, 0, 0): 5, (0, 128, 0): 3})) == [0, 5, 3]
    image.putpalette([0, 0, 0, 100, 100, 100, 200, 200, 200])
    image.save(path)
    with pytest.raises(UserError, match="palette shows the indices as the gray values 0, 100, 200"):
        read(path)
    assert read(path, LabelValues("ids")) == [0, 1, 2]


def test_lossy_masks(tmp_path: Path) -> None:
    values = np.zeros((32, 32), np.uint8)
    values[8:24, 8:24] = 255
    path = save(tmp_path / "m.jpg", values, quality=95)
    labels = read_labels(path)
    np.testing.assert_array_equal(labels.maps[0][0], values > 0)
    assert "127.5" in labels.notes[0]
    assert "lossy" in read_labels(path, LabelValues("ids")).notes[0]
    noise = save(tmp_path / "empty.jpg", np.random.default_rng(0).integers(0, 9, (32, 32)))
    for values_of in (AUTO, LabelValues("binary")):
        assert not any(read(noise, values_of))  # an empty mask stays empty
    values[8:24, 8:16] = 128
    with pytest.raises(UserError, match=r"lossy picture has \d+ pixels"):
        read(save(tmp_path / "m.jpg", values))


def test_colours(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", [[BLACK, GREEN, GREEN]])
    labels = read_labels(path)
    assert labels.maps[0].ravel().tolist() == [0, 1, 1]
    assert labels.notes == ("colour #00ff00 is label 1",)
    path = save(tmp_path / "m.png", [[BLACK, RED, GREEN, GREEN]])
    with pytest.raises(UserError, match=r"3 colours .*#00ff00: 2 pixels.*legend"):
        read(path)
    assert read(path, LabelValues(legend={RED: 2, GREEN: 300})) == [0, 2, 300, 300]
    with pytest.raises(UserError, match=r"1 colours are not in the legend \(#00ff00: 2 pixels\)"):
        read(path, LabelValues("colours", legend={RED: 2}))
    with pytest.raises(UserError, match="#000000"):  # black is no background if another is named
        read(path, LabelValues("colours", legend={RED: 0, GREEN: 1}))
    with pytest.raises(UserError, match="needs a legend"):
        read(path, LabelValues("colours"))
    with pytest.raises(UserError, match="3 channels, which are no ids"):
        read(path, LabelValues("ids"))
    assert read(path, LabelValues("binary")) == [0, 1, 1, 1]
    gray_too = save(tmp_path / "m.png", [[(11, 11, 11), (12, 12, 12)]])
    assert read(gray_too, LabelValues(legend={(11, 11, 11): 1, (12, 12, 12): 2})) == [1, 2]


def test_legend_with_tolerance(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", [[(0, 0, 0), (250, 4, 0), (100, 100, 0), (2, 1, 3)]])
    legend = {RED: 1, (100, 96, 0): 2, (100, 104, 0): 3}
    with pytest.raises(UserError, match=r"not in the legend .*#fa0400"):
        read(path, LabelValues("colours", legend=legend, tolerance=4))
    with pytest.raises(UserError, match=r"1 colours are not in the legend \(#646400"):
        read(path, LabelValues("colours", legend=legend, tolerance=5))  # halfway of two
    legend[100, 103, 0] = 3
    assert read(path, LabelValues("colours", legend=legend, tolerance=5)) == [0, 1, 3, 0]


def test_alpha_of_masks(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[BLACK, GREEN]], np.uint8))
    image.putalpha(Image.fromarray(np.array([[0, 99]], np.uint8)))
    image.save(tmp_path / "m.png")
    labels = read_labels(tmp_path / "m.png")
    assert labels.maps[0].ravel().tolist() == [0, 1]
    assert "alpha" in " ".join(labels.notes)
    image = Image.fromarray(np.array([[GREEN, GREEN]], np.uint8))
    image.putalpha(Image.fromarray(np.array([[0, 99]], np.uint8)))
    image.save(tmp_path / "m.png")
    with pytest.raises(UserError, match="alpha channel only"):
        read(tmp_path / "m.png")


LAYERS = np.zeros((4, 5, 6, 3), np.uint8)  # z, y, x, channel; 0 and 2 overlap
LAYERS[1, :3, :3, 0] = LAYERS[1, 2:, 2:, 2] = LAYERS[3, 0, 0, 1] = 1


def layered(path: Path, layers: NDArray[Any]) -> Path:
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["label"] = layers
    elif path.name.endswith(".nii.gz"):
        nibabel.save(nibabel.Nifti1Image(np.transpose(layers, (2, 1, 0, 3)), np.eye(4)), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(np.moveaxis(layers, -1, 0), isVector=False), path)
    return path


@pytest.mark.parametrize("name", ["m.nii.gz", "m.nrrd", "m.mha", "m.h5"])
@pytest.mark.parametrize("form", ["auto", "channels"])
def test_channels(tmp_path: Path, name: str, form: Any) -> None:
    labels = read_labels(layered(tmp_path / name, LAYERS), LabelValues(form))
    first, second = labels.maps
    assert counts(first) | counts(second) == {1: 9, 2: 1, 3: 12}
    np.testing.assert_array_equal(first == 1, LAYERS[..., 0])
    np.testing.assert_array_equal(second == 3, LAYERS[..., 2])


def test_vector_pixels_are_channels(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(LAYERS, isVector=True), tmp_path / "m.mha")
    assert len(read_labels(tmp_path / "m.mha").maps) == 2


def test_channels_refused(tmp_path: Path) -> None:
    path = layered(tmp_path / "m.nii.gz", LAYERS * np.array([1, 1, 7], np.uint8))
    with pytest.raises(UserError, match="channel 2 of 3 holds values up to 7"):
        read_labels(path)
    assert len(read_labels(path, LabelValues("channels")).maps) == 2
    for form in ("ids", "binary"):
        with pytest.raises(UserError, match="3 channels"):
            read_labels(path, LabelValues(form))
    one_hot = np.stack([LAYERS[..., 0] == 0, LAYERS[..., 0] == 1], -1).astype(np.uint8)
    path = layered(tmp_path / "m.nii.gz", one_hot)
    with pytest.raises(UserError, match="one of them must be the background"):
        read_labels(path)
    assert counts(read_labels(path, LabelValues("channels")).maps[0]) == {1: 111, 2: 9}
    path = layered(tmp_path / "m.nii.gz", LAYERS * np.float32(0.4))
    for form in ("auto", "channels"):
        with pytest.raises(UserError, match="fractions"):
            read_labels(path, LabelValues(form))


def test_colour_volumes_are_no_labels(tmp_path: Path) -> None:
    rgb = np.zeros((2, 3, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(rgb, np.eye(4)), tmp_path / "m.nii.gz")
    with pytest.raises(UserError, match="is colour, not labels"):
        read(tmp_path / "m.nii.gz")


def test_fractions(tmp_path: Path) -> None:
    path = layered(
        tmp_path / "m.nii.gz", np.array([0, 0.2, 0.7, 1], np.float32).reshape(1, 1, 4, 1)
    )
    with pytest.raises(UserError, match="fractions"):
        read(path)
    assert read(path, LabelValues("binary")) == [0, 0, 1, 1]
    assert read(path, LabelValues("binary", threshold=0.1)) == [0, 1, 1, 1]
    path = layered(tmp_path / "m.nii.gz", np.array([0, 0.9999999], np.float32).reshape(1, 1, 2, 1))
    assert read(path) == [0, 1]


def parts(tmp_path: Path, masks: dict[str, Any]) -> Source:
    files = [save(tmp_path / f"{name}.png", [mask]) for name, mask in masks.items()]
    return Source(tmp_path, tuple(files), "parts")


def test_objects(tmp_path: Path) -> None:
    source = parts(tmp_path, {
        "mask10": (0, 0, 0, 255), "mask2": (0, 255, 0, 0),
        "mask3": (0, 0, 0, 0), "mask1": (7, 0, 0, 0),
    })  # fmt: skip
    labels = read_labels(source, LabelValues(parts="objects"))
    assert [m.tolist() for m in labels.maps] == [[[[1, 2, 0, 3]]]]
    assert labels.label_names == {}
    assert labels.notes == ("1 parts are empty (mask3.png)",)
    source = parts(tmp_path, {"mask2": (0, 255, 255, 0)} | {"mask1": (0, 0, 255, 0)})
    first, second = read_labels(source, LabelValues(parts="objects")).maps
    assert first.ravel().tolist() == [0, 0, 1, 0]
    assert second.ravel().tolist() == [0, 2, 2, 0]


def test_labels_in_parts(tmp_path: Path) -> None:
    source = parts(tmp_path, {"spleen": (0, 255), "liver": (255, 0), "aorta": (0, 0)})
    labels = read_labels(source)
    assert labels.maps[0].ravel().tolist() == [2, 3]
    assert labels.label_names == {1: "aorta", 2: "liver", 3: "spleen"}
    assert "ids follow the names of this case's 3 files" in labels.notes[-1]
    named = LabelValues(part_names=("spleen", "pancreas", "liver", "aorta"))
    labels = read_labels(source, named)
    assert labels.maps[0].ravel().tolist() == [3, 1]
    assert labels.label_names == {1: "spleen", 3: "liver", 4: "aorta"}
    assert labels.notes == ("1 parts are empty (aorta.png)",)
    with pytest.raises(UserError, match="'aorta' is not one of the 2 label names"):
        read_labels(source, LabelValues(part_names=("spleen", "liver")))


def test_parts_refused(tmp_path: Path) -> None:
    source = parts(tmp_path, {"a": (0, 1, 2)})
    with pytest.raises(UserError, match="holds 2 labels"):
        read_labels(source)
    assert read_labels(source, LabelValues("binary", threshold=0.0)).maps[0].sum() == 2
    source = parts(tmp_path, {"a": (0, 1), "b": (0, 1, 0)})
    with pytest.raises(UserError, match=r"b\.png: has another shape"):
        read_labels(source)
    with pytest.raises(UserError, match="at least one file"):
        read_parts((), AUTO)
    twins = (tmp_path / "a.png", tmp_path / "sub/a.png")
    with pytest.raises(UserError, match="has the label name of"):
        read_labels(Source(tmp_path, twins, "parts"))
    nifti = []
    for name, spacing in (("a", 1.0), ("b", 1.01)):
        nifti.append(tmp_path / f"{name}.nii.gz")
        image = nibabel.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.diag([spacing, 1, 1, 1]))
        nibabel.save(image, nifti[-1])
    with pytest.raises(UserError, match="position"):
        read_labels(Source(tmp_path, tuple(nifti), "parts"))


def test_frame_masks_are_looked_at_together(tmp_path: Path) -> None:
    files = [gray(tmp_path, 0, 255).rename(tmp_path / "f1.png")]
    files.append(gray(tmp_path, 0, 0).rename(tmp_path / "f2.png"))
    source = Source(tmp_path, tuple(files), "frames")
    assert read_labels(source).maps[0].tolist() == [[[0, 1]], [[0, 0]]]
    files.append(gray(tmp_path, 0, 20).rename(tmp_path / "f3.png"))
    with pytest.raises(UserError, match="3 masks: values 0, 20, 255"):
        read_labels(Source(tmp_path, tuple(files), "frames"))
    colours = save(tmp_path / "f4.png", [[BLACK, RED]])
    source = Source(tmp_path, (*files, colours), "frames")
    labels = read_labels(source, LabelValues(legend={(255,) * 3: 1, (20,) * 3: 2, RED: 3}))
    assert labels.maps[0][:, 0, 1].tolist() == [1, 0, 2, 3]
    assert not labels.has_geometry


def test_a_video_is_no_mask(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.mp4 is not a label volume"):
        read_labels(tmp_path / "m.mp4")


# Real files: counts by Pillow, nibabel and numpy alone.


def pixels(path: Path) -> NDArray[Any]:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize(("pattern", "values"), [
    ("fundus/drive/*/*.gif", AUTO),
    ("dermoscopy/isic2017/*_segmentation.png", AUTO),
    ("xray/imlab_cxr/*-mask.png", AUTO),
    ("MR/prostate_slices_png/masks/*.png", LabelValues("ids")),
    ("microscopy/stardist/mask2d.tif", AUTO),
    ("mammography/ddsm_tissue/fgt_seg_labels/*.png", LabelValues(background=(64.0,))),
    ("OCT/octseg_zeiss/mask/*.png", LabelValues(background=(240.0,))),
])  # fmt: skip
def test_real_gray_masks(test_data: Path, pattern: str, values: LabelValues) -> None:
    files = sorted(test_data.glob(pattern))
    assert files
    for path in files:
        found, numbers = np.unique(pixels(path), return_counts=True)
        expected = dict(zip(found.tolist(), numbers.tolist(), strict=True))
        for background in values.background:
            expected.pop(int(background), None)
        if 0 in expected:
            expected[ZERO_LABEL] = expected.pop(0)
        if values is AUTO and set(expected) == {255}:
            expected = {1: expected[255]}
        assert counts(read_labels(path, values).maps[0]) == expected, path.name


def test_real_colour_masks(test_data: Path) -> None:
    for path in sorted(test_data.glob("ultrasound/busi/masks/*.png")):
        assert counts(read_labels(path).maps[0]) == {1: int(pixels(path).any(-1).sum())}
    legend = {RED: 1, (255, 255, 0): 2}
    for path in sorted(test_data.glob("fundus/smdg_disc_cup/masks/*.png")):
        cup = (pixels(path) == (255, 255, 0)).all(-1)
        disc = (pixels(path) == RED).all(-1)
        found = counts(read_labels(path, LabelValues(legend=legend)).maps[0])
        assert found == {1: int(disc.sum()), 2: int(cup.sum())}
        with pytest.raises(UserError, match="3 colours"):
            read_labels(path)


def test_real_jpeg_masks(test_data: Path) -> None:
    for path in sorted(test_data.glob("endoscopy/kvasir_seg/masks/*.jpg")):
        assert counts(read_labels(path).maps[0]) == {1: int((pixels(path)[..., 0] > 127).sum())}


def test_real_parts(test_data: Path) -> None:
    for folder in sorted(test_data.glob("microscopy/dsb2018/*/masks")):
        files = tuple(sorted(folder.iterdir()))
        labels = read_labels(Source(folder, files, "parts"), LabelValues(parts="objects"))
        expected = sorted(int((pixels(file) > 0).sum()) for file in files)
        found = [n for m in labels.maps for n in counts(m).values()]
        assert sorted(found) == expected


def test_real_video_masks(test_data: Path) -> None:
    files = tuple(sorted(test_data.glob("endoscopy/cholecseg8k_clip/dev/*watershed_mask.png")))
    expected = np.stack([pixels(file)[..., 0] for file in files])
    source = Source(files[0].parent, files, "frames")
    labels = read_labels(source, LabelValues("ids", background=(50.0, 255.0)))
    assert expected.any(axis=(1, 2)).all()
    np.testing.assert_array_equal(
        labels.maps[0], np.where(np.isin(expected, (50, 255)), 0, expected)
    )


def test_real_volumes(test_data: Path) -> None:
    path = test_data / "ultrasound/deepreg_trus3d/labels/case000025.nii.gz"
    stored = np.asarray(nibabel.load(path).dataobj)
    expected = {c + 1: int(stored[..., c].sum()) for c in range(3) if stored[..., c].any()}
    found: dict[int, int] = {}
    for label_map in read_labels(path).maps:
        found |= counts(label_map)
    assert found == expected
    case = test_data / "MR/brats2015_deepmedic/brats_2013_pat0006_1"
    for name in ("OTMultiClass.nii.gz", "brainmask.nii.gz"):  # floats; 0.99999997 for 1
        stored = np.asarray(nibabel.load(case / name).dataobj)
        assert counts(read_labels(case / name).maps[0]) == counts(np.rint(stored).astype(int))
