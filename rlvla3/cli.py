"""The command line: what can be asked for, and who does it. What commands do is in commands.py and in the commands.py of planning/, page/ and benchmarks/.

It is light to import, so that a mistake is answered at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Literal

from rlvla3 import standard_streams
from rlvla3.argument_types import (
    CHUNK,
    PROFILE_S,
    Parser,
    Protocols,
    add_environments,
    add_start,
    folder_and_settings,
    new_file,
    new_folder,
    path,
    positive,
    rate,
    seconds,
)
from rlvla3.benchmark_arguments import add_benchmarks
from rlvla3.errors import RecipeError, explanation
from rlvla3.named import note_working_folder, search_working_folder
from rlvla3.serving_arguments import add_serve, serve
from rlvla3.signals import heard, number_of
from rlvla3.version import __version__
from rlvla3.watching_arguments import add_explain, add_report, add_view, add_watch, watch

EXAMPLES = """\
examples:
  rlvla3 train recipes/quickstart.yaml                     clone, then improve by asynchronous RL
  rlvla3 train recipes/quickstart.yaml engine.mode=sync    the same, synchronously: any setting as key=value
  rlvla3 train runs/demo                                   continue from the newest checkpoint
  rlvla3 eval runs/demo evaluation.episodes=192            success of the newest checkpoint
  rlvla3 replay runs/demo                                  repeat the run, bit for bit
  rlvla3 record runs/demo my_dataset                       write successful episodes as a LeRobotDataset
  rlvla3 check recipes/quickstart.yaml                     print the whole recipe, and check its simulators
  rlvla3 check --simulator my_robot:MyEnv max_steps=200    check one simulator, yours for example
  rlvla3 check --policy my_policy:MyPolicy                 check one policy: act and evaluate agree, gradients, saving, ...
  rlvla3 inspect lerobot/pi0_base                          what a pretrained policy is fed, and what is made of its answers
  rlvla3 export runs/demo my_policy                        write a run's pretrained policy in the layout that it came in
  rlvla3 view runs/demo                                    the newest episode on film: cameras, actions, value, reward
  rlvla3 serve runs/demo                                   actions for a robot, or for another evaluation program
  rlvla3 watch                                             a page in the browser with all runs below runs/
  rlvla3 explain runs/demo                                 is it learning, what bounds it, what failed
  rlvla3 report runs/one runs/two                          one HTML file to send, with curves and videos of both
  rlvla3 profile recipes/quickstart.yaml                   measure what its stages cost on this machine
  rlvla3 rehearse recipes/planned/libero_pi0.yaml --profile libero-pi0 --cluster 4x8   what a run would do on 32 GPUs, without a GPU
