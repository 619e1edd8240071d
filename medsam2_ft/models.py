"""From the name of a model or a file to a model that can segment, and what is known of it."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from medsam2_ft.baselines import BASELINES, is_baseline, load_baseline
from medsam2_ft.errors import UserError
from medsam2_ft.export import CHECKPOINT_KEY, ExportInfo, parse_info
from medsam2_ft.intensity import parse_rule, rule_for_modality
from medsam2_ft.propagate import Strategy
from medsam2_ft.sam2_adapter import TINY_TEST, Sam2, build_model
from medsam2_ft.slice_model import SliceModel
from medsam2_ft.types import IntensityRule, Volume
from medsam2_ft.weights import VARIANTS, guess_variant, load_state, read_checkpoint

__all__ = ["LoadedModel", "load_model", "resolve_device", "resolve_dtype", "rule_for"]

logger = logging.getLogger(__name__)

RANDOM_PREFIX: Final = "random:"
_DEFAULT_SIZE: Final = 1024
_TINY_SIZE: Final = 64
# Of the folders that a run writes; a file there is named after the run.
_RUN_FOLDERS: Final = ("checkpoints", "exports")


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model and what is known of it.

    Attributes:
        model: In evaluation mode.
        name: For tables: the variant's, or the file's without its suffix; ``run/best`` for the
            ``best`` of a run.
        strategy: How it is best propagated.
        rules: The intensity rules that it was trained with, as far as known.
        modalities: The modalities that it was trained on, as far as known.
        sha256: Of the file; None for random weights.
    """

    model: Sam2 | SliceModel
    name: str
    strategy: Strategy
    rules: tuple[IntensityRule, ...] = ()
    modalities: tuple[str, ...] = ()
    sha256: str | None = None


def load_model(
    source: str | Path, *, device: torch.device, image_size: int | None = None
) -> LoadedModel:
    """Loads a model by name or from a file.

    Args:
        source: A name of ``weights.VARIANTS`` (its official file is looked up, else downloaded);
            ``random:`` and such a name or ``tiny_test``; an official file under any name; an
            export with its sidecar; a training checkpoint; or what
            ``baselines.load_baseline`` takes.
        device: Where the model goes.
        image_size: Side of the input; None takes what the sidecar or the checkpoint says, else
            1024 (64 for ``tiny_test``). A baseline has its own and no other.

    Raises:
        UserError: There is no such model or file, it is damaged, its sidecar describes another
            file, or the size does not fit.
    """
    text = str(source)
    if is_baseline(source):
        baseline = load_baseline(source, device=device)
        if image_size not in (None, baseline.image_size):
            raise UserError(
                f"{text}: its input has {baseline.image_size} px and no other size, not "
                f"{image_size}; leave the image size out."
            )
        return LoadedModel(baseline, baseline.name, "box", sha256=baseline.sha256)
    if text.startswith(RANDOM_PREFIX):
        variant = text.removeprefix(RANDOM_PREFIX)
        size = image_size or (_TINY_SIZE if variant == TINY_TEST else _DEFAULT_SIZE)
        model = build_model(variant, image_size=size, weights="random", device=device)
        return LoadedModel(model, text, "memory")
    if text in VARIANTS:
        size = image_size or _DEFAULT_SIZE
        model = build_model(text, image_size=size, device=device)
        return LoadedModel(model, text, "memory", sha256=VARIANTS[text].sha256)
    path = Path(source).expanduser()
    if not path.is_file():
        known = ", ".join([*VARIANTS, *BASELINES, f"{RANDOM_PREFIX}NAME"])
        raise UserError(
            f"{text}: no such model and no such file. Give a .pt or .ckpt file, or one of {known}."
        )
    return _from_file(path, device, image_size)


def _from_file(path: Path, device: torch.device, image_size: int | None) -> LoadedModel:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    info = _what_is_known(path, digest)
    model = build_model(
        info.variant, image_size=image_size or info.image_size, weights=str(path), device=device
    )
    return LoadedModel(
        model,
        _name(path),
        "memory" if info.strategy == "memory" else "box",
        tuple(_rule(text, path) for text in info.intensity),
        info.modalities,
        digest,
    )


