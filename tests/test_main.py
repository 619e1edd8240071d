"""The console script: its table, its help, and how it answers mistakes."""

import argparse
import importlib
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from medsam2_ft import __version__
from medsam2_ft.__main__ import COMMANDS, dispatch, main
from medsam2_ft.command import run_command
from medsam2_ft.entry import closest_name, explain_unknown_option, run
from medsam2_ft.errors import UserError

HEAVY = ("torch", "lightning", "monai", "albumentations", "matplotlib", "wandb", "sam2")

TOKENS = [
    "a",
    "--size",
    "512",
    "--labels",
    "[1]",
    "--config",
    "--print_config",
    "--help",
    "--",
    "-",
]


def sample(
    folder: Path,
    *,
    size: Literal[256, 512] = 256,
    overwrite: bool = False,
    keep: bool = True,
    labels: list[int] | None = None,
) -> None:
    """Do something with a folder.

    A second paragraph.

    Args:
        folder: Where.
        size: How large.
        overwrite: Replace files.
        keep: Keep files.
        labels: Which labels.
    """
    sample.got = (folder, size, overwrite, keep, labels)


def error_line(capsys: pytest.CaptureFixture[str], args: list[str]) -> str:
    """The one line that a mistake prints, after checking that nothing else was printed."""
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def imported_by(args: list[str]) -> set[str]:
    """Heavy packages that are in memory after the command has run in a new process."""
    code = (
        "import sys\nfrom medsam2_ft.__main__ import main\n"
        f"try:\n    main({args!r})\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


class TestOverview:
    def test_lists_every_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--help"]) == 0
        shown = capsys.readouterr().out
        assert all(
            f"\n  {name} " in shown and entry.summary in shown for name, entry in COMMANDS.items()
        )

    @pytest.mark.parametrize("args", [[], ["-h"]])
    def test_is_shown_without_a_command(
        self, args: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(args) == 0
        assert capsys.readouterr().out.startswith("usage: medsam2-ft COMMAND")

    def test_imports_nothing_heavy_and_takes_less_than_a_second(self) -> None:
        assert imported_by(["--help"]) == set()
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "medsam2_ft", "--help"], check=True, capture_output=True
            )
            seconds.append(time.perf_counter() - start)
        assert min(seconds) < 1.0

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--version"]) == 0
        assert capsys.readouterr().out == f"medsam2-ft {__version__}\n"


class TestCommands:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_help_names_every_parameter(
        self, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0
        entry = COMMANDS[name]
        function = getattr(importlib.import_module(entry.module), entry.function)
        shown = capsys.readouterr().out
        assert f"usage: medsam2-ft {name}" in shown
        parameters = [key for key in function.__annotations__ if key != "return"]
        assert all(parameter in shown for parameter in parameters)
        # every option and positional carries the text of its Args entry
        assert not [key for key in parameters if f"    {key}: " not in (function.__doc__ or "")]

    @pytest.mark.parametrize("name", COMMANDS)
    def test_help_imports_nothing_heavy(self, name: str) -> None:
        assert imported_by([name, "--help"]) == set()

    @pytest.mark.parametrize("name", COMMANDS)
    def test_unknown_option(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        positionals = {"prepare": ["a", "b", "c", "--modality", "CT"], "export": ["a.ckpt"]}
        line = error_line(capsys, [name, *positionals.get(name, []), "--no-such-option", "3"])
        assert "--no-such-option" in line
        assert f"medsam2-ft {name} --help" in line

    def test_unknown_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "did you mean export?" in error_line(capsys, ["exprt"])
        assert "there are demo, prepare" in error_line(capsys, ["xyz"])

    def test_module_runs_as_script(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "medsam2_ft", "doctr"],
            check=False,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert "did you mean doctor?" in done.stderr


class TestRunCommand:
    def test_positionals_flags_and_lists(self) -> None:
        args = ["there", "--size", "512", "--overwrite", "--no_keep", "--labels", "1", "3"]
        run_command(sample, "prog sample", args)
        assert sample.got == (Path("there"), 512, True, False, [1, 3])

    def test_values_from_yaml_and_options_win(self, tmp_path: Path) -> None:
        config = tmp_path / "values.yaml"
        config.write_text(yaml.safe_dump({"folder": "there", "size": 512, "overwrite": True}))
        run_command(sample, "prog", ["--config", str(config), "--size", "256"])
        assert sample.got == (Path("there"), 256, True, True, None)

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            ([], "folder"),
            (["a", "--sizee", "512"], "did you mean --size?"),
            (["a", "--siz", "512"], "did you mean --size?"),  # no silent abbreviations
            (["a", "--size", "300"], "300"),
            (["a", "--size=300"], "size"),
            (["a", "--overwrite=maybe"], "--overwrite"),
            (["a", "b"], "b"),
            (["a", "--labels", "liver"], "liver"),
            (["a", "--config", "absent.yaml"], "absent.yaml"),
        ],
    )
    def test_mistakes(self, args: list[str], said: str) -> None:
        with pytest.raises(UserError, match="see prog sample --help") as error:
            run_command(sample, "prog sample", args)
        assert said in str(error.value)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"\x9e\x00", "not a YAML file"),
            (b"folder: [1,", "Problems parsing config"),
            (b"- 1", "Unexpected config"),
            (b"", "Unexpected config"),
            (b"size: many", "many"),
        ],
    )
    def test_bad_yaml_is_named(self, content: bytes, said: str, tmp_path: Path) -> None:
        config = tmp_path / "values.yaml"
        config.write_bytes(content)
        with pytest.raises(UserError, match=r"values\.yaml") as error:
            run_command(sample, "prog", ["a", "--config", str(config)])
        assert said in str(error.value)

    def test_unknown_key_in_yaml(self, tmp_path: Path) -> None:
        config = tmp_path / "values.yaml"
        config.write_text("sizee: 512")
        with pytest.raises(UserError, match=r"'sizee' .*did you mean size\?"):
            run_command(sample, "prog", ["a", "--config", str(config)])

    @given(st.lists(st.text(max_size=8) | st.sampled_from(TOKENS), max_size=6))
    def test_any_arguments_run_or_are_refused(self, args: list[str]) -> None:
        with patch("sys.stdin", StringIO("")):  # what `--config -` reads
            try:
                code = run(lambda: run_command(sample, "prog", args))
            except SystemExit as stop:  # --help and --print_config
                code = stop.code
        assert code in {0, 2}


