"""``--preset``: image size, batch, checkpointing and dtype by memory of the device."""

from collections.abc import Sequence
from pathlib import Path

from medsam2_ft.entry import closest_name
from medsam2_ft.errors import UserError
from medsam2_ft.installation import configs_folder

AUTO = "auto"
CPU = "cpu"
OPTION = "--preset"
# A card sold with 8 GB reports a little less.
TOLERANCE = 0.92


def preset_names() -> list[str]:
    """Returns the names of the presets: ``cpu``, then GPUs by memory."""
    found = [file.stem for file in (configs_folder() / "presets").glob("*.yaml")]
    return sorted(found, key=lambda name: 0 if name == CPU else _gigabytes(name))


def preset_file(name: str) -> Path:
    """Returns the YAML file of a preset.

    Args:
        name: One of ``preset_names``, or ``auto`` for the device that training would use.

    Raises:
        UserError: There is no such preset.
    """
    names = preset_names()
    if name == AUTO:
        name = preset_for(_gpu_bytes())
    if name not in names:
        closest = closest_name(name, names)
        hint = f" (did you mean {closest}?)" if closest else ""
        raise UserError(f"{OPTION} {name}: there are {', '.join([AUTO, *names])}{hint}")
    return configs_folder() / "presets" / f"{name}.yaml"


def preset_for(gpu_bytes: int | None) -> str:
    """Returns the largest preset that a GPU holds; ``cpu`` where there is none, or a smaller one.

    Args:
        gpu_bytes: All of the GPU's memory, None without a GPU.
    """
    if gpu_bytes is None:
        return CPU
    fitting = [n for n in preset_names()[1:] if gpu_bytes >= _gigabytes(n) * 2**30 * TOLERANCE]
    return fitting[-1] if fitting else preset_names()[1]


def expand_preset(args: Sequence[str]) -> list[str]:
    """Replaces ``--preset NAME`` by the preset's file, behind the last ``--config``.

    So it wins over the YAML files and loses to options, wherever it stands.

    Args:
        args: Command line without the program; at most one preset.

    Raises:
        UserError: The name is missing or unknown, or there are two presets.
    """
    rest = list(args)
    places = [i for i, arg in enumerate(rest) if arg == OPTION or arg.startswith(f"{OPTION}=")]
    if not places:
        return rest
    if len(places) > 1:
        raise UserError(f"{OPTION}: give one")
    place = places[0]
    if "=" in rest[place]:
        name = rest.pop(place).split("=", 1)[1]
    elif place + 1 < len(rest):
        name = rest.pop(place + 1)
        del rest[place]
    else:
        raise UserError(f"{OPTION}: expected a name: {', '.join([AUTO, *preset_names()])}")
    return _insert(rest, str(preset_file(name)))


def _insert(args: list[str], file: str) -> list[str]:
    """Puts ``--config file`` behind the last configuration, or behind the subcommand."""
    last = min(1, len(args))
    for i, arg in enumerate(args):
        if arg in ("--config", "-c"):
            last = i + 2
        elif arg.startswith("--config="):
            last = i + 1
    return [*args[:last], "--config", file, *args[last:]]


def _gigabytes(name: str) -> int:
    return int(name.removesuffix("gb"))


def _gpu_bytes() -> int | None:
    import torch

    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(0).total_memory)
