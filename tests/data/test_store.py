import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from scipy import ndimage

from medsam2_ft.data import build, store
from medsam2_ft.data.build import build_cases
from medsam2_ft.data.case_arrays import OPEN_ARRAYS, SliceReader, object_table
from medsam2_ft.data.index import SliceIndex
from medsam2_ft.data.store import locate_store, update_store
from medsam2_ft.errors import UserError

MakeCase = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


@pytest.fixture
def paths(tmp_path: Path, make_case: MakeCase) -> list[Path]:
    data = tmp_path / "data"
    return [
        make_case(data, "a", value=1, depth=4),
        make_case(data, "b", value=2, depth=6, hw=(33, 50), labels=(3, 400)),
        make_case(data, "c", value=3, depth=3, colour=True, labels=(70,)),
    ]


def folders(root: Path) -> set[str]:
    return {path.name for path in (root / "cases").iterdir()}


def test_object_table_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(np.array([0, 0, 0, 0, 1, 2, 7, 300], np.uint16), size=(3, 12, 15))
    labels[1] = 0
    expected = []
    for z, plane in enumerate(labels):
        for label, where in enumerate(ndimage.find_objects(plane.astype(int)), start=1):
            if where is not None:
                rows, columns = where
                area = int((plane == label).sum())
                box = [columns.start, rows.start, columns.stop - 1, rows.stop - 1]
                expected.append([z, 1, label, area, *box])
    np.testing.assert_array_equal(object_table(labels, 1), expected)


def test_store_returns_what_the_cases_hold(root: Path, paths: list[Path]) -> None:
    cases = update_store(root, paths, quiet=True)
    index = SliceIndex.create(root, cases)
    assert [case.facts.depth for case in cases] == [4, 6, 3]
    assert [case.facts.channels for case in cases] == [1, 1, 3]
    assert len(index.slices) == 13
    for slice_id, (case, z) in enumerate(index.slices):
        with np.load(paths[case]) as original:
            image, labels = original["imgs"][z], original["gts"][z]
        folder = str(index.case_folders[case])
        np.testing.assert_array_equal(index.reader.image(folder, int(z)), image)
        np.testing.assert_array_equal(index.reader.labels(folder, 0, int(z)), labels)
        objects = index.objects_of(slice_id)
        np.testing.assert_array_equal(objects[:, 2], np.unique(labels[labels > 0]))
        assert (objects[:, 0] == z).all()
    np.testing.assert_array_equal(
        index.labels_per_slice() > 0, [0, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 1, 0]
    )


def test_overlap_maps_are_stored(tmp_path: Path, root: Path) -> None:
    one = np.zeros((2, 9, 9), np.uint8)
    two = one.copy()
    one[0, 2:5, 2:5], two[0, 4:7, 4:7] = 1, 2
    path = tmp_path / "overlap.npz"
    np.savez(path, imgs=np.zeros((2, 9, 9), np.uint8), gts=one, gts_1=two)
    (case,) = update_store(root, [path], quiet=True)
    assert case.facts.maps == 2
    objects = SliceIndex.create(root, [case]).objects
    np.testing.assert_array_equal(objects, [[0, 0, 1, 9, 2, 2, 4, 4], [0, 1, 2, 9, 4, 4, 6, 6]])


def test_one_chunk_and_block_holds_one_slice(root: Path, paths: list[Path]) -> None:
    import blosc2

    (case, *_) = update_store(root, paths, quiet=True)
    for file in ("image.b2nd", "labels_0.b2nd"):
        array = blosc2.open(str(root / "cases" / case.folder / file), mode="r")
        assert array.chunks == array.blocks == (1, 40, 48)


def test_nothing_in_the_store_is_pickled(root: Path, paths: list[Path]) -> None:
    SliceIndex.create(root, update_store(root, paths, quiet=True))
    tables = list(root.rglob("*.npy"))
    assert len(tables) == 3 + 6
    for table in tables:
        np.load(table, allow_pickle=False)


def test_second_update_reads_no_case(
    root: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = update_store(root, paths, quiet=True)

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} was hashed again")

    monkeypatch.setattr(build, "_case_key", refuse)
    assert update_store(root, paths, quiet=True) == first


