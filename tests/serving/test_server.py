"""A server and the real clients of openpi and vla-eval: what they get, and that nothing that one client does reaches another one."""

from __future__ import annotations

import asyncio
import socket
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import numpy as np
import pytest
from openpi_client import msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from vla_eval.connection import Connection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from rlvla3.policies.noise import decision_noise
from rlvla3.serving import server as serving
from tests.support.served import CHUNK, REFUSED, EchoEngine, libero_observation, policy_server

TOKEN = "a token of 16 characters or more"


def answered(actions: np.ndarray, sent: dict[str, Any]) -> bool:
    """Whether EchoEngine answered this observation."""
    state, prompt = sent["observation/state"].astype(np.float32), sent["prompt"]
    return actions.shape == (CHUNK, 7) and (actions[:, 1:4] == state[:3]).all() and (actions[:, 5] == len(prompt)).all()


def test_openpis_client_gets_metadata_and_actions():
    with policy_server() as (host, port, _):
        client = WebsocketClientPolicy(host, port)
        assert client.get_server_metadata()["policy"] == "echo"
        for seed in range(3):
            sent = libero_observation(seed)
            answer = client.infer(sent)
            assert answered(answer["actions"], sent) and answer["actions"].dtype == np.float32
            assert {"infer_ms", "wait_ms", "total_ms", "batch", "p50_ms", "p99_ms"} <= answer["server_timing"].keys()
            assert all(isinstance(value, int | float) for value in answer["server_timing"].values())
            assert ("prev_total_ms" in answer["server_timing"]) == (seed > 0)
        client.reset()


def test_a_client_that_sends_what_is_wrong_is_told_and_goes_on():
    with policy_server() as (host, port, said):
        client = WebsocketClientPolicy(host, port)
        for wrong, word in (({"prompt": "x"}, "is missing"), (libero_observation(prompt=REFUSED), "too many tokens")):
            with pytest.raises(RuntimeError, match=word):
                client.infer(wrong)
        sent = libero_observation()
        assert answered(client.infer(sent)["actions"], sent)
    assert "1 answers, 2 refused" in said[-1]


@pytest.mark.parametrize("batch", [1, 8, None])
def test_each_of_many_clients_gets_its_own_answers(batch):
    engine = EchoEngine()
    with policy_server(engine, batch=batch) as (host, port, _):

        def ask(number: int) -> None:
            client = WebsocketClientPolicy(host, port)
            for step in range(10):
                wrong = number == 3 and step % 2
                sent = libero_observation(100 * number + step, prompt=REFUSED if wrong else "p" * (number + 1))
                if wrong:
                    with pytest.raises(RuntimeError):
                        client.infer(sent)
                else:
                    assert answered(client.infer(sent)["actions"], sent)

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(ask, range(12)))
    if batch == 1:
        assert set(engine.batches) == {1}
    else:
        assert 1 < max(engine.batches) <= (batch or 64)


async def _episodes(port: int, execute: int) -> None:
    async with Connection(f"ws://127.0.0.1:{port}") as connection:
        assert connection.server_info["protocol_version"] == 1
        for episode in range(2):
            await connection.start_episode({"task": {"name": "x"}})
            for step in range(2 * execute + 1):
                states = np.full(8, 10 * episode + step, np.float32)
                images = {"agentview": np.full((32, 32, 3), step, np.uint8), "wrist": np.zeros((16, 16, 3), np.uint8)}
                action = (await connection.act({"images": images, "task_description": "do it", "states": states}))["actions"]
                place = step % execute
                assert action.shape == (7,) and action[0] == place and action[1] == states[0] - place, (
                    "an action of the chunk that was decided `place` steps ago"
                )
            await connection.end_episode({})
        with pytest.raises(RuntimeError, match="task_description is missing"):
            await connection.act({"images": images, "states": states})
        assert (await connection.act({"images": images, "task_description": "do it", "states": states}))["actions"][0] == 0


@pytest.mark.parametrize("execute", [1, 2, CHUNK])
def test_vla_evals_client_gets_one_action_after_the_other(execute):
    with policy_server(execute=execute) as (_, port, _):
        anyio.run(_episodes, port, execute)


def test_noise_is_that_of_a_run_where_the_client_says_which_decision_it_asks_for():
    with policy_server() as (host, port, _):
        client = WebsocketClientPolicy(host, port)
        drawn = [client.infer(libero_observation(decision=key))["actions"][0, 6] for key in ([7, 0], [7, 1], np.array([7, 0]))]
        assert np.array_equal(drawn, decision_noise(0, [(0, 7, 0), (0, 7, 1), (0, 7, 0)], (1,))[:, 0])
        for wrong in ([7], "7", [7, -1], [7, 2**63], [True, 1], [0.5, 1]):
            with pytest.raises(RuntimeError, match="decision: given"):
                client.infer(libero_observation(decision=wrong))


def test_every_decision_has_noise_of_its_own_and_a_new_server_repeats_it():
    def drawn() -> list[float]:
        with policy_server() as (host, port, _):
            clients = [WebsocketClientPolicy(host, port) for _ in range(2)]
            return [float(client.infer(libero_observation())["actions"][0, 6]) for _ in range(2) for client in clients]

    first = drawn()
    assert len(set(first)) == 4 and first == drawn()


