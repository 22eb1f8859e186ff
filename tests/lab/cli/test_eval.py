"""`dgpo eval` and `dgpo compare` from end to end: files, tables, kills, and one clear line for bad input."""

import json
import os
import random
import signal
import time
from functools import partial

import pytest

from dgpo.lab.cli.main import main
from forked import Forked


def words(model, output, *more):
    return [
        "eval",
        str(model),
        "--task=forks",
        "--task-args={num_forks: 1}",
        "--limit=6",
        "--n=4",
        "--max-tokens=9",
        "--batch-size=5",
        f"--output={output}",
        *more,
    ]


def test_an_evaluation_leaves_everything_behind(tiny_model, tmp_path, capsys):
    assert main(words(tiny_model, tmp_path / "a", "--k=1,4")) == 0
    out = capsys.readouterr().out
    assert "forks: 6 problems x 4 completions, protocol plain; temperature 1.0, top_p 1.0, at most 9 tokens" in out
    assert "pass@4" in out
    assert "pass@2" not in out
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "pass_at_k.png",
        "result.json",
        "samples.jsonl",
        "settings.json",
    ]
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert result["settings"]["changed"] == {"n": 4, "max_tokens": 9}
    assert set(result["settings"]) >= {"protocol", "prompt_template", "answer_format", "source", "seed", "weights"}
    assert {"avg@4", "maj@4", "pass@1", "pass@2", "pass@3", "pass@4", "truncated", "unparseable", "tokens"} == set(
        result["metrics"]
    )
    before = (tmp_path / "a" / "samples.jsonl").read_bytes()
    assert main(words(tiny_model, tmp_path / "a")) == 0
    assert "Continuing: 24 of 24" in capsys.readouterr().out
    assert (tmp_path / "a" / "samples.jsonl").read_bytes() == before
    assert main(words(tiny_model, tmp_path / "b", "--seed=1")) == 0
    assert (tmp_path / "b" / "samples.jsonl").read_bytes() != before


def test_the_default_folder_is_found_again(tiny_model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = [word for word in words(tiny_model, "x") if not word.startswith("--output")]
    assert main(asked) == 0
    assert main([*asked, "--temperature=0.5"]) == 0
    assert main(asked) == 0
    assert "Continuing: 24 of 24" in capsys.readouterr().out
    assert len(list((tmp_path / "evals").iterdir())) == 2


def test_a_mathematical_file_is_scored_as_the_protocol_says(tiny_model, tmp_path, capsys):
    exam = tmp_path / "exam.jsonl"
    exam.write_text('{"id": "sum", "problem": "7 3 ?", "answer": "7"}\n')
    more = ["--protocol=dapo", "--n=3", "--max-tokens=5", f"--output={tmp_path / 'a'}"]
    assert main(["eval", str(tiny_model), f"--task={exam}", *more]) == 0
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert (result["settings"]["protocol"], result["settings"]["answer_format"]) == ("dapo", "dapo")
    assert result["settings"]["top_p"] == 0.7
    assert result["outcomes"] == {"unparseable": 3}
    assert result["metrics"]["unparseable"]["value"] == 1.0


def test_gold_answers_that_cannot_be_read_are_said_before_anything_is_sampled(tiny_model, tmp_path, capsys):
    exam = tmp_path / "exam.jsonl"
    more = ["--protocol=dapo", "--n=1", "--max-tokens=2", f"--output={tmp_path / 'a'}"]
    exam.write_text('{"problem": "7 3 ?", "answer": "???"}\n{"problem": "1 2 ?", "answer": "{"}\n')
    assert main(["eval", str(tmp_path / "no model"), f"--task={exam}", *more]) == 2
    said = capsys.readouterr().err
    assert "can be read as mathematics, such as '???' of problem '0'" in said
    assert said.count("\n") == 1
    exam.write_text('{"problem": "7 3 ?", "answer": "???"}\n{"problem": "1 2 ?", "answer": "2"}\n')
    assert main(["eval", str(tiny_model), f"--task={exam}", *more]) == 0
    out = capsys.readouterr().out
    assert out.index("1 gold answers cannot be read, such as that of '0'") < out.index("outcomes:")


def test_evaluations_are_compared(tiny_model, tmp_path, capsys):
    for name, more in (("a", []), ("b", ["--temperature=0.5"]), ("c", ["--limit=5"])):
        assert main(words(tiny_model, tmp_path / name, *more)) == 0
    capsys.readouterr()
    files = [f"--output={tmp_path / 'c.json'}", f"--plot={tmp_path / 'c.png'}"]
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), *files]) == 0
    out = capsys.readouterr().out
    assert "95 % interval" in out
    assert "cannot be told apart" in out or "better" in out or "worse" in out
    assert "temperature differs: '1.0' and '0.5'" in out
    (found,) = json.loads((tmp_path / "c.json").read_text())
    assert found["verdict"] in out
    assert len(found["problems"]) == 6
    assert (tmp_path / "c.png").stat().st_size > 10_000
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "c")]) == 2
    assert "c lacks 1 of 6, such as '5'" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "a")]) == 0


