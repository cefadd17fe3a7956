"""The command line: parse, call one function, print."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box, panel
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from . import __version__
from .envs import TurnEnv, check, env_class, env_ids, make, rollout
from .envs.errors import TurnwiseError, UsageError
from .envs.registry import known_names
from .sandbox.errors import SandboxError

if TYPE_CHECKING:
    from .agents import evaluate as evaluation
    from .agents.evaluate.report import Table as ReportTable
    from .configs.schema import EnvSection, EvalConfig, FormatSection, PricesSection
    from .trainers.compare import Axis

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells give it."""


class _Refused(click.ClickException):
    exit_code = 2


class _Commands(click.Group):
    """Turns what turnwise raises into one message and an exit code: 2 the user's mistake, 1 the world's, 130 Ctrl-C."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            click.echo(str(stop) or "interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except ValueError as error:
            # Every ValueError that this package defines is a mistake of the user; any other is one of ours.
            if not isinstance(error, UsageError) and not type(error).__module__.startswith(f"{__package__}."):
                raise
            raise _Refused(str(error)) from error
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in (
                "torch",
                "transformers",
                "peft",
                "tokenizers",
                "safetensors",
                "huggingface_hub",
            ):
                raise
            raise _Refused(
                f"this needs {error.name}, which is not installed: pip install 'turnwise[train]'"
            ) from error
        except BrokenPipeError:
            raise  # click ends quietly when the reader of a pipe is gone
        except (TurnwiseError, SandboxError, OSError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="turnwise")
@click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="MODULE_OR_FILE",
    help="Python module or file that registers your environments; may be repeated.",
)
def main(imports: tuple[str, ...]) -> None:
    """Multi-turn environments for language-model agents, and a trainer that gives every turn its own credit.

    \b
    Examples:
      turnwise envs
      turnwise play FrozenLake-v1
      turnwise train env=frozen_lake credit=gigpo
      turnwise --import my_env.py train env=MyEnv-v0
    """
    for name in imports:
        _import(name)
    click.get_current_context().obj = imports


@main.command()
def envs() -> None:
    """List the registered environments, a line each.

    \b
    Examples:
      turnwise envs
      turnwise --import my_env.py envs
    """
    ids = env_ids()
    width = max(map(len, ids))
    for env_id in ids:
        try:
            about = (env_class(env_id).__doc__ or "").strip().partition("\n")[0]
        except ImportError as error:
            about = f"(cannot be imported: {error})"
        click.echo(f"{env_id:<{width}}  {about}")


@main.command("check")
@click.argument("env_id", metavar="ID")
def check_command(env_id: str) -> None:
    """Test an environment against the contract; exit code 1 if it breaks it.

    \b
    Examples:
      turnwise check FrozenLake-v1
      turnwise --import my_env.py check MyEnv-v0
    """
    report = check(env_id)
    click.echo(str(report))
    if report.problems:
        raise SystemExit(1)


@main.command()
@click.argument("env_id", metavar="ID")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Which task of the split."
)
@click.option("--split", default="train", show_default=True, help="Where the task comes from.")
@click.option("--task", help="Id of a task, instead of a seed.")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="A parameter of the environment."
)
@click.option("--browser", is_flag=True, help="Open the environment in your web browser (WebShop).")
def play(
    env_id: str, seed: int, split: str, task: str | None, settings: tuple[str, ...], browser: bool
) -> None:
    """Play an environment in the terminal; Ctrl-D or Ctrl-C leaves.

    \b
    Examples:
      turnwise play FrozenLake-v1
      turnwise play FrozenLake-v1 --set size=6 --seed 3
      turnwise play HigherLower-v1 --task test-7
      turnwise play WebShop-v1 --browser
    """
    from .agents import HumanAgent

    console = Console(highlight=False)
    env = make(env_id, **{"format": "bracket", **dict(map(_setting, settings))})
    if browser:
        _play_in_browser(env, seed, {"task": task} if task is not None else {"split": split})
        return
    jobs = {"seed": seed, "split": split, "tasks": None if task is None else [task]}
    try:
        result = rollout(env, HumanAgent(console), 1, **jobs)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        raise KeyboardInterrupt("\nleft the game") from None
    (episode,) = result.trajectories
    if episode.status == "failed":
        raise click.ClickException(f"the environment failed: {episode.error}")
    end = "[green]solved[/]" if episode.success else "[red]not solved[/]"
    console.print(
        panel.Panel(escape(episode.final_observation), title="end", title_align="left", expand=False)
    )
    console.print(
        f"{end} in {len(episode.turns)} turns  score {episode.score:.2f}  reward {episode.total_reward:.2f}"
        f"  task {escape(episode.task_id)}"
    )


@main.command()
@click.argument("env_id", metavar="ID")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="A parameter of the environment."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; others need a token.")
@click.option(
    "--port", default=0, type=click.IntRange(0, 65535), show_default=True, help="0 takes a free one."
)
@click.option("--token", default="", envvar="TURNWISE_TOKEN", help="What clients must give.")
@click.option("--sessions", default=256, show_default=True, help="Sessions at a time.")
@click.option("--snapshots", default=4096, show_default=True, help="Snapshots at a time.")
@click.option("--message", default=2**20, show_default=True, help="Bytes of a request at most.")
@click.option("--idle", default=900.0, show_default=True, help="Seconds until an unused session is closed.")
def serve(
    env_id: str,
    settings: tuple[str, ...],
    host: str,
    port: int,
    token: str,
    sessions: int,
    snapshots: int,
    message: int,
    idle: float,
) -> None:
    """Serve an environment over HTTP, for many clients at once; Ctrl-C ends it.

    A client makes it with `make("Remote-v1", url=...)`, which is the environment in all it does.

    \b
    Examples:
      turnwise serve Sokoban-v1 --set boxes=2 --port 8000
      TURNWISE_TOKEN=secret turnwise serve Search-v1 --host 0.0.0.0 --port 8000
      turnwise eval env=generic env.id=Remote-v1 env.parameters.url=http://127.0.0.1:8000 agent=random
    """
    try:
        from .envs.serve import EnvServer, Limits
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise UsageError(
            f"serving needs {error.name}, which is not installed: pip install 'turnwise[serve]'"
        ) from error

    env = make(env_id, **dict(map(_setting, settings)))
    limits = Limits(sessions=sessions, snapshots=snapshots, message=message, idle=idle)
    with EnvServer(env, host=host, port=port, token=token, limits=limits) as server:
        click.echo(f"{env_id} is open at {server.url}  (Ctrl-C ends it)")
        with suppress(KeyboardInterrupt):
            server.wait()


def _play_in_browser(env: TurnEnv, seed: int, options: dict[str, Any]) -> None:
    visited = getattr(env, "visited", None)
    if visited is None:
        raise UsageError(f"{env.env_id} has no web page; leave out --browser")
    env.reset(seed=seed, options=options)
    url, bought = visited()
    click.echo(f"the shop is open at {url}  (Ctrl-C leaves)")
    webbrowser.open(url)
    try:
        score = bought()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("\nleft the shop") from None
    click.echo(f"score {score:.2f}")


@main.command("eval")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def eval_command(overrides: tuple[str, ...]) -> None:
    """Play many episodes with an agent: success and score with 95 % intervals, behaviour, tokens, cost, failures, speed.

    With out=FOLDER every episode is kept as it ends, and the same command goes on where it was interrupted or killed.
    Exit code 1 where so many episodes failed that the score is not to be trusted.

    \b
    Examples:
      turnwise eval env=frozen_lake agent=random
      turnwise eval suite=core agent=expert
      turnwise eval env=sokoban agent=expert agent.noise=0.2 episodes=1000 attempts=4 out=runs/expert
      turnwise eval agent=local agent.path=runs/MY_RUN seed=1
      turnwise eval env=search agent=openai agent.url=http://localhost:8000/v1 agent.model=NAME format=hermes
      turnwise eval env=HigherLower-v1 env.parameters.high=1000 format=hermes
    """
    from .agents.evaluate import evaluate
    from .agents.evaluate.report import notes, tables
    from .trainers.agents import build_agent

    config = _eval_config(overrides)
    panels = _panels(config)
    agent = build_agent(config.agent, slots=config.concurrency, loading=_quiet_transformers)
    folder = config.resume or config.out
    if folder is not None:
        _begin_or_go_on(config, Path(folder))
    done, total = 0, 0
    with _progress("episodes") as show:

        def progress(finished: int, of: int) -> None:
            nonlocal done, total
            done, total = finished, of
            show(finished, of)

        try:
            found = evaluate(
                panels,
                agent,
                attempts=config.attempts,
                concurrency=config.concurrency,
                timeout=config.timeout,
                max_failure_share=config.max_failure_share,
                prices=_prices(config.prices),
                out=folder,
                retry_failed=config.retry_failed,
                progress=progress,
            )
        except KeyboardInterrupt:
            kept = (
                "nothing was saved, for want of out=FOLDER"
                if folder is None
                else f"they are in {folder}/trajectories.jsonl; the same command goes on"
            )
            count = f"{done} of {total}" if total else "0"
            raise KeyboardInterrupt(f"interrupted after {count} episodes; {kept}") from None
    _print_tables(tables(found, details=False))
    for note in notes(found):
        click.echo(note)
    if folder is not None:
        click.echo(
            f"saved in {folder}" + ("; report.md has every panel in detail" if len(panels) > 1 else "")
        )
    if all(t.status == "failed" for t in found.trajectories):
        raise click.ClickException(f"every episode failed; the first: {found.trajectories[0].error}")
    if found.untrusted:
        raise click.ClickException(f"too many episodes failed: {', '.join(found.untrusted)}")


@main.command("eval-compare")
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN")
@click.option("--json", "out", metavar="FILE", help="Also write the comparison as JSON.")
def eval_compare(first: str, second: str, out: str | None) -> None:
    """Compare two evaluations task by task: the difference with its 95 % interval, and whether it is within noise.

    RUN is a folder of `turnwise eval out=FOLDER`, or a trajectory file. Success is compared by McNemar's exact test.

    \b
    Examples:
      turnwise eval-compare runs/before runs/after
      turnwise eval-compare runs/before runs/after/trajectories.jsonl --json difference.json
    """
    from .agents.evaluate import compare_evaluations, read_evaluation
    from .agents.evaluate.paired import notes, tables

    found = compare_evaluations(read_evaluation(first), read_evaluation(second), names=(first, second))
    _print_tables(tables(found))
    for note in notes(found):
        click.echo(note)
    if out is not None:
        Path(out).write_text(json.dumps(found.as_json(), indent=2) + "\n", encoding="utf-8")


@main.command("rescore")
@click.argument("path", metavar="FILE|RUN")
@click.option("--out", metavar="FILE", help="Write the episodes with what they come to now.")
@click.option("--show", default=5, show_default=True, type=click.IntRange(min=0), help="Changes to print.")
def rescore_command(path: str, out: str | None, show: int) -> None:
    """Play saved episodes again without a model and say what comes out otherwise; exit code 1 if anything does.

    \b
    Examples:
      turnwise rescore runs/expert
      turnwise rescore runs/expert/trajectories.jsonl --out rescored.jsonl
    """
    from .agents.evaluate import read_evaluation, rescore
    from .envs import write_trajectories

    if out is not None and Path(out).exists():
        raise UsageError(f"{out} is there already; choose another file with --out")
    found = rescore(read_evaluation(path))
    total = len(found.before)
    click.echo(
        f"{total} episodes played again, {total - found.changed} as they were, {found.changed} otherwise"
    )
    for why, count in found.skipped.items():
        click.echo(f"{count} left out: {why}")
    for change in found.changes[:show]:
        where = "" if change.turn is None else f" turn {change.turn},"
        click.echo(
            f"{change.episode}:{where} {change.field}: {change.recorded!r:.200} -> {change.now!r:.200}"
        )
    if found.changed:
        old, new = (sum(t.success for t in side) / total for side in (found.before, found.after))
        click.echo(f"success {old:.3f} -> {new:.3f}")
    if out is not None:
        write_trajectories(out, found.after)
    if found.changed:
        raise SystemExit(1)


def _eval_config(overrides: Sequence[str]) -> EvalConfig:
    """The configuration, with the environment of the run that plays, and with the panels of the suite."""
    from .configs.compose import compose, names_of, saved_config, suite
    from .configs.schema import EvalConfig, TrainConfig

    given = names_of(overrides)
    sections: dict[str, Any] = {}
    # Of the agent, or of the agent that it is built around.
    run = next((value for key, value in given.items() if re.fullmatch(r"agent(\.inner)*\.path", key)), None)
    if isinstance(run, str) and (trained := saved_config(TrainConfig, Path(run))) is not None:
        sections = {"env": trained.env.model_dump(), "format": trained.format.model_dump()}
    config = compose(EvalConfig, overrides, registered={"env": known_names}, sections=sections)
    if config.suite is None:
        return config
    beside = [
        key
        for key in given
        if key.partition(".")[0] in ("env", "format", "episodes", "split", "seed", "max_turns")
    ]
    if beside and config.resume is None:
        raise UsageError(
            f"{beside[0]} does not go with suite={config.suite}: the suite says it, panel by panel"
        )
    return config if config.panels else config.model_copy(update={"panels": suite(config.suite)})


def _panels(config: EvalConfig) -> list[evaluation.Panel]:
    from .agents.evaluate import Panel

    if config.suite is None:
        if config.episodes % config.attempts:
            raise UsageError(
                f"episodes must be a multiple of attempts, got episodes={config.episodes}, attempts={config.attempts}"
            )
        env = _make(config.env, config.format)
        return [
            Panel(
                env.env_id,
                env,
                number=config.episodes // config.attempts,
                split=config.split,
                seed=config.seed,
                max_turns=config.max_turns,
            )
        ]
    return [
        Panel(
            p.name or p.env,
            make(p.env, **{"format": p.format, "system_prompt": p.system_prompt, **p.parameters}),
            number=p.number,
            tasks=tuple(p.tasks or ()),
            split=p.split,
            seed=p.seed,
            max_turns=p.max_turns,
        )
        for p in config.panels
    ]


def _begin_or_go_on(config: EvalConfig, folder: Path) -> None:
    """Write config.yaml, or see that the one that is there asks for the same."""
    from omegaconf import OmegaConf

    from .agents.evaluate.folder import FILE, write_text
    from .configs.compose import refuse_changes, saved_config
    from .configs.schema import EvalConfig

    before = saved_config(EvalConfig, folder)
    begun = (folder / FILE).exists()
    if before is not None and begun and (folder / FILE).stat().st_size:
        refuse_changes(before, config, str(folder))
        return
    if before is None and begun:
        raise UsageError(
            f"{folder} already holds trajectories that no `turnwise eval` left there; choose another folder with out="
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config.model_dump())))


def _prices(config: PricesSection) -> evaluation.Prices | None:
    from .agents.evaluate import Prices

    if config.input is None or config.output is None:
        return None
    return Prices(config.input, config.output, config.cached, config.currency)


@main.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.pass_obj
def train(imports: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    """Train an agent by reinforcement with turn-level credit, and test it on held-out tasks before and after.

    A run folder gets config.yaml, metrics.jsonl, checkpoints, trajectories and summary.json.

    \b
    Examples:
      turnwise train
      turnwise train env=sokoban credit=rloo trainer.steps=200 seed=1
      turnwise train credit=gigpo credit.gamma=0.9 loss=gspo run=runs/my-run
      turnwise train model=hf model.path=Qwen/Qwen3-0.6B model.lora_rank=16
      turnwise train trainer=verl trainer.device=cpu trainer.ranks_per_node=2
      turnwise train resume=runs/my-run
    """
    from .configs.compose import compose
    from .configs.schema import TrainConfig

    config = compose(TrainConfig, overrides, registered={"env": known_names, "credit": _credit_names})

    from .trainers.start import train as run

    _quiet_transformers()
    try:
        summary = run(config, say=click.echo, imports=imports)
    except KeyboardInterrupt as stop:
        where = config.resume or config.run or "RUN, the folder named above"
        said = str(stop) or f"interrupted; `turnwise train resume={where}` goes on from the last checkpoint"
        raise KeyboardInterrupt(said) from None
    table = Table("held-out test tasks", "success", "95 % interval")
    for when in ("before", "after"):
        s = summary[when]
        table.add_row(
            f"{when} training", f"{s['success']:.3f}", f"{s['success_low']:.3f} to {s['success_high']:.3f}"
        )
    Console().print(table)
    click.echo(f"run folder: {summary['run']}")


@main.command("eval-rewards")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def eval_rewards(overrides: tuple[str, ...]) -> None:
    """Measure reward sources on trajectories with planted errors: which turns are wrong, which episode is best.

    Errors of six kinds are planted in successful episodes, of the expert or of a file, and every source of reward=[..]
    has to find them. An oracle and random numbers stand beside the sources.

    \b
    Examples:
      turnwise eval-rewards env=sokoban reward=[env,grounding,outcome]
      turnwise eval-rewards model=runs/MY_RUN reward=[env,info_gain,progress] tasks=32
      turnwise eval-rewards env=webshop trajectories=runs/my-eval aggregate=min out=rewards/webshop
    """
    from .configs.compose import compose
    from .configs.schema import EvalRewardsConfig

    config = compose(EvalRewardsConfig, overrides, registered={"env": known_names})
    if config.model is not None:
        _quiet_transformers()

    from .trainers.evaluate_rewards import run, tables

    found = run(config, say=click.echo)
    _print_tables(tables(found))
    if config.out is not None:
        click.echo(f"saved in {config.out}")


@main.command("compare")
@click.argument("paths", nargs=-1, required=True, metavar="RUN...")
@click.option("--metric", default="success", show_default=True, help="A metric of metrics.jsonl.")
@click.option(
    "--axis",
    default="step",
    show_default=True,
    type=click.Choice(["step", "seconds", "tokens", "env_steps"]),
    help="What the curves are drawn over.",
)
@click.option("--out", metavar="FOLDER", help="Write compare.md, .json, .png and .svg.")
def compare_command(paths: tuple[str, ...], metric: str, axis: Axis, out: str | None) -> None:
    """Compare training runs: grouped by configuration, mean and interval over seeds, and what is within noise.

    RUN is a run folder, or a folder of them. Runs that differ in the seed alone are one group.

    \b
    Examples:
      turnwise compare runs/grpo-s0 runs/grpo-s1 runs/gigpo-s0 runs/gigpo-s1
      turnwise compare runs --axis tokens --out runs/compared
    """
    from .trainers.compare import compare, notes, tables

    found = compare(paths, metric=metric, axis=axis)
    _print_tables(tables(found))
    for note in notes(found):
        click.echo(note)
    if out is not None:
        found.save(out)
        click.echo(f"saved in {out}")


@main.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def audit(overrides: tuple[str, ...]) -> None:
    """Measure how true each credit scheme is, for the policy of a run, by re-rolling from the middle of episodes.

    \b
    Examples:
      turnwise audit model=runs/my-run
      turnwise audit model=runs/my-run credit=[grpo,gigpo] turns=512 rerolls=128 out=audits/my-run
      turnwise audit env=sokoban model=Qwen/Qwen3-0.6B format=hermes
    """
    from .configs.compose import compose
    from .configs.schema import AuditConfig

    config = compose(AuditConfig, overrides, registered={"env": known_names, "credit": _credit_names})

    from .trainers.audit import run

    _quiet_transformers()
    found = run(config, say=click.echo)
    click.echo(str(found))
    if config.out is not None:
        click.echo(f"saved in {config.out}")


@main.group()
def sandbox() -> None:
    """Prepare what untrusted programs run in."""


@sandbox.command("build")
@click.option("--tag", default="turnwise-sandbox", show_default=True, help="Name of the image.")
@click.option("--docker-host", default="", metavar="URL", help="Of the daemon; DOCKER_HOST by default.")
@click.option(
    "--rootfs",
    metavar="FILE.tar",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Import this root file system; it needs python3 of version 3.11 or newer.",
)
@click.option(
    "--debian", is_flag=True, help="Import this machine's own Debian packages; nothing is downloaded."
)
def sandbox_build(tag: str, docker_host: str, rootfs: Path | None, debian: bool) -> None:
    """Make the image of the docker backend: from sandbox/Dockerfile, a tar, or this machine's packages.

    \b
    Examples:
      turnwise sandbox build
      turnwise sandbox build --debian
      turnwise sandbox build --rootfs rootfs.tar --tag my-sandbox
    """
    if rootfs is not None and debian:
        raise UsageError("--rootfs and --debian are two ways to make the same image; give one of them")
    from .sandbox.image import build

    click.echo(f"{tag} is {build(tag, docker_host=docker_host, rootfs=rootfs, debian=debian)}")


@main.command()
@click.argument(
    "paths", nargs=-1, required=True, metavar="RUN|FILE.jsonl...", type=click.Path(path_type=Path)
)
@click.option("--port", default=0, help="To listen on; a free one by default.", type=click.IntRange(0, 65535))
@click.option("--no-open", is_flag=True, help="Print the address only.")
@click.option(
    "--export",
    metavar="PAGE.html",
    type=click.Path(path_type=Path),
    help="Write one file that needs no server, and end.",
)
@click.option(
    "--filter", "chosen", default="", metavar="FILTER", help="Which trajectories to export, as in the page."
)
@click.option(
    "--limit",
    default=200,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many trajectories to export at most.",
)
def view(
    paths: tuple[Path, ...], port: int, no_open: bool, export: Path | None, chosen: str, limit: int
) -> None:
    """Look at runs and trajectories in the browser: curves, table, conversations, groups side by side.

    The page is served on this machine alone and follows files that grow. Ctrl-C ends it.

    \b
    Examples:
      turnwise view runs/my-run
      turnwise view runs                                  # all runs in the folder, curves by configuration
      turnwise view out/expert/trajectories.jsonl --port 8080 --no-open
      turnwise view runs/my-run --export page.html --filter "step:50 success:no"
    """
    try:
        from .agents.viewer.library import Library
        from .agents.viewer.server import Viewer
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise UsageError(
            f"the viewer needs {error.name}, which is not installed: pip install 'turnwise[viewer]'"
        ) from error

    library = Library(paths)
    if export is not None:
        from .agents.viewer.export import export as write

        written = write(library, export, q=chosen, limit=limit)
        left = written.matched - written.trajectories
        click.echo(
            f"{export}: {written.trajectories:,} trajectories, {written.bytes / 1e6:.1f} MB"
            + (f"; {left:,} more fit the filter, see --limit and --filter" if left else "")
        )
        return
    viewer = Viewer(library, port=port)
    click.echo(f"turnwise is open at {viewer.url}  (Ctrl-C ends it)")
    if not no_open:
        webbrowser.open(viewer.url)
    try:
        viewer.wait()
    except KeyboardInterrupt:
        viewer.close()
        raise SystemExit(0) from None


@main.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
def watch(run: Path) -> None:
    """Follow a training in the terminal until it ends: latest metrics, their course, seconds per step, time left.

    Where the output is no terminal, a line for each step.

    \b
    Examples:
      turnwise watch runs/my-run
      turnwise watch runs/my-run >> steps.log &
    """
    from .agents.watch import watch as follow

    follow(run, Console())


def _import(name: str) -> None:
    """Import a module by name, or a file by path, for what it registers."""
    try:
        if not name.endswith(".py"):
            sys.path.append(str(Path.cwd()))  # as `python -m` would look there
            importlib.import_module(name)
            return
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"--import {name}: there is no such file")
        if path.stem in sys.modules:
            raise UsageError(
                f"--import {name}: a module called {path.stem} is already loaded; rename the file"
            )
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        sys.path.append(str(path.parent.resolve()))
        sys.modules[path.stem] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"--import {name} failed: {type(error).__name__}: {error}") from error


def _setting(text: str) -> tuple[str, Any]:
    """`name=value`, the value read as JSON where it is that, else as text."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"--set takes NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _make(env: EnvSection, form: FormatSection) -> TurnEnv:
    return make(env.id, **{"format": form.name, "system_prompt": form.system_prompt, **env.parameters})


def _quiet_transformers() -> None:
    """Switch off its bars for reading and writing files; a download shows one on a terminal."""
    from huggingface_hub.utils.tqdm import enable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if sys.stderr.isatty():
        enable_progress_bars()


def _credit_names() -> Sequence[str]:
    from .trainers.credit import credit_schemes

    return credit_schemes()


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Takes (finished, total): a bar on a terminal, a plain line for every tenth in a log."""
    console = Console(stderr=True)
    if not console.is_terminal:

        def line(done: int, total: int) -> None:
            if done * 10 // total > (done - 1) * 10 // total:
                click.echo(f"{what}: {done} of {total}", err=True)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_tables(tables: Sequence[ReportTable]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)  # a log has no edge
    for found in tables:
        table = Table(
            *map(escape, found.columns),
            box=box.SIMPLE_HEAD if found.columns else box.SQUARE,
            padding=(0, 1),
            pad_edge=not found.columns,
            title=escape(found.title),
            title_justify="left",
            show_header=bool(found.columns),
        )
        for row in found.rows:
            table.add_row(*map(escape, row))
        console.print(table)


if __name__ == "__main__":
    main()
