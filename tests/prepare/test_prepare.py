"""The command on generated folders: what it writes, keeps, refuses and says."""

import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nifti_sets import (
    AFFINE,
    box_labels,
    ct_like,
    read_manifest,
    read_splits,
    sha256,
    snapshot,
    write_nifti,
    write_set,
)

from medsam2_ft.__main__ import main
from medsam2_ft.errors import UserError
from medsam2_ft.io.npz import read_case
from medsam2_ft.prepare import prepare

NAMES = ["a", "b", "c", "d", "e"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(root: Path, out: Path, **options: Any) -> Any:
    options = {"modality": "CT", "workers": 1, "val_share": 0.2, **options}
    return prepare(root / "images", root / "labels", out, **options)


def cases(out: Path) -> dict[str, Path]:
    return {path.stem: path for path in out.glob("*/*.npz")}


class TestOutput:
    def test_case_manifest_and_splits(self, tmp_path: Path, out: Path) -> None:
        write_set(tmp_path, NAMES)
        summary = run(tmp_path, out)
        assert (summary.built, summary.up_to_date, summary.skipped) == (5, 0, {})
        assert summary.splits == {"train": 4, "val": 1, "test": 0}
        manifest, splits = read_manifest(out), read_splits(out)
        assert sorted(splits["train"] + splits["val"] + splits["test"]) == NAMES
        for entry in manifest["written"]:
            path = out / entry["split"] / f"{entry['name']}.npz"
            assert entry["name"] in splits[entry["split"]]
            assert entry["sha256"] == sha256(path)
            assert entry["sources"] == {
                f"{entry['name']}.nii.gz": sha256(tmp_path / "images" / f"{entry['name']}.nii.gz"),
                f"labels:{entry['name']}.nii.gz": sha256(
                    tmp_path / "labels" / f"{entry['name']}.nii.gz"
                ),
            }
            assert entry["shape"] == [4, 20, 24]
            assert entry["labels"] == [
                {"id": 1, "name": None, "voxels": 2 * 7 * 6, "map": 0},
                {"id": 2, "name": None, "voxels": 3 * 7 * 8, "map": 0},
            ]
        assert str(tmp_path) not in (out / "manifest.json").read_text()
        assert sorted(path.name for path in out.iterdir()) == [
            "manifest.json", "splits.json", "train", "val",
        ]  # fmt: skip

    def test_pixels_labels_and_geometry(self, tmp_path: Path, out: Path) -> None:
        write_set(tmp_path, ["a"])
        run(tmp_path, out)
        case = read_case(out / "train" / "a.npz")
        source = np.asarray(nib.load(tmp_path / "images/a.nii.gz").dataobj).T.astype(np.float64)
        expected = np.rint((np.clip(source, -160, 240) + 160) / 400 * 255)
        assert np.abs(case.image.astype(int) - expected).max() <= 1
        assert (case.image[:, :2] == 0).all()  # the padding of -3024
        np.testing.assert_array_equal(case.label_maps[0], box_labels())
        assert case.modality == "CT"
        assert case.intensity is not None
        assert (case.intensity.kind, case.intensity.lower, case.intensity.upper) == (
            "window", -160.0, 240.0,
        )  # fmt: skip
        # world position of a voxel by nibabel (RAS) and by the case (LPS)
        index = np.array([5.0, 7.0, 2.0])
        grid = case.geometry
        axes = np.array(grid.direction).reshape(3, 3)
        lps = axes @ (index * np.array(grid.spacing_mm[::-1])) + np.array(grid.origin_mm)
        ras = nib.affines.apply_affine(AFFINE, index)
        np.testing.assert_allclose(lps * [-1, -1, 1], ras, atol=1e-4)

    def test_any_number_of_workers_writes_the_same(self, tmp_path: Path, out: Path) -> None:
        write_set(tmp_path, NAMES)
        run(tmp_path, out)
        run(tmp_path, tmp_path / "out2", workers=2)
        one, two = snapshot(out), snapshot(tmp_path / "out2")
        assert {k: v[1] for k, v in one.items()} == {k: v[1] for k, v in two.items()}

    def test_names_regions_and_instances(self, tmp_path: Path, out: Path) -> None:
        write_set(tmp_path, ["a"])
        labels = box_labels()
        labels[0, 15:18, 2:4] = 2
        labels[3, 0, 0] = 9
        write_nifti(tmp_path / "labels/a.nii.gz", labels)
        names = tmp_path / "names.yaml"
        names.write_text("{organ: 1, tumour: 2, all: [1, 2, 5], none: [7]}")
        run(tmp_path, out, label_names=names, instances_of=[2], drop_labels=[9])
        case = read_case(out / "train" / "a.npz")
        assert case.label_names == {1: "organ", 513: "tumour", 514: "tumour"}
        assert case.regions == {"all": (1, 513, 514)}
        np.testing.assert_array_equal(np.unique(case.label_maps[0]), [0, 1, 513, 514])
        (entry,) = read_manifest(out)["written"]
        assert entry["dropped"] == [
            {"rule": "drop_labels", "label": 9, "objects": 1, "voxels": 1},
        ]

    def test_several_images_of_a_label_stay_together(self, tmp_path: Path, out: Path) -> None:
        for patient in range(6):
            for channel in range(2):
                write_nifti(
                    tmp_path / f"images/p{patient}_000{channel}.nii.gz", ct_like(seed=patient)
                )
            write_nifti(tmp_path / f"labels/p{patient}.nii.gz", box_labels())
        run(tmp_path, out, val_share=0.3)
        splits = read_splits(out)
        assert len(splits["val"]) == 4
        patients = {split: {name[:2] for name in names} for split, names in splits.items()}
        assert not patients["train"] & patients["val"]

    def test_group_pattern_and_split_file(self, tmp_path: Path, out: Path) -> None:
        write_set(tmp_path, ["p1_x", "p1_y", "p2_x", "p2_y", "p3_x"])
        run(tmp_path, out, group=r"^(p\d)_")
        splits = read_splits(out)
        assert {name[:2] for name in splits["val"]}.isdisjoint(n[:2] for n in splits["train"])
        chosen = tmp_path / "s.json"
        chosen.write_text(json.dumps({"train": ["p1_x", "p1_y"], "val": ["p2_x", "p2_y"],
                                      "test": ["p3_x"]}))  # fmt: skip
        assert run(tmp_path, out, split_file=chosen, group="p.").built == 0
        assert read_splits(out) == json.loads(chosen.read_text())
        assert {path.parent.name for path in out.glob("*/p2_*.npz")} == {"val"}
        with pytest.raises(UserError, match="does not match the case p1_x"):
            run(tmp_path, out, group="q")
        with pytest.raises(UserError, match="no regular expression"):
            run(tmp_path, out, group="(")

    def test_npz_cases_keep_their_values(self, tmp_path: Path, out: Path) -> None:
        image = np.random.default_rng(0).integers(0, 255, (3, 16, 16)).astype(np.uint8)
        labels = np.zeros((3, 16, 16), np.uint8)
        labels[1, 4:9, 4:9] = 3
        folder = tmp_path / "npz"
        folder.mkdir()
        boxes = np.array([[4, 4, 1, 8, 8, 1]], np.float32)
        np.savez(folder / "x.npz", imgs=image, gts=labels, boxes=boxes, modality=np.array("MR"))
        prepare(folder, folder, out, modality="CT", workers=1)
        case = read_case(out / "train/x.npz")
        np.testing.assert_array_equal(case.image, image)
        assert case.modality == "CT"
        assert case.intensity is not None
        assert case.intensity.kind == "keep"
        assert case.boxes is not None
        assert "the file says MR" in read_manifest(out)["written"][0]["notes"][0]
        with pytest.raises(UserError, match=r"0-255 already.*--window lung"):
            prepare(folder, folder, tmp_path / "o2", modality="CT", window="lung", workers=1)

    def test_uint8_ct_is_not_windowed(self, tmp_path: Path, out: Path) -> None:
        write_set(tmp_path, ["a"])
        gray = np.random.default_rng(0).integers(0, 255, (4, 20, 24)).astype(np.uint8)
        write_nifti(tmp_path / "images/a.nii.gz", gray)
        run(tmp_path, out)
        np.testing.assert_array_equal(read_case(out / "train/a.npz").image, gray)
        assert "no Hounsfield units" in read_manifest(out)["written"][0]["notes"][0]


class TestAgain:
    def test_second_run_touches_nothing(
        self, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_set(tmp_path, NAMES)
        write_nifti(tmp_path / "labels/b.nii.gz", np.zeros((4, 20, 24), np.uint8))
        run(tmp_path, out)
        before = snapshot(out)
        capsys.readouterr()
        summary = run(tmp_path, out)
        assert (summary.built, summary.up_to_date, list(summary.skipped)) == (0, 4, ["b"])
        assert snapshot(out) == before
        said = capsys.readouterr().out
        assert "nothing to do: 4 cases up to date" in said
        assert "skipped (1): b (the label file is empty" in said

    def test_only_what_changed_is_built(self, tmp_path: Path, out: Path) -> None:
        write_set(tmp_path, NAMES)
        run(tmp_path, out)
        before = {name: path.stat().st_mtime_ns for name, path in cases(out).items()}
        write_nifti(tmp_path / "images/c.nii.gz", ct_like(seed=77))
        cases(out)["d"].write_bytes(b"damaged")
        os.unlink(cases(out)["e"])  # noqa: PTH108
        assert run(tmp_path, out).built == 3
        after = {name: path.stat().st_mtime_ns for name, path in cases(out).items()}
        assert {name for name in NAMES if after[name] != before[name]} == {"c", "d", "e"}

    @pytest.mark.parametrize(
        "change",
        [{"window": "lung"}, {"min_voxels_3d": 90}, {"drop_labels": [2]}, {"overwrite": True},
         {"modality": "MR"}, {"instances_of": [1]}, {"min_pixels_2d": 50}],
        ids=lambda change: next(iter(change)),
    )  # fmt: skip
    def test_other_settings_build_again(
        self, tmp_path: Path, out: Path, change: dict[str, Any]
    ) -> None:
        write_set(tmp_path, ["a", "b"])
        run(tmp_path, out)
        assert run(tmp_path, out, **change).built == 2
        assert run(tmp_path, out, **(change | {"overwrite": False})).built == 0

    def test_another_seed_moves_cases_without_building(self, tmp_path: Path, out: Path) -> None:
        write_set(tmp_path, NAMES)
        run(tmp_path, out)
        first = read_splits(out)
        seeds = (s for s in range(1, 50))
        while run(tmp_path, out, seed=next(seeds)).built == 0 and read_splits(out) == first:
            pass
        splits = read_splits(out)
        assert splits != first
        assert {n: p.parent.name for n, p in cases(out).items()} == {
            name: split for split, names in splits.items() for name in names
        }
        assert len(list(out.rglob("*.npz"))) == 5

    def test_a_changed_case_in_another_split_leaves_no_copy(
        self, tmp_path: Path, out: Path
    ) -> None:
        write_set(tmp_path, ["a", "b"])
        for trained, validated in (("a", "b"), ("b", "a")):
            write_nifti(tmp_path / "images/a.nii.gz", ct_like(seed=ord(trained)))
            chosen = tmp_path / "s.json"
            chosen.write_text(json.dumps({"train": [trained], "val": [validated]}))
            run(tmp_path, out, split_file=chosen)
        assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.npz")) == [
            "train/b.npz", "val/a.npz",
        ]  # fmt: skip

    def test_added_cases_leave_the_others_where_they_are(self, tmp_path: Path, out: Path) -> None:
        write_set(tmp_path, NAMES)
        run(tmp_path, out)
        old = read_splits(out)
        write_set(tmp_path, [*NAMES, *(f"n{i}" for i in range(10))])
        assert run(tmp_path, out).built == 10
        new = read_splits(out)
        assert all(set(old[split]) <= set(new[split]) for split in old)
        assert len(new["val"]) == 3

    def test_other_inputs_join_a_folder(self, tmp_path: Path, out: Path) -> None:
        write_set(tmp_path / "one", ["p1", "p2", "p3"])
        write_set(tmp_path / "two", ["p2", "p3", "p4"])
        write_nifti(tmp_path / "two/images/p2.nii.gz", ct_like(seed=50))
        run(tmp_path / "one", out)
        with pytest.raises(UserError, match="case p2 that was made from another folder"):
            run(tmp_path / "two", out, modality="MR")
        run(tmp_path / "two", out, modality="MR", name_prefix="MR_", group=r"p\d")
        splits = read_splits(out)
        assert sum(map(len, splits.values())) == 6
        held = {split: {name[-2:] for name in names} for split, names in splits.items()}
        assert not held["train"] & held["val"]
        modalities = [entry["settings"]["modality"] for entry in read_manifest(out)["written"]]
        assert sorted(modalities) == ["CT", "CT", "CT", "MR", "MR", "MR"]

    def test_a_source_that_is_gone(
        self, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_set(tmp_path, NAMES)
        run(tmp_path, out)
        (tmp_path / "images/b.nii.gz").unlink()
        (tmp_path / "labels/b.nii.gz").unlink()
        run(tmp_path, out)
        assert set(cases(out)) == set(NAMES)
        assert "kept from other inputs (1): b" in capsys.readouterr().out
        run(tmp_path, out, overwrite=True)
        assert set(cases(out)) == set(NAMES) - {"b"}


class TestBadInput:
    def broken(self, tmp_path: Path) -> None:
        write_set(tmp_path, NAMES)
        path = tmp_path / "images/b.nii.gz"
        path.write_bytes(path.read_bytes()[:200])
        nan = ct_like().astype(np.float32)
        nan[0, 0, 0] = np.nan
        write_nifti(tmp_path / "images/c.nii.gz", nan)
        shifted = AFFINE.copy()
        shifted[0, 3] += 300
        write_nifti(tmp_path / "labels/d.nii.gz", box_labels(), shifted)

    @pytest.mark.parametrize("workers", [1, 2])
    def test_broken_files_do_not_stop_the_others(
        self, tmp_path: Path, out: Path, workers: int
    ) -> None:
        self.broken(tmp_path)
        with pytest.raises(UserError, match="3 of 5 cases failed") as caught:
            run(tmp_path, out, workers=workers)
        for name in ("images/b.nii.gz", "images/c.nii.gz", "labels/d.nii.gz"):
            assert name in str(caught.value)
        assert set(cases(out)) == {"a", "e"}
        failed = {entry["name"]: entry["reason"] for entry in read_manifest(out)["failed"]}
        assert set(failed) == {"b", "c", "d"}
        assert "no label lies within the image" in failed["d"]
        write_set(tmp_path, NAMES)
        summary = run(tmp_path, out)
        assert (summary.built, summary.up_to_date) == (3, 2)
        assert read_manifest(out)["failed"] == []

    def test_exit_code_and_one_line(
        self, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.broken(tmp_path)
        folders = [str(tmp_path / "images"), str(tmp_path / "labels"), str(out)]
        assert main(["prepare", *folders, "--modality", "CT", "--workers", "1"]) == 2
        error = capsys.readouterr().err.splitlines()
        assert len(error) == 1
        assert error[0].startswith("error: 3 of 5 cases failed: ")

    def test_a_case_that_breaks_later_leaves_no_old_file(self, tmp_path: Path, out: Path) -> None:
        write_set(tmp_path, ["a", "b"])
        run(tmp_path, out)
        (tmp_path / "images/a.nii.gz").write_bytes(b"no")
        with pytest.raises(UserError, match="1 of 2"):
            run(tmp_path, out)
        assert set(cases(out)) == {"b"}

    def test_all_skipped(self, tmp_path: Path, out: Path) -> None:
        write_set(tmp_path, ["a", "b"])
        write_nifti(tmp_path / "labels/a.nii.gz", np.zeros((4, 20, 24), np.uint8))
        with pytest.raises(UserError, match="all 2 were skipped") as caught:
            run(tmp_path, out, drop_labels=[1, 2])
        assert "background only" in str(caught.value)
        assert "clean-up left nothing" in str(caught.value)
        assert [entry["name"] for entry in read_manifest(out)["skipped"]] == ["a", "b"]

    def test_without_label_file(self, tmp_path: Path, out: Path) -> None:
        write_set(tmp_path, ["a", "b"])
        (tmp_path / "labels/b.nii.gz").unlink()
        write_nifti(tmp_path / "labels/stray.nii.gz", box_labels())
        summary = run(tmp_path, out)
        assert summary.skipped == {"b": "no label file was found"}
        assert read_manifest(out)["unused_labels"] == ["stray.nii.gz"]

    @pytest.mark.parametrize(
        ("values", "message"),
        [((0, 1), "values 0 to 1 become a blank image"), ((500, 900), "values 500 to 900")],
    )
    def test_a_window_beside_the_values(
        self, tmp_path: Path, out: Path, values: tuple[int, int], message: str
    ) -> None:
        write_set(tmp_path, ["a"])
        image = np.full((4, 20, 24), values[0], np.int16)
        image[1] = values[1]
        write_nifti(tmp_path / "images/a.nii.gz", image)
        with pytest.raises(UserError, match=message):
            run(tmp_path, out)

    def test_constant_image(self, tmp_path: Path, out: Path) -> None:
        write_set(tmp_path, ["a"])
        write_nifti(tmp_path / "images/a.nii.gz", np.zeros((4, 20, 24), np.int16))
        with pytest.raises(UserError, match="blank image under the rule 'percentile'"):
            run(tmp_path, out, modality="MR")

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"workers": 0}, "--workers is 0"), ({"val_share": 1.0}, "--val_share"),
         ({"window": "nice"}, "window 'nice'")],
        ids=["workers", "share", "window"],
    )  # fmt: skip
    def test_options_are_checked_before_anything_is_written(
        self, tmp_path: Path, out: Path, options: dict[str, Any], message: str
    ) -> None:
        write_set(tmp_path, ["a"])
        with pytest.raises(UserError, match=message):
            run(tmp_path, out, **options)
        assert not out.exists()

    def test_strange_files_in_the_output(self, tmp_path: Path, out: Path) -> None:
        write_set(tmp_path, ["a"])
        (out / "train").mkdir(parents=True)
        (out / "train/a.npz").write_bytes(b"mine")
        with pytest.raises(UserError, match=r"train/a\.npz: was not written by this command"):
            run(tmp_path, out)
        assert (out / "train/a.npz").read_bytes() == b"mine"

    def test_output_that_cannot_be_written(self, tmp_path: Path) -> None:
        write_set(tmp_path, ["a"])
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="file/out: cannot be written"):
            run(tmp_path, tmp_path / "file" / "out")

    @pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}', '{"format": 1}'])
    def test_damaged_manifest(self, tmp_path: Path, out: Path, content: str) -> None:
        write_set(tmp_path, ["a"])
        run(tmp_path, out)
        (out / "manifest.json").write_text(content)
        with pytest.raises(UserError, match=r"manifest\.json: cannot be used"):
            run(tmp_path, out)

    def test_warnings(self, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_set(tmp_path, ["a"])
        run(tmp_path, out, drop_labels=[2, 44])
        said = capsys.readouterr().out
        assert "drop_labels names labels that no case has: [44]" in said
        assert "no case is in val" in said
        assert "drop_labels dropped 1 objects, 168 voxels of labels [2]" in said
