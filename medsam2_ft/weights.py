"""Where the weights come from: Meta's released files, our exports, our training checkpoints.

Knows file names, checksums and the three file layouts; knows nothing of the ``sam2`` package.
Files are read with ``weights_only=True``: nothing in a checkpoint is ever executed.
"""

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from medsam2_ft.download import released_file, sha256_of
from medsam2_ft.errors import UserError

__all__ = ["VARIANTS", "Variant", "guess_variant", "load_state", "resolve_weights", "sha256_of"]

CHECKPOINTS_ENV: Final = "MEDSAM2FT_CHECKPOINTS"
LIGHTNING_PREFIX: Final = "model.core."
# What PyTorch and zipfile raise on damaged files, found by changing random bytes of real ones.
_DAMAGE: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)
_HOST: Final = "https://dl.fbaipublicfiles.com/segment_anything_2"


@dataclass(frozen=True)
class Variant:
    """One released SAM2 model.

    Attributes:
        name: Our name for it, the stem of Meta's checkpoint.
        config: Config file inside the ``sam2`` package.
        checkpoint: File name of Meta's checkpoint.
        sha256: Checksum of that file, hexadecimal.
        url: Where Meta publishes the file.
        embed_dim: Width of the first encoder stage.
        blocks: Number of encoder blocks.
        is_sam21: Whether it belongs to SAM 2.1, which has tensors that SAM 2 lacks.
    """

    name: str
    config: str
    checkpoint: str
    sha256: str
    url: str
    embed_dim: int
    blocks: int
    is_sam21: bool


# Size -> suffix of Meta's config file, width of the first encoder stage, number of blocks.
_SIZES: Final = {
    "tiny": ("t", 96, 12),
    "small": ("s", 96, 16),
    "base_plus": ("b+", 112, 24),
    "large": ("l", 144, 48),
}
_SHA256: Final = {
    "sam2_hiera_tiny": "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125",
    "sam2_hiera_small": "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3",
    "sam2_hiera_base_plus": "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071",
    "sam2_hiera_large": "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b",
    "sam2.1_hiera_tiny": "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
    "sam2.1_hiera_small": "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
    "sam2.1_hiera_base_plus": "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
    "sam2.1_hiera_large": "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
}


def _variant(name: str) -> Variant:
    """Fills in what follows from the name."""
    family, size = name.split("_hiera_")
    suffix, embed_dim, blocks = _SIZES[size]
    release = {"sam2": "072824", "sam2.1": "092824"}[family]
    return Variant(
        name=name,
        config=f"configs/{family}/{family}_hiera_{suffix}.yaml",
        checkpoint=f"{name}.pt",
        sha256=_SHA256[name],
        url=f"{_HOST}/{release}/{name}.pt",
        embed_dim=embed_dim,
        blocks=blocks,
        is_sam21=family == "sam2.1",
    )


VARIANTS: Final[Mapping[str, Variant]] = {name: _variant(name) for name in _SHA256}


def checkpoint_folder() -> Path:
    """Returns the folder of Meta's files: ``$MEDSAM2FT_CHECKPOINTS``, else ``./checkpoints``."""
    return Path(os.environ.get(CHECKPOINTS_ENV) or "checkpoints")


def resolve_weights(weights: str, variant: str) -> Path | None:
    """Turns the user's choice of weights into a file.

    Args:
        weights: ``pretrained`` (Meta's file, looked up in ``checkpoint_folder()``, else
            downloaded there), ``random``, or the path of a checkpoint.
        variant: Model that the weights are for; only ``pretrained`` uses it.

    Returns:
        An existing file, or None for ``random``.

    Raises:
        UserError: A path that is no file, a model without released weights, a file in the
            checkpoint folder with another checksum, or a download that failed.
    """
    if weights == "random":
        return None
    if weights == "pretrained":
        return _pretrained(variant)
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(
            f"{path}: no such checkpoint file. Give the path of a .pt or .ckpt file, "
            "'pretrained' or 'random'."
        )
    return path


def _pretrained(variant: str) -> Path:
    """Returns Meta's checked file for ``variant``, downloading it where it is missing."""
    if variant not in VARIANTS:
        raise UserError(
            f"{variant} has no released weights. Use --model.weights random or give a path."
        )
    entry = VARIANTS[variant]
    target = checkpoint_folder() / entry.checkpoint
    released_file(
        target,
        entry.url,
        entry.sha256,
        if_absent="train from scratch with --model.weights random",
        if_other=f"pass it as a path: --model.weights {target}",
    )
    return target


