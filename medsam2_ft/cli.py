"""``train.py {fit,validate,test,predict}``: constructors are the configuration."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from medsam2_ft.callbacks.export import ExportWeights, export_folder
from medsam2_ft.callbacks.pictures import TrainingPictures
from medsam2_ft.callbacks.predictions import WritePredictions, predictions_folder
from medsam2_ft.callbacks.propagation import PropagationValidation
from medsam2_ft.callbacks.sigterm import StopOnSigterm
from medsam2_ft.callbacks.throughput import Throughput
from medsam2_ft.checkpointing import (
    AtomicCheckpointIO,
    BestCheckpoint,
    LastCheckpoint,
    check_checkpoint,
    checkpoint_folder,
    newest_checkpoint,
)
from medsam2_ft.data.datamodule import SliceDataModule
from medsam2_ft.entry import EXIT_TERMINATED
from medsam2_ft.errors import UserError
from medsam2_ft.module import FineTuner
from medsam2_ft.quiet import hide_noise
from medsam2_ft.run_log import METRICS_FILE, MetricsCsv, MetricsInStep, SaveRunConfig
from medsam2_ft.train_parser import (
    TrainParser,
    check_numbers,
    constructor_complaints,
    trainer_complaints,
)

RESUME_NEWEST = "last"
GO_ON = f"add --ckpt_path {RESUME_NEWEST} to go on"

_say = rank_zero_only(print)


@dataclass(frozen=True)
class WandbOptions:
    """Weights & Biases.

    Attributes:
        mode: ``off``, ``online``, or ``offline`` (writes below the run folder; `wandb sync` later).
        project: Project to log to.
        entity: User or team; the account's default if not given.
    """

    mode: Literal["off", "online", "offline"] = "off"
    project: str = "medsam2-ft"
    entity: str | None = None


class FineTuneCLI(LightningCLI):
    """LightningCLI with one run folder, our callbacks and loggers."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Names the subcommands and their arguments that the configuration gives or fixes."""
        skipped = {"model", "datamodule"}
        return {
            "fit": skipped | {"train_dataloaders", "val_dataloaders"},
            "validate": skipped | {"dataloaders"},
            "test": skipped | {"dataloaders"},
            "predict": skipped | {"dataloaders", "return_predictions"},
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run folder, Weights & Biases and the callbacks; links what belongs together."""
        parser.add_argument(
            "--run", type=str, default="runs/finetune", help="Run folder: everything lies in it."
        )
        parser.add_class_arguments(WandbOptions, "wandb")
        parser.add_argument(
            "--tensorboard", type=bool, default=False, help="Log to TensorBoard in the run folder."
        )
        parser.add_lightning_class_args(PropagationValidation, "propagation")
        parser.add_lightning_class_args(TrainingPictures, "pictures")
        parser.add_lightning_class_args(BestCheckpoint, "best")
        parser.add_lightning_class_args(ExportWeights, "export")
        parser.add_lightning_class_args(LastCheckpoint, "last")
        parser.link_arguments("run", "trainer.default_root_dir")
        parser.link_arguments("run", "best.dirpath", compute_fn=_checkpoint_folder_name)
        parser.link_arguments("run", "last.dirpath", compute_fn=_checkpoint_folder_name)
        parser.link_arguments("propagation.every_n_epochs", "best.every_n_epochs")
        parser.link_arguments("data.image_size", "model.image_size")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses, then says which checkpoint a run starts from."""
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        check_numbers(config)
        if config.ckpt_path == RESUME_NEWEST:
            found = newest_checkpoint(config.run)
            config.ckpt_path = None if found is None else str(found)
            _say(
                f"resuming from {found}" if found else f"no checkpoint in {config.run}: fresh start"
            )
        elif config.ckpt_path is not None and not Path(config.ckpt_path).is_file():
            raise UserError(
                f"--ckpt_path {config.ckpt_path}: no such file; give a .ckpt file, or"
                f" `{RESUME_NEWEST}` for the newest checkpoint in --run"
            )
        elif config.ckpt_path is None and self.config.subcommand == "fit":
            _refuse_to_overwrite(config.run)
        if config.ckpt_path is not None:
            check_checkpoint(Path(config.ckpt_path))

    def instantiate_classes(self) -> None:
        """Builds data, model and trainer."""
        with constructor_complaints():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer with the run's loggers and atomic checkpoints."""
        run = self._get(self.config, "run")
        config = self._get(self.config_init, "trainer")
        if config.get("logger") in (None, True):
            wandb: WandbOptions = self._get(self.config_init, "wandb")
            kwargs["logger"] = run_loggers(run, wandb, self._get(self.config, "ckpt_path"))
            if self._get(self.config, "tensorboard"):
                kwargs["logger"].append(tensorboard_logger(run))
            if wandb.mode != "off":
                from medsam2_ft.wandb_run import RememberWandbId

                self.trainer_defaults["callbacks"].append(RememberWandbId())
        kwargs["plugins"] = [*(config.get("plugins") or []), AtomicCheckpointIO()]
        try:
            return super().instantiate_trainer(**kwargs)
        except ValueError as error:  # such as an accelerator that there is not
            raise UserError(f"--trainer: {error}") from error

    def predict(self, **kwargs: Any) -> None:
        """Segments the test cases; `WritePredictions` writes them, nothing piles up in memory."""
        self.trainer.predict(**kwargs, return_predictions=False)
        folder = predictions_folder(self._get(self.config, "run"))
        _say(f"predictions: {folder}")

    def before_fit(self) -> None:
        """Says where everything will lie."""
        _say(f"run folder: {self._get(self.config, 'run')}")

    def after_fit(self) -> None:
        """Says what has been written, one line each."""
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # set dynamically
            return
        run = Path(self._get(self.config, "run"))
        best: BestCheckpoint = self._get(self.config_init, "best")
        lines: dict[str, str | Path | None]
        lines = {"curves": run / METRICS_FILE, "last checkpoint": newest_checkpoint(run)}
        if best.best_model_score is not None:
            score = f"{best.monitor} {float(best.best_model_score):.3f}"
            lines["best checkpoint"] = f"{best.best_model_path}  ({score})"
        for name in ("best", "last"):
            lines[f"{name} export"] = export_folder(run) / f"{name}.pt"
        for name, value in lines.items():
            if isinstance(value, str) or (value is not None and value.is_file()):
                _say(f"{name + ':':<17}{value}")


def tensorboard_logger(run: str) -> Logger:
    """Returns a logger to ``<run>/tensorboard``; a resumed run adds a file of events.

    Raises:
        UserError: The package is not installed.
    """
    from lightning.pytorch.loggers import TensorBoardLogger

    try:
        return TensorBoardLogger(run, name="", version="tensorboard")
    except ModuleNotFoundError as error:
        raise UserError(
            "--tensorboard true: tensorboard is not installed; pip install medsam2-ft[tensorboard]"
        ) from error


def run_loggers(run: str, wandb: WandbOptions, checkpoint: str | None = None) -> list[Logger]:
    """Returns the CSV logger and, if switched on, Weights & Biases.

    Args:
        run: The run folder; ``wandb_id`` in it keeps the W&B run the same over restarts.
        wandb: Options.
        checkpoint: Where training resumes from; keeps the W&B run the same in a new run folder.
    """
    loggers: list[Logger] = [MetricsCsv(run)]
    if wandb.mode != "off":
        from medsam2_ft.wandb_run import wandb_logger

        loggers.append(
            wandb_logger(
                Path(run),
                project=wandb.project,
                entity=wandb.entity,
                offline=wandb.mode == "offline",
                checkpoint=None if checkpoint is None else Path(checkpoint),
            )
        )
    return loggers


def main(args: ArgsType = None) -> FineTuneCLI:
    """Runs ``train.py``; tests call it with a list of arguments.

    Args:
        args: Command line without the program name; None takes the process's own.

    Raises:
        UserError: Bad input or a bad option.
        KeyboardInterrupt: Ctrl-C; loggers are finished.
        SystemExit: SIGTERM in training, code 143; loggers are finished.
    """
    hide_noise()
    with _one_line_when_stopped(), trainer_complaints():
        return FineTuneCLI(
            FineTuner,
            SliceDataModule,
            args=args,
            save_config_callback=SaveRunConfig,
            parser_class=TrainParser,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={
                "callbacks": [
                    MetricsInStep(),
                    Throughput(),
                    StopOnSigterm(),
                    WritePredictions(),
                ],
                "enable_autolog_hparams": False,  # `SaveRunConfig` gives loggers everything
                "use_distributed_sampler": False,  # our sampler divides an epoch among ranks itself
            },
        )


@contextmanager
def _one_line_when_stopped() -> Iterator[None]:
    """Gives Ctrl-C and SIGTERM their exit codes: Lightning makes 1 of the one and 0 of the other.

    Raises:
        KeyboardInterrupt: After Ctrl-C.
        SystemExit: With code 143 after SIGTERM.
    """
    try:
        yield
    except SIGTERMException:
        _say(f"terminated; {GO_ON}", file=sys.stderr)
        raise SystemExit(EXIT_TERMINATED) from None
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt(f"interrupted; {GO_ON}") from None
        raise


def _checkpoint_folder_name(run: str) -> str:
    return str(checkpoint_folder(run))


def _refuse_to_overwrite(run: str) -> None:
    if (found := newest_checkpoint(run)) is not None:
        raise UserError(
            f"{found}: this run exists already; add --ckpt_path {RESUME_NEWEST} to go on with it,"
            " or give another --run"
        )
