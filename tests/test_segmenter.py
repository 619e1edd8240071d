"""The inference API on what propagation gives; parity with Meta's predictors is in parity/."""

import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from synthetic import make_volume

from medsam2_ft.errors import UserError
from medsam2_ft.intensity import apply_rule
from medsam2_ft.object_prompts import ObjectPrompt, SlicePrompt
from medsam2_ft.propagate import propagate
from medsam2_ft.sam2_adapter import Sam2, build_model
from medsam2_ft.segmenter import Segmenter
from medsam2_ft.types import Case, Geometry, IntensityRule, LabelVolume, Volume
from medsam2_ft.volume_prompts import prompts_from_box3d, prompts_from_labels

STRATEGIES: tuple[Literal["box", "memory"], ...] = ("box", "memory")
GEOMETRY = Geometry(
    (2.5, 0.9, 0.8), (1.0, -2.0, 3.0), (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
)


@pytest.fixture(scope="module")
def model() -> Sam2:
    torch.manual_seed(3)
    model = build_model("tiny_test", image_size=64, weights="random")
    with torch.no_grad():
        model.core.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(5.0)
    return model


@pytest.fixture(scope="module")
def segmenter(model: Sam2) -> Segmenter:
    return Segmenter(model)


def volume_of(shape: tuple[int, int, int] = (7, 40, 48), *, colour: bool = False) -> Volume:
    return Volume(make_volume(shape, colour=colour, seed=3)[0], GEOMETRY)


def labels_of(shape: tuple[int, int, int] = (7, 40, 48)) -> NDArray[np.uint16]:
    return make_volume(shape, seed=3)[1]


def prompt(
    object_id: int, frame: int, z_range: tuple[int, int], box: Sequence[float] = (8, 8, 30, 30)
) -> ObjectPrompt:
    return ObjectPrompt.from_box(object_id, frame, np.array(box, np.float32), z_range)


def plain_labels(
    model: Sam2, frames: NDArray[np.uint8], prompts: Sequence[ObjectPrompt], **options: Any
) -> NDArray[np.uint8]:
    """What the logits of all objects, held whole, make of a volume."""
    logits = np.zeros((len(prompts) + 1, *frames.shape[:3]), np.float32)
    rows = {p.object_id: row for row, p in enumerate(prompts, start=1)}
    for found in propagate(model, frames, prompts, **options):
        for object_id, own in zip(found.object_ids, found.logits, strict=True):
            logits[rows[object_id], found.frame] = own.numpy()
    ids = np.array([0, *rows], np.uint8)
    result: NDArray[np.uint8] = ids[logits.argmax(axis=0)]
    return result


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_labels_come_back_on_the_volumes_own_grid(
    axis: int, strategy: Literal["box", "memory"], colour: bool, segmenter: Segmenter
) -> None:
    volume = volume_of(colour=colour)
    prompts = prompts_from_labels([labels_of()], axis=axis)
    if axis:
        prompts = [replace(p, z_range=(p.frame - 1, p.frame + 2)) for p in prompts]
    prompts[0] = replace(prompts[0], z_range=(prompts[0].frame, prompts[0].frame + 1))
    labels = segmenter.segment(volume, prompts, strategy=strategy, axis=axis)
    (actual,) = labels.maps
    assert (actual.shape, actual.dtype) == ((7, 40, 48), np.uint8)
    assert (labels.geometry, labels.has_geometry) == (GEOMETRY, True)
    frames = np.ascontiguousarray(np.moveaxis(volume.array, axis, 0))
    expected = plain_labels(segmenter.model, frames, prompts, strategy=strategy)
    assert np.array_equal(np.moveaxis(actual, axis, 0), expected)
    assert len(np.unique(actual)) > 2, "the labels must not be vacuous"


def test_overlaps_are_kept_on_request(segmenter: Segmenter) -> None:
    volume, prompts = volume_of(), prompts_from_labels([labels_of()])
    labels = segmenter.segment(volume, prompts, overlap="keep")
    assert len(labels.maps) > 1
    for one in prompts:
        alone = plain_labels(segmenter.model, volume.array, [one], strategy="box")
        both = np.logical_or.reduce([m == one.object_id for m in labels.maps])
        # Batched matrix products round in another order than single ones.
        assert (both == (alone > 0)).mean() > 0.999


def test_a_case_keeps_names_and_values(segmenter: Segmenter) -> None:
    volume = volume_of()
    case = Case("a", volume.array, geometry=GEOMETRY, label_names={1: "one", 8: "eight"})
    prompts = [prompt(1, 3, (1, 5)), prompt(300, 3, (2, 3))]
    labels = segmenter.segment(case, prompts)
    assert labels.label_names == {1: "one"}
    assert labels.maps[0].dtype == np.uint16
    assert labels.geometry == GEOMETRY
    assert np.array_equal(labels.maps[0], segmenter.segment(volume, prompts).maps[0])
    assert segmenter.to_uint8(case) is case.image
    with pytest.raises(UserError, match="a: a case holds 0-255 already"):
        segmenter.segment(case, prompts, intensity=IntensityRule("minmax"))


def test_intensities_follow_the_rule(segmenter: Segmenter) -> None:
    gray = volume_of().array
    hounsfield = gray.astype(np.int16) * 8 - 1000
    window = IntensityRule("window", -500.0, 700.0)
    prompts = [prompt(1, 3, (1, 5))]
    ct = Volume(hounsfield, modality="CT")
    for given, rule in ((None, IntensityRule("window", -160.0, 240.0)), (window, window)):
        labels = segmenter.segment(ct, prompts, intensity=given)
        by_hand = np.clip((hounsfield - rule.lower) / (rule.upper - rule.lower), 0, 1) * 255
        case = Case("a", np.rint(by_hand.astype(np.float32)).astype(np.uint8))
        assert np.array_equal(labels.maps[0], segmenter.segment(case, prompts).maps[0])
        assert rule.to_json() in labels.notes[0]
    trained = Segmenter(segmenter.model, rules=[window], modalities=["CT"])
    assert np.array_equal(trained.to_uint8(ct), apply_rule(hounsfield, window))


def test_progress_counts_masks_and_a_cancelled_run_says_so(segmenter: Segmenter) -> None:
    prompts = [prompt(1, 3, (1, 5)), prompt(2, 4, (4, 6))]
    seen: list[tuple[int, int]] = []
    labels = segmenter.segment(volume_of(), prompts, progress=lambda *now: seen.append(now))
    assert seen[0] == (0, 8)
    assert seen[-1] == (8, 8)
    assert seen == sorted(set(seen))
    assert not any("cancelled" in note for note in labels.notes)
    asked = iter([False, False, True])
    stop = segmenter.segment(volume_of(), prompts, cancelled=lambda: next(asked))
    assert stop.notes[-1] == "cancelled after 3 of 8 masks"
    (part,) = stop.maps
    assert part[3].any()
    assert not part[[0, 1, 2, 5, 6]].any()


def test_boxes_partly_outside_are_cut_and_those_outside_refused(segmenter: Segmenter) -> None:
    volume = volume_of()
    cut = segmenter.segment(volume, [prompt(1, 3, (3, 3), (20, 10, 47, 39))])
    over = segmenter.segment(volume, [prompt(1, 3, (3, 3), (20, 10, 470, 58.5))])
    assert cut.maps[0].any()
    assert np.array_equal(cut.maps[0], over.maps[0])
    for outside in ((48, 5, 60, 20), (-9, 5, -1, 20), (3, 40, 9, 50)):
        with pytest.raises(UserError, match=r"object 4: box .* inside the image of 48"):
            segmenter.segment(volume, [prompt(4, 3, (3, 3), outside)])
    deep = prompts_from_box3d(np.array([8, 8, 2, 30, 30, 99], np.float32), 1, depth=7)
    assert segmenter.segment(volume, [deep]).maps[0][2:].any(axis=(1, 2)).all()


def test_one_frame_is_an_image_for_any_model(model: Sam2) -> None:
    """The video predictor blanks a mask that it calls absent, the image predictor does not."""
    absent = build_model("tiny_test", image_size=64, weights="random")
    absent.load_state_dict(model.state_dict())
    with torch.no_grad():
        absent.core.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(-50.0)
    remembering = Segmenter(absent, strategy="memory")
    frame = volume_of().array[3:4]
    prompts = [prompt(1, 0, (0, 0))]
    expected = Segmenter(model).segment(Volume(frame), prompts).maps[0]
    assert expected.any()
    for is_video in (False, True):
        volume = Volume(frame, is_video=is_video)
        assert np.array_equal(remembering.segment(volume, prompts).maps[0], expected)
        assert not remembering.segment(volume, prompts, strategy="memory").maps[0].any()


def test_a_volume_alone_takes_the_models_strategy(model: Sam2) -> None:
    prompts = [prompt(1, 3, (0, 6))]
    labels = Segmenter(model, strategy="memory").segment(volume_of(), prompts).maps[0]
    expected = Segmenter(model).segment(volume_of(), prompts, strategy="memory").maps[0]
    assert np.array_equal(labels, expected)
    assert (labels != Segmenter(model).segment(volume_of(), prompts).maps[0]).any()


def test_without_prompts_the_labels_are_empty(segmenter: Segmenter) -> None:
    labels = segmenter.segment(volume_of(), [])
    assert isinstance(labels, LabelVolume)
    assert [(m.shape, m.any()) for m in labels.maps] == [((7, 40, 48), False)]
    assert list(segmenter.masks(volume_of(), [])) == []


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 3, 8, 8), np.float32), "four axes"),
        (np.zeros((2, 8, 8, 8, 3), np.uint8), "neither"),
        (np.zeros((8, 8), np.uint8), "neither"),
        (np.zeros((0, 8, 8), np.uint8), "empty"),
        (np.full((2, 8, 8), np.nan, np.float32), "NaN"),
    ],
)
def test_images_of_another_kind(array: NDArray[Any], words: str, segmenter: Segmenter) -> None:
    with pytest.raises(UserError, match=words) as error:
        segmenter.segment(Volume(array), [prompt(1, 0, (0, 0))])
    assert "\n" not in str(error.value)


