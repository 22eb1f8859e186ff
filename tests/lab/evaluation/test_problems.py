"""Where problems come from: exams in the layouts of the hub, files, tasks with a scorer, and what is refused."""

import json

import pytest
from datasets import Dataset

from dgpo.errors import ConfigError, DataError
from dgpo.lab.evaluation.problems import HUB_TASKS, Problem, load_problems
from dgpo.lab.evaluation.protocols import PROTOCOLS, get_protocol
from dgpo.lab.rewards.extraction import answer_formats

# One row of each exam as it lies on the hub; the columns are theirs, the problems are not.
LAYOUTS = {
    "aime24": {
        "id": 60,
        "problem": "How much is 30 + 3?",
        "solution": "It is \\boxed{033}.",
        "answer": "033",
        "url": "https://example.org",
        "year": "2024",
    },
    "aime25": {"problem": "How much is 30 + 3?", "answer": "33", "id": "0"},
    "math500": {
        "problem": "How much is 30 + 3?",
        "solution": "It is \\boxed{33}.",
        "answer": "33",
        "subject": "Prealgebra",
        "level": 1,
        "unique_id": "test/prealgebra/1.json",
    },
    "gsm8k": {"question": "How much is 30 + 3?", "answer": "30 + 3 = <<30+3=33>>33\n#### 33"},
    "amc23": {"id": 0, "answer": 33.0, "question": "How much is 30 + 3?", "url": "https://example.org"},
}


