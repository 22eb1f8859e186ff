"""Sampling, scoring and keeping: what is on the disk after a kill, and that the figures do not depend on it."""

import json
import sys
import types

import pytest
import torch

from dgpo.errors import ConfigError, DataError
from dgpo.lab.evaluation.loading import load_tokenizer
from dgpo.lab.evaluation.problems import Problem, ProblemSet
from dgpo.lab.evaluation.records import RESULT, SAMPLES, EvaluationDirectory
from dgpo.lab.evaluation.run import evaluate, fit_to_context
from dgpo.lab.evaluation.sampling import (
    Completion,
    Request,
    Sampling,
    TransformersSampler,
    choose_backend,
    seed_of,
)

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=12, seed=0)


def set_of(count):
    def reward(completions, gold, **columns):
        return [float(text == right) for text, right in zip(completions, gold, strict=True)]

    problems = tuple(Problem(f"p{i}", f"{i}?", str(i % 3), {"gold": str(i % 3)}) for i in range(count))
    return ProblemSet("mod", problems, reward)


class Dice:
    """A sampler that answers by its seed alone, and may be interrupted."""

    context = None

    def __init__(self, last=None):
        self.calls, self.last = [], last

    def prompt_tokens(self, prompt):
        return [0]

    def sample(self, requests, sampling, batch):
        if self.last is not None and len(self.calls) >= self.last:
            raise KeyboardInterrupt
        self.calls.append(batch)
        numbers = [seed_of(sampling.seed, batch, index) % 4 for index in range(len(requests))]
        texts = ["line\u2028break\n\x85" if number == 3 else str(number) for number in numbers]
        return [Completion(text, 3, number == 0) for text, number in zip(texts, numbers, strict=True)]


def run(path, sampler, n=4, batch_size=5, problems=7):
    directory = EvaluationDirectory(path)
    directory.open({"problems": problems, "n": n, "batch_size": batch_size, "task": "mod"})
    return evaluate(
        sampler,
        set_of(problems),
        n=n,
        sampling=SAMPLING,
        answer_format="auto",
        batch_size=batch_size,
        directory=directory,
    )


def test_every_completion_is_scored_and_kept_in_order(tmp_path):
    result = run(tmp_path / "a", Dice())
    with (tmp_path / "a" / SAMPLES).open() as file:
        rows = [json.loads(line) for line in file]
    assert [(row["problem"], row["sample"]) for row in rows] == [(f"p{i}", j) for i in range(7) for j in range(4)]
    assert all(row["score"] == float(row["completion"] == row["gold"]) for row in rows)
    assert result["metrics"]["avg@4"]["value"] == pytest.approx(sum(row["score"] for row in rows) / 28)
    assert result["metrics"]["truncated"]["value"] == pytest.approx(sum(row["truncated"] for row in rows) / 28)
    assert sum(result["outcomes"].values()) == 28
    assert json.loads((tmp_path / "a" / RESULT).read_text()) == result


