"""The shipped batch file on a real SLURM: requeued, signalled, cancelled."""

import sys
from pathlib import Path

import pytest
import synthetic
import torch
import wandb_files
from run_files import assert_same_end, rows
from slurm_cluster import BOTH_NODES, ENDED, NODES, POLL_S, Cluster
from waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
BATCH_FILE = ROOT / "scripts/slurm/train.sbatch"
BATCH_FILE_OF_NODES = ROOT / "scripts/slurm/train_multinode.sbatch"
EPOCHS = 4
BATCHES = 12
# Trains for longer than SLURM takes to notice a limit.
LONG_EPOCHS = 30
LIMIT_S = 600

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split, count, seed in (("train", 8, 0), ("val", 2, 100)):
        synthetic.write_folder(folder / split, count, seed=seed)
    return folder


def submit(
    cluster: Cluster, data: Path, run: Path, *options: str, epochs: int = EPOCHS, nodes: int = 1
) -> int:
    """Submits a training of two tasks, whatever the nodes."""
    values = {
        "run": run,
        "data.data_dir": data,
        "data.image_size": 64,
        "data.batch_size": 1,
        "data.num_workers": 0,
        "model.variant": "tiny_test",
        "model.weights": "random",
        "trainer.max_epochs": epochs,
        "trainer.limit_train_batches": BATCHES,
        "trainer.accelerator": "cpu",
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
        "pictures.val_slices": 0,
        "last.every_n_steps": 5,
        "wandb.mode": "offline",
    }
    return cluster.submit(
        f"--ntasks-per-node={2 // nodes}",
        f"--gpus-per-node={2 // nodes}",
        "--cpus-per-task=1",
        f"--output={output_of(run)}",
        f"--export=ALL,PYTHON={sys.executable},OMP_NUM_THREADS=1,PYTHONDONTWRITEBYTECODE=",
        *options,
        BATCH_FILE if nodes == 1 else BATCH_FILE_OF_NODES,
        *(f"--{key}={value}" for key, value in values.items()),
        cwd=ROOT,
    )


def output_of(run: Path) -> Path:
    return run.parent / "job.out"


def wait_for_more_rows(cluster: Cluster, job: int, run: Path) -> None:
    """Returns when the job, which runs, has logged steps that no earlier start has come to."""
    known = len(rows(run)) if (run / "metrics.csv").is_file() else 0

    def has_more() -> bool:
        state = cluster.describe(job)["JobState"]
        assert state not in ENDED, output_of(run).read_text()
        return (run / "metrics.csv").is_file() and len(rows(run)) >= known + 3

    wait_until(has_more, lambda: f"{output_of(run).read_text()}{cluster.logs()}", LIMIT_S, POLL_S)


@pytest.fixture(scope="module")
def reference(cluster: Cluster, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a job that nothing interrupts."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    complete(cluster, submit(cluster, data, run), run, restarts=0)
    return run


def complete(cluster: Cluster, job: int, run: Path, restarts: int) -> None:
    described = cluster.wait_for(job, "COMPLETED", LIMIT_S)
    assert int(described["Restarts"]) == restarts, output_of(run).read_text()


def assert_same_run(run: Path, reference: Path, starts: int, epochs: int = EPOCHS) -> None:
    assert_same_end(run, reference, epochs * BATCHES)
    files = wandb_files.starts(run)
    assert len(files) == starts
    assert set().union(*(wandb_files.run_ids(file) for file in files)) == {
        (run / "wandb_id").read_text()
    }


def test_requeued_by_hand_and_by_the_signal(
    cluster: Cluster, data: Path, reference: Path, tmp_path: Path
) -> None:
    """`scontrol requeue` sends SIGTERM, the time limit what ``--signal`` says: here at once."""
    run = tmp_path / "run"
    job = submit(cluster, data, run)
    wait_for_more_rows(cluster, job, run)
    cluster.command("scontrol", "requeue", job)
    wait_for_more_rows(cluster, job, run)
    cluster.command("scancel", "--signal=USR1", job)
    complete(cluster, job, run, restarts=2)
    assert_same_run(run, reference, starts=3)


def test_two_nodes_are_requeued_and_end_as_one_node_does(
    cluster: Cluster, data: Path, reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = submit(cluster, data, run, f"--partition={BOTH_NODES}", nodes=len(NODES))
    wait_for_more_rows(cluster, job, run)
    assert cluster.describe(job)["NumNodes"] == str(len(NODES))
    cluster.command("scancel", "--signal=USR1", job)
    complete(cluster, job, run, restarts=1)
    assert_same_run(run, reference, starts=2)


def test_cancelled_for_good(cluster: Cluster, data: Path, tmp_path: Path) -> None:
    """`scancel` ends the run, which saves what it has."""
    run = tmp_path / "run"
    job = submit(cluster, data, run)
    wait_for_more_rows(cluster, job, run)
    cluster.command("scancel", job)
    assert cluster.wait_for(job, "CANCELLED")["Restarts"] == "0"
    wait_until(lambda: f"job {job}" in output_of(run).read_text(), output_of(run).read_text, 60)
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == sum("train/loss" in row for row in rows(run))
    assert cluster.describe(job)["JobState"] == "CANCELLED"


@pytest.mark.slow
def test_requeued_before_the_time_limit(cluster: Cluster, data: Path, tmp_path: Path) -> None:
    """SLURM looks at limits every half minute, and may signal a minute early.

    The limit is set when the run trains, however long it took to start.
    """
    reference, run = tmp_path / "reference" / "run", tmp_path / "limited" / "run"
    for folder in (reference, run):
        folder.parent.mkdir()
    complete(cluster, submit(cluster, data, reference, epochs=LONG_EPOCHS), reference, restarts=0)
    job = submit(cluster, data, run, "--time=60", "--signal=USR1@60", epochs=LONG_EPOCHS)
    wait_for_more_rows(cluster, job, run)
    hours, minutes, _ = map(int, cluster.describe(job)["RunTime"].split(":"))
    limit = 60 * hours + minutes + 2
    cluster.command("scontrol", "update", f"JobId={job}", f"TimeLimit={limit}")
    cluster.wait_for(job, "PENDING", LIMIT_S)
    cluster.command("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    complete(cluster, job, run, restarts=1)
    assert "stopped by SIGUSR1" in output_of(run).read_text()
    assert_same_run(run, reference, starts=2, epochs=LONG_EPOCHS)
