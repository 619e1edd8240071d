"""Identifiers of DICOM files: which case they tell, and that no output file holds them."""

import stat
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from nifti_sets import read_manifest, snapshot
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from medsam2_ft.errors import UserError
from medsam2_ft.io.nifti import read_nifti
from medsam2_ft.io.npz import read_case
from medsam2_ft.prepare import prepare
from medsam2_ft.prepare.patients import SALT, Veil, keep_salt, make_veil, name_spellings, salt_of
from medsam2_ft.types import Modality

PATIENT, NAME, STUDY = "MRN-4711", "Doe^Jane", "1.2.840.99999.7.1"


def write_series(folder: Path, series: str, number: int = 1, **tags: str) -> None:
    """Three axial CT slices; the values depend on the series."""
    folder.mkdir(parents=True, exist_ok=True)
    for z in range(3):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"{series}.{z}"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = pydicom.Dataset()
        data.file_meta, data.preamble = meta, b"\0" * 128
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, f"{series}.{z}"
        data.Modality, data.SeriesInstanceUID, data.StudyInstanceUID = "CT", series, STUDY
        data.PatientID, data.PatientName = PATIENT, NAME
        data.PatientBirthDate, data.StudyDate = "19610203", "20190405"
        data.SeriesNumber, data.InstanceNumber = number, z
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 2 * z], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = [0.5, 0.5], 2
        data.Rows, data.Columns, data.SamplesPerPixel = 16, 20, 1
        data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 1
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        for tag, value in tags.items():
            setattr(data, tag, value)
        rng = np.random.default_rng([z, *series.encode()])
        data.PixelData = rng.integers(-150, 200, (16, 20)).astype("<i2").tobytes()
        data.save_as(folder / f"{series}.{z}", enforce_file_format=True)


def write_mask(path: Path) -> None:
    import SimpleITK

    mask = np.zeros((3, 16, 20), np.uint8)
    mask[1, 3:9, 4:10] = 1
    image = SimpleITK.GetImageFromArray(mask)
    image.SetSpacing((0.5, 0.5, 2.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path))


def everything_in(out: Path) -> bytes:
    """Names and contents of all files, those inside npz files included."""
    parts = []
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        parts += [str(path.relative_to(out)).encode(), path.read_bytes()]
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                parts += [archive.read(name) for name in archive.namelist()]
    return b"\n".join(parts)


@pytest.mark.parametrize(
    "folder", ["Doe_Jane/20190405/CT", "mrn 4711/images", "DOE/1.2.840.1.2.3.4"]
)
def test_no_identifier_leaves_the_input(tmp_path: Path, folder: str) -> None:
    root = tmp_path / "in"
    write_series(root / folder, "1.2.840.1.2.3.4")
    write_mask(root / folder / f"{PATIENT}_mask.nii.gz")
    (root / folder / "1.2.840.1.2.3.4.9").write_bytes(b"\0" * 128 + b"DICM" + b"\1" * 50)
    prepare(root, root, tmp_path / "out", modality="CT", workers=1)
    content = everything_in(tmp_path / "out").lower()
    for secret in ("4711", "doe", "jane", "1.2.840", "20190405", "19610203"):
        assert secret.encode() not in content, secret
    assert b"1 files beside it are not readable" in content
    before = snapshot(tmp_path / "out")
    assert prepare(root, root, tmp_path / "out", modality="CT", workers=1).built == 0
    assert snapshot(tmp_path / "out") == before


def test_reasons_of_failures_name_files_on_the_terminal_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "in"
    write_series(root / "Doe", "1.2.840.1.2.3.4")
    (root / "Doe/mask.nii.gz").write_bytes(b"no nifti")
    with pytest.raises(UserError, match="Doe/mask"):
        prepare(root, root, tmp_path / "out", modality="CT", workers=1)
    assert "Doe/mask" in capsys.readouterr().out
    (entry,) = read_manifest(tmp_path / "out")["failed"]
    assert "mask.nii.gz" in entry["reason"]
    assert b"doe" not in everything_in(tmp_path / "out").lower()


