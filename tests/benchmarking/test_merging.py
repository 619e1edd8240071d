"""Shards and runs of different models become one table."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from result_files import rows_of, scores_of, slices_of

from medsam2_ft.commands.evaluate import evaluate
from medsam2_ft.commands.report import report
from medsam2_ft.errors import UserError


def test_shards_merge_to_the_table_of_one_run(
    mixed: Path, tiny_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"models": [str(tiny_export)], "device": "cpu", "figures": False}
    evaluate([mixed], out=tmp_path / "whole", **options)
    out = tmp_path / "parts"
    for number in (3, 1):
        evaluate([mixed], out=out, shard=f"{number}/3", **options)
    assert not (out / "results.csv").exists()
    assert "2 of 3 shards are finished" in capsys.readouterr().out
    with pytest.raises(UserError, match="shards 2 of 3 are not finished"):
        report([out])
    evaluate([mixed], out=out, shard="2/3", **options)
    assert scores_of(out) == scores_of(tmp_path / "whole")
    assert slices_of(out) == slices_of(tmp_path / "whole")
    parts = [len(rows_of(out / "shards" / f"{n}-of-3")) for n in (1, 2, 3)]
    assert sum(parts) == len(rows_of(out))
    assert sorted(parts)[1] > 0
    whole, merged = (
        json.loads((f / "summary.json").read_text()) for f in (tmp_path / "whole", out)
    )
    assert merged["groups"] == whole["groups"]
    (out / "results.csv").unlink()
    report([out], overlays=1)
    assert (out / "figures/comparison.png").is_file()
    assert scores_of(out) == scores_of(tmp_path / "whole")
    with pytest.raises(UserError, match="holds shards"):
        evaluate([mixed], out=out, **options)
    with pytest.raises(UserError, match="3 and 4 parts"):
        evaluate([mixed], out=out, shard="1/4", **options)


def test_runs_of_different_models_are_merged(
    volumes: Callable[[int], Path], tiny_export: Path, other_export: Path, tmp_path: Path
) -> None:
    data = volumes(7)
    options: dict[str, Any] = {"device": "cpu", "figures": False}
    evaluate([data], models=[str(tiny_export), str(other_export)], out=tmp_path / "both", **options)
    evaluate([data], models=[str(tiny_export)], out=tmp_path / "a", **options)
    evaluate([data], models=[str(other_export)], out=tmp_path / "b", **options)
    report([tmp_path / "a", tmp_path / "b"], out=tmp_path / "merged", overlays=0)
    assert scores_of(tmp_path / "merged") == scores_of(tmp_path / "both")
    merged = json.loads((tmp_path / "merged/summary.json").read_text())
    (group,) = merged["groups"]
    assert group["differences"][0]["test"]["n"] == 7
    assert 0 < group["differences"][0]["p_holm"] <= 1
    assert (tmp_path / "merged/figures/comparison.png").is_file()


def test_what_cannot_be_compared_is_refused(
    volumes: Callable[[int], Path], tiny_export: Path, other_export: Path, tmp_path: Path
) -> None:
    data = volumes(3)
    one: dict[str, Any] = {"models": [str(tiny_export)], "device": "cpu", "figures": False}
    other = one | {"models": [str(other_export)]}
    evaluate([data], out=tmp_path / "a", **one)
    evaluate([data], out=tmp_path / "noise", box_noise_px=9, **other)
    evaluate([data], out=tmp_path / "fewer", limit=2, **other)
    evaluate([data], out=tmp_path / "same_name", **one | {"models": [f"tiny={other_export}"]})
    for name, said in (
        ("noise", "box_noise_px 0 and 9"),
        ("fewer", r"1 cases only in the first \(data/case2"),
        ("same_name", "tiny is not the same model"),
        ("absent", "holds no results"),
    ):
        with pytest.raises(UserError, match=said):
            report([tmp_path / "a", tmp_path / name], out=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    with pytest.raises(UserError, match="--out is missing"):
        report([tmp_path / "a", tmp_path / "noise"])
