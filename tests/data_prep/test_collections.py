"""Collections of data sets, and contact sheets."""

import json
from pathlib import Path

import pytest
import release_pictures
import release_volumes
import yaml
from recipe_commands import error_of, prepare, run
from release import hounsfield, ids, nifti


class TestCollection:
    def write(self, root: Path) -> Path:
        release_pictures.drive(root / "source/eyes")
        nifti(root / "source/ct/a_ct.nii.gz", hounsfield())
        nifti(root / "source/ct/a_seg.nii.gz", ids(1))
        content = {
            "title": "two",
            "datasets": {
                "fundus": {"folder": "eyes", "recipe": "drive", "val_share": 0.5},
                "ct": {
                    "modality": "CT",
                    "image_glob": "{case}_ct.nii.gz",
                    "label_glob": "{case}_seg.nii.gz",
                },
            },
        }
        (root / "both.yaml").write_text(yaml.safe_dump(content))
        return root / "both.yaml"

    def test_each_data_set_gets_its_folder(self, tmp_path: Path) -> None:
        recipe = self.write(tmp_path)
        assert prepare(recipe, tmp_path / "source", tmp_path / "out") == 0
        found = sorted(str(p.relative_to(tmp_path / "out")) for p in tmp_path.glob("out/*/*/*.npz"))
        assert [path.split("/")[0] for path in found] == ["ct", "fundus", "fundus"]
        splits = json.loads((tmp_path / "out/fundus/splits.json").read_text())
        assert [len(splits[split]) for split in ("train", "val")] == [1, 1]

    def test_a_bad_data_set_does_not_stop_the_others(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recipe = self.write(tmp_path)
        (tmp_path / "source/ct/a_ct.nii.gz").write_bytes(b"nothing")
        args = (recipe, tmp_path / "source", tmp_path / "out")
        assert "a_ct.nii.gz" in error_of(capsys, *args)
        assert len(list(tmp_path.glob("out/fundus/*/*.npz"))) == 2

    def test_a_missing_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        recipe = self.write(tmp_path)
        (tmp_path / "source/eyes").rename(tmp_path / "source/ears")
        args = (recipe, tmp_path / "source", tmp_path / "out")
        assert "eyes: no such folder" in error_of(capsys, *args)


class TestSheets:
    def test_one_for_each_modality(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        release_volumes.amos(tmp_path / "source")
        command = ("amos", tmp_path / "source", tmp_path / "out", "--workers", 1)
        assert run(*command) == 0
        sheets = sorted(path.name for path in (tmp_path / "out/preview").iterdir())
        assert sheets == ["CT.png", "MR.png"]
        assert "preview/CT.png" in capsys.readouterr().out
        before = (tmp_path / "out/preview/CT.png").stat().st_mtime_ns
        assert run(*command) == 0
        assert (tmp_path / "out/preview/CT.png").stat().st_mtime_ns == before
        nifti(tmp_path / "source/imagesTr/amos_0003.nii.gz", hounsfield(3))
        nifti(tmp_path / "source/labelsTr/amos_0003.nii.gz", ids(1))
        assert run(*command) == 0
        assert (tmp_path / "out/preview/CT.png").stat().st_mtime_ns > before

    def test_of_a_single_case(self, tmp_path: Path) -> None:
        nifti(tmp_path / "source/case_00000/imaging.nii.gz", hounsfield())
        nifti(tmp_path / "source/case_00000/segmentation.nii.gz", ids(1))
        assert run("kits", tmp_path / "source", tmp_path / "out", "--workers", 1) == 0
        assert [path.name for path in (tmp_path / "out/preview").iterdir()] == ["CT.png"]

    def test_can_be_left_out(self, tmp_path: Path) -> None:
        release_volumes.amos(tmp_path / "source")
        assert prepare("amos", tmp_path / "source", tmp_path / "out") == 0
        assert not (tmp_path / "out/preview").exists()
