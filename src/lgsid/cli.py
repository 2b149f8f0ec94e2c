"""The command line: one command per stage, heavy imports inside, errors as one message and its fix."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lgsid.errors import LgsidError

if TYPE_CHECKING:
    from lgsid.artifact import RunFolder, Stage
    from lgsid.config import RunConfig

app = typer.Typer(
    name="lgsid",
    help="Geographic semantic IDs: short codes that know what an item is and where it is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change one configuration key; repeatable.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would run, and do nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder made by 'lgsid run'.")]


def main() -> None:
    """Entry point: errors that a user can mend end in a message and exit code 1, not in a traceback."""
    try:
        app()
    except LgsidError as error:
        if "--json" in sys.argv:
            _print_json({"error": type(error).__name__, "message": error.message, "fix": error.fix})
        else:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


@app.command()
def run(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="A YAML file; without one, the simulated world.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder (default: runs/NAME).")] = None,
    set_: Set = [],  # noqa: B006
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run all stages: tables, embeddings, geographic semantic IDs, report. Resumes; skips what is already done."""
    from lgsid.artifact import RunFolder
    from lgsid.config import load_run_config
    from lgsid.pipeline import REPORT

    resolved = load_run_config(config, set_)
    _execute(resolved, RunFolder(out or Path("runs") / resolved.name), REPORT, dry_run, as_json)


def _stage_command(name: str, summary: str) -> None:
    def command(run: Run, set_: Set = [], dry_run: DryRun = False, as_json: AsJson = False) -> None:  # noqa: B006
        from lgsid.artifact import RunFolder
        from lgsid.config import load_run_config
        from lgsid.pipeline import COMMANDS, config_of

        folder = RunFolder(run)
        _execute(load_run_config(config_of(folder), set_), folder, COMMANDS[name], dry_run, as_json)

    app.command(name, help=summary)(command)


_stage_command("data", "Read or simulate the tables of RUN, and check them (stage 1).")
_stage_command("align", "Write the items of RUN down as prompts and embed them (stages 1-2).")
_stage_command("tokenize", "Turn the embeddings of RUN into geographic semantic IDs (stages 1-3).")
_stage_command("rank", "Train rankers with and without the SIDs of RUN, and measure them (stages 1-4a).")
_stage_command("generate", "Train generative recommenders on the SIDs of RUN, and measure them (stages 1-4b).")
_stage_command("report", "Write the report of RUN (all stages).")


def _execute(config: RunConfig, folder: RunFolder, last: Stage, dry_run: bool, as_json: bool) -> None:
    from lgsid.pipeline import STAGES, estimate_of, execute, plan

    if dry_run:
        steps = plan(config, folder)[: STAGES.index(last) + 1]
        estimate = estimate_of(config, folder, dict(steps))
        _output(
            {"run": str(folder.root), "plan": dict(steps), **({"alignment": estimate} if estimate else {})},
            as_json,
            lambda: [f"{what:5} {name}" for name, what in steps] + _estimate_lines(estimate),
        )
        return
    figures = execute(config, folder, _no_report if as_json else _print_stage, last)
    if not figures:  # a process of torchrun that only trained along
        return
    report = folder.path("5_report", "report.html")
    result: dict[str, Any] = {"run": str(folder.root), "stages": figures}
    if last.folder == "5_report":
        result["report"] = str(report)
    _output(result, as_json, lambda: [f"report: {report.resolve()}"] if "report" in result else [])