@pytest.mark.parametrize("stop", range(6))
@pytest.mark.parametrize("torn", [0, 1, 25, 400])
def test_a_stopped_run_goes_on_where_it_was(tmp_path, stop, torn):
    run(tmp_path / "whole", Dice())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", Dice(last=stop))
    file = tmp_path / "part" / SAMPLES
    done = stop
    if torn and file.exists():
        # A kill in the middle of a write leaves part of a batch.
        file.write_bytes(file.read_bytes()[:-torn])
        done -= -(-torn // 600)
    sampler = Dice()
    run(tmp_path / "part", sampler)
    assert sampler.calls == list(range(max(done, 0), 6))  # nothing twice, nothing left out
    for name in (SAMPLES, RESULT):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    again = Dice()
    run(tmp_path / "part", again)
    assert again.calls == []


def test_a_folder_with_other_settings_is_refused(tmp_path):
    run(tmp_path / "a", Dice())
    with pytest.raises(ConfigError, match="evaluation with n: 4, and now it is 2"):
        run(tmp_path / "a", Dice(), n=2)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("do not touch")
    with pytest.raises(ConfigError, match="no evaluation to continue, and not empty"):
        run(tmp_path / "b", Dice())
    rows = (tmp_path / "a" / SAMPLES).read_text().replace('"p1"', '"p9"')
    (tmp_path / "a" / SAMPLES).write_text(rows)
    with pytest.raises(DataError, match=r"line 5: problem 'p9' instead of 'p1'"):
        run(tmp_path / "a", Dice())


def test_an_evaluation_that_is_not_complete_cannot_be_read(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", Dice(last=2))
    with pytest.raises(DataError, match="not complete: 10 of 28"):
        EvaluationDirectory(tmp_path / "a").read_samples()
    with pytest.raises(DataError, match="holds no evaluation"):
        EvaluationDirectory(tmp_path / "nothing").read_samples()


@pytest.mark.parametrize(
    ("n", "batch_size", "temperature", "complaint"),
    [(0, 5, 1.0, "n is 0"), (-1, 5, 1.0, "n is -1"), (4, 0, 1.0, "batch_size is 0"), (4, 5, 0.0, "temperature is 0")],
)
def test_numbers_that_cannot_work_are_refused(tmp_path, n, batch_size, temperature, complaint):
    sampling = Sampling(temperature, 1.0, 5, 0)
    with pytest.raises(ConfigError, match=complaint):
        evaluate(
            Dice(),
            set_of(2),
            n=n,
            sampling=sampling,
            answer_format="auto",
            batch_size=batch_size,
            directory=EvaluationDirectory(tmp_path / "a"),
        )


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [((-1, 1, 5, 0), "temperature is -1"), ((1, 0, 5, 0), "top_p is 0"), ((1, 1, 0, 0), "max_tokens is 0")],
)
def test_sampling_that_cannot_work_is_refused(fields, complaint):
    with pytest.raises(ConfigError, match=complaint):
        Sampling(*fields)


@pytest.fixture(scope="module")
def sampler(tiny_model):
    return TransformersSampler.load(str(tiny_model))


def requests(count, prompt="7 3 ?"):
    return [Request(prompt, "p", index) for index in range(count)]


def test_a_batch_depends_on_its_seed_alone(sampler):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = sampler.sample(requests(16), SAMPLING, 3)
    assert torch.equal(torch.random.get_rng_state(), before)  # whoever samples beside us does not notice
    torch.manual_seed(2)
    assert sampler.sample(requests(16), SAMPLING, 3) == first
    assert sampler.sample(requests(16), SAMPLING, 4) != first
    assert sampler.sample(requests(16), Sampling(1.0, 1.0, 12, 1), 3) != first
    assert len({completion.text for completion in first}) > 1


def test_lengths_and_ends_are_counted(sampler):
    completions = sampler.sample(requests(64), SAMPLING, 0)
    tokenizer = sampler.tokenizer
    for completion in completions:
        tokens = len(tokenizer(completion.text, add_special_tokens=False)["input_ids"])
        # Special tokens in the middle of what so small a model says are not in the text.
        assert tokens <= completion.tokens - (not completion.truncated)
        assert completion.tokens == 12 or not completion.truncated
    assert {completion.truncated for completion in completions} == {True, False}
    short = sampler.sample(requests(8), Sampling(1.0, 1.0, 2, 0), 0)
    assert all(completion.truncated and completion.tokens == 2 for completion in short)


def test_prompts_of_different_lengths_do_not_disturb_each_other(sampler):
    greedy = Sampling(0.0, 1.0, 8, 0)
    alone = [sampler.sample(requests(1, prompt), greedy, 0)[0] for prompt in ("7 3 ?", "7 3 | 2 9 | 1 4 ?")]
    mixed = [Request("7 3 ?", "a", 0), Request("7 3 | 2 9 | 1 4 ?", "b", 0)]
    assert sampler.sample(mixed, greedy, 0) == alone


def test_the_models_own_generation_settings_do_not_leak_in(sampler):
    config = sampler.model.generation_config
    free = sampler.sample(requests(64), SAMPLING, 0)
    config.top_k, config.do_sample, config.repetition_penalty = 1, False, 5.0
    try:
        assert sampler.sample(requests(64), SAMPLING, 0) == free
    finally:
        config.top_k, config.do_sample, config.repetition_penalty = 50, False, 1.0


def test_the_distribution_is_the_models(sampler):
    """The first token of 4,000 completions against the model's own probabilities, at temperature 0.7."""
    ids = torch.tensor([sampler.prompt_tokens("7 3 ?")])
    with torch.no_grad():
        chances = (sampler.model(ids).logits[0, -1] / 0.7).softmax(-1)
    first = torch.zeros_like(chances)
    for batch in range(4):
        for completion in sampler.sample(requests(1000), Sampling(0.7, 1.0, 1, 0), batch):
            word = completion.text.strip()
            first[sampler.tokenizer.convert_tokens_to_ids(word)] += bool(word) / 4000
    likely = chances > 0.02
    likely[sampler.tokenizer.all_special_ids] = False  # they are in no text
    assert likely.sum() > 5
    error = (chances * (1 - chances) / 4000).sqrt()
    assert ((first - chances).abs() < 4.5 * error)[likely].all()


def test_completions_fit_beside_the_longest_prompt(sampler):
    assert sampler.context == 128
    problems = set_of(2)
    longest = max(len(sampler.prompt_tokens(problem.prompt)) for problem in problems.problems)
    assert fit_to_context(sampler, problems, 1000) == 128 - longest
    assert fit_to_context(sampler, problems, 10) == 10
    flood = ProblemSet("x", (Problem("p", "7 " * 200, "7"),))
    with pytest.raises(ConfigError, match="problem 'p' has 201 tokens, and the model holds 128"):
        fit_to_context(sampler, flood, 10)


def test_a_model_without_a_tokenizer_is_refused(tiny_model, tmp_path):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    for file in folder.glob("token*"):
        file.unlink()
    with pytest.raises(ConfigError, match="has no tokenizer"):
        load_tokenizer(str(folder))


def test_vllm_gets_a_seed_for_each_completion(monkeypatch, tiny_model):
    """Against a stand-in of vLLM's interface: what it is asked, and how its answer is read."""
    asked = []

    class LLM:
        def __init__(self, **options):
            self.options = options
            self.llm_engine = types.SimpleNamespace(model_config=types.SimpleNamespace(max_model_len=99))

        def generate(self, prompts, params, use_tqdm):
            asked.extend(zip(prompts, params, strict=True))
            choice = types.SimpleNamespace(text="7", token_ids=[1, 2], finish_reason="length")
            return [types.SimpleNamespace(outputs=[choice]) for _ in prompts]

    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, lambda **fields: fields
    monkeypatch.setitem(sys.modules, "vllm", module)
    from dgpo.lab.evaluation.vllm_sampling import VllmSampler

    sampler = VllmSampler(str(tiny_model), options={"tensor_parallel_size": 2})
    assert sampler.engine.options == {"model": str(tiny_model), "dtype": "auto", "seed": 0, "tensor_parallel_size": 2}
    assert sampler.context == 99
    assert sampler.sample(requests(3), SAMPLING, 0) == [Completion("7", 2, True)] * 3
    seeds = [params["seed"] for _, params in asked]
    assert len(set(seeds)) == 3
    assert seeds[1] == seed_of(0, "p", 1)  # not of the batch
    assert asked[0][0] == {"prompt_token_ids": sampler.prompt_tokens("7 3 ?")}


def test_backends(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_backend("auto") == "transformers"
    with pytest.raises(ConfigError, match="vLLM is not installed"):
        choose_backend("vllm")
    with pytest.raises(ConfigError, match="no backend 'tgi'"):
        choose_backend("tgi")
