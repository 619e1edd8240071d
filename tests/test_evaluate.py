import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import surface_distance
import torch
from numpy.typing import NDArray
from synthetic import make_volume

from medsam2_ft import evaluate
from medsam2_ft.evaluate import predict_slice, score_slices, score_volume
from medsam2_ft.metrics import dice
from medsam2_ft.prompts import mask_to_box
from medsam2_ft.propagate import FrameMasks, ObjectPrompt
from medsam2_ft.sam2_adapter import Sam2, build_model, image_predictor
from medsam2_ft.types import Case, Geometry

# surface-distance's own, in the reference
pytestmark = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")


@pytest.fixture(scope="module")
def model() -> Sam2:
    torch.manual_seed(0)
    model = build_model("tiny_test", image_size=64, weights="random")
    with torch.no_grad():  # a random model may call every object absent
        model.core.sam_mask_decoder.pred_obj_score_head.layers[-1].bias += 10.0
    return model


def case_of(
    shape: tuple[int, int, int] = (6, 48, 56), *, colour: bool = False, **changes: Any
) -> Case:
    image, labels = make_volume(shape, colour=colour, seed=3)
    geometry = Geometry(spacing_mm=(2.5, 0.9, 0.8))
    case = Case("made", image, (labels,), geometry, label_names={2: "crescent"})
    return replace(case, **changes)


@pytest.mark.parametrize("colour", [False, True])
def test_slice_scores_equal_metas_image_predictor(model: Sam2, colour: bool) -> None:
    case = case_of(colour=colour)
    scores = score_slices(model, case, min_area_px=1)
    predictor = image_predictor(model)
    expected = {}
    for frame, labels in enumerate(case.label_maps[0]):
        image = case.image[frame]
        rgb = image if colour else np.repeat(image[..., None], 3, axis=-1)
        predictor.set_image(rgb)
        for label in np.unique(labels)[1:]:
            mask = labels == label
            logits, _, _ = predictor.predict(
                box=mask_to_box(mask), multimask_output=False, return_logits=True
            )
            expected[frame, int(label)] = dice(logits[0] > 0, mask)
    assert {(s.frame, s.label): s.dsc for s in scores} == pytest.approx(expected, abs=1e-3)
    assert len({round(s.dsc, 4) for s in scores}) > 3, "the scores must not be vacuous"
    assert {s.case for s in scores} == {"made"}


def test_the_filled_box_scores_what_it_covers(model: Sam2) -> None:
    labels = np.zeros((1, 20, 20), np.uint8)
    labels[0, 2:8, 3:13] = 1  # a full box
    labels[0, 10:18, 4:12] = 2
    labels[0, 10:14, 4:8] = 0  # without a quarter
    case = case_of(image=np.zeros((1, 20, 20), np.uint8), label_maps=(labels,))
    scores = {s.label: s.dsc_box for s in score_slices(model, case, min_area_px=1)}
    assert scores == {1: 1.0, 2: pytest.approx(2 * 48 / (48 + 64))}


def test_slices_can_be_chosen(model: Sam2) -> None:
    case = case_of()
    second = np.zeros_like(case.label_maps[0])
    second[2, 5:20, 5:20] = 9
    case = replace(case, label_maps=(*case.label_maps, second))
    everything = score_slices(model, case, min_area_px=1)
    assert {s.label for s in everything} == {1, 2, 3, 9}
    assert {s.frame for s in everything} == {1, 2, 3, 4}
    some = score_slices(model, case, min_area_px=1, labels=[2, 9], slices=[3, 2])
    assert [(s.frame, s.label) for s in some] == [(2, 2), (2, 9), (3, 2)]
    areas = {
        (s.frame, s.label): int((case.label_maps[0][s.frame] == s.label).sum())
        for s in everything
        if s.label != 9
    }
    threshold = sorted(areas.values())[len(areas) // 2]
    large = score_slices(model, case, min_area_px=threshold, labels=[1, 2, 3])
    assert {(s.frame, s.label) for s in large} == {k for k, v in areas.items() if v >= threshold}
    assert 0 < len(large) < len(areas)


def test_a_case_without_labels_has_no_scores(model: Sam2) -> None:
    case = case_of(label_maps=())
    assert score_slices(model, case) == []
    assert score_volume(model, case) == []
    boxes = np.zeros((0, 4), np.float32)
    assert predict_slice(model, case.image[0], boxes).shape == (0, 48, 56)


def test_modes_are_left_as_they_were(model: Sam2) -> None:
    model.train()
    model.core.image_encoder.eval()
    before = [part.training for part in model.modules()]
    case = case_of()
    score_slices(model, case, min_area_px=1)
    score_volume(model, case, strategies=("box", "memory"))
    assert [part.training for part in model.modules()] == before
    assert torch.is_grad_enabled()
    model.eval()


class Oracle:
    """Stands for propagation: returns given masks and records what it was asked."""

    def __init__(self, answer: NDArray[np.integer[Any]]) -> None:
        self.answer = answer
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self, model: Sam2, frames: Any, prompts: list[ObjectPrompt], **options: Any
    ) -> Iterator[FrameMasks]:
        self.calls.append({"prompts": {p.object_id: p for p in prompts}, **options})
        for frame in reversed(range(len(frames))):
            active = [p for p in prompts if p.z_range[0] <= frame <= p.z_range[1]]
            masks = [torch.from_numpy(self.answer[frame] == p.object_id) for p in active]
            if active:
                logits = torch.stack(masks).float() - 0.5
                yield FrameMasks(frame, tuple(p.object_id for p in active), logits)


