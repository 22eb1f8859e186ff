"""A first project of one's own: 50 pairs in a file and an instruct model. It learns, or says why it cannot."""

import json

import pytest

from dgpo.lab.cli.main import main
from dgpo.lab.report.files import write_report
from dgpo.lab.runs.files import read_jsonl


def figures(run):
    return json.loads((run / "summary.json").read_text())


def test_the_project_learns_with_keys_from_the_readme_alone(project, tmp_path, capsys):
    # One answer for all, as a model of a few thousand parameters learns no more in seconds.
    rows = [{"question": f"lucky digit {number}?", "answer": "7"} for number in range(50)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = tmp_path / "run"
    more = ["--max_steps=40", "--learning_rate=1e-2", "--eval_size=20", "--per_device_eval_batch_size=3"]
    assert main(["train", str(project), *more, f"--output_dir={run}"]) == 0
    out = capsys.readouterr().out
    accuracy = figures(run)["held_out_accuracy"]
    assert accuracy["before"]["mean"] <= 0.4
    assert accuracy["after"]["low"] > accuracy["before"]["mean"]  # beyond its interval
    assert accuracy["after"]["mean"] > accuracy["before"]["high"]
    assert "no_signal" not in figures(run)
    assert "trained model" in out

    # Before and after, measured again from outside: the same prompts, scorer and sampling.
    capsys.readouterr()
    for name, words in {"after": [], "before": [figures(run)["model"]]}.items():
        folder = tmp_path / name
        assert main(["eval", *words, f"--run={run}", "--n=4", f"--output={folder}"]) == 0
        result = json.loads((folder / "result.json").read_text())
        assert (result["problems"], result["settings"]["max_tokens"]) == (20, 4)
        measured = result["metrics"]["avg@4"]["value"]
        trained, untrained = accuracy["before"]["high"], accuracy["after"]["low"]
        assert measured > trained if name == "after" else measured < untrained


def test_training_and_its_evaluations_ask_the_same_question(project, tmp_path, capsys, monkeypatch):
    """Token ids that reach `generate`, in training, held-out accuracy, eval_task and `dgpo eval`."""
    from transformers import GenerationMixin

    asked: set[tuple[int, ...]] = set()
    generate = GenerationMixin.generate

    def listen(self, *args, **kwargs):
        ids, mask = kwargs["input_ids"], kwargs["attention_mask"]
        asked.update(tuple(row[keep.bool()].tolist()) for row, keep in zip(ids, mask, strict=True))
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(GenerationMixin, "generate", listen)
    run = tmp_path / "run"
    more = ["--chat_template_kwargs={enable_thinking: false}", "--max_steps=1", "--eval_size=4", "--eval_samples=1"]
    every = ["--eval_task=pairs.jsonl", "--eval_every=1"]
    assert main(["train", str(project), *more, *every, f"--output_dir={run}", "--num_generations_eval=4"]) == 0
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(figures(run)["model"])
    texts = {tokenizer.decode(ids).replace(" ", "") for ids in asked}
    assert all(text.startswith("<s>u:") and text.endswith("?</s><s>a:#") for text in texts)
    before = len(asked)
    assert main(["eval", f"--run={run}", "--n=1", f"--output={tmp_path / 'eval'}"]) == 0
    assert len(asked) == before  # nothing that training has not asked
    asked.clear()
    words = ["--task=pairs.jsonl", "--task-args={chat: false}", "--n=1", "--max-tokens=2", "--limit=3"]
    assert main(["eval", str(run / "final"), *words, f"--output={tmp_path / 'plain'}"]) == 0
    assert {tokenizer.decode(ids).replace(" ", "") for ids in asked} == {"0?", "1?", "2?"}


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        (["--task_args.chat=false", "--max_completion_length=1"], "Likeliest cause:"),
        (["--rewards=[never.py:never]"], "all wrong, or all alike"),
        (["--rewards=[never.py:never]", "--max_completion_length=1"], " % of the completions are cut off"),
        (["--rewards=[never.py:always]"], "every completion is right already"),
    ],
)
def test_a_run_without_signal_says_so(project, tmp_path, capsys, more, cause):
    (tmp_path / "never.py").write_text(
        "def never(completions, answer):\n    return [0.0] * len(completions)\n\n\n"
        "def always(completions, **columns):\n    return [1.0] * len(completions)\n"
    )
    run = tmp_path / "run"
    more = [*more, "--logging_steps=10", "--eval_before_and_after=false", "--max_steps=6", "--temperature=1e-6"]
    assert main(["train", str(project), *more, f"--output_dir={run}"]) == 0
    out = capsys.readouterr().out
    assert out.count("No signal: in the last 5 samplings, 0 of 20 groups had differing rewards") == 1
    assert "gold answer '" in out
    assert cause in out
    table = out[out.rindex("training  ") :]
    assert "trained model" not in table
    assert "no group had differing rewards: nothing was learned" in out
    assert figures(run)["no_signal"].startswith("No signal")
    page = tmp_path / "page.html"
    write_report([run], page)
    assert "No signal: in the last" in page.read_text()


