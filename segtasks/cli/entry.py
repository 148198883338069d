"""From arguments to an exit code: 0 ok, 1 our fault, 2 configuration or input, 3 below a threshold, 130 and 143 on a signal.

With `--json`, standard output holds one JSON document, a result or an error, whatever libraries print meanwhile.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import IO, Any, NoReturn

import click

from segtasks import __version__
from segtasks.cli.outcome import Outcome
from segtasks.errors import SegtasksError, did_you_mean
from segtasks.signals import EXIT_CODE as TERMINATED
from segtasks.signals import sigterm_as_exit

VERBS = {  # verb -> where its command is, and its line in the overview
    "ingest": ("segtasks.cli.stages:ingest", "Read a data set in its own layout into shards of samples."),
    "preprocess": ("segtasks.cli.stages:preprocess", "Bring images and masks to one size."),
    "train": ("segtasks.cli.stages:train", "Train a model on a shard set."),
    "infer": ("segtasks.cli.stages:infer", "Predict masks for every image of a shard set."),
    "evaluate": ("segtasks.cli.stages:evaluate", "Compare predictions with the truth."),
    "report": ("segtasks.cli.stages:report", "Make one HTML page of an evaluation."),
    "run": ("segtasks.cli.pipeline:run", "Run the whole pipeline through Prefect."),
    "export-data": ("segtasks.cli.export_data:export_data", "Write samples or predictions in a format of other tools."),
    "check": ("segtasks.cli.check:check", "Say what is wrong with a data set."),
    "inspect": ("segtasks.cli.look:inspect", "Counts, classes and provenance of a shard set or a checkpoint."),
    "paths": ("segtasks.cli.look:paths", "Print the Parquet files of a shard set."),
    "verify": ("segtasks.cli.look:verify", "Re-hash and re-prove a shard set."),
    "compact": ("segtasks.cli.compact:compact", "Merge the small shards of a data set."),
    "sweep": ("segtasks.cli.sweep:sweep", "List, and remove, what killed runs left behind."),
    "readers": ("segtasks.cli.plugins:readers", "List the source formats, or the settings of one."),
    "writers": ("segtasks.cli.plugins:writers", "List the formats to export to, or the settings of one."),
    "models": ("segtasks.cli.models:models", "List the models, or the settings of one."),
    "losses": ("segtasks.cli.plugins:losses", "List the losses, or the settings of one."),
    "metrics": ("segtasks.cli.plugins:metrics", "List the metrics, or the settings of one."),
    "sample": ("segtasks.cli.sample:sample", "Make a small data set with masks to try things on."),
}


class Verbs(click.Group):
    """Commands that are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise click.UsageError(f"no command is called {args[0]!r}.{did_you_mean(args[0], VERBS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="segtasks")
def cli() -> None:
    """Batch workflows for image segmentation: data set -> shards -> training -> masks in Parquet -> evaluation -> report.

    Settings come from a YAML file (-c), from options, and from key=value arguments, the later ones first.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the console script."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; nothing is raised."""
    as_json = "--json" in arguments
    with result_stream(as_json) as out, sigterm_as_exit():
        try:
            outcome = cli.main(list(arguments), prog_name="segtasks", standalone_mode=False)
            if isinstance(outcome, Outcome):
                outcome.write(out, as_json=as_json)
                return outcome.code
            return outcome if isinstance(outcome, int) else 0
        except click.UsageError as error:
            if not as_json:
                error.show()
            return failed(out, as_json, error.format_message(), error, 2, say=False)
        except (click.Abort, KeyboardInterrupt) as error:  # click turns the one into the other
            return failed(out, as_json, "interrupted; what is committed stays, the same command goes on from there", error, 130)
        except BrokenPipeError:
            # the reader of `segtasks paths | head` has what it wanted; the interpreter must not try to flush again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except SegtasksError as error:
            return failed(out, as_json, str(error), error, error.exit_code)
        except SystemExit as error:
            if error.code == TERMINATED:
                return failed(out, as_json, "terminated; what is committed stays, the same command goes on from there", error, TERMINATED)
            return error.code if isinstance(error.code, int) else 1
        except Exception as error:  # noqa: BLE001 - the last line of defence
            traceback.print_exc(file=sys.stderr)
            return failed(out, as_json, f"{error or type(error).__name__} (a fault of segtasks, not yours: please report it)", error, 1)


def failed(out: IO[str], as_json: bool, message: str, error: BaseException, code: int, *, say: bool = True) -> int:
    """Tell the user, in JSON on `out` too if that was asked for; returns the code."""
    if say:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {message}", err=True)
    if as_json:
        document: dict[str, Any] = {"error": message, "type": type(error).__name__, "exit_code": code}
        for key in ("reasons", "differences"):
            if getattr(error, key, ()):
                document[key] = list(getattr(error, key))
        json.dump(document, out)
        out.write("\n")
    return code


@contextlib.contextmanager
def result_stream(as_json: bool) -> Iterator[IO[str]]:
    """Standard output; for JSON a private copy of it, while everything else that is printed goes to standard error."""
    if not as_json:
        yield sys.stdout
        return
    sys.stdout.flush()
    ours = os.dup(1)
    try:
        os.dup2(2, 1)
        with open(ours, "w", encoding="utf-8", closefd=False) as out:
            yield out
    finally:
        sys.stdout.flush()
        os.dup2(ours, 1)
        os.close(ours)
