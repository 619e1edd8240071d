"""Zip archives: what is unpacked, and what is refused before it is."""

import io
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from medsam2_ft.errors import UserError
from medsam2_ft.io import read_volume
from medsam2_ft.io.archive import unpacked


def _archive(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def test_files_are_unpacked_and_removed(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3_000_000)
    path = _archive(tmp_path / "a.zip", {"x/1": data, "x/y/2.txt": b"", "__MACOSX/x/._1": b"no"})
    with unpacked(path) as folder:
        found = {
            str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
        }
        assert found == {"x/1": data, "x/y/2.txt": b""}
    assert not folder.exists()


def test_folder_goes_when_reading_fails(tmp_path: Path) -> None:
    path = _archive(tmp_path / "a.zip", {"1": b"x"})
    with pytest.raises(KeyError), unpacked(path) as folder:
        raise KeyError
    assert not folder.exists()


def test_what_is_wrong_inside_names_the_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ct.zip", "w") as archive:
        archive.writestr("notes/a.txt", "no image")
    with pytest.raises(UserError, match="holds neither") as caught:
        read_volume(tmp_path / "ct.zip")
    assert str(caught.value).startswith(f"{tmp_path / 'ct.zip'}: ")


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/evil", "C:/evil", "..\\evil", "a\\..\\..\\evil"]
)
def test_paths_that_lead_out(tmp_path: Path, name: str) -> None:
    path = _archive(tmp_path / "a.zip", {"fine": b"x", name: b"x"})
    with pytest.raises(UserError, match="leads out"), unpacked(path):
        pass
    assert not list(tmp_path.parent.glob("evil"))


def test_links_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(UserError, match="link"), unpacked(path):
        pass


def test_bomb_by_ratio_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    archive = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with archive, archive.open("zeros", "w") as sink:
        for _ in range(280):
            sink.write(bytes(1 << 20))
    assert path.stat().st_size < 2 << 20
    with pytest.raises(UserError, match="zip bomb"), unpacked(path):
        pass


def test_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _archive(tmp_path / "a.zip", {"1": bytes(2000), "2": bytes(1)})
    monkeypatch.setenv("MEDSAM2FT_MAX_VOXELS", "1000")
    with pytest.raises(UserError, match="2001 bytes, above the limit of 2000"), unpacked(path):
        pass


def _patched(path: Path, old: int, new: int) -> Path:
    """Replaces a size wherever the archive declares it."""
    data = path.read_bytes()
    assert data.count(struct.pack("<I", old)) >= 2
    path.write_bytes(data.replace(struct.pack("<I", old), struct.pack("<I", new)))
    return path


@pytest.mark.parametrize("declared", [1000, 54321 * 2])
def test_declared_size_that_is_not_the_real_one(tmp_path: Path, declared: int) -> None:
    path = _patched(_archive(tmp_path / "a.zip", {"1": bytes(54321)}), 54321, declared)
    with pytest.raises(UserError, match=r"a\.zip"), unpacked(path):
        pass


def test_entries_that_share_their_bytes(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(5000)
    path = _archive(tmp_path / "a.zip", {"1": data})
    raw = bytearray(path.read_bytes())
    start = raw.index(b"PK\x01\x02")
    end = raw.index(b"PK\x05\x06")
    entry = bytes(raw[start:end])
    second = entry.replace(b"1", b"2", 1) if entry.count(b"1") == 1 else entry[:46] + b"2"
    tail = bytearray(raw[end:])
    tail[8:10] = tail[10:12] = struct.pack("<H", 2)
    tail[12:16] = struct.pack("<I", len(entry) + len(second))
    path.write_bytes(bytes(raw[:end]) + second + bytes(tail))
    assert len(zipfile.ZipFile(path).namelist()) == 2
    with pytest.raises(UserError, match="share their bytes"), unpacked(path):
        pass


def test_two_files_of_one_path(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b", b"1")
        archive.writestr("a//b", b"2")
    with pytest.raises(UserError, match="same path"), unpacked(path):
        pass


def test_encrypted(tmp_path: Path) -> None:
    path = _archive(tmp_path / "a.zip", {"1": b"x" * 100})
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="encrypted"), unpacked(path):
        pass


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(tmp_path: Path, method: int) -> None:
    path = _archive(tmp_path / "a.zip", {"1": b"x" * 100}, method)
    with pytest.raises(UserError, match="deflate"), unpacked(path):
        pass


def test_mutated_archives(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    rng = np.random.default_rng(1)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a/1", "a/2", "b"):
            archive.writestr(name, rng.integers(0, 4, 200, np.uint8).tobytes())
    good = buffer.getvalue()
    path = tmp_path / "a.zip"
    refused: list[str] = []
    for _ in range(200):
        data = bytearray(good)
        for at in rng.integers(0, len(data), rng.integers(1, 6)):
            data[at] = rng.integers(0, 256)
        path.write_bytes(bytes(data[: rng.integers(0, len(data))] if rng.random() < 0.2 else data))
        try:
            with unpacked(path) as folder:
                assert folder.is_dir()
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert not any("\n" in line for line in refused)


@pytest.mark.parametrize("content", [None, b"", b"not a zip"])
def test_missing_empty_and_other_files(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.zip"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be unpacked"), unpacked(path):
        pass