@pytest.mark.parametrize("z_range", ["object", "full"])
def test_volume_scores_equal_surface_distance_on_the_whole_grid(
    model: Sam2, monkeypatch: pytest.MonkeyPatch, z_range: Any
) -> None:
    case = case_of()
    truth = case.label_maps[0]
    answer = np.roll(truth, (1, 2, 1), axis=(0, 1, 2))
    monkeypatch.setattr(evaluate, "propagate", Oracle(answer))
    scores = score_volume(model, case, z_range=z_range, tolerance_mm=1.5)
    assert [s.label for s in scores] == [1, 2, 3]
    for score in scores:
        true, pred = truth == score.label, answer == score.label
        if z_range == "object":
            pred = pred & true.any(axis=(1, 2))[:, None, None]
        theirs = surface_distance.compute_surface_distances(true, pred, (2.5, 0.9, 0.8))
        nsd = surface_distance.compute_surface_dice_at_tolerance(theirs, 1.5)
        assert score.dsc == pytest.approx(surface_distance.compute_dice_coefficient(true, pred))
        assert score.nsd == pytest.approx(nsd)
        assert score.hd95_mm == surface_distance.compute_robust_hausdorff(theirs, 95)
        assert (score.strategy, score.z_range) == ("box", z_range)
    assert [s.label_name for s in scores] == ["1", "crescent", "3"]