def test_what_cannot_be_done(model: Sam2) -> None:
    segmenter = Segmenter(model, name="slices only")
    with pytest.raises(UserError, match="axis 3"):
        segmenter.segment(volume_of(), [prompt(1, 3, (3, 3))], axis=3)
    segmenter.strategies = ("box",)
    with pytest.raises(UserError, match="slices only: cannot propagate by 'memory'; choose box"):
        segmenter.segment(volume_of(), [prompt(1, 3, (3, 3))], strategy="memory")


def test_prompts_are_checked_before_the_first_mask_is_asked_for(segmenter: Segmenter) -> None:
    with pytest.raises(UserError, match="frame 9"):
        segmenter.masks(volume_of(), [prompt(1, 9, (0, 6))])
    with pytest.raises(UserError, match="more than once"):
        segmenter.segment(volume_of(), [prompt(1, 3, (0, 6)), prompt(1, 4, (0, 6))])


@pytest.mark.parametrize("protocol", ["middle", "paper"])
def test_an_empty_mask_brings_back_the_last_box_or_the_papers_first(
    protocol: Literal["middle", "paper"], model: Sam2, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, asked = Sam2.decode, list[list[float]]()

    def blank_second(self: Sam2, encoding: Any, index: Any, boxes: Any) -> Any:
        asked.extend(boxes.tolist())
        result = decode(self, encoding, index, boxes)
        return replace(result, mask_logits=result.mask_logits - (1000 if len(asked) == 2 else 0))

    monkeypatch.setattr(Sam2, "decode", blank_second)
    labels = Segmenter(model).segment(
        volume_of((9, 40, 48)), [prompt(1, 4, (0, 8))], protocol=protocol
    )
    assert np.flatnonzero(labels.maps[0].any(axis=(1, 2)))[:7].tolist() == [0, 1, 2, 3, 4, 5, 7]
    if protocol == "middle":
        assert asked[2] == asked[1]
    else:
        scale = np.array([64 / 48, 64 / 40] * 2)
        np.testing.assert_allclose(asked[2], np.array([8, 8, 30, 30]) * scale, rtol=1e-6)
        assert asked[2] != asked[1]


def test_an_object_that_the_image_predictor_misses_stays_empty(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mask of object 2 on its prompted slice is made empty."""
    decode_prompts = Sam2.decode_prompts

    def decoded(self: Sam2, encoding: Any, prompts: Any) -> Any:
        result = decode_prompts(self, encoding, prompts)
        gone = prompts.points_xy[:, 0, 0] > 20
        result.mask_logits[gone] = -5.0
        return result

    monkeypatch.setattr(Sam2, "decode_prompts", decoded)
    prompts = [prompt(1, 3, (1, 5)), prompt(2, 4, (2, 5), (30, 8, 40, 30))]
    seen: list[tuple[int, int]] = []
    options: dict[str, Any] = {"protocol": "paper", "strategy": "memory"}
    labels = segmenter.segment(
        volume_of(), prompts, **options, progress=lambda *now: seen.append(now)
    )
    assert set(np.unique(labels.maps[0])) == {0, 1}
    assert seen[-1] == (9, 9)
    found = {
        (i, masks.frame)
        for masks in segmenter.masks(volume_of(), prompts, **options)
        for i in masks.object_ids
    }
    assert found == {(1, z) for z in range(1, 6)} | {(2, z) for z in range(2, 6)}
    stopped = segmenter.segment(volume_of(), prompts, **options, cancelled=lambda: True)
    assert stopped.notes[-1] == "cancelled after 0 of 9 masks"


def test_points_and_masks_are_prompts_too(segmenter: Segmenter) -> None:
    labels = labels_of()
    for kind in ("points", "mask"):
        for protocol in ("middle", "paper"):
            prompts = prompts_from_labels([labels], kind=kind)  # type: ignore[arg-type]
            found = segmenter.segment(
                volume_of(),
                prompts,
                protocol=protocol,
                strategy="memory",  # type: ignore[arg-type]
            )
            assert found.maps[0].any()
    drawn = ObjectPrompt(1, (SlicePrompt(3, mask=labels[3] == 1),), (3, 3))
    (same,) = segmenter.segment(volume_of(), [drawn], overlap="keep").maps
    overlap = (same[3] == 1) & (labels[3] == 1)
    assert overlap.sum() > 0.8 * (labels[3] == 1).sum()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="reads the peak from resource")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_peak_memory_does_not_grow_with_depth(strategy: str) -> None:
    script = f"""
        import resource
        import numpy as np
        import torch
        from medsam2_ft.object_prompts import ObjectPrompt
        from medsam2_ft.segmenter import Segmenter
        from medsam2_ft.types import Volume

        torch.manual_seed(3)
        segmenter = Segmenter.from_checkpoint("random:tiny_test", device="cpu")
        rng = np.random.default_rng(0)
        volumes = [Volume(rng.integers(0, 255, (n, 320, 320), np.uint8)) for n in (40, 40, 400)]
        box = np.array([50, 60, 200, 220], np.float32)
        for volume in volumes:
            last = len(volume.array) - 1
            prompts = [
                ObjectPrompt.from_box(i, last // 2, box + 9 * i, (0, last)) for i in (1, 2)
            ]
            labels = segmenter.segment(volume, prompts, strategy={strategy!r})
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(peak - labels.maps[0].nbytes)
            del labels
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
    )
    _, short, long = map(int, done.stdout.split())
    assert long <= 1.05 * short
    assert long - short < 25 << 20, "one float16 per voxel would take 74 MB more"
