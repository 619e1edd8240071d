"""Fine-tune SAM2: python train.py fit --config configs/finetune.yaml --data.data_dir DATA."""

import sys

from medsam2_ft.entry import run

if __name__ == "__main__":

    def start() -> object:
        """Imports Lightning only when there is something to do."""
        from medsam2_ft.cli import main

        return main()

    sys.exit(run(start))
