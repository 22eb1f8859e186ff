"""Values, signals and their AUROC are what they are said to be; a run that was cut goes on to the same figures."""

import json

import numpy as np
import pytest
import torch

from dgpo.lab.evaluation.loading import load_model, load_tokenizer
from dgpo.lab.tasks.forks import warm_up_model
from experiments.value_ground_truth import page
from experiments.value_ground_truth.__main__ import main
from experiments.value_ground_truth.measure import Models, Settings, measured
from experiments.value_ground_truth.questions import ANSWER, PLAIN, SOLUTION, Question, load_questions
from experiments.value_ground_truth.sampling import Continuations
from experiments.value_ground_truth.summary import segments, summarize, with_interval
from experiments.value_ground_truth.worked import WORKED, answer_in


@pytest.fixture(scope="module")
def name(tmp_path_factory):
    """The folder of a model that speaks the task's words, hardly trained."""
    small = {"num_forks": 1, "steps": 40, "batch_size": 16, "hidden_size": 16, "num_layers": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        return str(warm_up_model(**small, progress=False))


@pytest.fixture(scope="module")
def models(name):
    model, tokenizer = load_model(name, dtype="float32"), load_tokenizer(name)
    return Models(model, model, tokenizer, Continuations(model, tokenizer, stop="", batch_size=8), "=")


@pytest.fixture
def question(models):
    def prompt_ids(kind, text):
        text = "<bos> 3 8 ?" if kind == PLAIN else "<bos> 8 = 3 8 ?"
        return models.tokenizer(text, add_special_tokens=False)["input_ids"]

    return Question(0, "8", "", prompt_ids, lambda text: float("8 <eos>" in text + " <eos>"))


def test_continuations_of_a_kept_prefix_are_those_of_the_whole(models, monkeypatch):
    """Greedily: what is kept of padded prefixes of different lengths is what reading them would give."""
    texts = ["<bos> 3 8 ?", "<bos> 9 2 | 3 8 ?"]
    prefixes = [models.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    from transformers import GenerationConfig

    make = GenerationConfig.__init__
    monkeypatch.setattr(GenerationConfig, "__init__", lambda self, **given: make(self, **given | {"do_sample": False}))
    found = models.sampler.sample(prefixes, [6, 4], 2, seed=0)
    for prefix, several, budget in zip(prefixes, found, (6, 4), strict=True):
        ids = torch.tensor([prefix])
        for _ in range(budget):
            ids = torch.cat([ids, models.policy(ids).logits[:, -1:].argmax(-1)], 1)
        alone = ids[0, len(prefix) :].tolist()
        stop = next((index for index, token in enumerate(alone) if token in models.sampler.ends), len(alone))
        assert several == [alone[:stop]] * 2


def test_signals_are_those_of_whole_softmaxes(models, question):
    settings = Settings("forks", "forks", "", completions=3, every=2, continuations=2, max_tokens=8)
    row = measured(question, models, settings)
    one = next(one for one in row["completions"] if one["tokens"] > 2)
    ids = models.tokenizer(one["text"], add_special_tokens=False)["input_ids"]
    assert one["cuts"] == list(range(0, len(ids), 2))
    assert all(0 <= count <= 2 for count in one["right"])

    def distribution(kind, text=""):
        before = question.prompt_ids(kind, text)
        return models.policy(torch.tensor([before + ids])).logits[0, len(before) - 1 : -1].double().softmax(-1)

    plain, told, at = distribution(PLAIN), distribution(ANSWER), (torch.arange(len(ids)), torch.tensor(ids))
    signals = {name: torch.tensor(values).double() for name, values in one["signals"].items()}
    expected = {
        "entropy": -(plain * plain.log()).sum(-1),
        "surprisal": -plain[at].log(),
        "answer: d": 1 - (plain * told).sqrt().sum(-1),
        "answer: i": told[at].log() - plain[at].log(),
    }
    for name, values in expected.items():
        torch.testing.assert_close(signals[name], values, atol=2e-5, rtol=1e-4)
    before = question.prompt_ids(PLAIN, "") + ids
    asked = models.tokenizer("= 8", add_special_tokens=False)["input_ids"]
    if models.tokenizer("=8", add_special_tokens=False)["input_ids"] == asked:
        likelihood = models.policy(torch.tensor([[*before, asked[0]]])).logits[0, -1].double().softmax(-1)[asked[1]]
        assert signals["gold likelihood"][-1].item() == pytest.approx(likelihood.item(), abs=2e-5)
        assert signals["gold log-likelihood"][-1].item() == pytest.approx(likelihood.log().item(), abs=2e-4)
    assert models.policy.config._attn_implementation == "sdpa"
    models.policy.set_attn_implementation("eager")
    read = before + models.tokenizer("=8", add_special_tokens=False)["input_ids"]
    heads = models.policy(torch.tensor([read]), output_attentions=True).attentions
    models.policy.set_attn_implementation("sdpa")
    looks = torch.cat([layer[0, :, -2] for layer in heads]).mean(0)  # the position that predicts the answer, one token
    expected = looks[len(before) - len(ids) : len(before)].double()
    torch.testing.assert_close(signals["attention of the answer"], expected, atol=2e-5, rtol=0)


def test_a_segment_has_the_change_of_its_value_and_the_signals_of_its_tokens():
    signals = {"surprisal": [1.0, 3.0, 2.0], "answer: i": [1.0, -4.0, 0.5], "gold likelihood": [0.1, 0.4, 0.9]}
    one = {"tokens": 3, "cuts": [0, 2], "right": [1, 4], "reward": 0.0, "signals": signals}
    first, last = segments([{"question": 7, "completions": [one]}], 4)
    assert (first.change, last.change) == (0.75, -1.0)
    assert first.sizes == {"surprisal": 3.0, "answer: i": 4.0, "gold likelihood": pytest.approx(0.3)}
    assert first.signs == {"surprisal": -3.0, "answer: i": -3.0, "gold likelihood": pytest.approx(0.3)}
    assert last.signs == {"surprisal": -2.0, "answer: i": 0.5, "gold likelihood": pytest.approx(0.5)}


def test_intervals_draw_whole_questions():
    question = np.repeat(np.arange(20), 5)
    scores = np.repeat(np.random.default_rng(0).normal(size=20), 5)
    value, low, high = with_interval(question, lambda items: float(scores[items].mean()))
    assert value == pytest.approx(scores.mean())
    # Five copies of a question say no more than one.
    assert high - low > 2.5 * scores.std() / np.sqrt(20)
    assert with_interval(question, lambda items: float("nan")) == [None, None, None]


def made_up(separates):
    """Rows in which the hint's log-ratio knows the sign of every change, or of none."""
    rows = []
    for number in range(12):
        signs = [1.0, -1.0] if number % 2 else [-1.0, 1.0]
        told = signs if separates else [float(number % 3) - 1, float(number % 5) - 2]
        one = {
            "tokens": 2,
            "cuts": [0, 1],
            "right": [2, 2 + int(2 * signs[0])],
            "reward": 0.5 + signs[0] / 2 + signs[1],
            "signals": {"answer: i": told, "surprisal": [1.0, 1.0]},
        }
        rows.append({"question": number, "gold": "1", "completions": [one]})
    return rows


@pytest.mark.parametrize(("separates", "verdict"), [(True, "supported"), (False, "not supported")])
def test_the_verdict_follows_the_figures(separates, verdict):
    settings = {"questions": 12, "every": 1, "continuations": 4}
    record = {"command": "c", "date": "d", "machine": "m", "python": "3", "versions": {}}
    results = {"made up": {"settings": settings, "record": record, **summarize(made_up(separates), 4)}}
    assert page.verdicts(results)[0].verdict == verdict
    assert "| answer: i |" in page.section(results)


@pytest.mark.parametrize(("low", "verdict"), [(0.6, "supported"), (0.4, "not supported"), (None, "not supported")])
def test_a_likelihood_that_was_taught_is_judged_in_all_tables(low, verdict):
    sign = {"answer: i": [0.9, 0.8, 1.0], "gold log-likelihood": [0.6, 0.3, 0.9]}
    taught = {"a": [0.9, 0.7, 1.0], "b": [0.8, low, 1.0]}
    results = {
        name: {"large": {"0.375": {"sign": sign | {"gold log-likelihood, taught": found}}}}
        for name, found in taught.items()
    }
    _, only = page.verdicts(results | {"before it was asked for": {"large": {"0.375": {"sign": sign}}}})
    assert only.verdict == verdict
    assert "`a`: 0.90 (0.70 to 1.00), untaught 0.60 (0.30 to 0.90)" in only.why


@pytest.mark.parametrize(("upper", "verdict"), [(0.95, "supported"), (0.7, "not supported"), (None, "not supported")])
def test_what_is_known_is_compared_from_the_first_step_to_the_last(upper, verdict):
    whole = {"m_step12": [0.6, 0.5, upper], "m_step6": [0.7, 0.1, 0.99], "m_step0": [0.9, 0.8, 0.99], "n": [0.9] * 3}
    record = {"command": "c", "date": "d", "machine": "m", "python": "3", "versions": {}}
    settings = {"questions": 12, "every": 1, "continuations": 4}
    one = {"settings": settings, "record": record, **summarize(made_up(True), 4)}
    results = {name: {**one, "whole": {"solution: i": found}} for name, found in whole.items()}
    _, only = page.verdicts(results)
    assert only.verdict == verdict
    assert only.short.startswith("step 0: 0.90 (0.80 to 0.99); step 6: ")
    section = page.section(results)
    assert section.index("m_step0") < section.index("m_step6") < section.index("m_step12")


def test_a_run_that_was_cut_goes_on_to_the_same_figures(name, tmp_path, capsys):
    options = ["--model", name, "--task", "forks", "--questions", "2", "--completions", "2", "--every", "6"]
    options += ["--continuations", "2", "--max-tokens", "12", "--batch-size", "8", "--quiet", "--dtype", "float32"]
    assert main([*options, "--out", str(tmp_path / "whole")]) == 0
    assert "completions of 2 questions" in capsys.readouterr().out
    whole = (tmp_path / "whole" / "questions.jsonl").read_text()
    cut = tmp_path / "cut"
    cut.mkdir()
    for file in ("settings.json", "questions.jsonl"):
        text = (tmp_path / "whole" / file).read_text()
        (cut / file).write_text(text if file == "settings.json" else text[: text.index("\n") + 20])
    assert main([*options, "--out", str(cut)]) == 0
    assert (cut / "questions.jsonl").read_text() == whole
    summaries = [json.loads((tmp_path / run / "summary.json").read_text()) for run in ("whole", "cut")]
    assert summaries[0]["large"] == summaries[1]["large"]
    with pytest.raises(SystemExit, match="measurements of other settings"):
        main([*options, "--out", str(cut), "--seed", "1"])
    assert main([*options, "--out", str(cut), "--questions", "3"]) == 0
    grown = (cut / "questions.jsonl").read_text()
    assert grown.startswith(whole)
    assert grown.count("\n") == 3
    (cut / "questions.jsonl").write_text(whole.replace('"gold": "', '"gold": "1'))
    with pytest.raises(SystemExit, match="measurements of other questions"):
        main([*options, "--out", str(cut), "--questions", "4"])


def test_sums_are_put_with_and_without_a_hint():
    sums = WORKED["sums"]
    terms = sums.draw(500, 0)
    assert len(set(terms)) == 500
    assert terms[:3] == sums.draw(500, 0)[:3]
    solution = sums.solution((2, 3, 4))
    assert answer_in(" " + solution) == "9"
    assert answer_in(" 1 + 2 = 3. So 7\nQ: 9 + 9") == "7"
    assert sums.prompt((2, 3, 4), PLAIN, "").endswith("Q: 2 + 3 + 4\nA:")
    assert sums.prompt((2, 3, 4), ANSWER, "9").endswith("Q: 2 + 3 + 4 (the answer is 9)\nA:")
    assert sums.prompt((2, 3, 4), SOLUTION, " x").endswith("Q: 2 + 3 + 4\nSolution: x\nA:")
    assert sums.prompt((2, 3, 4), ANSWER, "9").count("the answer is") == 5


@pytest.mark.parametrize("name", WORKED)
def test_a_worked_solution_is_right_and_no_question_is_an_example(name):
    task = WORKED[name]
    drawn = task.draw(200, 0)
    assert len({*drawn, *task.examples}) == 200 + len(task.examples)
    assert drawn != task.draw(200, 1)
    for numbers in drawn:
        assert answer_in(task.solution(numbers)) == str(task.gold(numbers))
        assert task.prompt(numbers, SOLUTION, task.solution(numbers)).count(task.solution(numbers)) == 1


def test_interrupted_examples_are_answered_wherever_they_stop():
    task = WORKED["sums"]
    *examples, asked = task.prompt((2, 3, 4), "interrupted", "").split("\n\n")
    assert examples[0] == "Q: 3 + 5 + 4\nA: The answer is 12."
    assert examples[1] == "Q: 8 + 6 + 7\nA: 8 + 6 The answer is 21."
    assert examples[3] == f"Q: 7 + 4 + 3\nA: {task.solution((7, 4, 3))}"
    assert asked == "Q: 2 + 3 + 4\nA:"


def test_the_largest_number_is_kept_while_the_others_are_read():
    steps = "41 is less than 62, so 62. 63 is more than 62, so 63. 7 is less than 63, so 63. The answer is 63."
    assert WORKED["largest"].solution((62, 41, 63, 7)) == steps


def test_any_task_of_the_workbench_can_be_asked(models):
    questions = load_questions("forks", models.tokenizer, count=3).questions
    assert [one.score("nonsense") for one in questions] == [0.0] * 3
    assert all(one.prompt_ids(ANSWER, one.gold) != one.prompt_ids(PLAIN, "") for one in questions)