def test_a_token_is_asked_for():
    with policy_server(token=TOKEN.replace(" ", "-")) as (host, port, _):
        token = TOKEN.replace(" ", "-")
        assert WebsocketClientPolicy(host, port, api_key=token).infer(libero_observation())["actions"].shape == (CHUNK, 7)
        assert WebsocketClientPolicy(f"ws://{host}:{port}/?token={token}").infer(libero_observation())["actions"].shape == (CHUNK, 7)
        for wrong in (None, "", "x", token[:-1], token + "x", token + " x"):
            with pytest.raises(InvalidStatus) as refused:
                connect(
                    f"ws://{host}:{port}", additional_headers={"Authorization": f"Api-Key {wrong}".encode().decode("latin-1")} if wrong is not None else None
                )
            assert refused.value.response.status_code == 401
        with urllib.request.urlopen(f"http://{host}:{port}/healthz") as answer:
            assert answer.status == 200


def test_no_web_page_can_connect():
    with policy_server() as (host, port, _):
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://{host}:{port}", origin=Origin("http://evil.example"))
        assert refused.value.response.status_code == 403


def test_strangers_harm_nobody():
    """What is no client: half a handshake, a request of HTTP, garbage, a connection that only waits, a client that goes in the middle of a message."""
    with policy_server() as (host, port, said):
        client = WebsocketClientPolicy(host, port)
        waiting = [socket.create_connection((host, port)) for _ in range(3)]
        waiting[0].sendall(b"GET / HTTP/1.1\r\n")
        waiting[1].sendall(b"\x16\x03\x01 no http at all\r\n\r\n")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://{host}:{port}/")
        assert refused.value.code == 426
        gone = connect(f"ws://{host}:{port}", compression=None)
        gone.recv()
        gone.socket.sendall(b"\x82\xff\x00\x00\x00\x00\x00\x10\x00\x00abcd" + bytes(1000))
        gone.socket.shutdown(socket.SHUT_RDWR)
        for seed in range(5):
            sent = libero_observation(seed)
            assert answered(client.infer(sent)["actions"], sent)
        for stranger in waiting:
            stranger.close()
    assert not any("Traceback" in line for line in said)


def test_bytes_that_are_no_message_are_answered_with_a_text_and_the_connection_stays():
    with policy_server() as (host, port, _), connect(f"ws://{host}:{port}", compression=None) as raw:
        raw.recv()
        for data in (
            b"",
            b"\xc1",
            b"\x81\xa1a\x01",
            "text",
            msgpack_numpy.packb([1, 2]),
            msgpack_numpy.packb({"type": "dance", "payload": 1, "seq": 1, "timestamp": 0}),
        ):
            raw.send(data)
            answer = raw.recv()
            assert isinstance(answer, str) or b"error" in answer
        raw.send(msgpack_numpy.packb(libero_observation()))
        assert isinstance(raw.recv(), bytes)


def test_a_message_that_is_too_large_ends_its_own_connection_alone(monkeypatch):
    monkeypatch.setattr(serving, "LARGEST_MESSAGE", 100_000)
    with policy_server() as (host, port, _):
        client = WebsocketClientPolicy(host, port)
        raw = connect(f"ws://{host}:{port}", compression=None)
        raw.recv()
        with pytest.raises(ConnectionClosed) as closed:
            raw.send(bytes(serving.LARGEST_MESSAGE + 1))
            raw.recv()
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
        assert client.infer(libero_observation())["actions"].shape == (CHUNK, 7)


def test_clients_that_send_and_never_read_or_leave_while_they_wait_hold_nobody_up():
    with policy_server(batch=8) as (host, port, _):
        sent = msgpack_numpy.packb(libero_observation())
        mute = connect(f"ws://{host}:{port}", compression=None)
        for _ in range(30):
            mute.send(sent)
        leaving = [connect(f"ws://{host}:{port}", compression=None) for _ in range(5)]
        for one in leaving:
            one.send(sent)
            threading.Thread(target=one.socket.close).start()
        client = WebsocketClientPolicy(host, port)
        for seed in range(10):
            asked = libero_observation(seed)
            assert answered(client.infer(asked)["actions"], asked)


def test_more_clients_than_there_is_room_for_are_refused(monkeypatch):
    monkeypatch.setattr(serving, "MOST_CLIENTS", 3)
    with policy_server() as (host, port, _):
        clients = [WebsocketClientPolicy(host, port) for _ in range(3)]
        with pytest.raises(InvalidStatus) as refused:
            WebsocketClientPolicy(host, port)
        assert refused.value.response.status_code == 503
        assert all(client.infer(libero_observation())["actions"].shape == (CHUNK, 7) for client in clients)


def test_the_end_of_a_server_answers_what_was_asked_and_says_goodbye():
    class Slow(EchoEngine):
        async def end(self, batch):
            asked.set()
            assert await asyncio.to_thread(go_on.wait, 60)

    asked, go_on = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        with policy_server(Slow()) as (host, port, _):
            client, idle = WebsocketClientPolicy(host, port), connect(f"ws://{host}:{port}")
            idle.recv()
            answer = pool.submit(client.infer, libero_observation())
            assert asked.wait(60)
            threading.Timer(0.3, go_on.set).start()  # the server is told to end meanwhile
        assert answer.result(60)["actions"].shape == (CHUNK, 7)
        with pytest.raises(ConnectionClosed) as closed:
            idle.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1001
