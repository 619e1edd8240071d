"""Which prompts an image gets: given ones, drawn masks, simulated ones, or those stored with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medsam2_ft.entry import closest_name
from medsam2_ft.errors import UserError
from medsam2_ft.io import read_labels
from medsam2_ft.object_prompts import ObjectPrompt, check_prompts
from medsam2_ft.prepare.grid import on_image_grid
from medsam2_ft.propagate import Strategy
from medsam2_ft.segmenting.given import Given
from medsam2_ft.segmenting.items import Image, Item, labels_for
from medsam2_ft.segmenting.placement import Range, names_of, place, place_masks, ranged
from medsam2_ft.types import Case
from medsam2_ft.volume_prompts import PromptProtocol, prompts_from_labels, stored_prompts

_SHOWN = 5


@dataclass(frozen=True)
class Wanted:
    """What is to be segmented, and how prompts come about.

    Attributes:
        given: Boxes and points of the command line and the prompt file.
        mask: File with drawn masks.
        simulate: Whether prompts are made from labels.
        wanted: Slices to segment.
        names: Names of objects.
        axis: Axis whose slices are frames.
        margin_px: Around simulated boxes, in pixels of a 1024 input.
        protocol: Of simulated boxes.
    """

    given: tuple[Given, ...] = ()
    mask: Path | None = None
    simulate: bool = False
    wanted: Range = None
    names: Mapping[int, str] = field(default_factory=dict)
    axis: int = 0
    margin_px: float = 5.0
    protocol: PromptProtocol = "middle"

    def check(self) -> None:
        """Refuses several ways at once.

        Raises:
            UserError: See above.
        """
        ways = {
            "--box, --points or --prompts": bool(self.given),
            "--mask": self.mask is not None,
            "--from_labels": self.simulate,
        }
        used = [option for option, is_used in ways.items() if is_used]
        if len(used) > 1:
            raise UserError(f"{' and '.join(used)} exclude each other; give one of them")


@dataclass(frozen=True)
class Prompts:
    """The prompts of one image.

    Attributes:
        objects: What is segmented.
        names: Names of the objects that have one.
        origin: Where the prompts come from, for people.
    """

    objects: tuple[ObjectPrompt, ...]
    names: Mapping[int, str]
    origin: str


def given_for(given: Sequence[Given], name: str) -> tuple[Given, ...]:
    """Returns the prompts of one case; those that name no case are everybody's."""
    return tuple(prompt for prompt in given if prompt.case in ("", name))


def check_cases(given: Sequence[Given], known: Sequence[str], *, alone: bool) -> None:
    """Refuses prompts of cases that are not there, and those that do not say their case.

    Args:
        given: Prompts.
        known: Names of the cases.
        alone: Whether there is one image, and prompts of other cases may be in the same file.

    Raises:
        UserError: See above.
    """
    if alone:
        if given and not given_for(given, known[0]):
            listed = _listed(sorted({prompt.case for prompt in given}))
            raise UserError(
                f"{given[0].where}: the file holds no prompt of case {known[0]!r} but of {listed}"
            )
        return
    for prompt in given:
        if not prompt.case:
            raise UserError(
                f"{prompt.where}: does not say its case, and there are {len(known)}; write a "
                "--prompts file with a case in every entry"
            )
        if prompt.case not in known:
            closest = closest_name(prompt.case, known)
            hint = f"did you mean {closest}?" if closest else f"there are {_listed(known)}"
            raise UserError(f"{prompt.where}: there is no case {prompt.case!r}; {hint}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def prompts_for(item: Item, image: Image, wanted: Wanted, strategy: Strategy) -> Prompts:
    """Makes the prompts of an image.

    Args:
        item: The image's files.
        image: The image.
        wanted: What is to be segmented.
        strategy: How it will be propagated, which matters to the paper's protocol.

    Raises:
        UserError: There are none, or they do not fit the image.
    """
    grid = image.grid(wanted.axis)
    names = dict(wanted.names)
    if wanted.mask is not None:
        labels = read_labels(wanted.mask, like=image.volume)
        labels = on_image_grid(image.volume, labels, str(item.source.path), str(wanted.mask))
        objects = place_masks(labels, grid, wanted.wanted)
        return Prompts(tuple(objects), dict(labels.label_names) | names, "masks drawn by hand")
    if wanted.simulate:
        return _simulated(item, image, wanted, strategy)
    given = given_for(wanted.given, item.name)
    if given:
        objects = place(given, grid, wanted.wanted)
        return Prompts(tuple(objects), names_of(given) | names, "boxes and points")
    case = image.data
    if not isinstance(case, Case) or case.boxes is None:
        raise UserError(
            f"{item.source.path}: nothing says what to segment; give --box, --points, --prompts, "
            "--mask or --from_labels"
        )
    if wanted.axis != 0:
        raise UserError(f"{item.source.path}: stored boxes are of --axis 0; leave --axis out")
    objects = ranged(stored_prompts(case), wanted.wanted, grid.count)
    check_prompts(objects, grid.count, grid.hw)
    return Prompts(tuple(objects), dict(case.label_names) | names, "boxes stored with the case")


def _simulated(item: Item, image: Image, wanted: Wanted, strategy: Strategy) -> Prompts:
    grid = image.grid(wanted.axis)
    labels = labels_for(item, image)
    objects = prompts_from_labels(
        labels,
        margin_px=wanted.margin_px,
        protocol=wanted.protocol,
        strategy=strategy,
        name=item.name,
        axis=wanted.axis,
    )
    if not objects:
        raise UserError(f"{item.source.path}: its labels are empty; there is nothing to segment")
    objects = ranged(objects, wanted.wanted, grid.count)
    check_prompts(objects, grid.count, grid.hw)
    names = dict(labels.label_names) | dict(wanted.names)
    return Prompts(tuple(objects), names, "boxes SIMULATED from known labels")