@pytest.fixture
def exam(tmp_path, monkeypatch):
    """Lays an exam out as a folder that `datasets` loads by the name it has on the hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def lay_out(task):
        hub_id, config, split = HUB_TASKS[task]
        folder = tmp_path / hub_id
        files = folder / (config or "data")
        files.mkdir(parents=True)
        Dataset.from_list([LAYOUTS[task]]).to_parquet(files / f"{split}-00000-of-00001.parquet")
        if config:
            files = f"- split: {split}\n    path: {config}/{split}-*"
            card = f"---\nconfigs:\n- config_name: {config}\n  data_files:\n  {files}\n---\n"
            (folder / "README.md").write_text(card)

    return lay_out


@pytest.mark.parametrize("task", HUB_TASKS)
def test_exams_are_read_in_the_layout_they_have_on_the_hub(task, exam):
    exam(task)
    problems = load_problems(task)
    (problem,) = problems.problems
    assert problem.prompt == "How much is 30 + 3?"
    score = problems.scorer("boxed")
    found = score([problem] * 3, ["so \\boxed{33}", "so \\boxed{34}", "33"])
    assert [(row.score, row.outcome) for row in found] == [(1.0, "correct"), (0.0, "wrong"), (0.0, "unparseable")]
    assert found[0].answer == "33"


def test_every_exam_has_a_layout():
    assert LAYOUTS.keys() == HUB_TASKS.keys()


def test_an_exam_that_cannot_be_had_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="HuggingFaceH4/aime_2024"):
        load_problems("aime24")


def test_a_file_is_asked_in_the_words_of_the_protocol(write_jsonl):
    path = write_jsonl(
        [{"id": "a", "problem": "1 + 1 = {x}?", "answer": 2}, {"id": "b", "problem": "2?", "answer": "3"}]
    )
    problems = load_problems(path)
    asked = problems.with_template(get_protocol("lighteval").prompt_template)
    assert [problem.name for problem in problems.problems] == ["a", "b"]
    assert asked.problems[0].prompt.endswith("answering.\n\n1 + 1 = {x}?")
    assert "\\boxed{ANSWER}" in asked.problems[0].prompt
    assert asked.fingerprint() != problems.fingerprint() == load_problems(path).fingerprint()
    assert len(load_problems(path, limit=1).problems) == 1


def test_a_problem_is_known_by_what_is_asked_and_not_by_the_words_around_it(write_jsonl):
    path = write_jsonl([{"problem": "1 + 1?", "answer": "2"}, {"problem": "2 + 2?", "answer": "4"}])
    plain = load_problems(path).problems
    for name in ("dapo", "lighteval"):
        asked = load_problems(path).with_template(get_protocol(name).prompt_template).problems
        assert [problem.digest for problem in asked] == [problem.digest for problem in plain]
    assert plain[0].digest != plain[1].digest
    other = load_problems(write_jsonl([{"problem": "1 + 1?", "answer": "3"}], "b.jsonl")).problems[0]
    assert other.digest != plain[0].digest
    bare, told = (
        Problem("0", [*system, {"role": "user", "content": "1?"}], "1")
        for system in ([], [{"role": "system", "content": "Be brief."}])
    )
    assert bare.digest == told.digest


def test_forks_and_reasoning_gym_bring_their_own_prompts_and_scorer():
    forks = load_problems("forks", limit=3, task_args={"num_forks": 2})
    assert forks.with_template("Q: {prompt}") is forks
    right, wrong = forks.problems[0].gold, "0 0"
    found = forks.scorer("auto")([forks.problems[0]] * 3, [f"ok ; = {right}", f"= {wrong}", ""])
    assert [(row.score, row.answer, row.outcome) for row in found] == [
        (1.0, right, "correct"),
        (0.0, wrong, "wrong"),
        (0.0, None, "unparseable"),
    ]
    gym = load_problems("reasoning_gym:chain_sum", limit=2, task_args={"size": 8, "max_terms": 2, "min_terms": 2})
    assert gym.scorer("auto")([gym.problems[1]], [gym.problems[1].gold])[0].score == 1.0


@pytest.mark.parametrize(("how", "text"), [("tag", "<answer>zz</answer>"), ("last_number", "so 99999")])
def test_a_completion_without_an_answer_is_unparseable_and_not_wrong(how, text):
    options = {"size": 8, "max_terms": 2, "min_terms": 2, "answer_extraction": how}
    gym = load_problems("reasoning_gym:chain_sum", limit=1, task_args=options)
    found = gym.scorer("auto")([gym.problems[0]] * 3, ["nothing at all", text, "<answer> </answer>"])
    assert [row.outcome for row in found] == ["unparseable", "wrong", "unparseable"]
    assert found[1].answer == {"tag": "zz", "last_number": "99999"}[how]


GOOD = {"id": 1, "problem": "1 + 1", "answer": "2"}


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([{"id": 1, "answer": "2"}], "no prompt column"),
        ([{"id": 1, "problem": "1 + 1"}], "no answer column"),
        ([GOOD, {**GOOD, "problem": "2 + 2"}], "id '1' \\(id\\) was seen in row 0 already"),
        ([{**GOOD, "answer": ""}], "row 0: there is no gold answer in 'answer'"),
        ([GOOD, {**GOOD, "id": 2, "answer": None}], "row 1: there is no gold answer"),
        ([{**GOOD, "problem": " "}], "row 0: there is no prompt in 'problem'"),
    ],
)
def test_bad_data_is_one_clear_line(write_jsonl, rows, complaint):
    with pytest.raises(DataError, match=complaint) as error:
        load_problems(write_jsonl(rows))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "options", "complaint"),
    [
        ("aime42", {}, r"no task 'aime42'\. Did you mean 'aime2"),
        ("forks", {"limit": 0}, "limit is 0"),
        ("forks", {"task_args": {"num_frks": 2}}, "no option 'num_frks'"),
    ],
)
def test_bad_requests_are_refused(task, options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        load_problems(task, **options)


def test_a_file_has_no_options_of_forks(write_jsonl):
    with pytest.raises(ConfigError, match="no option 'num_forks' here"):
        load_problems(write_jsonl([GOOD]), task_args={"num_forks": 2})
    assert load_problems(write_jsonl([{"q": "1", "a": "2"}]), task_args={"prompt_column": "q", "answer_column": "a"})


def test_protocols_are_those_of_their_sources():
    facts = {name: (p.n, p.temperature, p.top_p, p.max_tokens) for name, p in PROTOCOLS.items()}
    assert facts["dapo"] == (32, 1.0, 0.7, 20480)
    assert facts["open-r1"] == (64, 0.6, 0.95, 32768)
    assert facts["lighteval"][0] == 64
    for protocol in PROTOCOLS.values():
        assert protocol.answer_format in answer_formats()
        assert protocol.prompt_template is None or protocol.prompt_template.count("{prompt}") == 1
        json.dumps(protocol.source)
    with pytest.raises(ConfigError, match=r"no protocol 'lightevl'\. Did you mean 'lighteval'"):
        get_protocol("lightevl")
