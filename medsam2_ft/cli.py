"""``train.py {fit,validate,test,predict}``: constructors are the configuration."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from medsam2_ft.callbacks.export import ExportWeights, export_folder
from medsam2_ft.callbacks.failed_stage import FailedStage
from medsam2_ft.callbacks.pictures import TrainingPictures
from medsam2_ft.callbacks.predictions import WritePredictions, predictions_folder
from medsam2_ft.callbacks.preemption import Preemption
from medsam2_ft.callbacks.propagation import PropagationValidation
from medsam2_ft.callbacks.random_state import RandomState
from medsam2_ft.callbacks.throughput import Throughput
from medsam2_ft.checkpointing import (
    GO_ON,
    RESUME_NEWEST,
    AtomicCheckpointIO,
    BestCheckpoint,
    LastCheckpoint,
    check_checkpoint,
    checkpoint_folder,
    newest_checkpoint,
)
from medsam2_ft.data.datamodule import SliceDataModule
from medsam2_ft.errors import UserError
from medsam2_ft.module import FineTuner
from medsam2_ft.out_of_memory import TRAINING_REMEDIES, memory_advice
from medsam2_ft.presets import expand_preset, preset_names
from medsam2_ft.quiet import hide_noise
from medsam2_ft.run_log import METRICS_FILE, MetricsInStep, SaveRunConfig
from medsam2_ft.run_loggers import WandbOptions, run_loggers, tensorboard_logger
from medsam2_ft.stop_signals import Stopped, listening
from medsam2_ft.train_parser import (
    TrainParser,
    check_numbers,
    constructor_complaints,
    trainer_complaints,
)

_say = rank_zero_only(print)


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
        parser.add_argument(
            "--preset",
            type=str | None,
            default=None,
            help=f"By memory of the device: auto, {', '.join(preset_names())}. Options win.",
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
        given = sys.argv[1:] if args is None else args
        super().parse_arguments(parser, expand_preset(given) if isinstance(given, list) else given)
        config = self.config[self.config.subcommand]
        if config.preset is not None:
            raise UserError(f"preset: {config.preset}: give --preset on the command line")
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

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs it; says what to turn down where memory runs out."""
        with memory_advice(self._describe, TRAINING_REMEDIES):
            super()._run_subcommand(subcommand)

    def _describe(self) -> str:
        """Says what was running, and the settings that memory depends on."""
        config = self.config[self.config.subcommand]
        settings = (
            f"image_size {config.data.image_size}, batch_size {config.data.batch_size},"
            f" max_objects {config.data.max_objects}, num_workers {config.data.num_workers},"
            f" precision {config.trainer.precision or '32-true'},"
            f" activation_checkpointing {str(config.model.activation_checkpointing).lower()}"
        )
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]  # set dynamically
        stages = [c.stage for c in callbacks if isinstance(c, FailedStage) and c.stage]
        doing = dict.fromkeys([self.config.subcommand, *stages])  # `validate` is both
        return ", ".join(doing) + f" ({settings})"

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
        kwargs["plugins"] = [*(config.get("plugins") or []), AtomicCheckpointIO(), *_slurm()]
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


def main(args: ArgsType = None) -> FineTuneCLI:
    """Runs ``train.py``; tests call it with a list of arguments.

    Args:
        args: Command line without the program name; None takes the process's own.

    Raises:
        UserError: Bad input or a bad option.
        KeyboardInterrupt: Ctrl-C; loggers are finished.
        SystemExit: SIGUSR1 or SIGTERM, see `Preemption`; loggers are finished.
    """
    hide_noise()
    with listening(), _one_line_when_stopped(), trainer_complaints():
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
                    FailedStage(),
                    MetricsInStep(),
                    RandomState(),
                    Throughput(),
                    WritePredictions(),
                    Preemption(),
                ],
                "enable_autolog_hparams": False,  # `SaveRunConfig` gives loggers everything
                "use_distributed_sampler": False,  # our sampler divides an epoch among ranks itself
            },
        )


@contextmanager
def _one_line_when_stopped() -> Iterator[None]:
    """Says in one line how a stopped run goes on, and gives Ctrl-C its exit code.

    Raises:
        KeyboardInterrupt: After Ctrl-C, of which Lightning makes exit code 1.
        SystemExit: After a signal; with the code of `Stopped`.
    """
    try:
        yield
    except Stopped as stop:
        _say(stop.message, file=sys.stderr)
        raise SystemExit(stop.code) from None
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt(f"interrupted; {GO_ON}") from None
        raise


def _slurm() -> list[SLURMEnvironment]:
    """SLURM's environment without Lightning's own requeueing, which acts within the signal."""
    if TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return []
    return [SLURMEnvironment(auto_requeue=False)]


def _checkpoint_folder_name(run: str) -> str:
    return str(checkpoint_folder(run))


def _refuse_to_overwrite(run: str) -> None:
    if (found := newest_checkpoint(run)) is not None:
        raise UserError(
            f"{found}: this run exists already; add --ckpt_path {RESUME_NEWEST} to go on with it,"
            " or give another --run"
        )
