"""`dgpo report RUN --terminal`: which group is printed, and that nothing of it commands the terminal."""

import io
import re

import pytest
from hostile import HOSTILE
from rich.console import Console

from dgpo.credit_log import CreditLog, LoggedStep
from dgpo.lab.cli.main import main
from dgpo.lab.report.groups import most_telling_group
from dgpo.lab.report.terminal import print_step


def printed(step, *, colour=False):
    file = io.StringIO()
    system = "truecolor" if colour else None
    print_step(step, Console(file=file, force_terminal=colour, color_system=system, highlight=False, soft_wrap=True))
    return file.getvalue()


def of_group(completion, group, *advantages, **facts):
    return [
        completion("so ", f"{group}{index}", group=group, advantage=a, reward=float(a > 0), prompt=f"p{group}", **facts)
        for index, a in enumerate(advantages)
    ]


def test_the_group_with_right_and_wrong_completions_is_printed(completion):
    step = LoggedStep(
        40,
        {"rule": "dgpo", "options": {"tau": 0.5}},
        [*of_group(completion, 1, 0.0, 0.0), *of_group(completion, 2, -0.5, 1.0, -2.0, answer="42", ended="length")],
    )
    assert [c.tokens[-1] for c in most_telling_group(step)] == ["21", "22", "20"]
    text = printed(step)
    assert "step 40 · rule dgpo (tau 0.5) · the most telling of 2 prompts" in text
    assert "p2\ncorrect answer 42\n" in text
    assert "p1" not in text
    places = [text.index(part) for part in ("+ reward 1 · advantage 1", "so 21", "− reward 0 · advantage -2", "so 22")]
    assert places == sorted(places)
    assert "cut off" in text
    assert "weights farthest from 1: 'so ' 0.667, '21' 1.33" in text  # |log 2/3| > log 4/3
    assert "The first two part at token 2: '21' and '22'." in text
    assert "no signal" in printed(LoggedStep(1, {}, of_group(completion, 1, 0.0, 0.0)))
    assert "No completion was logged" in printed(LoggedStep(1, {}, []))


def test_the_hint_and_what_it_says_of_the_tokens_are_printed(completion):
    columns = {"hindsight_log_ratio": [0.5, -2.0, None], "hindsight_hellinger_sq": [0.25, 0.5, None]}
    told = completion("a", "b", "c", hint="the\nanswer", control="another", columns=columns)
    text = printed(LoggedStep(1, {}, [told, completion("a", hint="", group=1), completion("a")]))
    said = "log-ratios of the hint: 'b' -2 (d 0.5), 'a' +0.5 (d 0.25)"
    assert f"hint the\nanswer\ncompared with another\n{said}\n" in text
    assert text.count("hint") == 2
    assert "no hint, plain rule" in printed(LoggedStep(1, {}, [completion("a", hint="")]))


def test_tokens_are_coloured_by_their_weight(completion):
    text = printed(LoggedStep(1, {}, [completion("low", "mid", "high", w=[0.5, 1.0, 1.5])]), colour=True)
    styled = dict(re.findall(r"\x1b\[([\d;]*48;2[\d;]*)m(low|mid|high)", text))
    assert set(styled.values()) == {"low", "high"}
    (low,), (high,) = ([style for style, token in styled.items() if token == name] for name in ("low", "high"))
    assert "48;2;0;96;178" in low  # the strongest blue
    assert int(high.split("48;2;")[1].split(";")[0]) > 100  # an orange


@pytest.mark.parametrize("colour", [False, True])
def test_hostile_text_commands_nothing(completion, colour):
    facts = {name: "".join(HOSTILE) for name in ("prompt", "hint", "control")}
    facts |= {"answer": "\x1b[2J[red]", "ended": "\x07[/x]"}
    step = LoggedStep(1, {"rule": "\x1b[31m[bold]", "options": {"[i]": "\x1b"}}, [completion(*HOSTILE, **facts)])
    text = printed(step, colour=colour)
    own = re.sub(r"\x1b\[[\d;]*m", "", text) if colour else text
    assert "\x1b" not in own
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2066-\u2069]", own)
    assert "[red]" in own
    assert "␛[31m[bold]" in own
    own.encode()


def test_a_hint_is_printed_with_what_it_was_compared_with_and_how_the_rewards_agree(completion):
    step = LoggedStep(1, {}, [completion("a", hint="42", control="7", hint_agreement=0.25)])
    assert "hint 42\ncompared with 7\nthe rewards agree with it in 25% of the prompt's pairs" in printed(step)
    assert "agree" not in printed(LoggedStep(1, {}, [completion("a", hint="42")]))


def test_a_log_without_credit_is_coloured_by_the_entropy(completion):
    text = printed(LoggedStep(1, {}, [completion("a", "b", w=[None, None], d=[None, None])]), colour=True)
    assert "highest entropies: 'b' 0.667, 'a' 0.333" in text
    assert "\x1b[9m" not in text  # not struck through: no rule left these tokens out


def test_weights_that_are_all_1_are_not_listed(completion):
    """As of a trainer that is watched: its weights are GRPO's."""
    step = LoggedStep(1, {}, [completion("a", "b", w=[1.0, 1.0])])
    assert "largest squared Hellinger distances: 'b' 0.333, 'a' 0.167" in printed(step)
    assert "weights" not in printed(LoggedStep(1, {}, [completion("a", w=[1.0], d=[0.0])]))


def test_long_completions_keep_their_ends(completion):
    text = printed(LoggedStep(1, {}, [completion(*(f"{n} " for n in range(2000)))]))
    assert "149  [1700 tokens left out] 1850 " in text


def test_the_command_prints_the_last_step(tmp_path, settings, completion, capsys):
    for step in (1, 20):
        CreditLog(tmp_path, settings).write(step, of_group(completion, step, 1.0, -1.0))
    assert main(["report", str(tmp_path), "--terminal"]) == 0
    out = capsys.readouterr().out
    assert "step 20 · rule dgpo (tau 0.5, kappa 1)" in out
    assert "p20" in out
    assert "Note: There are no curves" in out
    assert not (tmp_path / "report.html").exists()
