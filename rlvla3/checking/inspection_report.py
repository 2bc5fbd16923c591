"""What `rlvla3 inspect` prints and writes."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlvla3.checking.inspection import Inspected, Prompt, inspect, prompt_of, sources, state_numbers
from rlvla3.checkpoints.contents import Checkpoint
from rlvla3.config import Overrides
from rlvla3.errors import some_of
from rlvla3.observability.figures import write_figures
from rlvla3.observability.formatting import number_of, size
from rlvla3.observability.progress_line import progress
from rlvla3.processing.description import describe_processing
from rlvla3.types import ActionSpace, Spaces

Sections = Mapping[str, Sequence[str]]

WIDTH, INDENT = 120, 10
OPEN = "left open: give --recipe"

CONVENTIONS: Mapping[str, Sequence[str]] = {
    "libero": (
        "state: position of the hand (3), its rotation as axis-angle (3), the two fingers (2)",
        "actions: steps of position (3) and of rotation as axis-angle (3), gripper from -1 (open) to 1 (closed)",
    ),
    "metaworld": ("state: position of the hand (3), gripper opening (1)", "actions: steps of position (3), gripper effort (1); the hand does not rotate"),
    "droid": ("state: angles of 7 joints, gripper", "actions: velocities of 7 joints, gripper"),
}
"""Preset -> what the numbers of its robot mean. ManiSkill's depend on simulator.options.control_mode."""


def inspect_and_print(name: str, recipe: Path | None, overrides: Overrides, instruction: str | None, figures: Path | None) -> None:
    """Print what is fed to the policy `name` and what is made of its answers. figures: a file for the same as data. Raises RecipeError."""
    with progress(f"reading {name}"):
        inspected = inspect(name, recipe, overrides)
    prompt = prompt_of(inspected, instruction)
    sections: dict[str, Sequence[str]] = dict(fed_sections(inspected, prompt))
    print("\n".join(_lines(sections)), flush=True)
    from rlvla3.checking.inspection_model import format_lines, memory_lines, model_of, training_lines

    with progress(f"building the network of {name} without its weights"):
        model = model_of(inspected)
    more: dict[str, Sequence[str]] = {
        "trained": list(training_lines(inspected, model)),
        "formats": list(format_lines(inspected, model)),
        "memory": list(memory_lines(inspected, model)),
    }
    more |= dict(_last_sections(inspected))
    print("\n".join(_lines(more)), flush=True)
    if figures is not None:
        write_figures(_data(inspected, prompt, asdict(model), {**sections, **more}), figures)


def fed_sections(inspected: Inspected, prompt: Prompt | str) -> Iterator[tuple[str, Sequence[str]]]:
    """The sections that need no network."""
    options, spaces = inspected.options, inspected.spaces
    yield "policy", list(_policy(inspected))
    yield "settings", [f"from {place}: {', '.join(keys)}" for place, keys in sources(inspected).items()]
    described = describe_processing(options.processing, spaces or _without_simulator(inspected))
    if spaces is None:
        described["cameras"] = [f"{number}. {camera.key}: {OPEN}" for number, camera in enumerate(options.processing.images.cameras, 1)]
        if options.preset is None:
            described["images"][0] += ", unless a preset turns them: give --recipe"
        described["state"][0] = f"{state_numbers(inspected)} numbers have statistics; which of the simulator's are fed is {OPEN}"
        described["actions"][0] = f"the model has {options.processing.actions.size} dimensions; which are executed is {OPEN}"
    yield from ((section, described[section]) for section in ("cameras", "images", "state"))
    yield "prompt", [*described["prompt"], *_prompt(prompt)]
    yield "actions", described["actions"]
    if options.preset and options.preset in CONVENTIONS:
        yield "robot", [*CONVENTIONS[options.preset], f"as preset {options.preset} has it"]
    yield "decision", list(_decision(inspected))


def _without_simulator(inspected: Inspected) -> Spaces:
    """Spaces that have all numbers with statistics."""
    actions = inspected.options.processing.actions
    action = ActionSpace("continuous", len(actions.dimensions) or actions.normalisation.dimensions or actions.size)
    return Spaces({camera.camera: (1, 1, 3) for camera in inspected.options.processing.images.cameras if camera.camera}, state_numbers(inspected), action, 1)


def _policy(inspected: Inspected) -> Iterator[str]:
    checkpoint = inspected.checkpoint
    yield f"{inspected.name}: family {inspected.options.Family}"
    if inspected.folder is not None:
        yield f"saved by rlvla3 in {inspected.folder}" + ("" if checkpoint else ", and began with random weights")
    if checkpoint is not None:
        yield f"{'it came in' if inspected.folder else 'in'} {checkpoint.layout}'s layout" + ("" if inspected.folder else f", {checkpoint.folder}")
        yield from _files(checkpoint, inspected.folder is None)
    if inspected.options.statistics:
        yield f"statistics: {inspected.options.statistics}"


