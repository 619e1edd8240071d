"""Messages of the training framework that say nothing to a user, each with the reason."""

import logging
import re
import warnings

# Through `warnings`; patterns match from the start of the message.
_WARNINGS = (
    # Lightning uses a class of PyTorch's that PyTorch is about to rename; nothing a user can do.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # The demo and the tests call the command line from Python on purpose.
    r"LightningCLI's args parameter is intended to run from within Python",
    # Not so: steps are counted over epochs, so a run of short epochs logs every n-th step too.
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    # A resumed run finds its own checkpoints there; a fresh one is refused before this.
    r"Checkpoint directory .* exists and is not empty",
)

# Through Lightning's own logger.
_INFOS = (
    # An advertisement.
    r".*Tip: For seamless cloud logging .* try installing \[litlogger\]",
    # Not a device that anything here speaks of.
    r"TPU available: False",
    # Part of how the learning rate schedule finds its length.
    r"Loading `train_dataloader` to estimate number of stepping batches",
    # Followed by a line of ours that says how to go on.
    r"\s*Detected KeyboardInterrupt, attempting graceful shutdown",
)


def _is_wanted(record: logging.LogRecord) -> bool:
    return not any(re.match(message, record.getMessage()) for message in _INFOS)


def hide_noise() -> None:
    """Hides the messages above, and no others, for the rest of the process."""
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_wanted)
