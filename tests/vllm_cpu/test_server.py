"""`DGPOTrainer` with a vLLM server on a CPU: each push arrives, or the run ends with an error that says why."""

import ctypes
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import torch
from recomputed import Spy, is_synced, plain_loss
from requests.adapters import HTTPAdapter
from support import lora, make_trainer
from transformers import TrainerCallback

from dgpo.engines.trl.vllm_server import EXTENSION, CPUClient
from dgpo.errors import ConfigError, TrainingError

STALE = "vLLM samples from the reference's weights"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def end_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: also where the tests are killed


@contextmanager
def serving(checkpoint, folder):
    """A server, as the documentation starts it; its engine is a process of its own in the same group."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    options = ["--max-model-len=48", "--dtype=float32", "--enforce-eager", "--logprobs-mode=processed_logprobs"]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", checkpoint, *options]
    command += ["--host=127.0.0.1", f"--port={port}", f"--worker-extension-cls={EXTENSION}"]
    environment = {**os.environ, "VLLM_SERVER_DEV_MODE": "1", "HF_HUB_OFFLINE": "1"}
    printed = folder / "server.txt"
    with printed.open("w") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, start_new_session=True, preexec_fn=end_with_parent
        )
    try:
        for _ in range(600):
            assert process.poll() is None, printed.read_text()[-3000:]
            try:
                urlopen(f"{url}/health").close()
                break
            except URLError:
                time.sleep(0.5)
        yield url, process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):  # of the group, whatever has not ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory):
    with serving(checkpoint, tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture
def trainer_of(server, checkpoint, tmp_path, monkeypatch):
    """Make a trainer that samples through the server, and looks for files of pushes that stay."""
    pushes = tmp_path / "pushes"
    pushes.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(pushes))

    def made(**options):
        vllm = {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": server[0], "tau": 0.02}
        trainer = make_trainer(Spy, checkpoint, tmp_path / "run", **vllm, **options)
        # A server that is gone is gone for good here: do not try again for a minute.
        trainer.vllm_generation.vllm_client.session.mount("http://", HTTPAdapter())
        return trainer

    yield made
    assert list(pushes.iterdir()) == []


def test_the_loss_is_that_of_the_equations_and_each_push_arrives(trainer_of, checkpoint, caplog):
    trainer = trainer_of(max_steps=4, temperature=0.9)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    for number, step in enumerate(trainer.seen):
        expected, distance = plain_loss(trainer, checkpoint, step, step)
        assert step["loss"] == pytest.approx(expected, abs=2e-6), number
    assert number == 3
    assert distance > 1e-3
    assert is_synced(trainer)
    assert STALE not in caplog.text


def test_an_adapter_is_pushed_merged(trainer_of):
    trainer = trainer_of(max_steps=4, peft_config=lora(), learning_rate=0.5)
    trainer.train()
    assert trainer.recorder.steps[-1]["dgpo/hellinger_sq/max"] > 1e-3
    assert is_synced(trainer)


def test_a_sampler_that_keeps_its_first_weights_is_noticed_once(trainer_of, monkeypatch, caplog):
    trainer = trainer_of(max_steps=4)
    trainer.vllm_generation.sync_weights()
    monkeypatch.setattr(CPUClient, "update_named_params", lambda *args: None)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert not is_synced(trainer)
    assert caplog.text.count(STALE) == 1


def test_weights_that_do_not_fit_are_an_error(trainer_of):
    client = trainer_of().vllm_generation.vllm_client
    other = [("model.embed_tokens.weight", torch.zeros(3, 5))]
    with pytest.raises(TrainingError, match=r"could not load the weights of this update: \w+: .* be able to read"):
        client.update_named_params([], iter(other))


class Kill(TrainerCallback):
    def __init__(self, process):
        self.process = process

    def on_step_end(self, args, state, control, **kwargs):
        self.process.kill()
        self.process.wait()


def test_a_server_that_dies_ends_the_run(trainer_of, server):  # the last one that needs it
    trainer = trainer_of(max_steps=4)
    trainer.add_callback(Kill(server[1]))
    with pytest.raises(TrainingError, match=r"The vLLM server at \S+ failed: .* start it again, and resume"):
        trainer.train()
    assert trainer.state.global_step == 1


@contextmanager
def answering(info):
    """A server that answers as vLLM's does; `info` is its configuration, None where it does not tell."""
    answers = {"/health": {}, "/v1/models": {"data": [{"id": "model"}]}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer = {"vllm_config": info} if self.path.startswith("/server_info") else answers[self.path]
            self.send_response(404 if answer == {"vllm_config": None} else 200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as found:
        Thread(target=found.serve_forever, args=[0.01], daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


@pytest.mark.parametrize(
    ("extension", "mode", "reason"),
    [
        (None, "processed_logprobs", "worker_extension_cls=None"),
        (EXTENSION, "raw_logprobs", "logprobs_mode='raw_logprobs'"),
        (None, None, "answers 404 to /server_info; VLLM_SERVER_DEV_MODE=1 opens it"),
    ],
)
def test_a_server_that_was_started_otherwise_is_refused(extension, mode, reason):
    info = {"parallel_config": {"worker_extension_cls": extension}, "model_config": {"logprobs_mode": mode}}
    with answering(info if mode else None) as url, pytest.raises(ConfigError) as refused:
        CPUClient(base_url=url).init_communicator()
    assert reason in str(refused.value)
    assert "VLLM_SERVER_DEV_MODE=1 python -m vllm.entrypoints.openai.api_server --model MODEL" in str(refused.value)


def test_where_there_is_no_server_it_is_said_how_to_start_one():
    with pytest.raises(ConfigError, match=r"can't be reached .* On a CPU: VLLM_SERVER_DEV_MODE=1"):
        CPUClient(base_url=f"http://127.0.0.1:{free_port()}")
