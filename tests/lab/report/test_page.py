"""The page as text: what it embeds can be nothing but data, and it stays small."""

import json
import re
from pathlib import Path

import pytest
import torch

from dgpo.core.hindsight import hint_metrics, hint_pairs
from dgpo.credit_log import CreditLog, LoggedStep
from dgpo.errors import DataError
from dgpo.lab.report import page
from dgpo.lab.report.credit_summary import summarize_credit
from dgpo.lab.report.differences import config_differences, run_labels, seed_bands
from dgpo.lab.report.page import render_page
from dgpo.lab.report.page_data import embedded_json
from dgpo.lab.runs.reader import Run, curves_of, read_run


def data_of(page):
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(block)


def test_embedded_data_come_back_and_hold_no_markup():
    data = {"text": "</script><!-- & \u2028 🙂 \ud800", "nan": float("nan"), "inf": [float("inf")], "x": 0.123456789}
    text = embedded_json(data)
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"text": data["text"], "nan": None, "inf": [None], "x": 0.12346}


def test_the_page_forbids_everything_but_its_own_script_and_style():
    page = render_page([Run("<b>one</b>")], kind="report", title="<i>&</i>")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "<i>" not in page
    assert "<b>one" not in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)


def test_a_log_that_is_too_large_is_cut_with_a_note(completion, monkeypatch):
    monkeypatch.setattr("dgpo.lab.report.page_data.MAX_CREDIT_CHARACTERS", 60_000)
    alternatives = {index: {"policy": [("a", 0.5)] * 5, "reference": []} for index in range(64)}
    steps = [LoggedStep(n, {}, [completion(*"abcdefgh" * 40, alternatives=alternatives)]) for n in range(1, 21)]
    (run,) = data_of(render_page([Run("one", steps=steps)], kind="report", title=""))["runs"]
    assert len(embedded_json(run["credit"])) <= 60_000
    assert run["credit"][-1]["step"] == 20
    assert any(f"{len(run['credit'])} of 20 logged steps" in note for note in run["notes"])
    assert any("256 tokens are shown, the first and the last" in note for note in run["notes"])
    assert any("likeliest tokens are shown nowhere" in note for note in run["notes"])
    assert run["summary"]["tokens"] == 20 * 320  # of the whole log


def test_the_page_says_what_every_metric_of_hints_is():
    known = (Path(page.__file__).parent / "page_files" / "curves.js").read_text()
    one = torch.ones(1, 1)
    pairs = hint_pairs(one[0], one[0], torch.zeros(1, dtype=torch.long))
    for name in hint_metrics(one, one, one.bool(), pairs):
        assert f'"{name}": ["' in known


def test_curves_share_a_budget_and_leave_the_rest_to_the_credit(completion, monkeypatch):
    curves = {f"metric/{name}": [(step, step / 7) for step in range(1000)] for name in range(40)}
    steps = [LoggedStep(n, {}, [completion(*"abcdefgh" * 20)]) for n in range(1, 41)]
    for count in (1, 6, 20):
        page = render_page([Run(f"{n}", curves, {}, {}, steps) for n in range(count)], kind="report", title="")
        assert len(page) < 5_000_000
        runs = data_of(page)["runs"]
        assert len(embedded_json([run["curves"] for run in runs])) <= 1_500_000
        # The ends of a curve stay, and some credit of every run.
        assert all(run["curves"]["metric/3"][-1] == [999, 142.71] for run in runs)
        assert all(run["credit"] for run in runs)
    monkeypatch.setattr("dgpo.lab.report.page_data.MAX_CHARACTERS", 300_000)
    monkeypatch.setattr("dgpo.lab.report.page_data.MAX_CURVES_CHARACTERS", 200_000)
    assert len(embedded_json(data_of(render_page([Run("", curves, {}, {}, steps)], kind="report", title="")))) < 301_000


@pytest.mark.parametrize("runs", [1, 4])
def test_prompts_are_cut_by_the_room_they_take(completion, runs):
    prompt = "🙂" * 20_000
    steps = [LoggedStep(1, {}, [completion("a", "b", prompt=prompt, tokens=["🙂" * 5000, "b"]) for _ in range(64)])]
    page = render_page([Run(f"{n}", steps=steps) for n in range(runs)], kind="report", title="")
    assert len(page) < 5_000_000
    run = data_of(page)["runs"][0]
    (group,) = run["credit"][0]["groups"]
    assert group["completions"]
    shown = group["prompt"]
    assert shown == "🙂" * (len(shown) - 2) + " …"
    assert len(embedded_json(shown)) <= 20_010
    left = len(group["completions"])
    assert (left == 64) or any(f"Of that step's 64 completions, {left} have room" in note for note in run["notes"])
    whole = render_page(
        [Run("", steps=[LoggedStep(1, {}, [completion("a", prompt="é" * 100)])])], kind="report", title=""
    )
    assert data_of(whole)["runs"][0]["credit"][0]["groups"][0]["prompt"] == "é" * 100


