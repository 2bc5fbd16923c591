"""Reads what Weights & Biases has kept offline: `python wandb_file.py FOLDER`, with a Python that has wandb. Prints a line of JSON for each run and each point.

A file is in LevelDB's log format, with records of protobuf.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

BLOCK, HEAD, WHOLE, LAST = 32768, 7, 1, 4


def contents(data: bytes) -> Iterator[bytes]:
    at, content = HEAD, b""
    while at + HEAD <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEAD:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEAD])
        content += data[at + HEAD : at + HEAD + length]
        at += HEAD + length
        if kind in (WHOLE, LAST):
            yield content
            content = b""


def main() -> None:
    from wandb.proto import wandb_internal_pb2

    for file in sorted(Path(sys.argv[1]).glob("wandb/offline-run-*/*.wandb")):
        for content in contents(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            if record.WhichOneof("record_type") == "run":
                print(json.dumps({"run": [record.run.run_id, record.run.project, record.run.display_name]}))
            if record.WhichOneof("record_type") == "history":
                items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
                print(json.dumps({"values": {name: value for name, value in items.items() if not name.startswith("_")}}))


if __name__ == "__main__":
    main()