def test_own_rewards_have_options_weights_and_the_other_columns(project, tmp_path, capsys):
    rows = [{"question": f"{digit}?", "answer": str(digit), "level": digit % 3} for digit in range(10)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.py").write_text(
        "from dgpo.lab.rewards import completion_text\n\n\n"
        "def scaled(completions, answer, level, scale=1.0, **columns):\n"
        "    texts = map(completion_text, completions)\n"
        "    return [scale * (a in t) + 0.01 * n for t, a, n in zip(texts, answer, level, strict=True)]\n"
    )
    words = ["--rewards=[exact_match, mine.py:scaled]", "--reward_options.scaled.scale=2.5", "--reward_weights=[1, 2]"]
    run = tmp_path / "run"
    more = ["--max_steps=1", "--eval_before_and_after=false", "--per_device_train_batch_size=40", "--eval_size=0"]
    assert main(["train", str(project), *words, *more, f"--output_dir={run}"]) == 0
    rows = [row for file in (run / "completions").iterdir() for row in read_jsonl(file)]
    values = {round(row["rewards"]["scaled"], 2) for row in rows}
    assert values <= {0.0, 0.01, 0.02, 2.5, 2.51, 2.52}
    assert max(values) >= 2.5
    assert main(["train", str(project), *words, *more, "--reward_options.scale=3", "--dry-run"]) == 2
    assert "reward_options are given for 'scale'" in capsys.readouterr().err


def test_stop_strings_of_a_recipe_end_completions(project, tmp_path):
    """At this temperature a digit is followed by anything, unless it ends the completion."""
    run = tmp_path / "run"
    stops = "--generation_kwargs={stop_strings: ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']}"
    more = ["--max_steps=1", "--eval_before_and_after=false", "--temperature=20", "--max_completion_length=8"]
    assert main(["train", str(project), *more, stops, f"--output_dir={run}"]) == 0
    rows = [row for file in (run / "completions").iterdir() for row in read_jsonl(file)]
    ends = [[character.isdigit() for character in row["completion"][0]["content"]] for row in rows]
    assert any(True in digits for digits in ends)
    assert all(True not in digits[:-1] for digits in ends)


def test_a_failed_start_is_tried_again_in_its_folder_with_long_prompts_dropped(project, tmp_path, capsys):
    rows = [{"question": f"{digit}" * (30 if digit > 7 else 1) + "?", "answer": str(digit)} for digit in range(10)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.py").write_text("def score(completions, **columns):\n    raise KeyError('gold')\n")
    run = tmp_path / "run"
    more = ["--max_steps=1", "--eval_before_and_after=false", "--eval_size=0", "--rewards=[mine.py:score]"]
    drop = ["--max_prompt_length=12", "--long_prompts=drop"]
    words = ["train", str(project), *more, *drop, f"--output_dir={run}"]
    assert main(words) == 1
    assert run.is_dir()
    (tmp_path / "fixed.py").write_text("def score(completions, **columns):\n    return [1.0] * len(completions)\n")
    words = [word.replace("mine.py", "fixed.py") for word in words]
    capsys.readouterr()
    assert main(words) == 0
    assert "2 of the 10 training prompts are left out: longer than 12 tokens" in capsys.readouterr().out
    completions = [row for file in (run / "completions").iterdir() for row in read_jsonl(file)]
    assert completions
    assert not any("888" in str(row["prompt"]) or "999" in str(row["prompt"]) for row in completions)
    assert main(words) == 2
    assert "is not empty" in capsys.readouterr().err