"""
FAILED, REFUSED, BY_SIGNAL = 1, 2, 128
RUNS = ("clone", "train", "eval", "replay", "record", "serve")
"""Commands that go on without stdout: a run is worth more than its lines (observability/outlived.py). Others have done nothing if nobody can read them."""

UNTRUSTING = ("bench", "env", "explain", "metrics", "report", "view", "watch")
"""Commands that load no code that a run names."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0; 1 if a check failed; 2 if the command cannot be run as asked; 130 after Ctrl-C, and 128 + N where signal N
    interrupted it."""
    standard_streams.open_closed()
    try:
        status = _status(argv)
        outlived = sys.modules.get("rlvla3.observability.outlived")  # where it was not imported, there was no run
        if outlived is not None and outlived.left_behind():
            os._exit(status)  # a write that hangs would hold the end of this process
        return status
    finally:
        standard_streams.let_go()


def _status(argv: Sequence[str] | None) -> int:
    try:
        arguments = _parse(argv)
        note_working_folder(_working_folder())
        with heard() if arguments.command in RUNS else nullcontext():  # from the imports on, which take seconds on a busy machine
            passed = _run(arguments)
        if arguments.command not in RUNS:
            sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        return BY_SIGNAL + number_of(interrupt)
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        return 0
    except Exception as error:
        if (said := explanation(error)) is None:
            raise
        with suppress(OSError, ValueError):  # stderr may be closed, too
            print(f"rlvla3: {said}", file=sys.stderr, flush=True)
        return REFUSED
    return 0 if passed else FAILED


def _working_folder() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError as error:
        raise RecipeError("the folder that this command runs in was removed: go to another one") from error


def _run(arguments: argparse.Namespace) -> bool:
    """Returns whether all is well. Only `check`, `env check` and `bench` of fuzz, chaos, deaths and soak can return False."""
    from rlvla3 import commands

    trust: bool = getattr(arguments, "trust", False)  # some benchmarks read no run
    if any(":" in (getattr(arguments, word, None) or "") for word in ("simulator", "policy", "env")):
        search_working_folder()  # the user has just named a class of theirs
    match arguments.command:
        case "clone":
            commands.clone(arguments.start, arguments.overrides, arguments.run_dir, _show(arguments), trust)
        case "train":
            settings = ["engine.trace=true", *arguments.overrides] if arguments.watch else arguments.overrides  # the page shows the timeline of all workers
            commands.train(arguments.start, settings, arguments.run_dir, _show(arguments), trust, arguments.watch)
        case "eval":
            commands.evaluate(arguments.start, arguments.overrides, arguments.run_dir, _show(arguments), trust, arguments.protocol)
        case "replay":
            commands.replay(arguments.start, arguments.run_dir, _show(arguments), trust)
        case "record":
            _record(arguments, trust)
        case "check":
            if arguments.policy is not None:
                return commands.check_policy(arguments.policy, arguments.overrides, arguments.simulator, arguments.chunk, arguments.json, trust)
            options = (arguments.chunk, arguments.timeout, arguments.frames, arguments.json, arguments.strict, trust)
            return commands.check(arguments.overrides, arguments.simulator, *options)
        case "inspect":
            commands.inspect(arguments.checkpoint, arguments.recipe, arguments.overrides, arguments.instruction, arguments.json, trust)
        case "export":
            commands.export(arguments.start, arguments.out, arguments.layout, arguments.adapters, arguments.precision, trust)
        case "serve":
            serve(arguments)
        case "metrics":
            from rlvla3.observability.glossary import GROUPS
            from rlvla3.observability.glossary.printed import text

            print(text(GROUPS, arguments.word))
        case "profile" | "rehearse" | "plan":
            _plan_ahead(arguments)
        case "view":
            from rlvla3.viewing.commands import view

            view(arguments.start, arguments.episode, arguments.save, arguments.live)
        case "watch":
            watch(arguments)
        case "explain":
            from rlvla3.page.commands import explain_run

            explain_run(arguments.run, arguments.json)
        case "report":
            from rlvla3.page.commands import report_runs

            report_runs(arguments.runs, arguments.out, arguments.videos_mib)
        case "env":
            from rlvla3.checking.environments import run

            return run(arguments)
        case "bench":
            from rlvla3.benchmarks.commands import bench

            return bench(arguments)
    return True


def _show(arguments: argparse.Namespace) -> Literal["progress", "json"]:
    return "json" if arguments.json else "progress"


def _plan_ahead(arguments: argparse.Namespace) -> None:
    from rlvla3.planning import commands

    match arguments.command:
        case "profile":
            commands.profile(arguments.start, arguments.overrides, arguments.out, arguments.seconds, arguments.trust)
        case "rehearse" if arguments.paper:
            commands.rehearse_paper(arguments.paper, arguments.json)
        case "rehearse":
            outputs = (arguments.json, arguments.trace, arguments.picture, arguments.trust)
            commands.rehearse(arguments.overrides, arguments.profile, arguments.cluster, arguments.seed, arguments.updates, *outputs)
        case "plan":
            devices = (arguments.gpus, arguments.hosts, arguments.cluster)
            limits = (arguments.memory, arguments.max_staleness)
            commands.plan(arguments.overrides, arguments.profile, *devices, *limits, arguments.json, arguments.best, arguments.seed, arguments.trust)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    # argparse counts settings after an option (`train RECIPE --json seed=1`) as unknown.
    arguments, unknown = parser.parse_known_args(argv)
    settings = [word for word in unknown if not word.startswith("-")] if hasattr(arguments, "overrides") else []
    if len(settings) < len(unknown):
        arguments.parser.refuse_unknown([word for word in unknown if word not in settings])
    if settings:
        arguments.overrides += settings
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="rlvla3",
        description="Asynchronous reinforcement learning for vision-language-action robot policies.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rlvla3 {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    clone = commands.add_parser("clone", help="make a policy from the simulator's scripted experts")
    add_start(clone, "RECIPE", "a YAML file with a clone: section")
    _add_output(clone, "runs/NAME-DATE-TIME")

    train = commands.add_parser("train", help="improve a policy by reinforcement learning (after cloning, if the recipe says so)")
    add_start(train, "RECIPE|CHECKPOINT", "a YAML file; or a run directory, or one of its checkpoints, to continue (resume)")
    _add_output(train, "runs/NAME-DATE-TIME")
    train.add_argument("--watch", action="store_true", help="show the run in the browser while it goes on, with a timeline of every worker (engine.trace=true)")

    evaluate = commands.add_parser("eval", help="measure a policy: success per task with its 95 %% interval, without exploration noise")
    add_start(evaluate, "CHECKPOINT|RECIPE", "a run directory (its newest checkpoint), a checkpoint, or a YAML file with policy.checkpoint")
    evaluate.add_argument("--protocol", metavar="NAME", help="settle steps, limits, episodes, initial states and frames as a published evaluation has them")
    evaluate.add_argument("--protocols", action=Protocols, help="list the protocols, and what each fixes")
    _add_output(evaluate, "RUN_DIR/evaluations/DATE-TIME")

    replay = commands.add_parser("replay", help="repeat a recorded run, and check that it comes to the same weights, bit for bit")
    replay.add_argument("start", type=path, metavar="RUN_DIR|CHECKPOINT", help="a run directory (up to its newest checkpoint), or one of its checkpoints")
    _add_output(replay, "RUN_DIR/replays/DATE-TIME")

    _add_record(commands.add_parser("record", help="write episodes of a policy, or of its training, as a LeRobotDataset: data for the next cloning"))

    _add_check(commands.add_parser("check", help="check that a recipe can be run, and that its simulators, one simulator or one policy keep their contract"))

    _add_inspect(commands.add_parser("inspect", help="what a pretrained policy will be fed, and what is made of its answers: every number, and its source"))
    _add_export(commands.add_parser("export", help="write a pretrained policy in the layout that came in, or in another, for the software that robots run"))

    add_serve(commands.add_parser("serve", help="answer robots and other evaluation programs with a policy's actions, over openpi's protocol or vla-eval's"))

    metrics = commands.add_parser("metrics", help="what each number of a run means: its unit, its formula, what is normal, and what to do if it is not")
    metrics.add_argument("word", nargs="?", default="", metavar="WORD", help="only metrics with this in their name, such as kl or learner/")

    _add_profile(commands.add_parser("profile", help="measure what the stages of a recipe cost on this machine, for rehearse and plan"))
    _add_rehearse(commands.add_parser("rehearse", help="what a recipe would do on a cluster: throughput, idle time and staleness, on a virtual clock"))
    _add_plan(commands.add_parser("plan", help="find the fastest placement and settings of a recipe on a cluster, by rehearsals"))

    add_watch(commands.add_parser("watch", help="a page in the browser: what runs learn, what waits for what, what the robot does, what failed"))
    add_explain(commands.add_parser("explain", help="a run in words: is it learning, what bounds it, who waits for what, what failed"))
    add_report(commands.add_parser("report", help="one HTML file of one or several runs, to send to a colleague"))
    add_view(commands.add_parser("view", help="an episode in the Rerun viewer: cameras, state, planned and executed actions, value and reward over time"))

    add_environments(commands.add_parser("env", help="interpreters of their own for simulators whose packages clash: make one, list them, check them"))

    bench = commands.add_parser("bench", help="measure the engine itself")
    benchmarks = add_benchmarks(bench)
    for command in (*commands.choices.values(), *benchmarks.values()):
        command.set_defaults(parser=command)
    for reads_runs in (*(command for name, command in commands.choices.items() if name not in UNTRUSTING), *benchmarks.values()):
        reads_runs.add_argument("--trust", action="store_true", help="load code of others that a run directory or a policy folder names (docs/security.md)")
    return parser


def _add_check(check: argparse.ArgumentParser) -> None:
    check.add_argument("overrides", nargs="*", default=[], metavar="RECIPE key=value", help="a YAML file or a run directory, and settings that win over it")
    check.add_argument("--simulator", metavar="NAME", help="instead of a recipe: metaworld, gymnasium:ID, module:Class, ...; key=value are its settings then")
    check.add_argument("--policy", metavar="NAME|FOLDER", help="instead of a recipe: mini_vla, module:Class, a run, a checkpoint; key=value are its settings")
    check.add_argument("--chunk", type=positive, default=CHUNK, metavar="N", help=f"actions a decision, with --simulator or --policy (default: {CHUNK})")
    check.add_argument(
        "--timeout",
        type=seconds,
        metavar="S",
        help="the longest that a build, a reset or a chunk may take (default: as in a run)",
    )
    check.add_argument(
        "--frames", type=new_folder, metavar="FOLDER", help="a folder for frames; look at them, as only you can see whether they are upside down"
    )
    check.add_argument("--json", type=new_file, metavar="FILE", help="where the findings go")
    check.add_argument("--strict", action="store_true", help="fail for warnings of a simulator too: for what a run accepts although it may spoil it")


def _add_inspect(inspect: argparse.ArgumentParser) -> None:
    inspect.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder of other software or its name on the hub; a run directory; a checkpoint of a run")
    inspect.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="settings, for example policy.options.preset=libero")
    inspect.add_argument("--recipe", type=path, metavar="FILE", help="the recipe that is to start from it: whether they fit, and how")
    inspect.add_argument("--instruction", metavar="TEXT", help="the instruction whose prompt is shown (default: that of the recipe's first task)")
    inspect.add_argument("--json", type=new_file, metavar="FILE", help="where the same goes as data")


def _record(arguments: argparse.Namespace, trust: bool) -> None:
    from rlvla3 import commands

    folder, settings = folder_and_settings(arguments.overrides)
    commands.record(
        arguments.start,
        settings,
        arguments.run_dir,
        _show(arguments),
        trust,
        folder=folder,
        episodes_of=arguments.episodes_of,
        episodes=arguments.episodes,
        failures=arguments.all,
        frames=arguments.frames,
        fps=arguments.fps,
    )


def _add_record(record: argparse.ArgumentParser) -> None:
    record.add_argument("start", type=path, metavar="RUN_DIR|CHECKPOINT|RECIPE", help="whose policy acts (a YAML file needs policy.checkpoint)")
    record.add_argument("overrides", nargs="*", default=[], metavar="FOLDER key=value", help="a new folder (default: one in the run directory), and settings")
    record.add_argument(
        "--from",
        dest="episodes_of",
        choices=("policy", "evaluation", "training"),
        default="policy",
        help="which episodes: new ones from initial states of training (default), those that `rlvla3 eval` runs, or those of training, repeated",
    )
    record.add_argument("--episodes", type=positive, metavar="N", help="how many are run (default: evaluation.episodes); of training, the last N (all)")
    record.add_argument("--all", action="store_true", help="write episodes without success too")
    record.add_argument(
        "--frames",
        choices=("h264", "av1", "png"),
        default="h264",
        help="how frames are kept: in videos of H.264 (default) or AV1, or as PNG images, which lose nothing",
    )
    record.add_argument("--fps", type=rate, metavar="N", help="actions a second (default: as the simulator says, or 20)")
    _add_output(record, "RUN_DIR/recordings/DATE-TIME")


def _add_export(export: argparse.ArgumentParser) -> None:
    export.add_argument("start", type=path, metavar="RUN_DIR|CHECKPOINT", help="a run directory (its newest checkpoint), a checkpoint, or a policy folder")
    export.add_argument("out", type=new_folder, metavar="OUT", help="a new folder")
    export.add_argument("--layout", choices=("lerobot", "openpi", "openvla", "groot"), help="whose software is to load it (default: the layout that came in)")
    export.add_argument("--adapters", choices=("merged", "apart"), default="merged", help="LoRA: merged into the weights (default), or as a folder of peft")
    export.add_argument(
        "--precision",
        choices=("as_it_came", "fp32", "bf16"),
        default="as_it_came",
        help="number format (default: of each tensor in the checkpoint that came in)",
    )


def _add_profile(profile: argparse.ArgumentParser) -> None:
    add_start(profile, "RECIPE", "a YAML file; its episodes are those of policy.checkpoint=FOLDER, or else of an untrained policy")
    profile.add_argument("--out", type=new_file, metavar="FILE", help="where the profile goes (default: NAME.profile.yaml)")
    profile.add_argument("--seconds", type=seconds, default=PROFILE_S, metavar="S", help=f"seconds to measure, without the start (default: {PROFILE_S:g})")


def _add_rehearse(rehearse: argparse.ArgumentParser) -> None:
    _add_planned(rehearse)
    rehearse.add_argument("--cluster", metavar="HOSTSxDEVICES", help="for example 4x8, or 8 for one host of eight")
    rehearse.add_argument("--updates", type=positive, metavar="N", help="updates that are measured after the run has settled (default: 6)")
    rehearse.add_argument("--trace", type=new_file, metavar="FILE", help="a timeline of the last two updates, for ui.perfetto.dev or chrome://tracing")
    rehearse.add_argument("--picture", type=new_file, metavar="FILE", help="the timeline of a few workers as a picture (.png, .svg, .pdf)")
    rehearse.add_argument("--paper", metavar="NAME", help="in place of a recipe: a published measurement to compare with, such as table1")


def _add_plan(plan: argparse.ArgumentParser) -> None:
    _add_planned(plan)
    plan.add_argument("--gpus", type=positive, metavar="N", help="devices in all")
    plan.add_argument("--hosts", type=positive, metavar="N", help="hosts (default: one for every eight devices)")
    plan.add_argument("--cluster", metavar="HOSTSxDEVICES", help="hosts and devices of each in one, for example 4x8")
    plan.add_argument("--memory", type=float, metavar="GIB", help="memory of a device (default: the profile's)")
    plan.add_argument("--max-staleness", type=int, metavar="N", help="the largest staleness that plans may use (default: the recipe's)")
    plan.add_argument("--best", type=positive, default=3, metavar="N", help="how many plans are printed (default: 3)")


def _add_planned(command: argparse.ArgumentParser) -> None:
    """What `rehearse` and `plan` have in common."""
    command.add_argument("overrides", nargs="*", default=[], metavar="RECIPE key=value", help="a YAML file, and settings that win over it")
    command.add_argument("--profile", metavar="FILE|NAME", help="what stages cost: a file, or the name of a profile that ships with rlvla3")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all random draws; the same seed gives the same figures (default: 0)")
    command.add_argument("--json", type=new_file, metavar="FILE", help="where the figures go")


def _add_output(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument("--run-dir", type=new_folder, metavar="DIR", help=f"where the run is kept (default: {default})")
    command.add_argument("--json", action="store_true", help="JSON lines on stdout instead of a table or plain lines; the last is the summary")
