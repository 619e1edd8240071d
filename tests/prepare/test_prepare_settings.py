from pathlib import Path
from typing import Any

import pytest

from medsam2_ft.errors import UserError
from medsam2_ft.prepare.cleanup import Cleanup
from medsam2_ft.prepare.label_names import read_label_names
from medsam2_ft.prepare.settings import cleanup_from, make_settings


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"1": "liver", "2": "tumour", "whole": [1, 2]}'),
        ("a.yaml", "1: liver\n2: tumour\nwhole: [1, 2]\n"),
        ("dataset.json", '{"labels": {"background": 0, "liver": 1, "tumour": 2, "whole": [1, 2]}}'),
        (
            "old.json",
            '{"labels": {"0": "background", "1": "liver", "2": "tumour", "whole": [1,2]}}',
        ),
    ],
)
def test_label_names(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert read_label_names(path) == ({1: "liver", 2: "tumour"}, {"whole": (1, 2)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "must map label ids"),
        ("", "must map label ids"),
        ("{1: [liver]}", "neither"),
        ("{liver: true}", "neither"),
        ("{liver: 1, leber: 1}", "two names"),
        ("{a: [0]}", "neither"),
        ("{", "cannot be read"),
    ],
)
def test_bad_label_names(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "names.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_label_names(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": "liver"}, "window 'liver'"),
        ({"window": "40/0"}, "width above 0"),
        ({"modality": "MR", "window": "lung"}, "is a CT window"),
        ({"cleanup": Cleanup(min_voxels_3d=-1)}, "--min_voxels_3d is -1"),
        ({"cleanup": Cleanup(drop_labels=(0,))}, "--drop_labels names label 0"),
        ({"cleanup": Cleanup(drop_labels=(2,), instances_of=(1, 2))}, "label 2 is in"),
        ({"label_names": Path("nowhere.json")}, "nowhere.json"),
    ],
)
def test_contradictions(options: dict[str, Any], message: str) -> None:
    defaults = {"modality": "CT", "window": None, "cleanup": Cleanup(), "label_names": None}
    with pytest.raises(UserError, match=message):
        make_settings(**(defaults | options))


def test_order_of_ids_does_not_matter() -> None:
    assert cleanup_from([3, 1, 3], None, 0, 0) == cleanup_from([1, 3], [], 0, 0)
    comma = make_settings("CT", "40,400", Cleanup(), None)
    assert comma == make_settings("CT", "40/400", Cleanup(), None)