def test_the_prompt_is_the_box_of_the_middle_labelled_slice(
    model: Sam2, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.zeros((9, 64, 128), np.uint8)
    labels[1, 30:40, 20:30] = 4
    labels[3, 10:20, 50:70] = 4
    labels[3, 40:44, 90:101] = 4  # a second piece: one box around both
    labels[8, 30:40, 20:30] = 4  # nothing on slices 4 to 7: slice 3 is nearest to (1 + 8) // 2
    oracle = Oracle(labels)
    monkeypatch.setattr(evaluate, "propagate", oracle)
    case = case_of(image=np.zeros((9, 64, 128), np.uint8), label_maps=(labels,))
    (score,) = score_volume(model, case, margin_px=8.0)
    assert (score.dsc, score.nsd, score.hd95_mm, score.prompt_frame) == (1.0, 1.0, 0.0, 3)
    prompt = oracle.calls[0]["prompts"][4]
    assert (prompt.frame, prompt.z_range) == (3, (1, 8))
    # 8 px at 1024 are 0.5 rows of 64 and 1 column of 128.
    np.testing.assert_allclose(prompt.slices[0].box_xyxy, [49.0, 9.5, 101.0, 43.5])
    assert oracle.calls[0]["margin_px"] == 8.0
    score_volume(model, case, z_range="full", strategies=("box", "memory"), dtype=torch.bfloat16)
    assert [call["strategy"] for call in oracle.calls[1:]] == ["box", "memory"]
    assert {call["prompts"][4].z_range for call in oracle.calls[1:]} == {(0, 8)}
    assert {call["dtype"] for call in oracle.calls[1:]} == {torch.bfloat16}


def test_one_slice_of_a_volume_is_a_slab_and_an_image_is_flat(
    model: Sam2, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.zeros((3, 32, 32), np.uint8)
    labels[1, 8:20, 8:20] = 1
    answer = np.roll(labels, 2, axis=2)
    monkeypatch.setattr(evaluate, "propagate", Oracle(answer))
    case = case_of(image=np.zeros((3, 32, 32), np.uint8), label_maps=(labels,))
    spacing = case.geometry.spacing_mm
    for tolerance_mm in (0.0, 1.0):
        (slab,) = score_volume(model, case, tolerance_mm=tolerance_mm)
        theirs = surface_distance.compute_surface_distances(labels == 1, answer == 1, spacing)
        nsd = surface_distance.compute_surface_dice_at_tolerance(theirs, tolerance_mm)
        assert slab.nsd == pytest.approx(nsd)
    monkeypatch.setattr(evaluate, "propagate", Oracle(answer[1:2]))
    image = replace(case, image=case.image[1:2], label_maps=(labels[1:2],))
    (flat,) = score_volume(model, image, tolerance_mm=1.0)
    theirs = surface_distance.compute_surface_distances(labels[1] == 1, answer[1] == 1, spacing[1:])
    assert flat.nsd == pytest.approx(
        surface_distance.compute_surface_dice_at_tolerance(theirs, 1.0)
    )
    assert flat.nsd != pytest.approx(slab.nsd)


def test_a_video_is_compared_frame_by_frame(model: Sam2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Next to an empty frame, the contours of the frames beside it must not count as near."""
    truth = np.zeros((3, 48, 56), np.uint8)
    truth[:, 10:30, 10:30] = 1
    pred = truth.astype(bool)
    pred[1] = np.roll(pred[1], 6, axis=1)
    monkeypatch.setattr(evaluate, "propagate", Oracle(pred.astype(np.uint8)))
    case = case_of(label_maps=(truth,), is_video=True, geometry=Geometry())
    case = replace(case, image=np.zeros((3, 48, 56), np.uint8))
    (score,) = score_volume(model, case)
    near = total = 0.0
    for frame in range(3):
        theirs = surface_distance.compute_surface_distances(
            truth[frame].astype(bool), pred[frame], (1.0, 1.0)
        )
        for side in (("gt_to_pred", "gt"), ("pred_to_gt", "pred")):
            lengths = theirs[f"surfel_areas_{side[1]}"]
            near += lengths[theirs[f"distances_{side[0]}"] <= 2.0].sum()
            total += lengths.sum()
    assert score.nsd == pytest.approx(near / total)
    assert score.hd95_mm == 6.0
    (slab,) = score_volume(model, replace(case, is_video=False))
    assert slab.nsd > score.nsd + 0.1


def test_regions_are_scored_under_their_names(model: Sam2) -> None:
    _, labels = make_volume(seed=3)
    second = np.where(labels == 3, labels, 0)
    first = np.where(labels == 3, 0, labels)
    regions = {"whole": (1, 3), "empty": (9,)}
    case = case_of(label_maps=(first, second), regions=regions)
    plain = score_volume(model, case)
    (*same, region) = score_volume(model, case, regions=True)
    assert same == plain
    assert (region.label, region.label_name) == (-1, "whole")
    united = np.isin(labels, (1, 3)).astype(np.uint8)
    (expected,) = score_volume(model, case_of(label_maps=(united,)))
    assert region.dsc == expected.dsc > 0
    assert (region.nsd, region.hd95_mm) == (expected.nsd, expected.hd95_mm)


def test_a_missed_object_scores_zero(model: Sam2, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of()
    monkeypatch.setattr(evaluate, "propagate", Oracle(np.zeros_like(case.label_maps[0])))
    for score in score_volume(model, case):
        assert (score.dsc, score.nsd, score.hd95_mm) == (0.0, 0.0, math.inf)


@pytest.mark.parametrize("strategy", ["box", "memory"])
def test_a_real_model_is_scored_on_the_masks_that_it_gives(model: Sam2, strategy: Any) -> None:
    case = case_of((5, 40, 45))
    prompts = {}
    masks = {label: np.zeros(case.image.shape, bool) for label in (1, 2, 3)}
    for score in score_volume(model, case, strategies=(strategy,)):
        found = np.flatnonzero((case.label_maps[0] == score.label).any(axis=(1, 2)))
        box = mask_to_box(case.label_maps[0][score.prompt_frame] == score.label)
        assert box is not None
        margin = 5.0 / 1024 * np.array([45, 40])
        low, high = box[:2] - margin, box[2:] + margin
        padded = np.array([*low, *high], np.float32)
        prompts[score.label] = (
            ObjectPrompt.from_box(
                score.label, score.prompt_frame, padded, (int(found[0]), int(found[-1]))
            ),
            score,
        )
    frames = evaluate.propagate(
        model, case.image, [prompt for prompt, _ in prompts.values()], strategy=strategy
    )
    for frame in frames:
        for label, logits in zip(frame.object_ids, frame.logits, strict=True):
            masks[label][frame.frame] = (logits > 0).numpy()
    scores = [score for _, score in prompts.values()]
    for score in scores:
        truth = case.label_maps[0] == score.label
        assert score.dsc == pytest.approx(dice(masks[score.label], truth), abs=2e-3)
    assert any(0 < score.dsc < 1 for score in scores), "the scores must not be vacuous"


def test_real_volume(model: Sam2, test_data: Path) -> None:
    from medsam2_ft.io.npz import read_case

    path = min((test_data / "CT" / "medsam2_recist_npz").glob("*.npz"))
    case = read_case(path)
    labels = np.unique(np.concatenate([np.unique(m) for m in case.label_maps]))
    scores = score_volume(model, case, z_range="object")
    assert [s.label for s in scores] == [int(label) for label in labels if label]
    assert all(0 <= s.dsc <= 1 and 0 <= s.nsd <= 1 for s in scores)
