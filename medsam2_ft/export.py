"""Lightning checkpoint -> official SAM2 ``.pt`` file with a JSON sidecar."""

import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsam2_ft.errors import UserError
from medsam2_ft.io.atomic import atomic_path, make_folder, write_json

if TYPE_CHECKING:
    from torch import Tensor

STATE_PREFIX = "model.core."  # of Meta's parameters in the LightningModule's state
CHECKPOINT_KEY = "medsam2_ft"  # where Lightning checkpoints carry an `ExportInfo`
VERSIONED_PACKAGES = ("medsam2-ft", "sam2", "torch", "lightning", "monai")


@dataclass(frozen=True)
class ExportInfo:
    """What a user of exported weights has to know; the content of the sidecar.

    Attributes:
        variant: Name of the SAM2 model.
        image_size: Side of the model's input in pixels.
        strategy: How slices should be propagated: ``box`` where the memory modules have not
            followed the encoder, else ``memory``.
        intensity: Rules (one line of JSON each) that made the training images' 0-255 values.
        label_names: Names of the label ids trained on.
        modalities: Modalities trained on.
        step: Optimiser steps done.
        epoch: Epochs completed.
        metrics: Last logged validation metrics.
    """

    variant: str
    image_size: int
    strategy: str = "box"
    intensity: tuple[str, ...] = ()
    label_names: Mapping[int, str] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    step: int = 0
    epoch: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain containers, as stored in checkpoints and sidecars."""
        values = asdict(self)
        values["label_names"] = {str(label): name for label, name in self.label_names.items()}
        return values


def loading_lines(config_file: str, file_name: str, image_size: int) -> list[str]:
    """Returns the Python lines that load an export in Meta's own package.

    Args:
        config_file: Meta's configuration of the variant.
        file_name: The exported file.
        image_size: Side of the input; at 1024 no override is needed.
    """
    overrides = f", hydra_overrides_extra=['++model.image_size={image_size}']"
    arguments = f'"{config_file}", "{file_name}", device="cpu"'
    arguments += overrides if image_size != 1024 else ""
    lines = [
        "from sam2.build_sam import build_sam2",
        "from sam2.sam2_image_predictor import SAM2ImagePredictor",
        f"predictor = SAM2ImagePredictor(build_sam2({arguments}))",
    ]
    if image_size != 1024:
        sizes = ", ".join(f"({image_size // s}, {image_size // s})" for s in (4, 8, 16))
        lines.append(f"predictor._bb_feat_sizes = [{sizes}]")
    return lines


def write_export(state: Mapping[str, "Tensor"], path: Path, info: ExportInfo) -> None:
    """Writes ``{"model": state}`` to ``path`` and the sidecar beside it (``.json``).

    The weights come first: a sidecar always describes a complete file by its sha256.

    Args:
        state: Meta's parameters under their official names; stored as float32.
        path: Target ending in ``.pt``; an existing file is replaced.
        info: Content of the sidecar.

    Raises:
        UserError: The folder cannot be written.
    """
    from medsam2_ft.weights import VARIANTS, write_checkpoint

    tensors = {
        name: tensor.detach().cpu().float() if tensor.is_floating_point() else tensor.cpu()
        for name, tensor in state.items()
    }
    make_folder(path.parent)
    with atomic_path(path) as temporary:
        write_checkpoint({"model": tensors}, temporary)
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    sidecar = info.to_dict() | {
        "sha256": digest,
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED_PACKAGES},
    }
    if info.variant in VARIANTS:
        config = VARIANTS[info.variant].config
        sidecar["load_with"] = loading_lines(config, path.name, info.image_size)
    write_json(path.with_suffix(".json"), sidecar)


def export(checkpoint: Path, out: Path | None = None) -> Path:
    """Writes a Lightning checkpoint's weights as a file that Meta's own sam2 package loads.

    Args:
        checkpoint: File written by train.py fit, such as runs/finetune/checkpoints/best.ckpt.
        out: Target ending in .pt; default is the checkpoint's name with .pt beside it.

    Returns:
        The file written; a sidecar with the same name and .json lies beside it.

    Raises:
        UserError: The file is not a checkpoint of this project, or the target cannot be written.
    """
    from medsam2_ft.weights import read_checkpoint

    content = read_checkpoint(checkpoint)
    if not isinstance(content, dict) or not {CHECKPOINT_KEY, "state_dict"} <= content.keys():
        raise UserError(
            f"{checkpoint}: not a training checkpoint of medsam2-ft (official .pt files and exports"
            " need no export); give a .ckpt file written by train.py fit"
        )
    target = out or checkpoint.with_suffix(".pt")
    if target.suffix != ".pt":
        raise UserError(f"{target}: exported weights end in .pt; give such a name with --out")
    state = {
        name.removeprefix(STATE_PREFIX): tensor
        for name, tensor in content["state_dict"].items()
        if name.startswith(STATE_PREFIX)
    }
    write_export(state, target, parse_info(content[CHECKPOINT_KEY], checkpoint))
    print(f"wrote {target} and {target.with_suffix('.json').name}")
    return target


def parse_info(stored: Any, path: Path) -> ExportInfo:
    """Reads what `ExportInfo.to_dict` gave, from a checkpoint or a sidecar.

    Args:
        stored: Its fields; a sidecar's others are passed over.
        path: Where they stand, for the message.

    Raises:
        UserError: A field is missing or of another type.
    """
    try:
        known = {entry.name for entry in fields(ExportInfo)}
        values = {name: value for name, value in stored.items() if name in known}
        values["label_names"] = {int(i): str(n) for i, n in stored["label_names"].items()}
        for name in ("intensity", "modalities"):
            values[name] = tuple(map(str, stored[name]))
        info = ExportInfo(**values)
        if not isinstance(info.image_size, int) or info.strategy not in ("box", "memory"):
            raise TypeError(f"image size {info.image_size!r}, strategy {info.strategy!r}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: written by another version of medsam2-ft, or damaged ({error!r} in what it"
            " says of the model); export it again with that version"
        ) from error
    return info
