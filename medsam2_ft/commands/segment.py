"""``medsam2-ft segment``: an image or a folder of images, a model and prompts -> segmentations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medsam2_ft.errors import UserError
from medsam2_ft.types import Modality

if TYPE_CHECKING:
    from medsam2_ft.segmenter import Segmenter
    from medsam2_ft.segmenting.given import Given
    from medsam2_ft.segmenting.job import How


def segment(
    source: Path,
    *,
    model: str,
    out: Path,
    box: list[str] | None = None,
    points: list[str] | None = None,
    prompts: Path | None = None,
    mask: Path | None = None,
    from_labels: Path | None = None,
    names: list[str] | None = None,
    units: Literal["voxels", "mm"] = "voxels",
    world: Literal["lps", "ras"] = "lps",
    axis: Literal[0, 1, 2] = 0,
    range: str | None = None,
    strategy: Literal["box", "memory"] | None = None,
    protocol: Literal["middle", "paper"] = "middle",
    margin_px: float = 5.0,
    overlap: Literal["largest_logit", "keep"] = "largest_logit",
    modality: Modality | None = None,
    window: str | None = None,
    channel: int | None = None,
    image_size: int | None = None,
    device: str = "auto",
    overlay: str | None = None,
    format: str = "nii.gz",
    overwrite: bool = False,
) -> None:
    """Segments objects from boxes, points or masks, in the geometry of the image.

    medsam2-ft segment ct.nii.gz --model sam2.1_hiera_tiny --box 120,80,180,150@42 --out seg.nii.gz
    segments one object in a volume. Without any prompt, the boxes stored with npz cases are taken.

    Args:
        source: NIfTI, NRRD, MetaImage, DICOM (folder, file, zip), npz, HDF5, picture, video, or a
            folder of them where --out is a folder.
        model: Name of an official model, or a file: .pt (official or exported) or .ckpt.
        out: File (.nii.gz .nii .nrrd .seg.nrrd .mha .npz .dcm .png), or folder for several images.
        box: One for each object, x0,y0,x1,y1@slice or x0,y0,z0,x1,y1,z1, inclusive; 2D images need
            no slice. 2:x0,... is a box of object 2.
        points: x,y,z,label with label 1 on the object and 0 not; in 2D images x,y,label.
        prompts: JSON or CSV file with boxes and points, also of many cases; see docs/segment.md.
        mask: Label file with the objects drawn on one or several slices.
        from_labels: Label file (or folder of them) from which boxes are simulated, for tests.
        names: Names of objects 1, 2, ..., or 3=liver.
        units: What --box and --points count: voxels, or mm in the world of the image.
        world: Whose axes mm follow: lps (DICOM, ITK) or ras (NIfTI, 3D Slicer's display).
        axis: Axis of (z, y, x) whose slices are propagated through.
        range: Slices to segment, such as 10:40, or full. By default those of a 3D box, else all.
        strategy: Slice to slice by the mask's box or by SAM2's memory; by default as the model
            says.
        protocol: middle, or paper: as arXiv 2408.03322 propagates.
        margin_px: Margin around simulated and propagated boxes, in pixels of a 1024 input.
        overlap: Where objects meet: largest_logit, or keep both (.seg.nrrd, .npz, .dcm).
        modality: Of images that do not say it; decides how intensities become 0-255.
        window: CT: soft_tissue (the default), lung, brain or bone. Any modality: level/width.
        channel: Which channel or time point of 4-D images is taken, from 0.
        image_size: Side of the model's input; by default the model's own.
        device: auto, cpu, cuda, cuda:1, mps.
        overlay: Draw the result over the image: FILE.png (sheet) or FILE.mp4; of a folder png or
            mp4.
        format: Of a folder's segmentations: nii.gz, nrrd, seg.nrrd, mha, npz, dcm, png.
        overwrite: In a folder, segment again what is there already.

    Raises:
        UserError: Bad input; of a folder's cases that fail, after all others have been done.
    """
    from medsam2_ft.segmenting.given import parse_names, parse_range
    from medsam2_ft.segmenting.items import Reading
    from medsam2_ft.segmenting.job import How
    from medsam2_ft.segmenting.outputs import is_file_name
    from medsam2_ft.segmenting.prompting import Wanted

    given = _given(box, points, prompts, units, world)
    wanted = Wanted(
        tuple(given),
        mask,
        from_labels is not None,
        parse_range(range),
        parse_names(names or []),
        axis,
        margin_px,
        protocol,
    )
    wanted.check()
    how = How(Reading(modality, window, channel), wanted, strategy, overlap)

    @cache
    def load() -> "Segmenter":
        from medsam2_ft.segmenter import Segmenter

        return Segmenter.from_checkpoint(model, device=device, image_size=image_size)

    if is_file_name(out):
        _one(source, from_labels, out, None if overlay is None else Path(overlay), how, load)
        return
    identity = (model, image_size)
    _folder(source, from_labels, out, (format, overlay), how, load, identity, overwrite)


def _given(
    box: list[str] | None,
    points: list[str] | None,
    prompts: Path | None,
    units: Literal["voxels", "mm"],
    world: Literal["lps", "ras"],
) -> list["Given"]:
    from medsam2_ft.segmenting.given import parse_boxes, parse_points
    from medsam2_ft.segmenting.prompt_file import read_prompt_file

    if prompts is not None and (box or points):
        raise UserError("--prompts excludes --box and --points; put them into the file")
    if prompts is not None:
        return read_prompt_file(prompts, units, world)
    return [
        *parse_boxes(_texts("box", box), units, world),
        *parse_points(_texts("points", points), units, world),
    ]


def _texts(option: str, given: list[str] | None) -> list[str]:
    """The values of an option; in a YAML file they may have been anything.

    Raises:
        UserError: They are not texts.
    """
    values = [given] if isinstance(given, str) else given or []
    if not all(isinstance(value, str) for value in values):
        raise UserError(f"{option}: write each value as text in quotes, such as '1,2,3,4@5'")
    return values


def _one(
    source: Path,
    labels: Path | None,
    out: Path,
    overlay: Path | None,
    how: "How",
    load: Callable[[], "Segmenter"],
) -> None:
    from medsam2_ft.io import file_suffix
    from medsam2_ft.segmenting.items import single_item
    from medsam2_ft.segmenting.job import segment_item
    from medsam2_ft.segmenting.outputs import (
        check_format,
        check_not_input,
        check_overlay,
        check_target,
    )
    from medsam2_ft.segmenting.prompting import check_cases

    check_format(file_suffix(out), keep_overlaps=how.overlap == "keep")
    for target in (out, overlay):
        if target is not None:
            check_target(target)
    if overlay is not None:
        check_overlay(overlay)
    item = single_item(source, labels)
    inputs = [source, labels, how.wanted.mask]
    check_not_input(
        (target for target in (out, overlay) if target is not None),
        (path for path in inputs if path is not None),
    )
    check_cases(how.wanted.given, [item.name], alone=True)
    with _bar() as advance:
        outcome = segment_item(load, item, how, out, overlay, advance)
    print(f"{out}: {outcome.summary}")
    if overlay is not None:
        print(overlay)


def _folder(
    source: Path,
    labels: Path | None,
    out: Path,
    formats: tuple[str, str | None],
    how: "How",
    load: Callable[[], "Segmenter"],
    identity: tuple[str, int | None],
    overwrite: bool,
) -> None:
    from medsam2_ft.segmenting.batch import Targets, model_identity, segment_batch
    from medsam2_ft.segmenting.items import batch_items
    from medsam2_ft.segmenting.outputs import check_format, check_not_input, check_overlay
    from medsam2_ft.segmenting.prompting import check_cases

    suffix = f".{formats[0].lower().lstrip('.')}"
    check_format(suffix, keep_overlaps=how.overlap == "keep")
    drawn = "" if formats[1] is None else f".{formats[1].lower().lstrip('.')}"
    if drawn:
        check_overlay(Path(f"x{drawn}"))
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; check the path")
    if out.resolve() == source.resolve():
        raise UserError(f"{out}: holds the images; give another folder for the segmentations")
    items = batch_items(source, labels, out, how.reading.modality)
    check_cases(how.wanted.given, [item.name for item in items], alone=False)
    if how.wanted.mask is not None and len(items) > 1:
        raise UserError(f"--mask {how.wanted.mask}: is of one image and there are {len(items)}")
    unprompted = [item for item in items if how.wanted.given and not _is_prompted(item.name, how)]
    items = [item for item in items if item not in unprompted]
    targets = Targets(out, suffix, drawn)
    check_not_input(
        (path for item in items for path in targets.all(item)),
        (path for item in items for path in item.files),
    )
    done = segment_batch(items, load, model_identity(*identity), how, targets, overwrite=overwrite)
    kept = sum(entry.is_kept for entry in done)
    print(f"{out}: {len(done) - kept} cases segmented, {kept} were there already")
    if unprompted:
        print(f"without a prompt in the file, left out: {', '.join(i.name for i in unprompted)}")


def _is_prompted(name: str, how: "How") -> bool:
    from medsam2_ft.segmenting.prompting import given_for

    return bool(given_for(how.wanted.given, name))


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None] | None]:
    """Shows the masks that are done on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("segmenting", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