def test_touched_file_is_hashed_once_and_not_stored_again(
    root: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = update_store(root, paths, quiet=True)
    os.utime(paths[0], ns=(1, 1))
    hashed: list[Path] = []
    key = build._case_key
    monkeypatch.setattr(build, "_case_key", lambda path: (hashed.append(path), key(path))[1])
    monkeypatch.setattr(build, "read_case", None)
    for _ in range(3):
        assert update_store(root, paths, quiet=True) == first
    assert hashed == [paths[0]]


def test_changed_case_is_stored_anew(root: Path, paths: list[Path], make_case: MakeCase) -> None:
    first = update_store(root, paths, quiet=True)
    make_case(paths[0].parent, "a", value=50, depth=7)
    second = update_store(root, paths, quiet=True)
    assert second[0].facts.depth == 7
    assert second[1:] == first[1:]
    assert folders(root) == {case.folder for case in second}


def test_changed_labels_in_a_parallel_folder_are_noticed(tmp_path: Path, root: Path) -> None:
    image = tmp_path / "imgs" / "x.npz"
    labels = tmp_path / "gts" / "x.npz"
    for path in (image, labels):
        path.parent.mkdir()
    np.savez(image, imgs=np.zeros((2, 8, 8), np.uint8))
    plane = np.zeros((2, 8, 8), np.uint8)
    plane[0, 2, 2] = 1
    np.savez(labels, gts=plane)
    assert update_store(root, [image], quiet=True)[0].facts.objects == 1
    plane[1, 3, 3] = 1
    np.savez(labels, gts=plane)
    assert update_store(root, [image], quiet=True)[0].facts.objects == 2
    labels.unlink()
    assert update_store(root, [image], quiet=True)[0].facts.why_unusable == "it has no label map"


def test_stale_cases_and_tables_go_and_kept_ones_stay(root: Path, paths: list[Path]) -> None:
    cases = update_store(root, paths, quiet=True)
    whole = SliceIndex.create(root, cases)
    part = SliceIndex.create(root, cases[:1])
    update_store(root, paths[:1], keep=paths[1:], quiet=True)
    assert len(folders(root)) == 3
    update_store(root, paths[:1], quiet=True)
    assert folders(root) == {cases[0].folder}
    assert part.folder.is_dir()
    assert not whole.folder.exists()


def test_broken_files_are_named_and_the_others_are_stored(root: Path, paths: list[Path]) -> None:
    paths[0].write_bytes(paths[0].read_bytes()[:300])
    paths[1].write_bytes(b"")
    with pytest.raises(UserError, match=r"[ab]\.npz.*1 further files are broken") as error:
        update_store(root, paths, quiet=True)
    assert "\n" not in str(error.value)
    assert {name[0] for name in folders(root)} == {"c"}


def test_folder_with_the_name_of_a_case_is_named(root: Path, paths: list[Path]) -> None:
    paths[1].unlink()
    paths[1].mkdir()
    with pytest.raises(UserError, match=rf"{paths[1]}: cannot be read \(Is a directory\)"):
        update_store(root, paths, quiet=True)


def test_missing_file_is_named(root: Path, paths: list[Path]) -> None:
    paths[1].unlink()
    with pytest.raises(UserError, match=r"b\.npz: cannot be read"):
        update_store(root, paths, quiet=True)


def test_damaged_list_of_sources_costs_a_hash(root: Path, paths: list[Path]) -> None:
    first = update_store(root, paths, quiet=True)
    (root / "sources.json").write_text("[1, 2")
    assert update_store(root, paths, quiet=True) == first


def test_full_disk_names_the_case_and_leaves_nothing(
    root: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "write_case_arrays", full)
    with pytest.raises(UserError, match=r"a\.npz: cannot be stored .*No space left"):
        update_store(root, paths[:1], quiet=True)
    assert folders(root) == set()


def test_interrupted_build_keeps_what_is_done(
    root: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = build.build_case

    def interrupt(path: Path, cases_dir: Path) -> object:
        if path == paths[2]:
            raise KeyboardInterrupt
        return real(path, cases_dir)

    monkeypatch.setattr(build, "build_case", interrupt)
    with pytest.raises(KeyboardInterrupt):
        update_store(root, paths, quiet=True)
    built: list[Path] = []
    monkeypatch.setattr(
        build, "build_case", lambda path, folder: (built.append(path), real(path, folder))[1]
    )
    assert len(update_store(root, paths, quiet=True)) == 3
    assert built == [paths[2]]


BUILDER = """
import sys, time
from pathlib import Path
from medsam2_ft.data import build
from medsam2_ft.data.store import update_store
real = build.write_case_arrays
def slowly(case, folder):
    facts = real(case, folder)
    print("writing", flush=True)
    time.sleep(float(sys.argv[2]))
    return facts
build.write_case_arrays = slowly
cases = update_store(Path(sys.argv[1]), [Path(p) for p in sys.argv[3:]], quiet=True)
print(sorted(case.folder for case in cases))
"""


def start_builder(root: Path, paths: list[Path], delay_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(root), str(delay_s), *map(str, paths)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_builder_killed_in_the_middle_leaves_a_usable_store(root: Path, paths: list[Path]) -> None:
    builder = start_builder(root, paths, 60)
    assert builder.stdout is not None
    assert builder.stdout.readline() == "writing\n"
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert any(name.startswith(".tmp-") for name in folders(root))
    cases = update_store(root, paths, quiet=True)  # the lock is free again
    assert folders(root) == {case.folder for case in cases}


def test_two_builders_at_once_build_each_case_once(root: Path, paths: list[Path]) -> None:
    builders = [start_builder(root, paths, 0.3) for _ in range(2)]
    outputs = [builder.communicate(timeout=60)[0].splitlines() for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0]
    assert outputs[0][-1] == outputs[1][-1]
    assert sum(line == "writing" for output in outputs for line in output) == 3
    assert len(folders(root)) == 3


def test_parallel_build_equals_the_serial_one(
    tmp_path: Path, root: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    serial = update_store(root, paths, workers=1, quiet=True)
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setattr(build, "BYTES_PER_WORKER", 1)
    paths[2].write_bytes(b"broken")
    with pytest.raises(UserError, match=r"c\.npz"):
        update_store(other, paths, workers=2, quiet=True)
    assert update_store(other, paths[:2], workers=2, quiet=True) == serial[:2]
    for file in (root / "cases" / serial[0].folder).iterdir():
        twin = other / "cases" / serial[0].folder / file.name
        assert file.suffix == ".b2nd" or file.read_bytes() == twin.read_bytes()


def die(path: Path, cases_dir: Path) -> None:
    os._exit(9)


def test_worker_that_dies_is_reported(
    root: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    monkeypatch.setattr(build, "BYTES_PER_WORKER", 1)
    monkeypatch.setattr(build, "build_case", die)
    (root / "cases").mkdir()
    with pytest.raises(UserError, match="fewer processes"):
        list(build_cases(paths, root / "cases", 2, Console(quiet=True)))


def test_store_lies_in_the_data_or_in_the_cache_or_where_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    assert locate_store(data, None) == data / ".store"
    told = locate_store(data, tmp_path / "told")
    assert told.parent == tmp_path / "told"
    read_only = tmp_path / "read-only" / "data"
    read_only.mkdir(parents=True)
    (read_only / ".store").write_text("in the way")
    cache = locate_store(read_only, None)
    assert cache.is_relative_to(tmp_path / "cache")
    assert cache.name != told.name  # two data sets of one name
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another"):
        locate_store(data, tmp_path / "file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set store_dir"):
        locate_store(read_only, None)


def test_reader_keeps_few_arrays_open_and_none_in_another_process(
    tmp_path: Path, root: Path, make_case: MakeCase
) -> None:
    import pickle

    many = [make_case(tmp_path / "many", f"m{k}", value=k) for k in range(OPEN_ARRAYS + 3)]
    cases = update_store(root, many, quiet=True)
    reader = SliceReader(root / "cases")
    for case in cases * 2:
        reader.image(case.folder, 0)
    assert len(reader._open) == OPEN_ARRAYS
    copy = pickle.loads(pickle.dumps(reader))
    assert len(copy._open) == 0
    np.testing.assert_array_equal(copy.image(cases[0].folder, 1), reader.image(cases[0].folder, 1))


def test_forked_worker_opens_its_own_arrays(root: Path, paths: list[Path]) -> None:
    cases = update_store(root, paths, quiet=True)
    reader = SliceReader(root / "cases")
    expected = [reader.image(case.folder, 0) for case in cases]

    def child() -> None:
        same = np.array_equal(reader.image(cases[0].folder, 0), expected[0])
        os._exit(0 if same and len(reader._open) == 1 else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 0


def test_index_travels_as_a_path(root: Path, paths: list[Path]) -> None:
    import pickle

    index = SliceIndex.create(root, update_store(root, paths, quiet=True))
    index.objects_of(1)
    data = pickle.dumps(index)
    assert len(data) < 500
    np.testing.assert_array_equal(pickle.loads(data).objects, index.objects)


def test_waiting_for_another_builder_is_said(
    root: Path, paths: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    builder = start_builder(root, paths[:1], 1.0)
    assert builder.stdout is not None
    builder.stdout.readline()
    started = time.monotonic()
    update_store(root, paths)
    assert time.monotonic() - started > 0.5
    builder.communicate(timeout=60)
    assert "Waiting for another process" in capsys.readouterr().err


def test_sources_name_every_file(root: Path, paths: list[Path]) -> None:
    update_store(root, paths, quiet=True)
    sources = json.loads((root / "sources.json").read_text())
    assert set(sources) == {str(path.resolve()) for path in paths}
    assert store.SourceState(**sources[str(paths[0].resolve())]).stat == [
        [paths[0].stat().st_size, paths[0].stat().st_mtime_ns]
    ]


PARENT = """
import sys, time
from pathlib import Path
from rich.console import Console
from medsam2_ft.data import build
if __name__ == "__main__":
    build.BYTES_PER_WORKER = 1
    paths = [Path(p) for p in sys.argv[2:]]
    for _ in build.build_cases(paths, Path(sys.argv[1]), 2, Console(quiet=True)):
        print("one done", flush=True)
        time.sleep(60)
"""


@pytest.mark.slow
def test_workers_end_when_the_builder_is_killed(
    tmp_path: Path, root: Path, paths: list[Path]
) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    (root / "cases").mkdir()
    command = [sys.executable, str(script), str(root / "cases"), *map(str, paths)]
    environment = os.environ | {"PYTHONPATH": str(Path(build.__file__).parents[2])}
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "one done\n"
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers) >= 2
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    for worker in alive:
        worker.kill()
    assert not alive


def test_a_store_of_another_version_is_built_anew(
    root: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "FORMAT_VERSION", "0")
    monkeypatch.setattr(store, "FORMAT_VERSION", "0")
    old = update_store(root, paths, quiet=True)
    monkeypatch.undo()
    new = update_store(root, paths, quiet=True)
    assert not {case.folder for case in old} & {case.folder for case in new}
    sources = json.loads((root / "sources.json").read_text())
    for state in sources.values():
        del state["version"]  # as before there was one
    (root / "sources.json").write_text(json.dumps(sources))
    assert update_store(root, paths, quiet=True) == new


@pytest.mark.parametrize("regions", [False, True])
def test_regions_are_rows_of_their_own(regions: bool, tmp_path: Path, root: Path) -> None:
    one, two = np.zeros((2, 3, 9, 9), np.uint8)
    one[0, 2:5, 2:5], one[1, 7, 7], two[0, 4:7, 4:7], two[2, 0, 0] = 1, 5, 2, 2
    path = tmp_path / "nested.npz"
    named = json.dumps({"none": [9], "whole": [1, 2], "dot": [5]})
    np.savez(path, imgs=np.zeros((3, 9, 9), np.uint8), gts=one, gts_1=two, regions=named)
    index = SliceIndex.create(root, update_store(root, [path], quiet=True), regions=regions)
    labels = [
        [0, 0, 1, 9, 2, 2, 4, 4],
        [0, 1, 2, 9, 4, 4, 6, 6],
        [1, 0, 5, 1, 7, 7, 7, 7],
        [2, 1, 2, 1, 0, 0, 0, 0],
    ]
    united = [[0, 2, 1, 18, 2, 2, 6, 6], [1, 2, 2, 1, 7, 7, 7, 7], [2, 2, 1, 1, 0, 0, 0, 0]]
    expected = sorted([*labels, *united]) if regions else labels
    np.testing.assert_array_equal(index.objects, expected)
    np.testing.assert_array_equal(index.labels_per_slice(), [3, 2, 2] if regions else [2, 1, 1])
