"""The W&B run's id, and forks beside a W&B run."""

import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import wandb
from wandb.sdk.lib import import_hooks

from medsam2_ft.wandb_run import CHECKPOINT_KEY, RunWandbLogger, wandb_logger


def logger(run: Path, checkpoint: Path | None = None) -> RunWandbLogger:
    return wandb_logger(run, project="p", entity=None, offline=True, checkpoint=checkpoint)


def test_the_id_stays_with_the_run_folder(tmp_path: Path) -> None:
    first = logger(tmp_path / "a").version
    assert first
    assert logger(tmp_path / "a").version == first
    assert logger(tmp_path / "b").version != first


def test_a_checkpoint_brings_its_id_into_a_new_run_folder_only(tmp_path: Path) -> None:
    checkpoint, without = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    torch.save({CHECKPOINT_KEY: "12ab34cd", "state_dict": {}}, checkpoint)
    torch.save({"state_dict": {}}, without)
    assert logger(tmp_path / "new", checkpoint).version == "12ab34cd"
    own = logger(tmp_path / "own", without).version
    assert len(own) == 8
    assert logger(tmp_path / "own", checkpoint).version == own


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_imports_what_wandb_watches(tmp_path: Path) -> None:
    def refuse(module: Any) -> None:
        raise RuntimeError("as W&B does in a fork")

    logger(tmp_path / "run")
    sys.modules.pop("colorsys", None)
    import_hooks.register_post_import_hook(refuse, "test", "colorsys")
    try:
        child = os.fork()
        if child == 0:
            try:
                import colorsys

                os._exit(0)
            except RuntimeError:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with pytest.raises(RuntimeError, match="in a fork"):  # the hook itself is alive here
            import colorsys  # noqa: F401
    finally:
        import_hooks.unregister_post_import_hook("colorsys", "test")


def test_training_goes_on_when_the_service_has_ended(tmp_path: Path) -> None:
    """SLURM sends SIGTERM to all processes of a job, to W&B's too."""
    wandb.teardown()  # a test before may have left its service, which this one would share
    logger = wandb_logger(tmp_path / "run", project="test", entity=None, offline=True)
    before = set(psutil.Process().children(recursive=True))
    logger.log_metrics({"loss": 1.0}, 0)
    service = set(psutil.Process().children(recursive=True)) - before
    assert service
    for process in service:
        process.terminate()
    psutil.wait_procs(service, timeout=60)
    with pytest.warns(UserWarning, match="W&B's process is gone"):
        logger.log_metrics({"loss": 0.5}, 1)
    logger.log_metrics({"loss": 0.25}, 2)
    logger.finalize("failed")