class TestRun:
    @pytest.mark.parametrize(
        "error",
        [UserError("case.npz: no\n  imgs"), argparse.ArgumentError(None, "case.npz: no imgs")],
    )
    def test_mistakes_become_one_line(
        self, error: Exception, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail() -> None:
            raise error

        assert run(fail) == 2
        assert capsys.readouterr().err == "error: case.npz: no imgs\n"

    def test_mistake_without_a_message_names_its_type(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail() -> None:
            raise UserError

        assert run(fail) == 2
        assert capsys.readouterr().err == "error: UserError\n"

    def test_types_are_put_in_words(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(lambda: run_command(sample, "prog", ["a", "--size", "300"])) == 2
        said = "error: --size: Expected a Literal[256, 512]. Got value: 300; see prog --help\n"
        assert capsys.readouterr().err == said
        assert run(lambda: run_command(sample, "prog", ["a", "--labels", "[liver]"])) == 2
        assert "<class" not in capsys.readouterr().err

    def test_optional_choices_are_put_in_words(self, capsys: pytest.CaptureFixture[str]) -> None:
        def command(kind: Literal["CT", "MR"] | None = None) -> None:
            """A command."""

        assert run(lambda: run_command(command, "prog", ["--kind", "OCTT"])) == 2
        said = "error: --kind: Expected a Literal['CT', 'MR']. Got value: OCTT; see prog --help\n"
        assert capsys.readouterr().err == said

    def test_interrupt(self, capsys: pytest.CaptureFixture[str]) -> None:
        def stop() -> None:
            raise KeyboardInterrupt

        assert run(stop) == 130
        assert capsys.readouterr().err == "interrupted\n"

    def test_defects_keep_their_traceback(self) -> None:
        def defect() -> None:
            raise ValueError("not the user's fault")

        with pytest.raises(ValueError, match="not the user's fault"):
            run(defect)

    def test_a_result_is_not_an_exit_code(self) -> None:
        assert run(lambda: 3) == 0

    def test_other_exit_codes_pass(self) -> None:
        with pytest.raises(SystemExit) as stop:
            run(lambda: sys.exit(1))
        assert stop.value.code == 1


def test_explain_unknown_option() -> None:
    known = ["--data.batch_size", "--model.lr_encoder"]
    said = explain_unknown_option(
        "unrecognized arguments: 3 --data.batchsize=/a/long/value/of/it -x", known
    )
    assert said.endswith("-x (did you mean --data.batch_size?)")
    assert explain_unknown_option(said, known) == said
    assert explain_unknown_option("unrecognized arguments: --zzz", known).endswith("--zzz")
    for text in (
        "Option 'fit.data.batchsize' is not accepted",
        "Subcommand 'fit' does not accept option 'data.batchsize'",
    ):
        assert explain_unknown_option(text, known) == f"{text} (did you mean data.batch_size?)"
    assert explain_unknown_option("--data.batchsize is wrong", known) == "--data.batchsize is wrong"


def test_closest_name() -> None:
    assert closest_name("dr", []) is None
    assert closest_name("doctr", COMMANDS) == "doctor"


def test_dispatch_raises_for_callers() -> None:
    with pytest.raises(UserError, match="unknown command"):
        dispatch(["nothing"])
