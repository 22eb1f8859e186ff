"""`dgpo eval --backend vllm`: the same greedy answers as transformers, and a killed one that goes on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from dgpo.lab.cli.main import main

OPTIONS = "{enforce_eager: true, max_model_len: 48, dtype: float32, distributed_executor_backend: uni}"


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    path = tmp_path_factory.mktemp("problems") / "problems.jsonl"
    rows = [{"prompt": " ".join("abcdefgh"[k : k + 3]), "answer": "abcdefgh"[k]} for k in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words(checkpoint, problems, output, *more, backend="vllm"):
    engine = [f"--vllm-args={OPTIONS}"] if backend == "vllm" else ["--dtype=float32"]
    asked = [f"--task={problems}", "--max-tokens=9", f"--backend={backend}", f"--output={output}", *more]
    return ["eval", checkpoint, *asked, *engine]


def texts(folder):
    """What was answered, without the space that vLLM's detokenizer leaves in front of a first word."""
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return [(row["problem"], row["sample"], row["completion"].strip(), row["tokens"], row["truncated"]) for row in rows]


def test_greedy_answers_are_those_of_transformers(checkpoint, problems, tmp_path):
    for backend in ("vllm", "transformers"):
        more = ("--temperature=0", "--n=1")
        assert main(words(checkpoint, problems, tmp_path / backend, *more, backend=backend)) == 0
    assert texts(tmp_path / "vllm") == texts(tmp_path / "transformers")
    assert len({text for _, _, text, *_ in texts(tmp_path / "vllm")}) > 1


def start(arguments, folder, **variables):
    code = "import sys; from dgpo.lab.cli.main import main; sys.exit(main(sys.argv[1:]))"
    with (folder / "printed").open("w") as out:
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=folder,
            stdout=out,
            stderr=out,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "DGPO_TEST_RUN": str(folder), **variables},
        )


def processes_of(folder) -> list[int]:
    """The processes that a command has started, by a variable of their environment."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    found += [int(entry)] * (f"DGPO_TEST_RUN={folder}".encode() in file.read())
            except OSError:
                continue
    return found


def test_a_killed_evaluation_goes_on_whatever_its_batches(checkpoint, problems, tmp_path):
    whole = words(checkpoint, problems, tmp_path / "whole", "--n=40", "--batch-size=240")
    assert main(whole) == 0
    part = words(checkpoint, problems, tmp_path / "part", "--n=40", "--batch-size=8")
    process = start(part, tmp_path)
    samples = tmp_path / "part" / "samples.jsonl"
    while process.poll() is None and (not samples.exists() or samples.stat().st_size == 0):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < len(samples.read_bytes().splitlines()) < 240
    end = time.monotonic() + 60
    while (left := processes_of(tmp_path)) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == []  # the engine's process has ended with its parent
    assert main(part) == 0
    # Each completion has a seed of its own: neither the kill nor the size of the batches shows.
    assert texts(tmp_path / "part") == texts(tmp_path / "whole")


def test_the_quickstart_trains_with_vllm(tmp_path):
    """The model of forks has wider heads then."""
    words = ["train", "quickstart", "--use_vllm=true", "--max_steps=2", "--eval_size=8", "--output_dir=run"]
    process = start([*words, "--task_args={num_forks: 1}"], tmp_path, DGPO_CACHE=str(tmp_path / "cache"))
    assert process.wait(600) == 0, (tmp_path / "printed").read_text()[-3000:]
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    differences = [step["sampling/sampling_logp_difference/mean"] for step in steps if step["phase"] == "train"]
    assert len(differences) == 2
    assert max(differences) < 0.05  # vLLM samples in bfloat16, which is finer than an update
