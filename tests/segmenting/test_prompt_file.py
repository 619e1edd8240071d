"""Prompts from JSON and CSV files."""

import json
from pathlib import Path
from typing import Any

import pytest

from medsam2_ft.errors import UserError
from medsam2_ft.segmenting.given import Given
from medsam2_ft.segmenting.prompt_file import read_prompt_file

BOX = {"kind": "box", "coordinates": [1, 2, 3, 4], "slice": 5}


def read(path: Path, content: Any) -> list[Given]:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_prompt_file(path, "voxels", "lps")


def test_json_and_csv_say_the_same(tmp_path: Path) -> None:
    entries = [
        {"case": "a", "object": 2, "name": "left lung", **BOX, "first": 3, "last": 9},
        {"case": "b", "kind": "box", "coordinates": [1, 2, 3, 4, 5, 6.5]},
        {"case": "b", "kind": "point", "coordinates": [1, 2, 3], "label": 0},
    ]
    table = (
        "case,object,name,kind,coordinates,slice,label,first,last\n"
        "a,2,left  lung,box,1 2 3 4,5,,3,9\n"
        "b,,,box,1 2 3 4 5 6.5,,,,\n"
        "\n"
        "b,,,point,1 2 3,,0,,\n"
    )
    of_json = read(tmp_path / "p.json", entries)
    of_csv = read(tmp_path / "p.csv", table)
    blank = [Given("", *_facts(prompt)) for prompt in of_json]
    assert blank == [Given("", *_facts(prompt)) for prompt in of_csv]
    first, second, third = of_json
    assert first == Given(
        f"{tmp_path / 'p.json'}: entry 1", "box2d", (1.0, 2.0, 3.0, 4.0), 2, 5.0,
        name="left lung", case="a", span=(3, 9),
    )  # fmt: skip
    assert (second.kind, second.object_id, second.slice, second.span) == ("box3d", 1, None, None)
    assert (third.kind, third.label) == ("point3d", 0)
    assert of_csv[2].where.endswith("p.csv: line 5")


def _facts(prompt: Given) -> tuple[Any, ...]:
    return (
        prompt.kind, prompt.values, prompt.object_id, prompt.slice, prompt.label, prompt.name,
        prompt.case, prompt.span, prompt.units, prompt.world,
    )  # fmt: skip


def test_a_file_may_say_its_units(tmp_path: Path) -> None:
    (stated,) = read(tmp_path / "p.json", {"units": "mm", "world": "ras", "prompts": [BOX]})
    assert (stated.units, stated.world) == ("mm", "ras")
    (plain,) = read_prompt_file(tmp_path / "p.json", "voxels", "lps")
    assert (plain.units, plain.world) == ("mm", "ras")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not JSON"),
        ("[" * 100000, "is not JSON"),
        ([], "holds no prompt"),
        ({"prompts": {}}, "no list of prompts"),
        ({"prompt": [BOX]}, "did you mean prompts"),
        ({"units": "cm", "prompts": [BOX]}, "units 'cm' is none of voxels, mm"),
        ([1], "entry 1 is no object"),
        ([{**BOX, "slcie": 4}], "did you mean slice"),
        ([{**BOX, "kind": "circle"}], "neither box nor point"),
        ([{**BOX, "coordinates": [1, 2, 3]}], "has 3 coordinates; a box has 4 or 6"),
        ([{**BOX, "coordinates": [1, 2, "x", 4]}], "not finite numbers"),
        ([{**BOX, "coordinates": [1, 2, True, 4]}], "no list of numbers"),
        ([{**BOX, "coordinates": None}], "no list of numbers"),
        ([{**BOX, "coordinates": [1, 2, 3, 10**400]}], "not finite numbers"),
        ([{**BOX, "coordinates": [1, 2, 3, 4, 5, 6]}], "say the slice already"),
        ([{**BOX, "label": 1}], "a box has no label"),
        ([{**BOX, "first": 1}], "both first and last"),
        ([{**BOX, "object": 0}], "object 0 is not a number"),
        ([{**BOX, "object": 1.5}], "no whole number"),
        ([{"kind": "point", "coordinates": [1, 2, 3], "label": 2}], "label 2 is neither"),
    ],
)
def test_entries_that_make_no_sense(tmp_path: Path, content: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        read(tmp_path / "p.json", content)
    assert str(caught.value).startswith(str(tmp_path / "p.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("kind,coordinates\nbox,1 2 3 4,5\n", "line 2: has more or fewer cells"),
        ("kind,coordinates,slice\nbox,1 2 3 4\n", "line 2: has more or fewer cells"),
        ("kind,coords\nbox,1 2 3 4\n", "did you mean coordinates"),
        ('kind,coordinates\nbox,"1 2 3 4\n', "is not CSV"),
        ("", "holds no prompt"),
    ],
)
def test_tables_that_make_no_sense(tmp_path: Path, content: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read(tmp_path / "p.csv", content)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_prompt_file(tmp_path / "none.json", "voxels", "lps")
    with pytest.raises(UserError, match=r"\.json and \.csv"):
        read(tmp_path / "p.txt", "[]")
    (tmp_path / "p.json").write_bytes(b"\xff\xfe[")
    with pytest.raises(UserError, match="UTF-8"):
        read_prompt_file(tmp_path / "p.json", "voxels", "lps")


def test_the_examples_of_the_documentation(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "segment.md").read_text()
    blocks = text.split("### Prompt files")[1].split("```")
    of_json = read(tmp_path / "p.json", blocks[1].removeprefix("json\n"))
    of_csv = read(tmp_path / "p.csv", blocks[3].lstrip("\n"))
    assert [prompt.kind for prompt in of_json] == ["box2d", "box3d", "point3d"]
    assert [_facts(prompt) for prompt in of_csv] == [_facts(of_json[0]), _facts(of_json[2])]
