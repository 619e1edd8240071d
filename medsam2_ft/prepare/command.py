"""``medsam2-ft prepare``: folders of images and labels become npz cases."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsam2_ft import __version__
from medsam2_ft.errors import UserError
from medsam2_ft.io.orient import Slices
from medsam2_ft.prepare.folder import locked, tidy
from medsam2_ft.prepare.inputs import Input, Work, find_work
from medsam2_ft.prepare.leakage import same_images
from medsam2_ft.prepare.manifest import Record, write_manifest
from medsam2_ft.prepare.pairing import ANY_FILE
from medsam2_ft.prepare.patients import keep_salt
from medsam2_ft.prepare.report import print_summary, warnings_about
from medsam2_ft.prepare.run import Result, checked_splits, run
from medsam2_ft.prepare.splits import SPLITS, SplitRule
from medsam2_ft.types import Modality

_SHOWN = 3  # how many failures the message names


@dataclass(frozen=True)
class PrepareSummary:
    """What ``prepare`` did.

    Attributes:
        out: The output folder.
        built: Cases that were written by this call.
        up_to_date: Cases that needed nothing.
        skipped: Reason by case name, for cases without labels.
        splits: Number of cases of this input per split.
        seconds: Wall time.
    """

    out: Path
    built: int
    up_to_date: int
    skipped: Mapping[str, str]
    splits: Mapping[str, int]
    seconds: float


def prepare(
    images: Path,
    labels: Path,
    out: Path,
    *,
    modality: Modality | None = None,
    window: str | None = None,
    label_names: Path | None = None,
    drop_labels: list[int] | None = None,
    instances_of: list[int] | None = None,
    min_voxels_3d: int = 0,
    min_pixels_2d: int = 0,
    label_rules: Path | Mapping[str, Any] | None = None,
    slices: Slices = "stored",
    channel: int | None = None,
    video: bool = False,
    image_glob: str = ANY_FILE,
    label_glob: str = ANY_FILE,
    name_prefix: str = "",
    val_share: float = 0.1,
    test_share: float = 0.0,
    split_file: Path | None = None,
    group: str | None = None,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
) -> PrepareSummary:
    """Turns folders of images and labels into npz cases, split into train, val and test.

    Reads DICOM (series; SEG and RTSTRUCT as labels), NIfTI, NRRD, .seg.nrrd, MHA/MHD, HDF5, npz,
    pictures, videos and zip archives. Writes OUT/{train,val,test}/NAME.npz, manifest.json and
    splits.json. Run again, it builds only what has changed; interrupted, it goes on where it was.

    Args:
        images: Folder of images (searched with its subfolders), or one image.
        labels: Folder of label files, or one file. Give the image folder again where labels lie
            beside the images or inside them (npz, HDF5).
        out: Output folder.
        modality: Decides how intensities become 0-255. May be left out where the files say it
            (DICOM, npz); with it, DICOM series of other modalities are left out.
        window: CT: soft_tissue (the default), lung, brain or bone. Any modality: level/width in
            the image's own units, such as 40/400 (--window=-600/1500 where it starts with a minus).
        label_names: JSON or YAML file that maps label ids to names; nnU-Net's dataset.json works.
        label_rules: YAML file that says how the values of label files become labels, which are
            kept, dropped, merged and named.
        slices: Which way slices lie: as stored, axial, coronal, sagittal, or across the thickest
            axis. Axes are swapped and flipped, never resampled.
        channel: Which channel or time point of 4-D images is taken, from 0.
        video: The third axis of volumes is time, as in NIfTI files of ultrasound sequences.
        drop_labels: Label ids that become background.
        instances_of: Label ids whose separate objects become labels of their own.
        min_voxels_3d: Drop connected objects with fewer voxels.
        min_pixels_2d: Drop parts of a label in a slice with fewer pixels.
        image_glob: Which files below IMAGES are images, such as '**/*_ct.nii.gz', or a pattern with
            placeholders, such as '{patient}/{sequence}.nii.gz' or '{case}/{frame}.png' (a video).
        label_glob: Which files below LABELS are labels. What has the same text for the same
            placeholders belongs together, such as '{patient}/seg.nii.gz'; {label} and {object} are
            files of one label or object each.
        name_prefix: Put before every case name, so that several inputs fit one output folder.
        val_share: Share of the cases for validation; not used with split_file.
        test_share: Share of the cases for testing; not used with split_file.
        split_file: JSON {"train": [names], "val": [...], "test": [...]} or CSV name,split.
        group: Regular expression for the part of a case's name that tells the patient; cases of
            one patient stay together. By default those of one {patient} or DICOM PatientID do, and
            those that share a label file.
        seed: Another seed gives another split.
        workers: Processes; by default one per core, as far as memory allows.
        overwrite: Build every case again and split anew.

    Returns:
        What was done.

    Raises:
        UserError: Bad input; of cases that fail, after all others have been written.
    """
    entry = Input(
        images,
        labels,
        modality=modality,
        window=window,
        label_names=label_names,
        drop_labels=drop_labels,
        instances_of=instances_of,
        min_voxels_3d=min_voxels_3d,
        min_pixels_2d=min_pixels_2d,
        label_rules=label_rules,
        slices=slices,
        channel=channel,
        video=video,
        image_glob=image_glob,
        label_glob=label_glob,
        name_prefix=name_prefix,
        group=group,
    )
    return prepare_inputs(
        [entry],
        out,
        val_share=val_share,
        test_share=test_share,
        split_file=split_file,
        seed=seed,
        workers=workers,
        overwrite=overwrite,
    )


def prepare_inputs(
    inputs: Sequence[Input],
    out: Path,
    *,
    val_share: float = 0.1,
    test_share: float = 0.0,
    split_file: Path | None = None,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
) -> PrepareSummary:
    """Prepares several inputs in one run: one split over all of them, one manifest.

    Args:
        inputs: At least one; of several, those without any image are passed over.
        out: See ``prepare``, as for all that follow.
        val_share: Share of validation.
        test_share: Share of testing.
        split_file: Gives the split instead.
        seed: Of the split.
        workers: Processes.
        overwrite: Build everything again.

    Returns:
        What was done.

    Raises:
        UserError: See ``prepare``; ``NothingFoundError`` where no input has an image.
    """
    started = time.monotonic()
    if workers is not None and workers < 1:
        raise UserError(f"--workers is {workers}; it must be at least 1")
    work = find_work(inputs, out)
    split_rule = SplitRule(val_share, test_share, seed, split_file, work.group)
    given_splits = checked_splits(split_rule, work.jobs)
    with locked(out):
        keep_salt(out, work.veil)
        result = run(
            out,
            work.jobs,
            split_rule,
            given_splits,
            workers=workers,
            overwrite=overwrite,
            veil=work.veil,
        )
        lists = {
            "unused_labels": work.unused_labels,
            "left_out": work.left_out,
            "same_images": same_images(result.manifest.records.values()),
        }
        write_manifest(out, result.manifest, lists, work.veil, __version__)
        tidy(out)
    _report(work, result, lists["same_images"], out)
    _complain(result.current, out)
    return _summary(out, result, time.monotonic() - started)


def _report(work: Work, result: Result, same: Sequence[Sequence[str]], out: Path) -> None:
    print_summary(
        result.current,
        len(result.ready),
        {
            "passed over, for no image matches": work.absent,
            "label files without an image": work.unused_labels,
            "series of another modality, left out": work.left_out,
            "kept from other inputs": result.earlier,
            "cases with the same image, kept in one split": [" = ".join(names) for names in same],
        },
        warnings_about(result.current, [job.settings.cleanup for job in work.jobs]),
        str(out),
    )


def _complain(records: Sequence[Record], out: Path) -> None:
    """Raises ``UserError`` where cases failed, or where no case is left."""
    failed = [record for record in records if record.status == "failed"]
    written = sum(record.status == "written" for record in records)
    if failed:
        reasons = "; ".join(record.reason for record in failed[:_SHOWN])
        more = f"; and {len(failed) - _SHOWN} more, see manifest.json" if failed[_SHOWN:] else ""
        # how the values of a mask are to be read: the reader knows no command line
        how = " (say the form under 'values' in --label_rules)" if "choose form" in reasons else ""
        raise UserError(
            f"{len(failed)} of {len(records)} cases failed: {reasons}{more}{how}; {written} are "
            f"in {out}, correct the others and run again: only they are tried again"
        )
    if not written:
        reasons = "; ".join(sorted({f"{r.image}: {r.reason}" for r in records})[:_SHOWN])
        raise UserError(
            f"{out}: holds no case, all {len(records)} were skipped ({reasons}); check the label "
            "folder and how label files are named, or choose them with --label_glob"
        )


def _summary(out: Path, result: Result, seconds: float) -> PrepareSummary:
    written = [record for record in result.current if record.status == "written"]
    kept = sum(record.name in result.ready for record in written)
    return PrepareSummary(
        out=out,
        built=len(written) - kept,
        up_to_date=kept,
        skipped={r.name: r.reason for r in result.current if r.status == "skipped"},
        splits={split: sum(r.split == split for r in written) for split in SPLITS},
        seconds=seconds,
    )