def _what_is_known(path: Path, digest: str) -> ExportInfo:
    """What the official table, the sidecar, the checkpoint, or else the weights tell of a file."""
    for variant in VARIANTS.values():
        if variant.sha256 == digest:
            return ExportInfo(variant.name, _DEFAULT_SIZE, "memory")
    sidecar = path.with_suffix(".json")
    if path.suffix == ".pt" and sidecar.is_file():
        return _read_sidecar(sidecar, path, digest)
    content = read_checkpoint(path)
    if isinstance(content, dict) and CHECKPOINT_KEY in content:
        return parse_info(content[CHECKPOINT_KEY], path)
    likely = guess_variant(load_state(path))
    if likely is None:
        raise UserError(
            f"{path}: does not look like any SAM2 variant; put the sidecar "
            f"{sidecar.name}, which the export wrote, beside it."
        )
    logger.warning(
        "%s: no sidecar %s beside it; taken for %s at %d px, propagated box to box.",
        path, sidecar.name, likely, _DEFAULT_SIZE,
    )  # fmt: skip
    return ExportInfo(likely, _DEFAULT_SIZE, "box")


def _read_sidecar(sidecar: Path, path: Path, digest: str) -> ExportInfo:
    try:
        stored: Any = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{sidecar}: cannot be read as JSON ({error}); export again.") from error
    info = parse_info(stored, sidecar)
    if stored.get("sha256", digest) != digest:
        raise UserError(
            f"{sidecar}: describes other weights than {path.name} (its sha256 differs); put the "
            "two files of one export together, or remove the sidecar."
        )
    return info


def _rule(text: str, path: Path) -> IntensityRule:
    try:
        return parse_rule(text)
    except ValueError as error:  # UserError is one
        raise UserError(
            f"{path}: its intensity rule {text[:80]!r} is not valid: {error}"
        ) from error


def _name(path: Path) -> str:
    folder = path.resolve().parent
    return f"{folder.parent.name}/{path.stem}" if folder.name in _RUN_FOLDERS else path.stem


def rule_for(
    volume: Volume, rules: Sequence[IntensityRule], modalities: Sequence[str]
) -> IntensityRule:
    """Chooses the rule that turns a volume to 0-255 for a model.

    The rule that the model was trained with for images like this one, where exactly one is: of
    its modality, or of all where that is not known. Else the modality's own
    (``intensity.rule_for_modality``). Colour is kept, and so is uint8 where a window would apply:
    it holds no Hounsfield units.

    Args:
        volume: The image.
        rules: Distinct rules that the model was trained with; may be empty.
        modalities: Distinct modalities that it was trained on; may be empty.
    """
    keep = IntensityRule("keep")
    if volume.array.ndim == 4:
        return keep
    usual = rule_for_modality(volume.modality, None, volume.array.dtype)
    fits: Sequence[IntensityRule] = ()
    if volume.modality is None or tuple(modalities) == (volume.modality,):
        fits = rules
    elif volume.modality in modalities or not modalities:
        fits = [rule for rule in rules if rule.kind == usual.kind]
    rule = fits[0] if len(fits) == 1 else usual
    return keep if rule.kind == "window" and volume.array.dtype == np.uint8 else rule


def resolve_device(name: str | torch.device) -> torch.device:
    """Chooses the device.

    Args:
        name: ``auto`` (CUDA, else Apple's MPS, else CPU) or PyTorch's name of a device.

    Raises:
        UserError: An unknown name, or a device that is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or ["unknown"])[0][:120]
        raise UserError(f"device {name}: not usable here ({reason}); try auto or cpu.") from error
    return device


def resolve_dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Chooses the autocast type.

    Args:
        name: ``auto`` (bfloat16 on CUDA devices that compute in it, else float32), ``float32``,
            ``bfloat16``, ``float16``, or the type itself; float32 switches autocast off.
        device: Where the model runs.

    Raises:
        UserError: Another type.
    """
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        if name in (dtype, str(dtype).removeprefix("torch.")):
            return dtype
    raise UserError(f"dtype {name}: choose auto, float32, bfloat16 or float16.")