def test_the_summary_by_hand(completion):
    steps = [
        LoggedStep(1, {}, [completion("a", "b", w=[1.0, 1.0])]),
        LoggedStep(2, {}, [completion("a", "b", "", w=[0.5, 1.5, None])]),
    ]
    summary = summarize_credit(steps)
    assert (summary["tokens"], summary["completions"], summary["low"], summary["high"]) == (4, 2, 0.5, 1.5)
    assert summary["shares"] == [(1, 1.0), (2, pytest.approx(0.8))]  # 2^2 / (0.25 + 2.25) / 2
    assert summary["share"] == pytest.approx(0.9)
    assert [sum(counts) for counts in summary["counts"]] == [2, 2]
    bins = zip(summary["edges"], summary["edges"][1:], summary["counts"][0], strict=False)
    ((low, high, count),) = [bin for bin in bins if bin[0] <= 1 < bin[1]]
    assert (count, low * high) == (2, pytest.approx(1))  # 1 lies in the middle of its bin
    assert (summary["edges"][0], summary["edges"][-1]) == (0.5, 1.5)  # and no bin beyond what there is
    (most,), (least,) = summary["most"], summary["least"]
    assert (most["text"], most["w"], most["max"], most["count"]) == ("b", 1.25, 1.5, 2)
    assert (least["text"], least["w"]) == ("a", 0.75)


def test_histograms_side_by_side_have_one_axis(completion):
    runs = [Run(f"{w}", steps=[LoggedStep(1, {}, [completion("a", "b", w=[w, 1.0])])]) for w in (1.5, 0.125)]
    one, two = (run["summary"] for run in data_of(render_page(runs, kind="report", title=""))["runs"])
    assert one["edges"] == two["edges"]
    assert one["edges"][0] == pytest.approx(0.125, rel=1e-3)
    assert [sum(counts) for run in (one, two) for counts in run["counts"]] == [2, 2]


def test_no_credit_is_no_error():
    assert summarize_credit([])["share"] is None
    assert data_of(render_page([Run("empty")], kind="report", title=""))["runs"][0]["credit"] == []


def test_differences_name_what_is_set_differently():
    runs = [Run("a", config={"tau": 0.5, "kappa": 1.0, "seed": 0}), Run("b", config={"tau": 0.05, "kappa": 1.0})]
    assert config_differences(runs) == [("tau", ["0.5", "0.05"]), ("seed", ["0", "—"])]


def test_a_run_of_any_trainer_is_read_from_its_checkpoint(tmp_path, settings, completion):
    CreditLog(tmp_path, settings).write(1, [completion("a")])
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    history = [{"step": 1, "reward": 0.5}, {"step": 2, "reward": 0.75, "note": "text"}, {"epoch": 1}]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    run = read_run(tmp_path)
    assert run.curves == {"reward": [(1, 0.5), (2, 0.75)]}
    assert run.config["credit_options.tau"] == 0.5
    assert not run.notes


def test_lines_that_were_cut_off_are_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward": 1}\n[1]\n{"step": 2, "rew')
    run = read_run(tmp_path)
    assert run.curves == {"reward": [(1, 1.0)]}
    assert "credit_log_steps" in run.notes[0]


def test_curves_take_finite_numbers_only():
    lines = [{"step": 1, "a": True, "b": None, "c": float("nan"), "d": 2}, {"step": 1, "d": 3}]
    assert curves_of(lines) == {"d": [(1, 3.0)]}


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds neither metrics\.jsonl nor credit/"):
        read_run(tmp_path)


def test_the_summary_of_a_signed_rule_is_of_its_token_advantages(completion):
    signed = completion("a", "b", "c", w=[None] * 3, a=[-1.0, 3.0, None])
    summary = summarize_credit([LoggedStep(1, {}, [signed])])
    assert (summary["signed"], summary["tokens"], summary["low"], summary["high"]) == (True, 2, -1.0, 3.0)
    assert summary["share"] == pytest.approx(0.8)  # (1 + 3)^2 / (1 + 9) / 2
    assert sum(summary["counts"][0]) == 2
    assert summary["counts"][0][0] == summary["counts"][0][-1] == 1