@app.command(name="import")
def import_(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="yelp, foursquare, gowalla, or table (with --mapping).")
    ],
    files: Annotated[list[Path], typer.Argument(metavar="FILES", help="The raw files, .gz or not.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for items.parquet and events.parquet.")],
    mapping: Annotated[Path | None, typer.Option("--mapping", help="YAML that names the columns of a table.")] = None,
    lenient: Annotated[bool, typer.Option("--lenient", help="Drop, count and keep malformed lines.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn public datasets, or any CSV, Parquet or JSON lines, into the items and events tables."""
    from lgsid.data.importers import import_data

    report = import_data(source, files, out, mapping=mapping, lenient=lenient)
    _output(report.to_dict(), as_json, lambda: str(report).splitlines())


@app.command()
def describe(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A folder with tables, a run folder, or an items file.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the plots.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a catalogue is: counts, geography, text, time, activity, and how visits fall with distance."""
    from lgsid.data.describe import describe_path, print_description

    description, plots = describe_path(data, out)
    if as_json:
        _print_json(description.to_dict())
        return
    print_description(description)
    for plot in plots:
        print(f"plot: {plot}")


@app.command()
def assign(
    run: Run,
    new_items: Annotated[
        Path | None, typer.Argument(metavar="[NEW_ITEMS]", help="An items table: new items, and changed ones.")
    ] = None,
    closed: Annotated[Path | None, typer.Option("--closed", help="A table of the item_id of closed items.")] = None,
    recode_changed: Annotated[bool, typer.Option("--recode-changed", help="Changed items get a new SID.")] = False,
    reuse_closed: Annotated[
        bool, typer.Option("--reuse-closed", help="New items may get a closed item's SID.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Give new items their SIDs without changing any other, note changed and closed items, and measure the drift."""
    from lgsid.artifact import RunFolder
    from lgsid.sid.assign import assign_in_run

    result = assign_in_run(RunFolder(run), new_items, closed, recode_changed=recode_changed, reuse_closed=reuse_closed)
    _output(result, as_json, lambda: _assign_lines(result))


@app.command()
def refit(
    run: Run,
    out: Annotated[Path, typer.Option("--out", help="Folder of the new run.")],
    cold: Annotated[bool, typer.Option("--cold", help="Begin from nothing; few SIDs stay the same.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fit the tokeniser again on the items as they are now, keep as many SIDs as possible, and map old ones to new."""
    from lgsid.artifact import RunFolder
    from lgsid.pipeline import STAGES
    from lgsid.sid.refit import refit_run

    result = refit_run(RunFolder(run), RunFolder(out), STAGES, warm=not cold)
    _output(result, as_json, lambda: _refit_lines(result))


@app.command()
def explain(
    run: Run,
    what: Annotated[
        str, typer.Argument(metavar="SID|ITEM", help="A SID such as 12-7-255, a prefix of one, or an item id.")
    ],
    as_json: AsJson = False,
) -> None:
    """Say in words what the tokens of a SID mean, alone and together, and how typical an item is of them."""
    from lgsid.artifact import RunFolder
    from lgsid.sid.lookup import explain_in_run

    explanation = explain_in_run(RunFolder(run), what)
    _output(explanation.to_json(), as_json, lambda: str(explanation).splitlines())


@app.command()
def serve(
    run: Run,
    config: Annotated[Path | None, typer.Option("--config", help="A YAML file with the options of serving.")] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; others than this need API keys.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0 takes a free one.")] = 8000,
    workers: Annotated[
        int, typer.Option("--workers", min=0, max=64, help="Processes that recommend beside the one that listens.")
    ] = 0,
    set_: Set = [],  # noqa: B006
) -> None:
    """Answer requests for recommendations from RUN, and show its map, until a signal comes."""
    from lgsid.config import apply_overrides, load_yaml, parse
    from lgsid.config.serve import ServeConfig
    from lgsid.errors import MissingDependencyError

    try:
        from lgsid.serve.run import serve as start
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("lgsid"):
            raise
        raise MissingDependencyError(error.name, "lgsid serve", "serve") from None
    raw = apply_overrides({} if config is None else load_yaml(config), set_)
    start(run, parse(ServeConfig, raw, str(config or "the options of serving")), host, port, workers)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check that this machine has what lgsid needs, and say how to get what is missing."""
    from lgsid.doctor import examine

    checks = examine()
    _output(
        [check.to_json() for check in checks],
        as_json,
        lambda: [str(check) for check in checks],
    )
    if any(check.state == "missing" for check in checks):
        sys.exit(1)


def _assign_lines(result: Mapping[str, Any]) -> list[str]:
    counts = ("new", "raw_code_taken", "changed", "would_get_another_sid", "recoded", "closed", "reopened", "unchanged")
    lines = [" · ".join(f"{name} {result[name]:,}" for name in counts)]
    lines += [
        f"{change['item_id']} moved {change['moved_km']:.1f} km and keeps {change['sid']}; now it would be "
        f"{change['sid_now']}"
        for change in result["changes"]
    ]
    if result["drift"] is not None:
        lines.append(result["drift"]["verdict"])
    return lines if result["written"] else [*lines, "nothing new: no file was changed"]


def _refit_lines(result: Mapping[str, Any]) -> list[str]:
    tokens = ", ".join(f"level {level} {share:.1%}" for level, share in enumerate(result["tokens_kept"], start=1))
    return [
        f"{result['items']:,} items; {result['sids_kept']:.1%} keep their SID (tokens: {tokens})",
        f"mapping: {result['mapping']}",
    ]


def _estimate_lines(estimate: Mapping[str, Any]) -> list[str]:
    if not estimate:
        return []
    items = "a catalogue not read yet" if estimate["items"] is None else f"{estimate['items']:,} items"
    return [
        f"alignment of {items}: {estimate['steps']:,} steps on {estimate['trained_on']:,} items at "
        f"{estimate['examples_per_second']:g} a second, {estimate['prompts_per_second']:g} prompts a second embedded: "
        f"about {estimate['minutes']:g} minutes here"
    ]


def _print_stage(folder: str, what: str, metrics: Mapping[str, Any]) -> None:
    shown = {key: value for key, value in metrics.items() if isinstance(value, int | float | str) and value != ""}
    print(f"{folder:9} {what:5} " + " · ".join(f"{key} {_number(value)}" for key, value in shown.items()), flush=True)


def _no_report(folder: str, what: str, metrics: Mapping[str, Any]) -> None:
    """With --json only the final document is printed."""


def _number(value: int | float | str) -> str:
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _output(result: Any, as_json: bool, lines: Callable[[], list[str]]) -> None:
    if as_json:
        _print_json(result)
        return
    for line in lines():
        print(line)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))
