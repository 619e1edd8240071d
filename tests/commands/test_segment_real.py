"""``medsam2-ft segment`` on real files: a CT series -> DICOM SEG, a clip -> film."""

import shutil
from pathlib import Path

import av
import highdicom
import numpy as np
import pydicom
import torch

from medsam2_ft.__main__ import main
from medsam2_ft.io import read_labels, read_volume
from medsam2_ft.object_prompts import ObjectPrompt
from medsam2_ft.segmenter import Segmenter

MODEL = ("--model", "random:tiny_test", "--strategy", "box")


def test_a_series_becomes_a_segmentation_of_it(test_data: Path, tmp_path: Path) -> None:
    series = test_data / "CT" / "ibsi_sts_dicom" / "STS_008" / "CT" / "image"
    args = ["--box", "40,50,80,90@40", "5:60,60,100,100@38", "--range", "36:42"]
    out = tmp_path / "seg.dcm"
    torch.manual_seed(0)
    command = ["segment", series, *args, *MODEL, "--overlap", "keep", "--out", out]
    assert main([*map(str, command)]) == 0

    volume = read_volume(series)
    prompts = [
        ObjectPrompt.from_box(1, 40, np.array([40, 50, 80, 90], np.float32), (36, 42)),
        ObjectPrompt.from_box(5, 38, np.array([60, 60, 100, 100], np.float32), (36, 42)),
    ]
    torch.manual_seed(0)
    segmenter = Segmenter.from_checkpoint("random:tiny_test", strategy="box")
    expected = segmenter.segment(volume, prompts, overlap="keep")
    assert len(expected.maps) == 2

    images = [pydicom.dcmread(path, stop_before_pixels=True) for path in series.iterdir()]
    images.sort(key=lambda image: float(image.ImagePositionPatient[2]))
    uids = [str(image.SOPInstanceUID) for image in images]
    segmentation = highdicom.seg.segread(out)
    for number, label in ((1, 1), (2, 5)):
        seen = segmentation.get_pixels_by_source_instance(
            uids, segment_numbers=[number], assert_missing_frames_are_empty=True
        )
        truth = np.logical_or.reduce([label_map == label for label_map in expected.maps])
        assert truth.any()
        assert np.array_equal(seen[..., 0], truth)
    assert segmentation.PatientID == images[0].PatientID
    assert segmentation.StudyInstanceUID == images[0].StudyInstanceUID
    own = read_labels(out, like=volume)
    assert own.geometry == volume.geometry
    assert own.label_names == {1: "Object 1", 2: "Object 5"}


def test_a_clip_becomes_a_film(test_data: Path, tmp_path: Path) -> None:
    source = test_data / "endoscopy" / "cholecseg8k_clip" / "dev"
    frames = sorted(source.glob("*_endo.png"))[:4]
    (tmp_path / "clip").mkdir()
    for frame in frames:
        shutil.copy(frame, tmp_path / "clip")
    film = tmp_path / "film.mp4"
    args = ["--box", "200,100,500,300@1", "--overlay", film, "--out", tmp_path / "seg.npz"]
    assert main([*map(str, ["segment", tmp_path / "clip", *args, *MODEL])]) == 0
    image, labels = read_volume(tmp_path / "clip").array, read_labels(tmp_path / "seg.npz").maps[0]
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (854, 480)
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert shown.shape == image.shape
    outside, inside = labels == 0, labels == 1
    assert np.abs(shown.astype(int) - image)[outside].mean() < 6
    blue = np.array([86, 180, 233]) * 0.35 + image[inside] * 0.65
    assert np.abs(shown[inside] - blue).mean() < 12