def test_series_of_a_patient_stay_together(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for patient in "ABCDEF":
        for number in (1, 2):
            series = f"1.2.3.{ord(patient)}.{number}"
            write_series(root / patient / str(number), series, PatientID=f"P{patient}")
            write_mask(root / patient / str(number) / "mask.nrrd")
    prepare(root, root, tmp_path / "out", val_share=0.5, workers=1)
    written = read_manifest(tmp_path / "out")["written"]
    split_of: dict[str, set[str]] = {}
    for entry in written:
        split_of.setdefault(entry["name"][0], set()).add(entry["split"])
    assert len(written) == 12
    assert len({entry["group"] for entry in written}) == 6
    assert all(len(splits) == 1 for splits in split_of.values())
    assert {entry["modality"] for entry in written} == {"CT"}


def test_the_names_of_a_split_file_may_hold_the_patient(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for patient in ("MRN-1", "MRN-2"):
        write_series(root / patient, f"1.2.3.4.{patient[-1]}", PatientID=patient)
        write_mask(root / patient / "mask.nrrd")
    (tmp_path / "s.csv").write_text("MRN-1,train\nMRN-2,val\n")
    summary = prepare(root, root, tmp_path / "out", workers=1, split_file=tmp_path / "s.csv")
    assert summary.splits == {"train": 1, "val": 1, "test": 0}
    assert b"MRN" not in everything_in(tmp_path / "out")


def test_series_in_one_folder_are_cases_by_their_number(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write_series(root / "s", "1.2.3.4.5.6", 3)
    write_series(root / "s", "1.2.3.4.5.7", 12)
    write_mask(root / "s" / "mask.nrrd")
    prepare(root, root, tmp_path / "out", workers=1)
    assert {path.stem for path in tmp_path.glob("out/*/*.npz")} == {"s_s3", "s_s12"}


def test_an_archive_belongs_to_its_patient(tmp_path: Path) -> None:
    write_series(tmp_path / "s", "1.2.3.4.5.6")
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in/scan.zip", "w") as archive:
        for path in (tmp_path / "s").iterdir():
            archive.write(path, path.name)
    write_mask(tmp_path / "in/scan_mask.nrrd")
    prepare(tmp_path / "in", tmp_path / "in", tmp_path / "out", workers=1)
    (entry,) = read_manifest(tmp_path / "out")["written"]
    assert (entry["name"], entry["group"][0], len(entry["group"])) == ("scan", "p", 13)


class TestSalt:
    def test_same_salt_same_patient_other_salt_other_name(self, tmp_path: Path) -> None:
        veil = make_veil(salt_of(tmp_path), ["A-1"])
        keep_salt(tmp_path, veil)
        assert stat.S_IMODE((tmp_path / SALT).stat().st_mode) == 0o600
        again = make_veil(salt_of(tmp_path), ["A-1"])
        assert again.patient("A-1") == veil.patient("a_1")
        assert Veil(b"x" * 32, ("A-1",)).patient("A-1") != veil.patient("A-1")
        assert "A-1" not in repr(veil)
        assert veil.salt.hex() not in repr(veil)

    def test_without_dicom_there_is_none(self, tmp_path: Path) -> None:
        keep_salt(tmp_path, make_veil(salt_of(tmp_path), None))
        assert list(tmp_path.iterdir()) == []
        assert (
            make_veil(salt_of(tmp_path), None).text("20190405 1.2.3.4.5.6")
            == "20190405 1.2.3.4.5.6"
        )

    @pytest.mark.parametrize("content", ["", "zz", "00"])
    def test_a_damaged_salt_is_refused(self, tmp_path: Path, content: str) -> None:
        (tmp_path / SALT).write_text(content)
        with pytest.raises(UserError, match="restore it"):
            salt_of(tmp_path)

    def test_another_run_meanwhile(self, tmp_path: Path) -> None:
        one, two = make_veil(salt_of(tmp_path), ["A"]), make_veil(salt_of(tmp_path), ["A"])
        keep_salt(tmp_path, one)
        with pytest.raises(UserError, match="run the command again"):
            keep_salt(tmp_path, two)


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        ("STS_008/CT", "/CT"),
        ("sts-008_x", "_x"),
        ("aSTS_008", "aSTS_008"),
        ("STS_0081", "STS_0081"),
        ("17", ""),
        ("170", "170"),
        ("1.2.840.113.5", ""),
        ("1.2.3", "1.2.3"),
        ("2019-04-05", ""),
        ("04-05-2019-x", "-x"),
        ("20191305", "20191305"),
        ("120190405", "120190405"),
    ],
)
def test_what_is_veiled(text: str, stays: str) -> None:
    veil = Veil(b"s", ("STS_008", "17", ""))
    result = veil.text(text)
    assert result.endswith(stays)
    assert (result == text) == (stays == text)


def test_spellings_of_a_name() -> None:
    assert name_spellings("Doe^Jane^^Dr") == ["Doe Jane Dr", "Jane Dr Doe", "Doe"]
    assert name_spellings("Li^Wei") == ["Li Wei", "Wei Li"]
    assert Veil(b"s", tuple(name_spellings(""))).text("a b") == "a b"


def test_a_narrowed_veil_does_the_same_for_its_texts() -> None:
    veil = Veil(b"s", ("STS_008", "17", *name_spellings("Doe^Jane")))
    texts = ["jane-doe/Doe/sts008/x17", "17/a/2019-04-05"]
    narrow = veil.narrowed(texts)
    assert [narrow.text(text) for text in texts] == [veil.text(text) for text in texts]
    assert narrow.patients == ("17", "Doe", "jane-doe", "sts008")


@pytest.mark.parametrize(("modality", "stem"), [("CT", "CT"), ("PET", "PET"), ("MR", "MR_T1")])
def test_real_series_equal_their_nifti_twins(
    test_data: Path, tmp_path: Path, modality: Modality, stem: str
) -> None:
    root = test_data / modality / "ibsi_sts_dicom"
    prepare(root, root, tmp_path / "dicom", workers=1)
    twin = test_data / modality / "ibsi_sts_nifti/STS_008"
    image, mask = twin / f"{stem}_image.nii.gz", twin / f"{stem}_mask.nii.gz"
    prepare(image, mask, tmp_path / "nifti", modality=modality, workers=1)
    (one,) = (read_case(path) for path in tmp_path.glob("dicom/*/*.npz"))
    (two,) = (read_case(path) for path in tmp_path.glob("nifti/*/*.npz"))
    assert one.modality == modality
    assert one.intensity == two.intensity
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.label_maps[0] > 0, two.label_maps[0] > 0)
    for name in ("spacing_mm", "origin_mm", "direction"):
        np.testing.assert_allclose(
            getattr(one.geometry, name), getattr(two.geometry, name), atol=2e-3
        )
    assert read_nifti(mask).array.sum() == (one.label_maps[0] > 0).sum()
    header = pydicom.dcmread(next(root.rglob("000000.dcm")), stop_before_pixels=True)
    secrets = {
        str(element.value)
        for element in header.iterall()
        if element.VR in ("UI", "DA", "PN") or element.keyword in ("PatientID", "AccessionNumber")
    }
    content = everything_in(tmp_path / "dicom")
    assert "STS_008" in secrets
    found = [secret for secret in secrets if len(secret) > 4 and secret.encode() in content]
    assert found == []


def test_a_modality_that_no_series_states_is_refused(test_data: Path, tmp_path: Path) -> None:
    root = test_data / "CT/ibsi_sts_dicom"
    with pytest.raises(UserError, match="no DICOM series states MR, they state CT"):
        prepare(root, root, tmp_path / "out", modality="MR", workers=1)
    assert not (tmp_path / "out").exists()
