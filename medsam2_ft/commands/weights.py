"""``medsam2-ft weights``: the official weights that are here, and how to get the others."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medsam2_ft.errors import UserError

if TYPE_CHECKING:
    from medsam2_ft.weights import Variant

State = Literal["verified", "damaged", "absent"]


def weights(*, download: str | None = None) -> None:
    """List the official SAM2 weights, verify those that are here, and download others.

    The folder is ``checkpoints`` in the current folder, or the one that the environment variable
    MEDSAM2FT_CHECKPOINTS names.

    Args:
        download: Name of a model, such as sam2.1_hiera_tiny, whose file is fetched first.

    Raises:
        UserError: There is no such model, the download failed, or a file is damaged.
    """
    from medsam2_ft.weights import VARIANTS, checkpoint_folder

    if download is not None:
        _download(download)
    folder = checkpoint_folder()
    print(f"official weights in {folder.resolve()}")
    states = {variant.name: weight_state(variant, folder) for variant in VARIANTS.values()}
    for variant in VARIANTS.values():
        print(f"  {states[variant.name]:<8}  {variant.checkpoint}")
    damaged = [name for name, state in states.items() if state == "damaged"]
    if damaged:
        path = folder / VARIANTS[damaged[0]].checkpoint
        raise UserError(
            f"{path}: its sha256 is not that of the official file; delete it, then"
            f" medsam2-ft weights --download {damaged[0]}"
        )


def weight_state(variant: "Variant", folder: Path) -> State:
    """Compares the file of an official model with its sha256.

    Args:
        variant: The model.
        folder: Where its file would lie.

    Returns:
        ``absent`` where there is no file, ``damaged`` where the checksum differs.
    """
    from medsam2_ft.download import is_verified

    path = folder / variant.checkpoint
    if not path.is_file():
        return "absent"
    return "verified" if is_verified(path, variant.sha256) else "damaged"


def _download(name: str) -> None:
    """Fetches the file of an official model unless it is there.

    Raises:
        UserError: There is no such model, or the download failed.
    """
    from medsam2_ft.entry import closest_name
    from medsam2_ft.weights import VARIANTS, resolve_weights

    if name not in VARIANTS:
        closest = closest_name(name, VARIANTS)
        hint = f"did you mean {closest}?" if closest else f"there are {', '.join(VARIANTS)}"
        raise UserError(f"--download {name}: no official weights of that name; {hint}")
    resolve_weights("pretrained", name)
