"""Broken policy folders. Each must be refused in words, or become a policy all of whose weights are finite."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from rlvla3.benchmarks.fuzz.good_policies import EXPORTED, FAMILIES, FED, FED_TINY, OURS, SPACES, write_good
from rlvla3.benchmarks.fuzz.mutations import broken_file, broken_tree, odd_value
from rlvla3.benchmarks.fuzz.subject import Subject
from rlvla3.config import PolicyConfig
from rlvla3.observability.continuing import policy_folder
from rlvla3.policies.registry import make_policy, policy_options, read_checkpoint_config

KEPT = "kept pi0"
ODD_WEIGHTS = (float("nan"), float("inf"), -float("inf"))


class Policies(Subject):
    """A case is a folder `policy`, and kind.txt with what it was made from."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        os.environ["HF_HUB_OFFLINE"] = "1"  # a broken name of a tokenizer or a model is looked for here alone
        torch.set_num_threads(1)
        logging.disable(logging.WARNING)
        os.chdir(folder)  # policies keep the path of what they came from, and a case must not depend on this folder
        for kind in FAMILIES:
            (folder / kind).mkdir()
            write_good(kind, Path(kind))
            self._load(folder / kind, kind)

    def make(self, random: Random, folder: Path) -> str:
        kind = random.choice(list(FAMILIES))
        shutil.copytree(self.folder / kind, folder / "policy")
        said = "; ".join(_break(folder / "policy", random) for _ in range(random.choice((1, 1, 1, 2))))
        (folder / "kind.txt").write_text(kind)
        return f"{kind}: {said}"

    def read(self, folder: Path) -> None:
        self._load(folder / "policy", (folder / "kind.txt").read_text())

    def _load(self, folder: Path, kind: str) -> None:
        """As `load_policy` loads a policy of ours, and a run one of other software."""
        place = policy_folder(folder)
        if kind in OURS or kind == KEPT:
            saved = read_checkpoint_config(place)
            config, spaces = saved.config(place), saved.spaces
        else:
            config, spaces = PolicyConfig(name=FAMILIES[kind], chunk=2, checkpoint=place, options=FED if kind in EXPORTED else FED_TINY), SPACES
        policy_options(config, spaces).check_fed(spaces, [])
        policy = make_policy(config, spaces)
        if wrong := [name for name, tensor in policy.state_dict().items() if not tensor.isfinite().all()]:
            raise AssertionError(f"a policy would act with numbers of {wrong[0]} that are not finite")


def _break(folder: Path, random: Random) -> str:
    """One change of one file in `folder`. Returns it in words."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if not files:
        return "nothing is left"
    path = random.choice(files if random.random() < 0.7 else [file for file in files if file.suffix in (".json", ".safetensors")] or files)
    name, kind = str(path.relative_to(folder)), random.random()
    if kind < 0.1:
        return f"{name} {_replaced(path, files, random)}"
    return f"{name}: {broken_file(path, random, None if kind < 0.3 else BREAKERS.get(path.suffix))}"


def _replaced(path: Path, files: list[Path], random: Random) -> str:
    """Put something else in the place of a file."""
    match random.choice(("gone", "empty", "folder", "other")):
        case "gone":
            path.unlink()
            return "is missing"
        case "empty":
            path.write_bytes(b"")
            return "is empty"
        case "folder":
            path.unlink()
            path.mkdir()
            return "is a folder"
        case _:
            other = random.choice(files)
            path.write_bytes(other.read_bytes())
            return f"is {other.name}"


def _break_json(path: Path, random: Random) -> str:
    tree, said = broken_tree(json.loads(path.read_text()), random)
    path.write_text(json.dumps(tree))
    return said


def _break_safetensors(path: Path, random: Random) -> str:
    if random.random() < 0.3:
        return _break_header(path, random)
    tensors = load_file(path)
    said = _break_tensors(tensors, random)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})
    return said


def _break_header(path: Path, random: Random) -> str:
    """Change the JSON in front of the numbers, and keep its length right."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    tree, said = broken_tree(json.loads(content[8 : 8 + length]), random)
    header = json.dumps(tree).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    return f"header: {said}"


def _break_torch(path: Path, random: Random) -> str:
    content: Any = torch.load(path, weights_only=True)
    if random.random() < 0.3:
        key = random.choice(list(content))
        content[key] = value = odd_value(random)
        said = f"{key} is {value!r:.40}"
    else:
        said = _break_tensors(content, random)
    torch.save(content, path)
    return said


def _break_tensors(tensors: dict[str, torch.Tensor], random: Random) -> str:
    name = random.choice(sorted(tensors))
    tensor = tensors[name]
    match random.choice(("number", "number", "number", "gone", "renamed", "shape", "shape", "dtype", "empty", "more")):
        case "number" if tensor.is_floating_point() and tensor.numel():
            value = random.choice(ODD_WEIGHTS)
            tensor.view(-1)[random.randrange(tensor.numel())] = value
            return f"a number of {name} is {value}"
        case "gone":
            del tensors[name]
            return f"{name} is missing"
        case "renamed":
            other = random.choice((f"{name}s", f"model.{name}", "", name.upper(), name.replace(".0.", ".7.")))
            tensors[other] = tensors.pop(name)
            return f"{name} is called {other}"
        case "shape":
            tensors[name] = random.choice((tensor[None], tensor.reshape(-1), tensor[..., :1], torch.cat([tensor, tensor]) if tensor.dim() else tensor)).clone()
            return f"{name} has shape {list(tensors[name].shape)}"
        case "dtype":
            dtype = random.choice((torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64))
            tensors[name] = tensor.to(dtype)
            return f"{name} is {dtype}"
        case "empty":
            tensors[name] = tensor.new_zeros(random.choice(((0,), (0, 3), (1, 0, 2))))
            return f"{name} is empty"
        case _:
            tensors[f"{name}.more"] = torch.zeros(2)
            return f"{name}.more is there"


BREAKERS = {".json": _break_json, ".safetensors": _break_safetensors, ".pt": _break_torch}
"""How files of each kind are broken within their format."""
