"""What the pages promise is there: commands, options, links, examples."""

from __future__ import annotations

import re
import types
from pathlib import Path

import click
import pytest
import yaml

from segtasks.cli.entry import VERBS, cli
from segtasks.config import load_yaml, validate
from segtasks.readers._describe import parse
from segtasks.stages.config import PipelineConfig
from segtasks.stages.pipeline import stage_configs
from segtasks.testing.models import check_model

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOR_USERS = [ROOT / "README.md", *(ROOT / "docs" / name for name in ("data.md", "operations.md", "adding.md"))]


def options_of(verb: str) -> set[str]:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


@pytest.mark.parametrize("page", FOR_USERS, ids=lambda page: page.name)
def test_every_command_and_option_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"segtasks ([a-z]+(?:-[a-z]+)*)([^\n`|#]*)", re.sub(r"pip install[^\n]*", "", page.read_text()))
    commands = [(verb, rest) for verb, rest in named if verb in VERBS or "--" in rest]
    assert commands
    for verb, rest in commands:
        assert verb in VERBS, f"segtasks {verb}{rest}"
        assert set(re.findall(r"--[a-z-]+", rest)) <= options_of(verb), f"segtasks {verb}{rest}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_first_run_of_the_readme_is_a_valid_pipeline() -> None:
    description, pipeline = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert [item.name for item in parse(description.encode(), "README.md").classes] == ["road", "car", "other"]
    configs = stage_configs(validate(PipelineConfig, yaml.safe_load(pipeline)))
    assert (configs.ingest.source, configs.train.epochs) == ("street", 20)


def test_the_demos_configuration_is_a_valid_pipeline_of_what_the_makefile_makes() -> None:
    config = validate(PipelineConfig, load_yaml(str(ROOT / "infra" / "demo.yaml")))
    stage_configs(config)
    assert f"sample --output {config.source}\n" in (ROOT / "Makefile").read_text()


def test_the_model_in_the_page_on_plugins_keeps_the_contract_of_models() -> None:
    block = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "adding.md").read_text(), re.DOTALL)
    assert block
    module = types.ModuleType("tiny")
    exec(compile(block[1], "docs/adding.md", "exec"), module.__dict__)
    check_model(module)


def test_every_package_that_pyproject_names_is_justified() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(item for items in project["optional-dependencies"].values() for item in items)]
    reasons = (ROOT / "docs" / "decisions" / "0001-dependencies.md").read_text().lower()
    names = [re.split(r"[\[<>=]", item)[0].lower() for item in wanted]
    aliases = {"types-pyyaml": "mypy"}
    assert [name for name in names if aliases.get(name, name) not in reasons and name.replace("pytest-", "") not in reasons] == []


def test_every_pinned_version_is_allowed_by_pyproject() -> None:
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(item for items in project["optional-dependencies"].values() for item in items)]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    assert len(pinned) == len(lines)
    for text in wanted:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), text
