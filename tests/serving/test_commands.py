"""`rlvla3 serve` as a command: what it refuses in words, and a server in a process of its own."""

from __future__ import annotations

import signal
import socket

import numpy as np
import pytest
from openpi_client.websocket_client_policy import WebsocketClientPolicy

from rlvla3 import Observation, load_policy
from rlvla3.config import make_recipe
from rlvla3.devices import choose_device
from rlvla3.errors import RecipeError
from rlvla3.processing.specification import Processing
from rlvla3.serving.commands import _keys
from rlvla3.serving.served import _known_turn, _with_images
from tests.support.command_line import rlvla3_process
from tests.support.served import CHUNK, SPACES, libero_observation, saved_policy, serve_process
from tests.support.thorough import thorough


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "no policy at nowhere"),
        (["nowhere", "--host", "0.0.0.0"], "lets other machines connect"),
        (["nowhere", "--host", "::"], "lets other machines connect"),
        (["nowhere", "--host", "no.such.host.invalid"], "no such host"),
        (["nowhere", "--token", "short"], "at least 16 printable characters"),
        (["nowhere", "--token-file", "nothing-here"], "--token-file nothing-here cannot be read"),
        (["nowhere", "--port", "70000"], "70000 is no port"),
        (["nowhere", "--port", "-1"], "no port"),
        (["nowhere", "--seed", "-1"], "-1 is no seed"),
        (["nowhere", "--max-wait-ms", "nan"], "give a number of 0 or more"),
        (["nowhere", "--threads", "3000000000"], "--threads 3000000000 is more than the"),
        (["nowhere", "--instruction", "x" * 100_000], "--instruction: instruction has 100000 bytes"),
        (["nowhere", "--deterministic", "--explore"], "not allowed with"),
        (["nowhere", "training.updates=3"], "Settings belong to a recipe"),
        (["recipes/cartpole.yaml"], "names no policy to serve"),
    ],
)
def test_what_cannot_be_served_is_refused_in_words_and_without_torch(words, said):
    anywhere = [] if "--port" in words else ["--port", "0"]
    refused = rlvla3_process("serve", *words, *anywhere, without=["torch"], timeout_s=240)
    assert refused.returncode == 2 and said in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.parametrize(("device", "said"), [("meta", "meta is a device"), ("mps", "mps is a device"), ("gpu", "gpu is no device"), ("cuda:99", "99, and")])
def test_a_device_that_cannot_be_used_is_refused_in_words(device, said):
    with pytest.raises(RecipeError, match=said):
        choose_device(device, "--device")


def test_names_that_clients_use():
    assert _keys(["front=images/a", "state=x+y", "instruction=say"], ["front"]) == {"front": ("images/a",), "state": ("x", "y"), "instruction": ("say",)}
    for wrong in (["front"], ["front="], ["back=x"], ["front=a", "front=b"], ["state=a+"], ["=x"]):
        with pytest.raises(RecipeError, match=r"--key"):
            _keys(wrong, ["front"])


def test_how_frames_were_turned_is_known_from_the_run_or_from_the_processing():
    libero = {"simulator": {"name": "libero", "tasks": ["libero_goal/0"]}}
    assert _known_turn(make_recipe(libero), None) == "mirrored"
    assert _known_turn(make_recipe(libero, ["simulator.options.mirrored=true"]), None) == "none"
    assert _known_turn(make_recipe({"simulator": {"name": "metaworld", "tasks": ["reach-v3"]}}), None) == "none"
    assert _known_turn(make_recipe({"simulator": {"name": "gymnasium:CartPole-v1"}}), None) is None
    assert _known_turn(None, None) is None
    assert _known_turn(None, Processing(images={"turn": "rotated"})) == "rotated"  # type: ignore[arg-type]  # pydantic makes it


def test_frames_for_a_pretrained_policy_have_the_size_that_changes_nothing():
    as_openpi = Processing(images={"size": (224, 224), "resize": "pad", "filter": "pillow"})  # type: ignore[arg-type]  # pydantic makes it
    other = Processing(images={"size": (224, 224), "resize": "stretch", "filter": "lanczos3"})  # type: ignore[arg-type]  # pydantic makes it
    assert set(_with_images(SPACES, None, as_openpi).cameras.values()) == {(224, 224, 3)}
    assert _with_images(SPACES, None, other) == SPACES == _with_images(SPACES, None, None)
    assert set(_with_images(SPACES, 256, other).cameras.values()) == {(256, 256, 3)}
    with pytest.raises(RecipeError, match="--image-size 32"):
        _with_images(SPACES, 32, None)


@pytest.mark.slow
@pytest.mark.parametrize("ends", [signal.SIGINT, *thorough(signal.SIGTERM)])
def test_a_served_policy_acts_as_in_python_and_ends_cleanly(tmp_path, ends):
    folder = saved_policy(tmp_path / "policy")
    with serve_process(folder, "--turn", "mirrored", "--deterministic", ends=ends) as (port, lines, process):
        assert any("it sees agentview 32 x 32, robot0_eye_in_hand 32 x 32 and a state of 8 numbers" in line for line in lines)
        client, sent = WebsocketClientPolicy("127.0.0.1", port), libero_observation()
        served = client.infer(sent)["actions"]
        images = {"agentview": sent["observation/image"][:, ::-1], "robot0_eye_in_hand": sent["observation/wrist_image"][:, ::-1]}
        images = {camera: np.ascontiguousarray(frame) for camera, frame in images.items()}
        seen = Observation(images, sent["observation/state"].astype(np.float32), sent["prompt"])
        assert served.shape == (CHUNK, 7) and np.array_equal(served, load_policy(folder).act(seen))
        client.infer(sent)
    assert process.stdout is not None and "ended: 2 answers" in process.stdout.read()


@pytest.mark.slow
def test_a_port_that_is_taken_is_refused_in_words(tmp_path):
    folder = saved_policy(tmp_path / "policy")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = rlvla3_process("serve", folder, "--port", str(port), timeout_s=240)
    assert refused.returncode == 2 and f"cannot listen on 127.0.0.1, port {port}: another program listens there" in refused.stderr