def test_weights_of_zero_have_a_bin_of_their_own(completion):
    summary = summarize_credit([LoggedStep(1, {}, [completion("a", "b", "c", w=[0.0, 1.0, 2.0])])])
    assert (summary["edges"][0], summary["edges"][-1]) == (0.0, 2.0)
    assert [count for count in summary["counts"][0] if count] == [1, 1, 1]


def test_a_page_without_a_reference_leaves_its_measures_out(completion):
    nothing = [None, None]
    plain = completion("a", "b", d=nothing, s=nothing, log_ratio=nothing, columns={"surprise": [0.5, 1.0]})
    (run,) = data_of(render_page([Run("", steps=[LoggedStep(1, {}, [plain])])], kind="report", title=""))["runs"]
    (shown,) = run["credit"][0]["groups"][0]["completions"]
    assert shown["d"] is shown["s"] is shown["r"] is shown["t"] is None
    assert shown["columns"] == {"surprise": [0.5, 1.0]}


def test_completions_stand_by_group_or_else_by_prompt(completion):
    by_group = [completion("a", group=n, prompt="p", answer=f"{n}") for n in (7, 8, 7)]
    by_prompt = [completion("a", prompt=prompt) for prompt in "pqp"]
    for completions, answers in ((by_group, ["7", "8"]), (by_prompt, [None, None])):
        run = Run("", steps=[LoggedStep(1, {}, completions)])
        groups = data_of(render_page([run], kind="report", title=""))["runs"][0]["credit"][0]["groups"]
        assert [[c["id"] for c in group["completions"]] for group in groups] == [[0, 2], [1]]
        assert [group["answer"] for group in groups] == answers


def test_the_rule_and_its_options_are_named(tmp_path, settings, completion):
    CreditLog(tmp_path, settings).write(1, [completion("a")])
    run = read_run(tmp_path)
    assert run.config["credit_rule"] == "dgpo"
    assert data_of(render_page([run], kind="report", title=""))["runs"][0]["rule"] == "dgpo (tau 0.5, kappa 1)"


def test_runs_are_labelled_by_what_differs():
    def labels(*configs):
        return run_labels([Run(f"run-{number}", config=config) for number, config in enumerate(configs)])

    others = {"started": "today", "output_dir": "a", "torch (version)": "2"}
    assert labels({"seed": 0, "credit_options.cap": 2.0}, {"seed": 1, "credit_options.cap": 3.0, **others}) == [
        "seed 0, cap 2",
        "seed 1, cap 3",
    ]
    assert labels({"tau": 0.5}, {"tau": 0.5, **others}) == ["run-0", "run-1"]
    assert labels({"tau": 0.5}, {"tau": 0.5}, {"tau": 1.0}) == ["run-0", "run-1", "run-2"]
    assert labels({}, dict.fromkeys("abcd", 1)) == ["run-0", "run-1"]
    assert labels({"tau": 0.5}) == ["run-0"]
    # Options that only come with the rule say nothing beside it.
    dgpo = {"credit_rule": "dgpo", "credit_options.tau": 0.5, "credit_options.kappa": 1.0}
    sharp, even = {**dgpo, "credit_options.tau": 0.05}, {"credit_rule": "even"}
    assert labels({**dgpo, "seed": 0}, {**even, "seed": 0}, {**dgpo, "seed": 1}) == [
        *("rule dgpo, seed 0", "rule even, seed 0", "rule dgpo, seed 1"),
    ]
    assert labels(dgpo, sharp, even) == ["rule dgpo, tau 0.5", "rule dgpo, tau 0.05", "rule even, tau —"]


def test_seeds_of_a_setting_are_one_band():
    def bands(*configs):
        runs = [Run(f"run-{number}", config=config) for number, config in enumerate(configs)]
        return [(band["label"], band["runs"]) for band in seed_bands(runs)]

    assert bands({"tau": 0.5, "seed": 0}, {"tau": 1.0, "seed": 0}, {"tau": 0.5, "seed": 1, "started": "later"}) == [
        ("tau 0.5", [0, 2]),
        ("tau 1", [1]),
    ]
    assert bands({"seed": 0}, {"seed": [1]}) == [("2 seeds", [0, 1])]
    assert bands({"tau": 0.5, "seed": 0}, {"tau": 0.5, "seed": 0}) == []  # a repetition
    assert bands({"tau": 0.5}, {"tau": 0.5}) == []  # seeds that are not known
    assert bands({"tau": 0.5, "seed": 0}) == []
