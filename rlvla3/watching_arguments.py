"""The words of the commands that look at runs: watch, explain, report and view."""

from __future__ import annotations

import argparse

from rlvla3.argument_types import new_file, path, port, room, whole


def add_watch(watch: argparse.ArgumentParser) -> None:
    watch.add_argument("place", nargs="?", type=path, metavar="RUN_DIR|FOLDER", help="a run, or a folder of runs (default: runs, or else this folder)")
    watch.add_argument("--host", default="127.0.0.1", metavar="HOST", help="where to listen; 0.0.0.0 is every network, and needs a token (default: 127.0.0.1)")
    watch.add_argument("--port", type=port, metavar="N", help="0 takes any that is free (default: the first free one from 7860 on)")
    watch.add_argument("--token", metavar="TOKEN|new", help="what browsers must know (default: $RLVLA3_TOKEN); other users of this machine can read it here")
    watch.add_argument("--token-file", type=path, metavar="FILE", help="a file that holds the token")


def add_explain(explain: argparse.ArgumentParser) -> None:
    explain.add_argument("run", type=path, metavar="RUN_DIR", help="a run directory, of a run that goes on or has ended")
    explain.add_argument("--json", type=new_file, metavar="FILE", help="where the same goes as data")


def add_report(report: argparse.ArgumentParser) -> None:
    report.add_argument("runs", type=path, nargs="+", metavar="RUN_DIR", help="run directories; several are compared")
    report.add_argument("--out", type=new_file, metavar="FILE", help="the file (default: report.html in the first run directory)")
    report.add_argument("--videos-mib", type=room, default=8.0, metavar="MIB", help="room for videos of all runs together; 0 for none (default: 8)")


def add_view(view: argparse.ArgumentParser) -> None:
    view.add_argument(
        "start", type=path, metavar="EPISODE", help="a run directory (its newest film), a film of RUN_DIR/videos, or the folder of a LeRobotDataset"
    )
    view.add_argument("--episode", type=whole, metavar="N", help="of a dataset: which of its episodes (default: the first); of a run: the film of which ticket")
    view.add_argument("--live", type=whole, metavar="SHARD", help="of a run that goes on here: the first environment of this shard, as it acts")
    view.add_argument("--save", type=new_file, metavar="FILE.rrd", help="write a file for Rerun, instead of opening the viewer")


def watch(arguments: argparse.Namespace) -> None:
    """Do what the words say."""
    from rlvla3.page.watching import watch

    watch(arguments.place, arguments.host, arguments.port, arguments.token, arguments.token_file)
