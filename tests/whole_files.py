"""What a killed process may leave: files that are whole, and hidden ones that nobody reads."""

import csv
import json
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import torch

from medsam2_ft.data.case_arrays import CaseFacts

# Names of folders with the content of their files.
Content = dict[str, dict[str, bytes]]


def leftovers(folder: Path) -> list[Path]:
    """Temporary files and folders of killed writers."""
    return sorted(path for path in folder.rglob(".*") if ".tmp" in path.name)


def assert_run_is_whole(run: Path) -> None:
    """Every checkpoint, export and table below a run folder can be read to its end."""
    for path in run.rglob("*"):
        if path.name.startswith(".") or not path.is_file() or "wandb" in path.parts:
            continue
        try:
            _read(path)
        except Exception as error:
            raise AssertionError(f"{path} is broken") from error


def _read(path: Path) -> None:
    match path.suffix:
        case ".ckpt" | ".pt":
            content = torch.load(path, weights_only=True)
            assert content["state_dict" if path.suffix == ".ckpt" else "model"]
        case ".json":
            json.loads(path.read_text())
        case ".csv":
            with path.open(newline="") as file:
                head, *body = csv.reader(file)
            assert all(len(row) == len(head) for row in body)
            assert path.read_bytes().endswith(b"\n")
        case "":
            assert path.read_text()


def store_content(store: Path) -> Content:
    """The cases and index tables that a store offers; each one is whole."""
    found: Content = {}
    for kind in ("cases", "index"):
        for folder in (store / kind).glob("[!.]*"):
            try:
                found[f"{kind}/{folder.name}"] = _folder_content(folder)
            except Exception as error:
                raise AssertionError(f"{folder} is broken") from error
    states = store / "sources.json"
    if states.is_file():
        for state in json.loads(states.read_text()).values():
            assert f"cases/{state['folder']}" in found
    return found


def _folder_content(folder: Path) -> dict[str, bytes]:
    """Reads a case folder or an index; arrays are compared as they read, the rest as it lies."""
    content: dict[str, Any] = {}
    for path in folder.iterdir():
        if path.suffix == ".b2nd":
            content[path.name] = blosc2.open(str(path), mode="r")[:].tobytes()
        elif path.suffix == ".npy":
            content[path.name] = np.load(path, allow_pickle=False).tobytes()
        else:
            content[path.name] = path.read_bytes()
    if "case.json" in content:
        facts = CaseFacts.from_json(content["case.json"].decode())
        maps = {f"labels_{k}.b2nd" for k in range(facts.maps)}
        assert content.keys() == {"case.json", "image.b2nd", "objects.npy", *maps}
        channels = facts.channels
        size = facts.depth * facts.height * facts.width * channels
        assert len(content["image.b2nd"]) == size
    else:
        names = ("folders", "cases", "slices", "starts", "objects", "regions")
        assert content.keys() == {"cases.json", *(f"{name}.npy" for name in names)}
    return content
