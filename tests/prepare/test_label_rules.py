from pathlib import Path
from typing import Any

import pytest
import yaml

from medsam2_ft.errors import UserError
from medsam2_ft.io.label_values import AUTO, LabelValues
from medsam2_ft.prepare.cleanup import Cleanup
from medsam2_ft.prepare.label_rules import LabelRules, read_label_rules
from medsam2_ft.prepare.settings import make_settings

FULL = """
values:
  form: colours
  legend: {"#ff0000": 1, "00FF80": 2, "#000000": 0}
  tolerance: 8
  parts: objects
  key: masks/left
keep: [2, 1, 1]
drop: [3]
merge: {5: [1, 2]}
names: {5: cup, disc: 6, 0: background}
regions: {whole: [5, 6]}
min_voxels_3d: 10
min_pixels_2d: 4
instances_of: [5]
image_key: images/left
"""


ALIASES_OF_ALIASES = "".join(f"- &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))


def test_every_key(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(FULL)
    rules = read_label_rules(path)
    assert rules == LabelRules(
        values=LabelValues(
            form="colours",
            legend={(255, 0, 0): 1, (0, 255, 128): 2, (0, 0, 0): 0},
            tolerance=8,
            parts="objects",
            key="masks/left",
        ),
        cleanup=Cleanup(
            drop_labels=(3,),
            keep=(1, 2),
            merge={5: (1, 2)},
            min_voxels_3d=10,
            min_pixels_2d=4,
            instances_of=(5,),
        ),
        names={5: "cup", 6: "disc"},
        regions={"whole": (5, 6)},
        image_key="images/left",
    )
    assert read_label_rules(yaml.safe_load(FULL)) == rules
    content = make_settings("fundus", None, Cleanup(), None, path).to_json()
    assert content["values"]["legend"] == {"#ff0000": 1, "#00ff80": 2, "#000000": 0}
    assert content["cleanup"]["merge"] == {"5": [1, 2]}
    inline = make_settings("fundus", None, Cleanup(), None, yaml.safe_load(FULL)).to_json()
    assert inline == content


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"threshold": 0.5}, LabelValues(form="binary", threshold=0.5)),
        ({"background": 64}, LabelValues(form="ids", background=(64.0,))),
        ({"background": [0, 255]}, LabelValues(form="ids", background=(0.0, 255.0))),
        ({"legend": {"#010203": 4}}, LabelValues(form="colours", legend={(1, 2, 3): 4})),
        ({"parts": "objects"}, LabelValues(parts="objects")),
        ({"form": "channels"}, LabelValues(form="channels")),
    ],
)
def test_the_form_follows_from_its_keys(values: dict[str, Any], expected: LabelValues) -> None:
    assert read_label_rules({"values": values}).values == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must map rules to values"),
        ("[1]", "must map rules to values"),
        ("keep: [1", "cannot be read"),
        ("merge: {1: [2], 1: [3]}", "key '1' occurs twice"),
        ("keep: [1]\nkeep: [2]", "key 'keep' occurs twice"),
        ("regions: {all: [0, 1]}", "regions: all holds id 0"),
        ("kep: [1]", "unknown key 'kep'; did you mean keep?"),
        ("minimum: 4", "unknown key 'minimum'; "),
        ("values: {treshold: 4}", "values: unknown key 'treshold'; did you mean threshold?"),
        ("zzz: 4", "known are values, keep, drop"),
        ("keep: 1", "keep is 1; it must be a list"),
        ("keep: []", "it must be a list"),
        ("keep: [a]", "it must be a list"),
        ("keep: [true]", "it must be a list"),
        ("merge: [1, 2]", "must be {new id"),
        ("merge: {1: 2}", "merge: 1 is 2; it must be a list"),
        ("merge: {a: [2]}", "whole number"),
        ("min_voxels_3d: -1", "whole number"),
        ("min_pixels_2d: 1.5", "whole number"),
        ("names: {1: a}\nrename: {1: b}", "the same rule"),
        ("names: {whole: [1, 2]}", "put it under 'regions'"),
        ("regions: {whole: 1}", "it must be a list"),
        ("regions: [1]", "must be {name"),
        ("values: binary", "it must map"),
        ("values: {form: colour}", "must be one of auto, ids, binary, colours, channels"),
        ("values: {parts: files}", "must be one of objects, labels"),
        ("values: {form: colours}", "needs a legend"),
        ("values: {form: ids, threshold: 4}", "threshold has a meaning for form binary only"),
        ("values: {threshold: .nan}", "must be a number"),
        ("values: {threshold: 1, background: 2}", "has a meaning for form"),
        ("values: {form: ids, tolerance: 4}", "tolerance has a meaning for form colours only"),
        ("values: {background: []}", "is empty"),
        ("values: {legend: {000000: 1}}", "write it in quotes"),
        ("values: {legend: {red: 1}}", "'red' is no colour"),
        ("values: {legend: [1]}", "it must map colours"),
        ("values: {key: 3}", "it must be a text"),
        ("names: {1: 2001-13-45}", "month must be in 1..12"),
        ("keep: " + "[" * 5000 + "]" * 5000, "recursion"),
        ("keep: &ids [1]\ndrop: *ids", "aliases (*name) are not read"),
        ("keep:\n- &a0 [1]\n" + ALIASES_OF_ALIASES, "aliases (*name) are not read"),
    ],
)
def test_mistakes_name_the_file_and_the_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"rules\.yaml") as caught:
        read_label_rules(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"keep": [1, 2], "drop": [2]}, "label 2 is in --drop_labels and in keep"),
        ({"keep": [1], "merge": {1: [1, 2]}}, "label 2 is in merge but not in keep"),
        ({"keep": [1, 2, 3], "merge": {3: [1, 2]}}, r"3: \[1, 2, 3\]"),
        ({"drop": [1], "merge": {3: [1, 2]}}, "label 1 is in --drop_labels and in merge"),
        ({"merge": {3: [1, 2], 4: [2]}}, "label 2 into two labels"),
        ({"merge": {3: [1, 2]}, "instances_of": [1]}, "is merged into another"),
        ({"keep": [1], "instances_of": [2]}, "label 2 of --instances_of is not in keep"),
        ({"drop": [1], "instances_of": [1]}, "label 1 is in --drop_labels and in --instances_of"),
        ({"merge": {0: [1]}}, "merge names label 0"),
        ({"merge": {70000: [1]}}, "label ids end at 65535"),
        ({"keep": [0]}, "keep names label 0"),
    ],
)
def test_contradictions(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_settings("CT", None, Cleanup(), None, rules)


def test_options_win_over_the_file(tmp_path: Path) -> None:
    names = tmp_path / "names.yaml"
    names.write_text("{1: mine, all: [1]}")
    rules = {
        "drop": [1, 2],
        "min_voxels_3d": 10,
        "names": {1: "theirs", 2: "other"},
        "regions": {"all": [1, 2], "more": [2]},
    }
    settings = make_settings("CT", None, Cleanup(drop_labels=(3,)), names, rules)
    assert settings.cleanup == Cleanup(drop_labels=(3,), min_voxels_3d=10)
    assert settings.label_names == {1: "mine", 2: "other"}
    assert settings.regions == {"all": (1,), "more": (2,)}
    assert settings.values == AUTO
