"""The ``medsam2-ft`` command: a table of typed functions, imported only when they are called."""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from medsam2_ft import __version__
from medsam2_ft.entry import closest_name, run
from medsam2_ft.errors import UserError

PROG = "medsam2-ft"


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        module: Where its function lies; imported when the command is called.
        function: Name of the function.
        summary: One line for the overview.
    """

    module: str
    function: str
    summary: str


COMMANDS = {
    "demo": Command(
        "medsam2_ft.demo", "demo", "fine-tune on a real chest CT in minutes and show the result"
    ),
    "prepare": Command(
        "medsam2_ft.prepare", "prepare", "turn folders of images and labels into npz cases"
    ),
    "preview": Command(
        "medsam2_ft.inspection.preview", "preview", "draw contact sheets of cases with their labels"
    ),
    "inspect": Command(
        "medsam2_ft.inspection.command", "inspect", "list what npz cases hold and what is wrong"
    ),
    "segment": Command(
        "medsam2_ft.commands.segment",
        "segment",
        "segment images, volumes and videos from boxes, points or masks",
    ),
    "evaluate": Command(
        "medsam2_ft.commands.evaluate", "evaluate", "score models on labelled cases, and compare"
    ),
    "report": Command(
        "medsam2_ft.commands.report", "report", "merge results of evaluate, and draw them again"
    ),
    "serve": Command(
        "medsam2_ft.commands.serve", "serve", "serve models over HTTP to viewers and scripts"
    ),
    "export": Command(
        "medsam2_ft.export", "export", "turn a training checkpoint into a file for Meta's sam2"
    ),
    "weights": Command(
        "medsam2_ft.commands.weights", "weights", "list, download and verify the official weights"
    ),
    "doctor": Command(
        "medsam2_ft.doctor", "doctor", "show versions, devices, folders and what is missing"
    ),
}


def overview() -> str:
    """Returns what ``medsam2-ft --help`` prints."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {entry.summary}" for name, entry in COMMANDS.items())
    return (
        f"usage: {PROG} COMMAND [OPTIONS]\n\n"
        "Fine-tune SAM2 on medical images and put the result to use.\n\n"
        f"commands:\n{rows}\n\n"
        f"{PROG} COMMAND --help explains a command. "
        "Training: python train.py fit --config configs/finetune.yaml"
    )


def dispatch(args: Sequence[str]) -> None:
    """Runs the command that ``args`` name.

    Args:
        args: Command line without the program; empty shows the overview.

    Raises:
        UserError: There is no such command.
    """
    name = args[0] if args else "--help"
    if name in {"-h", "--help"}:
        print(overview())
    elif name == "--version":
        print(f"{PROG} {__version__}")
    elif name in COMMANDS:
        from medsam2_ft.command import run_command
        from medsam2_ft.out_of_memory import command_remedies, memory_advice

        entry = COMMANDS[name]
        function = getattr(importlib.import_module(entry.module), entry.function)
        with memory_advice(lambda: name, command_remedies(function)):
            run_command(function, f"{PROG} {name}", args[1:])
    else:
        closest = closest_name(name, COMMANDS)
        hint = f"did you mean {closest}?" if closest else f"there are {', '.join(COMMANDS)}"
        raise UserError(f"unknown command {name}: {hint}; see {PROG} --help")


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code of ``medsam2_ft.entry.run``."""
    return run(lambda: dispatch(sys.argv[1:] if args is None else args))


if __name__ == "__main__":
    sys.exit(main())
