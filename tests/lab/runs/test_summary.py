"""The figures of a run, the picture of it, and the lines it prints."""

import io
import math
from itertools import pairwise

import pytest
from rich.console import Console

from dgpo.lab.progress import EVALUATING, TRAINING, Progress
from dgpo.lab.runs.curve import draw_curve
from dgpo.lab.runs.summary import accuracy_text, summarize, wilson_interval


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (3, 10), (10, 10), (64, 256)])
def test_wilson_ends_solve_their_equation(hits, count):
    # The interval holds every p with |hits/n - p| <= z sqrt(p (1 - p) / n); at both ends the two sides are equal.
    mean, z = hits / count, 1.959963984540054
    for end in wilson_interval(mean, count):
        assert abs(mean - end) == pytest.approx(z * math.sqrt(end * (1 - end) / count), abs=1e-7)


def test_no_interval_for_what_is_no_share():
    assert wilson_interval(1.5, 10) is None
    assert wilson_interval(-0.1, 10) is None
    assert wilson_interval(0.5, 0) is None


METRICS = [
    {"step": 0, "phase": "before", "eval_rewards/right/mean": 0.25, "eval_reward": 0.3, "wall_seconds": 0.0},
    *({"step": n, "phase": "train", "reward": n / 100, "wall_seconds": float(n)} for n in range(1, 21)),
    {"step": 20, "phase": "train", "eval_rewards/right/mean": 0.6, "wall_seconds": 20.0},
    {"step": 20, "phase": "after", "eval_rewards/right/mean": 0.75, "wall_seconds": 20.0},
]


def test_the_summary_of_a_run():
    summary = summarize(METRICS, reward_name="right", eval_prompts=100, facts={"status": "complete"})
    held_out = summary["held_out_accuracy"]
    assert (held_out["before"]["mean"], held_out["after"]["mean"], held_out["after"]["prompts"]) == (0.25, 0.75, 100)
    assert held_out["before"]["low"] < 0.25 < held_out["before"]["high"]
    # (1 + ... + 10) / 1000 and (11 + ... + 20) / 1000
    assert summary["reward_first_10_logs"] == pytest.approx(0.055)
    assert summary["reward_last_10_logs"] == pytest.approx(0.155)
    assert (summary["steps"], summary["train_seconds"], summary["status"]) == (20, 20.0, "complete")


def test_the_first_and_last_logs_of_a_short_run_are_not_the_same():
    short = [{"step": n, "phase": "train", "reward": n / 10} for n in range(1, 5)]
    summary = summarize(short, reward_name="right", eval_prompts=0, facts={})
    assert summary["reward_first_10_logs"] == pytest.approx(0.15)
    assert summary["reward_last_10_logs"] == pytest.approx(0.35)


def test_a_run_that_measured_nothing_has_a_summary():
    summary = summarize([], reward_name="right", eval_prompts=0, facts={})
    assert summary["held_out_accuracy"]["after"] is None
    assert summary["reward_first_10_logs"] is None
    assert accuracy_text(None) == "not measured"


def test_the_curve_is_a_picture(tmp_path):
    path = tmp_path / "curve.png"
    credit = [{"step": 3, "dgpo/effective_share": 0.9, "dgpo/hellinger_sq/mean": 0.01}]
    assert draw_curve(METRICS + credit, "right", "a title", path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert not draw_curve([{"step": 1, "loss": 0.0}], "right", "nothing", tmp_path / "none.png")


def lines_of(total, steps, done=0):
    text = io.StringIO()
    progress = Progress(console=Console(file=text, width=200))
    progress.begin(TRAINING, total, done)
    for step in steps:
        progress.note(reward=step / total, accuracy=0.5)
        progress.advance(step, known=False)
        progress.advance(step)
    return text.getvalue().splitlines()


def test_about_ten_plain_lines_a_run():
    lines = lines_of(200, range(1, 201))
    assert [line.split()[1] for line in lines] == ["1/200", *(f"{n}/200" for n in range(20, 201, 20))]
    assert lines[1].startswith("training 20/200  reward 0.100  accuracy 0.500")


def test_sparse_logs_still_give_lines():
    # Logged every 7 steps, 7 to 98: the first log, and the first one past each further tenth.
    steps = [line.split()[1] for line in lines_of(100, range(7, 101, 7))]
    assert steps == ["7/100", "14/100", "21/100", "35/100", "42/100", "56/100", "63/100", "70/100", "84/100", "91/100"]


def test_a_slow_run_is_not_silent_for_longer_than_a_minute(monkeypatch):
    clock = iter(range(0, 100_000, 7))  # each look at it is seven seconds later
    monkeypatch.setattr("dgpo.lab.progress.time.monotonic", lambda: next(clock))
    steps = [int(line.split()[1].split("/")[0]) for line in lines_of(1000, range(1, 100))]
    assert len(steps) > 10
    assert max(after - before for before, after in pairwise(steps)) <= 9


def test_a_slow_run_that_logs_seldom_is_not_silent_either(monkeypatch):
    clock = iter(range(0, 100_000, 25))  # each look at it is 25 seconds later
    monkeypatch.setattr("dgpo.lab.progress.time.monotonic", lambda: next(clock))
    text = io.StringIO()
    progress = Progress(console=Console(file=text, width=200))
    progress.begin(TRAINING, 10)
    for step in range(1, 10):
        progress.advance(step, known=False)
    shown = [line.split()[1] for line in text.getvalue().splitlines()]
    assert len(shown) >= 3
    assert all(line.startswith("training ") and "left" in line for line in text.getvalue().splitlines())


def test_in_a_pipe_what_takes_long_is_announced_once():
    text = io.StringIO()
    progress = Progress(console=Console(file=text, width=200))
    progress.begin(EVALUATING, 0)
    progress.begin(EVALUATING, 2)  # the number of batches is known now
    progress.advance(1)
    progress.advance(2)
    progress.end()
    progress.begin(EVALUATING, 1)
    lines = text.getvalue().splitlines()
    assert [line for line in lines if line.endswith(" ...")] == ["measuring the held-out accuracy ..."] * 2


def test_a_resumed_run_counts_on():
    assert lines_of(10, [9, 10], done=8)[0].startswith("training 9/10")


def test_the_other_processes_print_nothing(capsys):
    progress = Progress(quiet=True)
    progress.begin(TRAINING, 2)
    progress.advance(1)
    progress.say("hello")
    assert capsys.readouterr().out == ""