def load_state(path: Path) -> dict[str, Tensor]:
    """Reads a model state with the official key names.

    Understands ``{"model": ...}`` (Meta's files and our exports) and Lightning checkpoints
    (``{"state_dict": ...}`` with keys under ``model.core.``).

    Args:
        path: Checkpoint file in PyTorch's zip format.

    Returns:
        Tensors on the CPU by their official names.

    Raises:
        UserError: The file is missing, truncated, not a checkpoint, holds anything but plain
            data, or has none of the layouts above.
    """
    content = read_checkpoint(path)
    state = content.get("model") if isinstance(content, dict) else None
    if state is None and isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        state = _from_lightning(content["state_dict"])
    if not isinstance(state, dict) or not state:
        raise UserError(
            f"{path}: holds no SAM2 weights. Expected Meta's layout {{'model': ...}} or a "
            "training checkpoint of this project."
        )
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"{path}: entry {key!r} is not a tensor; this is no SAM2 checkpoint.")
    return state


def read_checkpoint(path: Path) -> Any:
    """Loads plain data from PyTorch's zip format, refusing everything else."""
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file.")
    try:
        # Older pickles without a zip around them are refused: no file that we accept is one.
        with path.open("rb") as file:
            whole = zipfile.is_zipfile(file)
        content = torch.load(path, map_location="cpu", weights_only=True) if whole else None
    except pickle.UnpicklingError as error:
        # PyTorch's own text advises to load the file without protection; it is not repeated.
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = _printable(found[1]) if found else "something"
        raise UserError(
            f"{path}: refused: it holds {what} that is not plain weights, or is damaged. Nothing "
            "in it was run."
        ) from error
    except _DAMAGE as error:
        raise UserError(
            f"{path}: cannot be read as a checkpoint ({type(error).__name__}: "
            f"{_printable(str(error))}). Copy or download it again."
        ) from error
    if not whole:
        raise UserError(
            f"{path}: truncated, or not a PyTorch checkpoint. Copy or download it again."
        )
    return content


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Writes with ``torch.save``, not atomically; a full disk shows as what it is.

    Raises:
        OSError: The file cannot be written. PyTorch's zip writer alone would raise RuntimeError
            about an unexpected position.
    """
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def _printable(text: str) -> str:
    """Returns the start of a text's first line without what a damaged file put into it."""
    line = (text.splitlines() or [""])[0][:200]
    return "".join(character for character in line if character.isprintable())


def _from_lightning(state: Mapping[str, Any]) -> dict[str, Any]:
    """Keeps the model's tensors of a Lightning checkpoint and gives them their official names."""
    # torch.compile wraps modules and shows in their names.
    plain = {str(key).replace("_orig_mod.", ""): value for key, value in state.items()}
    return {
        key.removeprefix(LIGHTNING_PREFIX): value
        for key, value in plain.items()
        if key.startswith(LIGHTNING_PREFIX)
    }


def mismatch(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str | None:
    """Names the first tensor that keeps a state from being loaded; None where all fit."""
    for key, tensor in own.items():
        if key not in state:
            return f"{key} is missing"
        if state[key].shape != tensor.shape:
            return f"{key} has shape {tuple(state[key].shape)}, not {tuple(tensor.shape)}"
    extra = next((key for key in state if key not in own), None)
    return f"{extra} does not belong" if extra else None


def guess_variant(state: Mapping[str, Tensor]) -> str | None:
    """Names the released model that a state looks like, by its encoder and its SAM 2.1 tensors.

    Returns:
        A key of ``VARIANTS``, or None where nothing fits.
    """
    blocks = {key.split(".")[3] for key in state if key.startswith("image_encoder.trunk.blocks.")}
    patch = state.get("image_encoder.trunk.patch_embed.proj.weight")
    if patch is None:
        return None
    signature = (patch.shape[0], len(blocks), "no_obj_embed_spatial" in state)
    for variant in VARIANTS.values():
        if (variant.embed_dim, variant.blocks, variant.is_sam21) == signature:
            return variant.name
    return None
