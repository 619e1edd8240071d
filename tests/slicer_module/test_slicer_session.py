"""A user's whole work against a real server: prompts, propagation, undo, and what goes wrong."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driver import User
from live import running
from test_slicer_geometry import SHAPE, oblique, volume_of

from medsam2_ft.io.npz import read_case
from medsam2_ft.serve.engine import FakeEngine
from medsam2_ft.serve.settings import Settings

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer_core", reason="slicer-core has wheels for Python 3.11 alone")

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(-500, 500, SHAPE).astype(np.int16)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("serve")
    settings = Settings(work_dir=folder / "work", accept_dir=folder / "cases", chunk_bytes=999,
                        max_sessions=40)  # fmt: skip
    with running(FakeEngine(), settings) as number:
        yield number
    assert not list((folder / "work").iterdir())


@pytest.fixture
def user(slicer: Any, scene: Any, port: int) -> Iterator[User]:
    one = User(scene, port)
    one.send(volume_of(slicer, oblique(0), IMAGE), window=(-100.0, 100.0), modality="CT")
    yield one
    one.controller.close()


def filled(*box: tuple[int, int]) -> Any:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(first, last + 1) for first, last in box)] = True
    return mask


@pytest.mark.parametrize(
    ("axis", "expected"),
    [(0, filled((3, 3), (2, 5), (1, 4))), (1, filled((2, 5), (3, 3), (1, 4))),
     (2, filled((2, 5), (1, 4), (3, 3)))],
)  # fmt: skip
def test_a_box_in_any_view_is_its_voxels(user: User, axis: int, expected: Any) -> None:
    target = user.segment()
    user.box(target, axis, 3, [1, 2, 4, 5])
    assert np.array_equal(user.mask(target), expected)
    assert np.array_equal(user.servers(target), expected)
    assert "16 pixels" in user.said


def test_propagate_correct_and_propagate_again(user: User) -> None:
    target = user.segment()
    user.box(target, 0, 3, [1, 2, 4, 5])
    user.propagate([target], 0, (1, 5))
    assert np.array_equal(user.mask(target), filled((1, 5), (2, 5), (1, 4)))
    user.point(target, 0, 5, [8, 7], 1)
    user.point(target, 0, 5, [2, 3], 0)
    corrected = filled((1, 5), (2, 5), (1, 4))
    corrected[5, 6:9, 7:10] = True
    corrected[5, 2:5, 1:4] = False
    assert np.array_equal(user.mask(target), corrected)
    user.propagate([target], 0, (5, 6))
    corrected[6] = corrected[5]
    assert np.array_equal(user.mask(target), corrected)
    assert np.array_equal(user.servers(target), corrected)


def test_undo_and_redo_walk_through_everything(user: User) -> None:
    one, two = user.segment(), user.segment("tumour")
    states = [(user.mask(one), user.mask(two))]

    def note() -> None:
        states.append((user.mask(one), user.mask(two)))

    user.box(one, 0, 3, [1, 2, 4, 5])
    note()
    user.box(two, 1, 4, [3, 3, 8, 6])  # meets the other segment
    note()
    user.propagate([one], 0, (2, 4), direction="forward")
    note()
    user.point(one, 0, 4, [9, 1], 1)
    note()
    assert (states[-1][0] & states[-1][1]).any()
    for state in reversed(states[:-1]):
        user.undo()
        assert np.array_equal(user.mask(one), state[0])
        assert np.array_equal(user.mask(two), state[1])
        assert np.array_equal(user.servers(one), state[0])
    assert not user.controller.can_undo
    for state in states[1:]:
        user.redo()
        assert np.array_equal(user.mask(one), state[0])
        assert np.array_equal(user.mask(two), state[1])
    assert not user.controller.can_redo


def test_what_a_segment_held_is_never_lost(user: User) -> None:
    """A segment that was painted before: kept, added to, and back after Undo."""
    target = user.segment()
    painted = RNG.random(SHAPE) < 0.2
    user.paint(target, painted)
    user.box(target, 0, 3, [1, 2, 4, 5])
    shown = painted.copy()
    shown[3] = filled((3, 3), (2, 5), (1, 4))[3]  # the box says all about its slice
    assert np.array_equal(user.mask(target), shown)
    user.undo()
    assert np.array_equal(user.mask(target), painted)
    user.undo()  # the painting is a step of its own
    assert not user.mask(target).any()
    user.redo()
    assert np.array_equal(user.mask(target), painted)


def test_points_correct_what_was_painted(user: User) -> None:
    target = user.segment()
    painted = filled((2, 2), (1, 7), (1, 9))
    user.paint(target, painted)
    user.point(target, 0, 2, [5, 5], 0)
    expected = painted.copy()
    expected[2, 4:7, 4:7] = False
    assert np.array_equal(user.mask(target), expected)
    assert np.array_equal(user.servers(target), expected)


def test_painting_in_between_is_heard(user: User) -> None:
    target = user.segment()
    user.box(target, 0, 3, [1, 2, 4, 5])
    painted = user.mask(target)
    painted[6, 8, 10], painted[3, 2, 1] = True, False
    user.paint(target, painted)
    user.box(target, 0, 4, [0, 0, 1, 1])
    assert np.array_equal(user.servers(target), user.mask(target))
    painted[4, 0:2, 0:2] = True
    assert np.array_equal(user.mask(target), painted)


def test_points_add_to_the_box_and_undone_ones_are_forgotten(user: User) -> None:
    target = user.segment()
    user.box(target, 0, 3, [1, 2, 4, 5])
    user.point(target, 0, 3, [9, 7], 1)
    user.point(target, 0, 3, [9, 1], 1)
    user.undo()
    user.point(target, 0, 3, [2, 3], 0)
    expected = filled((3, 3), (2, 5), (1, 4))
    expected[3, 6:9, 8:11] = True
    expected[3, 2:5, 1:4] = False
    assert np.array_equal(user.mask(target), expected)


def test_clicks_while_one_is_on_its_way_are_not_lost(user: User) -> None:
    from MedSAM2FTLib.geometry import Slice

    target = user.segment()
    for x in (1, 5, 9):
        user.controller.prompt_point(target, Slice(0, 3), [x, 4], 1)
    user.done()
    expected = np.zeros(SHAPE, bool)
    for x in (1, 5, 9):
        expected[3, 3:6, max(0, x - 1) : x + 2] = True
    assert np.array_equal(user.mask(target), expected)


def test_accepting_saves_what_is_shown(user: User, tmp_path: Path, port: int) -> None:
    target = user.segment("liver")
    user.box(target, 0, 3, [1, 2, 4, 5])
    shown = user.mask(target)
    shown[0, 0] = True
    user.paint(target, shown)
    user.controller.accept()
    user.done()
    name = user.said.split()[-1].rstrip(".")
    path = next(Path(tmp_path.parent).glob(f"serve*/cases/{name}.npz"))
    case = read_case(path)
    assert np.array_equal(case.label_maps[0] > 0, shown)
    assert list(case.label_names.values()) == ["liver"]
    assert np.array_equal(user.mask(target), shown)


def test_segments_have_the_numbers_of_their_places(user: User) -> None:
    """Whatever is prompted first: equal lists of segments give equal labels in all cases."""
    liver, tumour = user.segment("liver"), user.segment("tumour")
    user.box(tumour, 0, 3, [1, 2, 4, 5])
    user.box(liver, 0, 3, [1, 2, 8, 8])
    assert user.controller.masks is not None
    assert user.controller.masks.targets == {2: tumour, 1: liver}


def test_the_users_voxels_do_not_change(slicer: Any, user: User) -> None:
    volume = slicer.mrmlScene.GetNodeByID(user.grid.volume_id)
    stamp = user.scene.volume_stamp(user.grid)
    target = user.segment()
    user.box(target, 0, 3, [1, 2, 4, 5])
    user.propagate([], 0)
    assert np.array_equal(slicer.util.arrayFromVolume(volume), IMAGE)
    assert user.scene.volume_stamp(user.grid) == stamp


def test_colour(slicer: Any, scene: Any, port: int) -> None:
    user = User(scene, port)
    array = RNG.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    user.send(volume_of(slicer, oblique(0), array))
    target = user.segment()
    user.box(target, 2, 3, [1, 2, 4, 5])
    assert np.array_equal(user.mask(target), filled((2, 5), (1, 4), (3, 3)))
    user.controller.close()


def test_two_clients_do_not_see_each_other(slicer: Any, scene: Any, port: int) -> None:
    one, other = User(scene, port), User(scene, port)
    for user, matrix in ((one, oblique(0)), (other, oblique(1))):
        user.send(volume_of(slicer, matrix, IMAGE))
    mine, theirs = one.segment(), other.segment()
    from MedSAM2FTLib.geometry import Slice

    one.controller.prompt_box(mine, Slice(0, 3), [1, 2, 4, 5])
    other.controller.prompt_box(theirs, Slice(0, 2), [0, 0, 8, 8])
    one.wait(lambda: not (one.controller.is_busy or (other.controller.tick() and False)))
    other.done()
    one.controller.propagate([mine], 0)
    other.controller.propagate([theirs], 0, (2, 3))
    one.done()
    other.done()
    assert np.array_equal(one.mask(mine), filled((0, 6), (2, 5), (1, 4)))
    assert np.array_equal(other.mask(theirs), filled((2, 3), (0, 8), (0, 8)))
    one.undo()
    assert np.array_equal(other.mask(theirs), filled((2, 3), (0, 8), (0, 8)))
    one.controller.close()
    other.point(theirs, 0, 2, [10, 4], 1)
    other.controller.close()


def test_a_deleted_segment_goes_and_the_others_stay(slicer: Any, user: User) -> None:
    one, two = user.segment("a"), user.segment("b")
    user.box(one, 0, 3, [1, 2, 4, 5])
    user.box(two, 0, 3, [3, 3, 8, 6])
    node = slicer.mrmlScene.GetNodeByID(one.node_id)
    node.GetSegmentation().RemoveSegment(one.segment_id)
    user.propagate([], 0, (2, 4))
    assert np.array_equal(user.mask(two), filled((2, 4), (3, 6), (3, 8)))
    assert not user.servers(one).any()
    user.undo()
    assert np.array_equal(user.mask(two), filled((3, 3), (3, 6), (3, 8)))
    user.undo()  # the server has the deleted one again; there is no segment to write to
    assert np.array_equal(user.mask(two), filled((3, 3), (3, 6), (3, 8)))
    slicer.mrmlScene.RemoveNode(node)
    user.controller.undo()
    user.wait()


def test_a_deleted_volume_ends_the_session(slicer: Any, user: User) -> None:
    target = user.segment()
    user.box(target, 0, 3, [1, 2, 4, 5])
    slicer.mrmlScene.RemoveNode(slicer.mrmlScene.GetNodeByID(user.grid.volume_id))
    from MedSAM2FTLib.geometry import Slice

    user.controller.prompt_box(target, Slice(0, 3), [1, 2, 4, 5])
    user.wait()
    assert (user.state, user.controller.status.failed) == ("connected", True)
    assert "volume was deleted" in user.said


def test_nodes_that_are_deleted_while_an_answer_is_on_its_way(slicer: Any, user: User) -> None:
    target = user.segment()
    user.box(target, 0, 3, [1, 2, 4, 5])
    user.controller.propagate([target], 0)
    slicer.mrmlScene.Clear(True)
    user.wait()
    assert user.state in ("ready", "connected")
    user.controller.forget()
    assert user.state == "connected"


def test_a_volume_that_changes_is_sent_again(slicer: Any, user: User) -> None:
    target = user.segment()
    user.box(target, 0, 3, [1, 2, 4, 5])
    first = user.controller.session
    volume = slicer.mrmlScene.GetNodeByID(user.grid.volume_id)
    slicer.util.arrayFromVolume(volume)[:] += 1
    slicer.util.arrayFromVolumeModified(volume)
    user.point(target, 0, 3, [8, 7], 1)
    assert user.controller.session is not first
    expected = filled((3, 3), (2, 5), (1, 4))
    expected[3, 6:9, 7:10] = True
    assert np.array_equal(user.mask(target), expected)
    assert np.array_equal(user.servers(target), expected)


def test_a_sequence_is_segmented_on_its_frame(slicer: Any, scene: Any, port: int) -> None:
    from MedSAM2FTLib.state import Choice
    from test_slicer_scene import sequence_of

    user = User(scene, port)
    frames = RNG.integers(0, 999, (3, *SHAPE)).astype(np.int16)
    volume, _ = sequence_of(slicer, frames, oblique(0))
    user.connect()
    user.controller.open(Choice(volume.GetID()))
    user.wait()
    assert "3 frames: choose one" in user.said
    user.send(volume, frame=1)
    target = user.segment()
    user.box(target, 0, 3, [1, 2, 4, 5])
    assert np.array_equal(user.mask(target), filled((3, 3), (2, 5), (1, 4)))
    user.controller.close()
