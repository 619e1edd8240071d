import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsam2_ft.errors import UserError
from medsam2_ft.prepare.patterns import MAX_READINGS, Pattern, parse_pattern


def pattern(text: str) -> Pattern:
    return parse_pattern(text, "--image_glob")


def named(text: str, path: str) -> list[dict[str, str]]:
    return [
        {name: value for name, value in reading.items() if name[0] != "*"}
        for reading in pattern(text).readings(path)
    ]


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("{case}.nii.gz", "a.nii.gz", [{"case": "a"}]),
        ("{case}.nii.gz", "d/a.nii.gz", []),
        ("{case}/{case}_{seq}.nii", "a_b/a_b_t1_x.nii", [{"case": "a_b", "seq": "t1_x"}]),
        ("{case}/{case}_{seq}.nii", "a/b_t1.nii", []),
        ("{a}_{b}.nii", "x_y_z.nii", [{"a": "x", "b": "y_z"}, {"a": "x_y", "b": "z"}]),
        ("**/{case}_seg.nii", "p/q/c_seg.nii", [{"case": "c"}]),
        ("**/{case}_seg.nii", "c_seg.nii", [{"case": "c"}]),
        ("*/{case}.nii", "c.nii", []),
        ("im[0-4]{n}?.png", "im3xyz.png", [{"n": "xy"}]),
        ("im[0-4]{n}?.png", "im5xyz.png", []),
        ("{case:0[0-4]??}.nii", "0399.nii", [{"case": "0399"}]),
        ("{case:0[0-4]??}.nii", "0599.nii", []),
        ("{case}_mask{object}.png", "x_mask.png", [{"case": "x", "object": ""}]),
        ("{case}_mask{object}.png", "x_mask_1.png", [{"case": "x", "object": "_1"}]),
        ("{case}{n}.png", "x.png", []),
        ("a(b).{n}", "a(b).nii", [{"n": "nii"}]),
    ],
)
def test_readings(text: str, path: str, expected: list[dict[str, str]]) -> None:
    assert named(text, path) == expected


def test_a_frame_that_is_a_number_goes_first() -> None:
    assert named("{clip}_{frame}.png", "clip_1_0007.png")[0] == {"clip": "clip_1", "frame": "0007"}


@given(st.lists(st.sampled_from(["{a}", "{b}", "_", "x", "/"]), min_size=1, max_size=6),
       st.text("x_/", min_size=1, max_size=7))  # fmt: skip
def test_a_path_matches_where_the_same_regular_expression_does(
    pieces: list[str], path: str
) -> None:
    text = "".join(pieces).lstrip("/")
    if not text:
        return
    expression, seen = "", set()
    for piece in re.findall(r"\{.\}|.", text):
        name = piece[1] if piece[0] == "{" else ""
        expression += (
            re.escape(piece)
            if not name
            else f"(?P={name})"
            if name in seen
            else f"(?P<{name}>[^/]+)"
        )
        seen.add(name)
    readings = named(text, path)
    assert bool(readings) == bool(re.fullmatch(expression, path))
    assert all(pattern(text).filled(reading) == path for reading in readings)


def test_the_glob_finds_what_the_pattern_reads(tmp_path: Path) -> None:
    for name in ("a/a_t1.nii", "b/b_t1.nii", "c.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {
        p.relative_to(tmp_path).as_posix() for p in tmp_path.glob(pattern("{c}/{c}{s}.nii").glob)
    }
    assert found == {"a/a_t1.nii", "b/b_t1.nii"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{a,b}.nii", "alternatives"),
        ("{a.nii", "no placeholder"),
        ("a}.nii", "no placeholder"),
        ("{}.nii", "no placeholder"),
        ("{1}.nii", "no placeholder"),
        ("/x/{a}.nii", "below the input folder"),
        ("../{a}.nii", "below the input folder"),
        ("", "below the input folder"),
        ("**.png", "whole folders"),
        ("**/{a}**/x.png", "whole folders"),
        ("a**/{b:x*}.png", "whole folders"),
    ],
)
def test_wrong_patterns(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pattern(text)


def test_a_vague_pattern_is_refused() -> None:
    with pytest.raises(UserError, match=f"more than {MAX_READINGS} ways"):
        pattern("{a}{b}{c}{d}").readings("x" * 60)
