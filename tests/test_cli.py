"""The command line: what it prints where, what it exits with, and how little it imports to say so."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from PIL import Image
from pydantic import Field

from segtasks.cli.entry import VERBS, run
from segtasks.cli.outcome import table
from segtasks.cli.schema import settings, type_text
from segtasks.cli.settings import parse_where
from segtasks.errors import ConfigError
from segtasks.models import unet
from segtasks.stages.config import InferConfig, TrainConfig


def out_of(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(arguments)
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def document_of(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """The exit code and the one JSON document that standard output holds."""
    code, out, _ = out_of(capfd, *arguments, "--json")
    assert out.count("\n") == 1
    return code, json.loads(out)


def test_help_imports_neither_torch_nor_ray_nor_prefect_nor_numpy() -> None:
    heavy = {"torch", "ray", "prefect", "pyarrow", "numpy"}
    code = f"import sys; from segtasks.cli.entry import run; run(['--help']); print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_json_and_its_line_in_the_overview(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = out_of(capfd, verb, "--help")
    assert code == 0
    assert out.startswith(f"Usage: segtasks {verb} ")
    assert "--json" in out
    assert re.search(rf"^  {verb} +{re.escape(VERBS[verb][1])}$", out_of(capfd, "--help")[1], re.MULTILINE)


@pytest.mark.parametrize(
    ("verb", "words"),
    {
        "ingest": "--source --format --output --limit --engine --address --workers --dry-run --json -c",
        "preprocess": "--data --output --limit --where --engine --address --workers --dry-run --json -c",
        "train": "--data --output --init-from --limit --where --engine --address --workers --dry-run --json -c",
        "infer": "--data --checkpoint --output --limit --where --engine --address --workers --dry-run --json -c",
        "evaluate": "--predictions --data --output --engine --address --workers --dry-run --json -c",
        "report": "--evaluation --output --json -c",
        "inspect": "--quarantine --output --json",
        "paths": "--split --json",
    }.items(),
)
def test_the_words_of_the_command_line_are_kept(verb: str, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    offered = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", out_of(capfd, verb, "--help")[1].partition("Settings (YAML")[0]))
    assert set(words.split()) <= offered


def test_help_shows_every_setting_with_its_default_and_the_models_description(capfd: pytest.CaptureFixture[str]) -> None:
    out = " ".join(out_of(capfd, "train", "--help")[1].split())
    for item in settings(TrainConfig):
        assert item.description in out
    assert "epochs=40 passes over the training split (int)" in out
    assert "augment.flip=0.5 probability of a left-right flip (number)" in out


def test_a_mistyped_command_option_setting_and_plugin_are_answered_with_the_nearest_name(capfd: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean 'infer'?" in out_of(capfd, "infr")[2]
    assert "Did you mean '--data'?" in out_of(capfd, "infer", "--dta", "x")[2]
    assert "epoch: unknown setting. Did you mean 'epochs'?" in out_of(capfd, "train", "--data", "a", "--output", "b", "epoch=3")[2]
    assert "no model is called 'unett'. Did you mean 'unet'?" in out_of(capfd, "models", "unett")[2]


@pytest.mark.parametrize(
    "arguments",
    [
        ("infr",),
        ("infer", "--dta", "x"),
        ("infer",),
        ("infer", "--data", "a", "--checkpoint", "b", "--output", "c", "batch_size=none"),
        ("train", "-c", "no-such.yaml"),
        ("run", "no-such.yaml"),
        ("ingest", "--source", "no-such", "--format", "folder", "--output", "x", "--engine", "local"),
        ("inspect", "no-such"),
        ("paths", "no-such"),
        ("verify", "no-such"),
        ("report", "--evaluation", "no-such", "--output", "x"),
        ("evaluate", "--predictions", "no-such", "--data", "no-such", "--output", "x", "--engine", "local"),
        ("infer", "--data", "ftpp://x/y", "--checkpoint", "b", "--output", "c"),
        ("infer", "--data", "a", "--checkpoint", "b", "--output", "c", "--engine", "local", "--address", "auto"),
        ("infer", "--data", "a", "--checkpoint", "b", "--output", "c", "--where", "val"),
        ("models", "no.such.module"),
    ],
    ids=" ".join,
)
def test_a_users_mistake_exits_2_with_its_message_and_no_traceback(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = out_of(capfd, *arguments)
    assert code == 2
    assert out == ""
    assert "rror: " in err
    assert "Traceback" not in err
    code, document = document_of(capfd, *arguments)
    assert code == 2
    assert document["exit_code"] == 2
    assert set(document) == {"error", "type", "exit_code"}
    assert document["error"] in " ".join(err.split("rror: ", 1)[1].split("\n")) or document["error"] in err


def test_our_own_fault_exits_1_with_a_traceback_and_says_whose_fault_it_is(tmp_path: Path) -> None:
    (tmp_path / "acme.py").write_text(
        "from segtasks.readers.folder import Config\ndef build(config, source, spec=None):\n    raise ZeroDivisionError('planted')\n"
    )
    arguments = ["ingest", "--source", ".", "--format", "acme.broken", "--output", "out", "--engine", "local", "--json"]
    package = tmp_path / "acme"
    package.mkdir()
    (tmp_path / "acme.py").rename(package / "broken.py")
    result = subprocess.run(
        [sys.executable, "-m", "segtasks.cli", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert json.loads(result.stdout) == {
        "error": "planted (a fault of segtasks, not yours: please report it)",
        "type": "ZeroDivisionError",
        "exit_code": 1,
    }


def test_with_json_standard_output_holds_the_document_alone_whatever_else_is_printed(tmp_path: Path) -> None:
    (tmp_path / "acme.py").write_text(
        "import os\nprint('imported')\nos.system('echo from a child')\n"
        "from segtasks.config import Config as Base\nclass Config(Base):\n    'C'\ndef build(config):\n    pass\n"
    )
    package = tmp_path / "noisy"
    package.mkdir()
    (tmp_path / "acme.py").rename(package / "net.py")
    result = subprocess.run(
        [sys.executable, "-m", "segtasks.cli", "models", "noisy.net", "--json"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout)["name"] == "noisy.net"
    assert "imported" in result.stderr
    assert "from a child" in result.stderr


def test_a_reader_that_closes_the_pipe_early_is_no_error() -> None:
    script = f"{sys.executable} -m segtasks.cli models | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("kind", "name"), {"models": "unet", "losses": "weighted_cross_entropy", "readers": "folder", "metrics": "confusion"}.items()
)
def test_plugins_are_listed_with_what_they_are_and_describe_their_options(kind: str, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    _, listed = document_of(capfd, kind)
    about = {item["name"]: item["about"] for item in listed[kind]}
    assert about[name]
    code, described = document_of(capfd, kind, name)
    assert (code, described["about"]) == (0, about[name])
    _, text, _ = out_of(capfd, kind, name)
    for field in described["schema"]["properties"].values():
        assert field["description"] in text


def test_a_plugins_table_shows_option_type_default_and_description(capfd: pytest.CaptureFixture[str]) -> None:
    _, text, _ = out_of(capfd, "models", "unet")
    field = unet.Config.model_fields["width"]
    assert re.search(rf"^width +int +{field.default} +{re.escape(field.description or '')}$", text, re.MULTILINE)


def test_where_collects_the_values_of_a_repeated_key() -> None:
    assert parse_where(["split=val", "city=a", "city=b=c"]) == {"split": "val", "city": ["a", "b=c"]}
    with pytest.raises(ConfigError, match="'val' is not key=value"):
        parse_where(["val"])


def test_a_later_source_of_settings_counts_file_then_option_then_key_value(tmp_path: Path) -> None:
    from segtasks.cli.settings import load

    file = tmp_path / "infer.yaml"
    file.write_text("data: file\ncheckpoint: file\noutput: file\nengine: {name: local, workers: 1}\nlimit: 1\n")
    given = {"checkpoint": "option", "output": "option", "workers": 2, "limit": None, "where": ()}
    config = load(InferConfig, str(file), given, ["output=argument", "engine.workers=3"])
    assert (config.data, config.checkpoint, config.output) == ("file", "option", "argument")
    assert (config.engine.name, config.engine.workers, config.limit, config.where) == ("local", 3, 1, {})


def test_tables_align_numbers_to_the_right_and_text_to_the_left() -> None:
    assert table([["sky", 1, 0.5], ["road", 1200, None]], ("class", "pixels", "IoU")) == [
        "class  pixels     IoU",
        "sky         1  0.5000",
        "road    1,200       -",
    ]


PIPELINE = "output: out\nsource: images\nformat: folder\nengine: {name: local}\ntrain: {epochs: 3}\n"


def test_a_pipelines_dry_run_prints_every_stages_settings_and_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(PIPELINE)
    code, document = document_of(capfd, "run", "run.yaml", "--dry-run", "--workers", "2", "train.epochs=5")
    assert (code, list(document)) == (0, ["ingest", "preprocess", "train", "infer", "evaluate", "report"])
    assert (document["train"]["epochs"], document["infer"]["engine"]["workers"]) == (5, 2)
    assert document["infer"]["checkpoint"] == "out/model"
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_a_pipeline_with_a_wrong_section_exits_2_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(PIPELINE)
    assert "train.epoch: unknown setting. Did you mean 'epochs'?" in out_of(capfd, "run", "run.yaml", "train.epoch=5")[2]
    code, document = document_of(capfd, "run", "run.yaml", "infer.checkpoint=elsewhere")
    assert (code, document["type"]) == (2, "ConfigError")
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize(
    ("missing", "arguments", "advice"),
    [
        ("prefect", ["run", "run.yaml"], "pip install prefect, or run the stages one by one"),
        ("ray", ["ingest", "--source", "images", "--format", "folder", "--output", "out"], "or use --engine local"),
    ],
)
def test_without_prefect_or_ray_the_way_around_is_named(missing: str, arguments: list[str], advice: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(PIPELINE)
    (tmp_path / "images" / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "images" / "a.png")
    code = f"""
import sys
sys.modules[{missing!r}] = None
from segtasks.cli.entry import run
sys.exit(run({arguments!r}))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert advice in result.stderr
    assert "Traceback" not in result.stderr


def test_bounds_on_a_sequences_items_do_not_hide_their_type() -> None:
    assert type_text(tuple[Annotated[int, Field(ge=1)], ...]) == "[int, ...]"
