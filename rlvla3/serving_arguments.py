"""The words of `rlvla3 serve`: what it may be asked for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rlvla3.argument_types import add_start, not_negative, path, port, positive, seed

PORT, MAX_WAIT_MS = 8000, 10.0


def add_serve(serve: argparse.ArgumentParser) -> None:
    add_start(serve, "RUN_DIR|CHECKPOINT|RECIPE", "a run directory (its newest checkpoint), a checkpoint, a policy folder; or a recipe with policy.checkpoint")
    serve.add_argument("--host", default="127.0.0.1", metavar="HOST", help="where to listen; 0.0.0.0 is every network, and needs a token (default: 127.0.0.1)")
    serve.add_argument("--port", type=port, default=PORT, metavar="N", help=f"0 takes any that is free (default: {PORT}, as openpi)")
    serve.add_argument("--token", metavar="TOKEN|new", help="what clients must send (default: $RLVLA3_TOKEN); other users of this machine can read it here")
    serve.add_argument("--token-file", type=path, metavar="FILE", help="a file that holds the token")
    serve.add_argument("--device", default="auto", metavar="DEVICE", help="cpu, cuda, cuda:N, or auto, a GPU if there is one (default: auto)")
    serve.add_argument("--threads", type=positive, default=1, metavar="N", help="torch threads on a CPU (default: 1)")
    serve.add_argument("--max-batch", type=positive, metavar="B", help="decisions at once, at most (default: learned as it runs; 1 decides for each alone)")
    serve.add_argument(
        "--max-wait-ms", type=not_negative, default=MAX_WAIT_MS, metavar="MS", help=f"the longest wait for others to join a batch (default: {MAX_WAIT_MS:g})"
    )
    serve.add_argument("--execute", type=positive, metavar="N", help="actions of a chunk that a client of vla-eval gets before the next one (default: all)")
    noise = serve.add_mutually_exclusive_group()
    noise.add_argument("--deterministic", action="store_true", help="the same observation always gets the same actions: all chunks start from the same noise")
    noise.add_argument("--explore", action="store_true", help="with exploration noise, as in training")
    serve.add_argument("--seed", type=seed, metavar="N", help="of all noise (default: the run's)")
    serve.add_argument("--instruction", metavar="TEXT", help="for clients that send none")
    serve.add_argument("--key", action="append", default=[], metavar="NAME=PATH", help="what clients call a camera, state or instruction: wrist=images/hand")
    serve.add_argument(
        "--turn", choices=("none", "flipped", "mirrored", "rotated"), help="how clients' frames become those of training (default: as the run says)"
    )
    serve.add_argument("--image-size", type=positive, metavar="PX", help="what frames are resized to for a pretrained policy (default: what it sees)")


def serve(arguments: argparse.Namespace) -> None:
    """Do what the words say."""
    from rlvla3.serving.commands import Serving, serve

    given: dict[str, Any] = {name: getattr(arguments, name) for name in Serving.__dataclass_fields__ if name != "keys"}
    start: Path = arguments.start
    serve(start, arguments.overrides, Serving(keys=arguments.key, **given), arguments.trust)
