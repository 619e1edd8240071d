"""From a name or a file to a baseline that can segment."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from medsam2_ft.baselines.catalogue import BASELINES, MINIATURES, Baseline
from medsam2_ft.baselines.core import build_core, guess_encoder
from medsam2_ft.baselines.medsam import MedSamModel
from medsam2_ft.baselines.sam import SamModel
from medsam2_ft.download import released_file, sha256_of
from medsam2_ft.errors import UserError
from medsam2_ft.slice_model import SliceModel
from medsam2_ft.weights import checkpoint_folder, mismatch, read_checkpoint

logger = logging.getLogger(__name__)

RANDOM_PREFIX: Final = "random:"
_KNOWN: Final = {**BASELINES, **MINIATURES}
_MODELS: Final = {"sam": SamModel, "medsam": MedSamModel}


@dataclass(frozen=True)
class _Choice:
    """What a source means.

    Attributes:
        name: The model's name in tables.
        baseline: The model.
        path: Its file; None for random weights.
        state: Its weights, where the file had to be read already.
        sha256: Of the file, where it is known already.
    """

    name: str
    baseline: Baseline
    path: Path | None
    state: Mapping[str, Tensor] | None = None
    sha256: str | None = None


def load_baseline(source: str | Path, *, device: str | torch.device = "cpu") -> SliceModel:
    """Loads SAM or MedSAM.

    Args:
        source: A name of ``BASELINES`` (its file is looked up in the checkpoint folder; SAM's are
            downloaded where they are missing); ``NAME:FILE`` for a file of that model; a file
            alone, if it is SAM's known by its sha256, or has "medsam" in its name; or ``random:``
            and a name.
        device: Where the model goes.

    Returns:
        The model in evaluation mode.

    Raises:
        UserError: No such model, a missing, damaged or other file, or ``segment_anything`` is not
            installed.
    """
    choice = _choose(str(source))
    core = build_core(choice.baseline.encoder)
    if choice.path is None:
        logger.warning("RANDOM WEIGHTS: %s is untrained. Its masks mean nothing.", choice.name)
        digest = None
    else:
        _load(core, choice.state or _read(choice.path), choice.path, choice.baseline)
        digest = choice.sha256 or choice.baseline.sha256 or sha256_of(choice.path)
    model = _MODELS[choice.baseline.family]
    size = int(core.image_encoder.img_size)
    return model(core.to(device), choice.name, size, digest).eval()


def is_baseline(source: str | Path) -> bool:
    """Whether a name or file is for ``load_baseline``; files are read where it must be.

    A file of another kind, a missing or damaged one gives False: the loader of SAM2 then says what
    is wrong.
    """
    text = str(source)
    if text.removeprefix(RANDOM_PREFIX).partition(":")[0] in _KNOWN:
        return True
    path = Path(text).expanduser()
    if path.suffix != ".pth" or not path.is_file():
        return False
    try:
        return guess_encoder(_read(path)) is not None
    except UserError:
        return False


def _choose(text: str) -> _Choice:
    name, colon, rest = text.partition(":")
    if text.startswith(RANDOM_PREFIX) and rest in _KNOWN:
        return _Choice(text, _KNOWN[rest], None)
    if name in _KNOWN and colon:
        path = Path(rest).expanduser()
        return _Choice(path.stem, _KNOWN[name], path)
    if name in BASELINES:
        return _Choice(name, BASELINES[name], _released(BASELINES[name]))
    path = Path(text).expanduser()
    if path.is_file():
        return _of_file(path)
    known = ", ".join([*BASELINES, "random:NAME", "NAME:FILE"])
    raise UserError(f"{text}: no such model and no such file. Give a .pth file, or one of {known}.")


def _released(baseline: Baseline) -> Path:
    """Returns the file of a released model in the checkpoint folder.

    Raises:
        UserError: It is not there and cannot be downloaded, or is another file.
    """
    assert baseline.checkpoint is not None
    target = checkpoint_folder() / baseline.checkpoint
    if baseline.sha256 is not None:
        released_file(
            target,
            baseline.url,
            baseline.sha256,
            if_absent=f"leave {baseline.name} out",
            if_other=f"name it as {baseline.name}:{target}",
        )
    elif not target.is_file():
        raise UserError(
            f"{target}: not there. Put {baseline.checkpoint} from {baseline.url} there, or give "
            f"its place as {baseline.name}:FILE."
        )
    return target


def _of_file(path: Path) -> _Choice:
    """Tells SAM from MedSAM, whose files have the same layout.

    Raises:
        UserError: It is neither, or cannot be told.
    """
    state = _read(path)
    encoder = guess_encoder(state)
    if encoder is None:
        raise UserError(f"{path}: holds no weights of SAM or MedSAM (ViT-B, ViT-L or ViT-H).")
    digest = sha256_of(path)
    alike = [baseline for baseline in _KNOWN.values() if baseline.encoder == encoder]
    for baseline in alike:
        says_so = baseline.family == "medsam" and "medsam" in path.name.lower()
        if baseline.sha256 == digest or says_so:
            return _Choice(path.stem, baseline, path, state, digest)
    forms = " or ".join(f"{baseline.name}:{path}" for baseline in alike)
    raise UserError(
        f"{path}: none of the released files, so that nobody knows how its images are to be "
        f"prepared; say so as {forms}."
    )


def _read(path: Path) -> Mapping[str, Tensor]:
    """Reads a state: the plain one of released files, or of a training checkpoint of MedSAM.

    Raises:
        UserError: Missing, damaged, or anything but tensors by names.
    """
    content: Any = read_checkpoint(path)
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state:
        raise UserError(f"{path}: holds no weights of SAM or MedSAM.")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"{path}: entry {str(key)[:80]!r} is not a tensor; no weights of SAM.")
    return state


def _load(core: Any, state: Mapping[str, Tensor], path: Path, baseline: Baseline) -> None:
    """Loads a state strictly.

    Raises:
        UserError: A tensor is missing, has another shape, or does not belong.
    """
    problem = mismatch(core.state_dict(), state)
    if problem:
        likely = guess_encoder(state)
        hint = f"Its encoder looks like {likely}." if likely else "Check what the file is."
        raise UserError(f"{path}: no checkpoint of {baseline.name}: {problem}. {hint}")
    core.load_state_dict(state, strict=True)