BAD = [
    (["--n=0"], "n is 0; it must be at least 1"),
    (["--k=5"], "k is 5, and must be from 1 to n, which is 4"),
    (["--k=0"], "k is 0"),
    (["--k=x"], "argument --k: 'x' is no list of numbers"),
    (["--protocol=lightevl"], "Did you mean 'lighteval'"),
    (["--task=aime42"], "no task 'aime42'. Did you mean"),
    (["--temperature=-1"], "temperature is -1"),
    (["--temperature=0"], "would be equal; use --n 1"),
    (["--top_p", "2"], "top_p is 2.0"),
    (["--max-tokens=0"], "max_tokens is 0"),
    (["--limit=0"], "limit is 0"),
    (["--batch-size=0"], "batch_size is 0"),
    (["--backend=tgi"], "no backend 'tgi'"),
    (["--backend=transformers", "--vllm-args={tensor_parallel_size: 2}"], "--vllm-args is for vLLM"),
    (["--nn=4"], "has no option '--nn'. Did you mean '--n'?"),
    (["--task-args=[1]"], "argument --task-args: '[1]' is no mapping"),
    (["--task-args={"], "is no mapping"),
    (["--task-args={num_frks: 1}"], "num_frks"),
    (["--task-args={eval_size: 3}"], "--limit sets it"),
    (["--task-args={seed: 3}"], "--seed sets it"),
    (["--task-args={1: 2}"], "names an option 1"),
    (["--temperature=inf"], "temperature is inf, and must be 0 or more, and finite"),
    (["--device=foo"], "The device 'foo' cannot be used"),
    (["--device=cuda:99"], "The device 'cuda:99' cannot be used"),
]


@pytest.mark.parametrize(("more", "complaint"), BAD)
def test_bad_input_is_one_clear_line(tiny_model, tmp_path, capsys, more, complaint):
    assert main(words(tiny_model, tmp_path / "a", *more)) == 2
    captured = capsys.readouterr()
    assert complaint in captured.err
    assert captured.err.startswith("dgpo: ")
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_other_bad_input_is_one_clear_line(tiny_model, tmp_path, capsys):
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(tiny_model, bare)
    for file in bare.glob("token*"):
        file.unlink()
    assert main(words(bare, tmp_path / "a")) == 2
    assert "has no tokenizer" in capsys.readouterr().err
    assert main(words(tmp_path / "nowhere", tmp_path / "a")) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert main(["eval", str(tiny_model)]) == 2
    assert "required: --task" in capsys.readouterr().err
    assert main(["compare", str(tmp_path)]) == 2
    assert "needs two evaluations" in capsys.readouterr().err
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 2
    assert "holds no evaluation" in capsys.readouterr().err
    assert main(["compare", "a", "b", "--plt=x"]) == 2
    assert "no option '--plt'. Did you mean '--plot'?" in capsys.readouterr().err
    assert main(["eval", "--help"]) == 0
    assert main(["compare", "--help"]) == 0


def test_a_model_that_changed_is_not_mixed_with_what_it_said_before(tiny_model, tmp_path, capsys):
    import shutil

    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    assert main(words(model, tmp_path / "a")) == 0
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert main(words(model, tmp_path / "a")) == 2
    assert "evaluation with weights:" in capsys.readouterr().err


def start(arguments, folder):
    return Forked(partial(main, [*map(str, arguments)]), {}, folder / "out", folder / "err")


def kill_and_resume(arguments, folder, rng, most, wanted):
    """Kill the command at random moments while it writes, then let it finish; returns how often it was killed.

    A kill counts only if the command did not end by itself, and of the wanted completions some were still missing.
    """
    kills = 0
    samples = folder / "samples.jsonl"
    while kills < most:
        process = start(arguments, folder.parent)
        target = (samples.stat().st_size if samples.exists() else 0) + rng.randrange(1, 8000)
        while process.poll() is None and (not samples.exists() or samples.stat().st_size < target):
            time.sleep(0.002)
        if process.poll() is not None:
            break
        time.sleep(rng.random() * 0.05)
        process.kill()
        if process.wait() != -signal.SIGKILL:
            break
        kills += len(samples.read_bytes().splitlines()) < wanted
    assert start(arguments, folder.parent).wait(600) == 0
    return kills


@pytest.mark.slow
def test_smollm2_killed_and_resumed_gives_the_same_file(tmp_path):
    from dgpo.lab.models import resolve_model

    model = resolve_model("HuggingFaceTB/SmolLM2-135M-Instruct")
    if not os.path.isdir(model):
        pytest.skip("make smollm2 has not been run")
    exam = tmp_path / "exam.jsonl"
    exam.write_text("".join(f'{{"id": {n}, "problem": "What is {n} + 2?", "answer": {n + 2}}}\n' for n in range(2)))
    more = [f"--task={exam}", "--n=32", "--max-tokens=8", "--batch-size=8"]
    whole, part = (["eval", model, *more, f"--output={tmp_path / name}"] for name in ("whole", "part"))
    assert start(whole, tmp_path).wait(600) == 0
    assert kill_and_resume(part, tmp_path / "part", random.Random(1), most=1, wanted=64) == 1
    for name in ("samples.jsonl", "result.json"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