def _files(checkpoint: Checkpoint, here: bool) -> Iterator[str]:
    counts = Counter(stored.file for stored in checkpoint.weights.values())
    for file, count in counts.items():
        yield f"{file.name}: {count} tensors" + (f", {size(file.stat().st_size)}" if here and file.is_file() else "")
    if checkpoint.carried:
        yield f"beside them: {some_of(list(checkpoint.carried))}"


def _prompt(prompt: Prompt | str) -> Iterator[str]:
    if isinstance(prompt, str):
        yield prompt
        return
    yield f"for {prompt.instruction!r}: {prompt.text!r}"
    yield f"{len(prompt.ids)} tokens and {prompt.padding} of padding ({prompt.pad}): {_shortened(prompt.ids)}"


def _shortened(ids: Sequence[int]) -> str:
    """The ids, where a token that is repeated many times, as image tokens are, stands once."""
    parts: list[list[int]] = []
    for token in ids:
        if parts and parts[-1][0] == token:
            parts[-1][1] += 1
        else:
            parts.append([token, 1])
    return " ".join(f"{token} (x {times})" if times > 3 else " ".join([str(token)] * times) for token, times in parts)


def _decision(inspected: Inspected) -> Iterator[str]:
    options = inspected.options
    chunk = inspected.config.chunk
    executed = inspected.checkpoint.executed if inspected.checkpoint else None
    if inspected.recipe is None and inspected.folder is None:
        yield f"{options.horizon} actions are computed" + (f"; its authors execute {executed} of them" if executed else "; how many are executed is left open")
    else:
        beside = f" (its authors execute {executed})" if executed and executed != chunk else ""
        yield f"{options.horizon} actions are computed, and the first {chunk} are executed{beside}"
    flow, tokens = getattr(options, "flow", None), getattr(options, "tokens", None)
    if flow is not None:
        steps = "one step, drawn at random" if flow.steps == "one" else "the last step" if flow.method == "last_step" else "every step"
        yield f"denoised in K = {flow.denoising_steps} steps; RL by {flow.method}, noise {flow.noise} in {steps}"
    elif tokens is not None:
        yield f"256 tokens for each dimension; RL samples at temperature {tokens.temperature:g}"
    yield f"value function: from the {options.value.features}, hidden layers of {', '.join(map(str, options.value.hidden))}"


def _last_sections(inspected: Inspected) -> Iterator[tuple[str, Sequence[str]]]:
    checkpoint = inspected.checkpoint
    if checkpoint is not None:
        unused = checkpoint.unused
        yield "unused", [f"{number_of(len(unused), 'tensor')}, kept for export: {some_of(unused)}"] if unused else ["no tensor"]
        if checkpoint.notes:
            yield "notes", list(checkpoint.notes)
    if inspected.spaces is None:
        yield "open", ["no simulator: give --recipe, and cameras, state and actions are matched with it"]


def _lines(sections: Sections) -> Iterator[str]:
    for section, lines in sections.items():
        for number, line in enumerate(lines):
            label = section if number == 0 else ""
            deeper = len(line) - len(line.lstrip())
            wrapped = [line.strip()]
            if len(line) > WIDTH - INDENT:  # wrapping would close up the columns of a table
                wrapped = textwrap.wrap(line.strip(), WIDTH - INDENT - deeper - 2, break_long_words=False, break_on_hyphens=False)
            for part, text in enumerate(wrapped):
                yield f"{label if part == 0 else '':<{INDENT}}{' ' * (deeper + (2 if part else 0))}{text}".rstrip()


def _data(inspected: Inspected, prompt: Prompt | str, model: Mapping[str, Any], sections: Sections) -> dict[str, Any]:
    checkpoint, spaces = inspected.checkpoint, inspected.spaces
    return {
        "name": inspected.name,
        "family": inspected.options.Family,
        "layout": checkpoint.layout if checkpoint else None,
        "options": inspected.options.model_dump(mode="json"),
        "chunk": inspected.config.chunk,
        "prompt": prompt if isinstance(prompt, str) else asdict(prompt),
        "sources": sources(inspected),
        "spaces": asdict(spaces) if spaces else None,
        "model": dict(model),
        "notes": list(checkpoint.notes) if checkpoint else [],
        "printed": {section: list(lines) for section, lines in sections.items()},
    }
