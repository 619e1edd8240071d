"""Fine-tune SAM2: python train.py fit --config configs/finetune.yaml --data.data_dir DATA."""

import sys

from medsam2_ft.entry import run
from medsam2_ft.stop_signals import listening

if __name__ == "__main__":

    def start() -> object:
        """Imports Lightning only when there is something to do."""
        from medsam2_ft.cli import main

        return main()

    with listening():  # the imports alone take seconds
        sys.exit(run(start))
