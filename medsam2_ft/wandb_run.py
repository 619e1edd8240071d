"""One Weights & Biases run per run folder, however often it is started."""

import secrets
from pathlib import Path

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from medsam2_ft.io.atomic import make_folder, write_text

ID_FILE = "wandb_id"


def wandb_logger(run: Path, *, project: str, entity: str | None, offline: bool) -> WandbLogger:
    """Returns a logger that continues the W&B run of this run folder.

    The id is drawn at the first start and kept in ``<run>/wandb_id``. Every start writes a folder
    of its own below ``<run>/wandb`` under that id; W&B joins them by ``trainer/global_step``.

    Args:
        run: The run folder; its name becomes the W&B run's name.
        project: W&B project.
        entity: W&B user or team, None for the account's default.
        offline: Whether to write files only, for `wandb sync` later.
    """
    make_folder(run)
    return WandbLogger(
        name=run.name,
        save_dir=str(run),
        id=_run_id(run),
        resume="allow",
        project=project,
        entity=entity,
        offline=offline,
        log_model=False,
    )


@rank_zero_only
def _run_id(run: Path) -> str:
    file = run / ID_FILE
    if not file.is_file():
        write_text(file, secrets.token_hex(4))
    return file.read_text().strip()
