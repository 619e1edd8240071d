"""The shipped array for `evaluate` on a real SLURM."""

import sys
from pathlib import Path

import pytest
import synthetic
from result_files import scores_of
from slurm_cluster import Cluster
from tiny_model import write_model

from medsam2_ft.commands.evaluate import evaluate
from medsam2_ft.commands.report import report

ROOT = Path(__file__).resolve().parents[2]
BATCH_FILE = ROOT / "scripts/slurm/evaluate_array.sbatch"
TASKS = (1, 2)

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


def test_two_tasks_score_what_one_run_scores(cluster: Cluster, tmp_path: Path) -> None:
    synthetic.write_folder(tmp_path / "cases", 5)
    model = write_model(tmp_path / "tiny.pt")
    out, whole = tmp_path / "out", tmp_path / "whole"
    job = cluster.submit(
        f"--array={TASKS[0]}-{TASKS[-1]}",
        "--cpus-per-task=1",
        f"--output={tmp_path}/%a.out",
        f"--export=ALL,PYTHON={sys.executable},OMP_NUM_THREADS=1,PYTHONDONTWRITEBYTECODE=",
        BATCH_FILE,
        tmp_path / "cases",
        f"--models={model}",
        f"--out={out}",
        "--device=cpu",
        "--no_figures",
        cwd=ROOT,
    )
    for task in TASKS:
        cluster.wait_for(f"{job}_{task}", "COMPLETED", 300)
    merged = scores_of(out)
    evaluate([tmp_path / "cases"], models=[str(model)], out=whole, device="cpu", figures=False)
    assert merged == scores_of(whole)
    assert len({row["case"] for row in merged}) == 5
    (out / "results.csv").unlink()
    report([out])
    assert scores_of(out) == merged
