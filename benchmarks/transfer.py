"""Does fine-tuning pay, and with which recipe: scores on patients that were never trained on.

    python benchmarks/transfer.py [--data FOLDER] [--start FILE] [--work FOLDER] [--json OUT]
        [--passes 160] [--workers 2] [--seeds 0] [--trials NAME ...]

Real cases of seven patients (sarcoma in CT, PET and MR; CT lesions; spleen; brain tumour) are
prepared and cut into two folds by patient, so that every patient is unseen once. Each trial
fine-tunes the start weights on one fold's training patients and scores the others: slices from
tight boxes (2D), volumes box to box from one box on the middle slice (3D). All trials put the same
number of images through the encoder. ``ours`` is configs/finetune.yaml, ``paper`` is
configs/paper.yaml; every other trial is ``ours`` with one thing changed. Image size, variant, batch
size and length are this benchmark's.

Without ``--start``, training starts from the export of `medsam2-ft demo`, which has seen one chest
CT and nothing else (the demo is run if it is not there); Meta's weights may rank the trials
otherwise. Every finished run is a line of <work>/runs.jsonl; an interrupted benchmark goes on.
"""

import argparse
import hashlib
import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transfer_cases import FOLDS, make_folds, prepare
from transfer_table import print_table, summarize

from medsam2_ft.installation import configs_folder
from medsam2_ft.io.npz import find_cases, read_case
from medsam2_ft.sam2_adapter import Sam2, build_model
from medsam2_ft.weights import sha256_of

MIN_AREA_PX = 10  # tumours of the PET volumes have 1 to 41 pixels in a slice
BATCH_SIZE = 2
NO_SCORE = {"model.object_score_weight": 0.0, "data.negative_share": 0.0}
SINGLE = {"model.multimask_weight": 0.0, "model.iou_weight": 0.0, **NO_SCORE}
# Name -> config file, what is changed.
TRIALS: dict[str, tuple[str, dict[str, Any]]] = {
    "ours": ("finetune", {}),
    "paper": ("paper", {}),
    "lr 1e-4": ("finetune", {"model.lr_encoder": 1e-4, "model.lr_decoder": 1e-4}),
    "lr 3e-4": ("finetune", {"model.lr_encoder": 3e-4, "model.lr_decoder": 3e-4}),
    "loss: single mask": ("finetune", SINGLE),
    "loss: + multimask": ("finetune", {"model.iou_weight": 0.0, **NO_SCORE}),
    "loss: + IoU head": ("finetune", NO_SCORE),
    "no augmentation": ("finetune", {"data.augment": False}),
    "jitter 0": ("finetune", {"data.box_jitter_px": 0.0}),
    "jitter 5": ("finetune", {"data.box_jitter_px": 5.0}),
    "jitter 20 inward too": ("finetune", {"data.box_jitter_inward": True}),
}
START = "start weights"


@dataclass(frozen=True)
class Job:
    """One run: a trial on a fold with a seed, and everything that its result depends on."""

    trial: str
    fold: int
    seed: int
    config: str
    changes: dict[str, Any]
    passes: int
    start: str
    start_sha256: str
    variant: str
    image_size: int
    data_dir: str

    def key(self) -> str:
        """Names the run: two runs of the same key have the same result."""
        values = {k: v for k, v in asdict(self).items() if k not in ("start", "data_dir", "trial")}
        values["recipe"] = {} if self.trial == START else recipe(self.config)
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def recipe(config: str) -> dict[str, dict[str, Any]]:
    """Reads the parts of a config that a recipe consists of."""
    import yaml

    content = yaml.safe_load((configs_folder() / f"{config}.yaml").read_text())
    clip = content.get("trainer", {}).get("gradient_clip_val")
    return {
        "model": content.get("model", {}),
        "data": content.get("data", {}),
        "trainer": {"gradient_clip_val": clip},
    }


def fine_tune(job: Job) -> tuple[Sam2, int]:
    """Trains through the project's own module, data and trainer; returns images encoded, too."""
    from lightning.pytorch import Trainer, seed_everything

    from medsam2_ft.data.datamodule import SliceDataModule
    from medsam2_ft.module import FineTuner

    seed_everything(job.seed, verbose=False)
    parts = recipe(job.config)
    for name, value in job.changes.items():
        part, option = name.split(".")
        parts[part][option] = value
    parts["data"] |= {"image_size": job.image_size, "batch_size": BATCH_SIZE, "num_workers": 0}
    parts["model"] |= {"variant": job.variant, "weights": job.start, "image_size": job.image_size}
    data = SliceDataModule(data_dir=job.data_dir, val_share=0.0, seed=job.seed, **parts["data"])
    module = FineTuner(**parts["model"])
    encoded = 0

    def count(_: Any, inputs: tuple[Any, ...], __: Any) -> None:
        nonlocal encoded
        encoded += len(inputs[0])

    module.model.core.image_encoder.register_forward_hook(count)
    trainer = Trainer(
        max_epochs=-1,
        max_steps=job.passes // BATCH_SIZE,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
        **parts["trainer"],
    )
    trainer.fit(module, datamodule=data)
    return module.model.eval(), encoded


@contextmanager
def remembering(model: Sam2) -> Iterator[None]:
    """Encodes a slice once for its scores in 2D and in 3D."""
    encode, kept = model.encode, {}

    def encode_once(images: Any) -> Any:
        key = hashlib.sha256(images.numpy().tobytes()).digest()
        if key not in kept:
            kept[key] = encode(images)
        return kept[key]

    model.encode = encode_once  # type: ignore[method-assign]
    try:
        yield
    finally:
        model.encode = encode  # type: ignore[method-assign]


def score(model: Sam2, files: Sequence[Path]) -> dict[str, Any]:
    """Scores cases with Meta's default settings on their own grids."""
    from medsam2_ft.evaluate import score_slices, score_volume

    slices, objects = [], []
    for file in files:
        case = read_case(file)
        modality = case.modality
        with remembering(model):
            slices += [
                [case.name, modality, s.frame, s.dsc, s.dsc_box]
                for s in score_slices(model, case, min_area_px=MIN_AREA_PX)
            ]
            objects += [[case.name, modality, o.dsc, o.nsd] for o in score_volume(model, case)]
    return {"slices": slices, "objects": objects}


def run_job(job: Job) -> dict[str, Any]:
    """Runs in a process of its own, on one thread."""
    import torch

    from medsam2_ft.quiet import hide_noise

    hide_noise()
    torch.set_num_threads(1)
    start_s = time.perf_counter()
    if job.trial == START:
        model = build_model(job.variant, image_size=job.image_size, weights=job.start)
        encoded = 0
    else:
        model, encoded = fine_tune(job)
    train_s = time.perf_counter() - start_s
    scores = score(model, find_cases(Path(job.data_dir) / "test"))
    score_s = time.perf_counter() - start_s - train_s
    facts = {"trial": job.trial, "fold": job.fold, "seed": job.seed, "key": job.key()}
    return {**facts, "encoded": encoded, "train_s": train_s, "score_s": score_s, **scores}


def make_jobs(args: argparse.Namespace, start: Path, folders: Sequence[Path]) -> list[Job]:
    """All runs, in the order in which they are started."""
    sidecar = json.loads(start.with_suffix(".json").read_text())
    trials: dict[str, tuple[str, dict[str, Any]]] = {START: ("finetune", {})}
    trials |= {name: TRIALS[name] for name in args.trials}
    return [
        Job(
            trial=trial,
            fold=fold,
            seed=seed,
            config=config,
            changes=changes,
            passes=0 if trial == START else args.passes,
            start=str(start),
            start_sha256=sha256_of(start),
            variant=sidecar["variant"],
            image_size=sidecar["image_size"],
            data_dir=str(folder),
        )
        for seed in args.seeds
        for trial, (config, changes) in trials.items()
        for fold, folder in enumerate(folders)
        if trial != START or seed == args.seeds[0]
    ]


def run_all(jobs: Sequence[Job], journal: Path, workers: int) -> list[dict[str, Any]]:
    """Runs what the journal does not hold yet; returns the records of all jobs."""
    keys = {job.key() for job in jobs}
    lines = journal.read_text().splitlines() if journal.is_file() else []
    records = {r["key"]: r for r in map(json.loads, lines) if r["key"] in keys}
    todo = [job for job in jobs if job.key() not in records]
    print(f"{len(records)} of {len(jobs)} runs are done", flush=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool, journal.open("a") as file:
        for future in as_completed([pool.submit(run_job, job) for job in todo]):
            record = future.result()
            records[record["key"]] = record
            file.write(json.dumps(record) + "\n")
            file.flush()
            print(
                f"[{len(records)}/{len(jobs)}] {record['trial']}, fold {record['fold']}, seed "
                f"{record['seed']}: {record['encoded']} images encoded, "
                f"{record['train_s']:.0f} + {record['score_s']:.0f} s",
                flush=True,
            )
    return [records[job.key()] for job in jobs]


def default_start() -> Path:
    """Returns the demo's export; runs the demo where it is missing."""
    from medsam2_ft.demo import demo

    return Path(demo().export)


def main() -> None:
    """Runs, prints and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="real cases")
    parser.add_argument("--start", type=Path, help="weights with their .json beside them")
    parser.add_argument("--work", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--passes", type=int, default=160, help="images encoded by each training")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--trials", nargs="+", default=list(TRIALS), choices=list(TRIALS))
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    start = args.start or default_start()
    folders = make_folds(prepare(args.data, args.work / "cases"), args.work)
    jobs = make_jobs(args, start, folders)
    records = run_all(jobs, args.work / "runs.jsonl", args.workers)
    result = {
        "start": start.name,
        "start_sha256": jobs[0].start_sha256,
        "variant": jobs[0].variant,
        "image_size": jobs[0].image_size,
        "passes": args.passes,
        "batch_size": BATCH_SIZE,
        "seeds": args.seeds,
        "folds": FOLDS,
        "trials": summarize(records),
    }
    print_table(result)
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
