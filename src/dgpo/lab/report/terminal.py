"""The most telling group of a run's last logged step, in the terminal."""

import math
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from rich.console import Console
from rich.style import Style
from rich.text import Text

from dgpo.core import HINDSIGHT_STATS
from dgpo.credit_log import CompletionCredit, LoggedStep
from dgpo.lab.foreign_text import say, visible, visible_lines
from dgpo.lab.report.files import read_runs
from dgpo.lab.report.groups import groups_of, most_telling_group
from dgpo.lab.report.page_data import rule_text

MOST_COMPLETIONS, MOST_TOKENS, MOST_CHARACTERS, LISTED = 4, 300, 600, 5
_MORE, _LESS, _OTHER = (214, 94, 0), (0, 96, 178), (120, 60, 170)  # the colours of the page
_FAINTEST = 0.08  # of the strongest colour; below, a token has none


def print_runs(folders: Sequence[Path], console: Console | None = None) -> None:
    """Print the most telling group of the last logged step of each run.

    Args:
        folders: Run directories, at least one.
        console: Where to print; standard output by default.

    Raises:
        DgpoError: If a directory holds no run.
    """
    # A file or a pipe has no colours, and wrapping at 80 columns would only break its lines.
    console = console or Console(highlight=False, soft_wrap=True)
    for run in read_runs(folders):
        console.print(Text(visible(run.name), style="bold"))
        for note in run.notes:
            say(f"Note: {visible(note)}", console)
        if run.steps:
            print_step(run.steps[-1], console)


def print_step(step: LoggedStep, console: Console) -> None:
    """Print the most telling group of a logged step: right and wrong completions, their tokens coloured by the credit.

    Nothing of the completions commands the terminal: control characters are shown as signs.

    Args:
        step: The step.
        console: Where to print.
    """
    group = most_telling_group(step)
    others = len(groups_of(step)) - 1
    facts = [f"step {step.step}", f"rule {visible(rule_text([step]) or 'none')}"]
    facts += [f"the most telling of {others + 1} prompts"] if others > 0 else []
    console.print(Text(" · ".join(facts), style="dim"))
    if not group:
        console.print("No completion was logged at this step.")
        return
    console.print(Text(_middle_left_out(group[0].prompt)))
    if group[0].answer is not None:
        console.print(Text(f"correct answer {_middle_left_out(group[0].answer)}", style="bold"))
    name, reach = _measure(group)
    if not any(completion.advantage for completion in group):
        console.print(Text("no signal: every advantage is 0", style="dim"))
    for completion in group[:MOST_COMPLETIONS]:
        console.print()
        console.print(_facts(completion))
        console.print(_tokens(completion, name, reach))
        console.print(Text(_largest(completion, name), style="dim"))
        if completion.hint is not None:
            console.print(Text(_hint(completion), style="dim"))
    fork = _fork(*group[:2]) if len(group) > 1 else ""
    more = len(group) - MOST_COMPLETIONS
    if fork:
        console.print(Text(f"\n{fork}", style="dim"))
    if more > 0:
        console.print(Text(f"\n{more} more completions of this prompt are on the page of `dgpo report`.", style="dim"))


def _measure(group: Sequence[CompletionCredit]) -> tuple[str, float]:
    """What the tokens are coloured by, and the value of the strongest colour: credit, or else distance or entropy."""
    columns = {n: [x for completion in group for x in getattr(completion, n) if x is not None] for n in "awdh"}
    name = next((n for n, values in columns.items() if any(_far(n, x) for x in values)), "w")
    sizes = [abs(_far(name, x)) for completion in group for x in getattr(completion, name) if x is not None]
    return name, max([*sizes, 1e-3])


def _far(name: str, value: float) -> float:
    """How far a value is from the middle of its scale: for weights, from an even 1, as a ratio."""
    return math.log(max(value, 1e-6)) if name == "w" else value


def _facts(completion: CompletionCredit) -> Text:
    facts = {"reward": completion.reward, "advantage": completion.advantage, "share": completion.effective_share}
    shown = [f"{'effective share' if k == 'share' else k} {v:.4g}" for k, v in facts.items() if v is not None]
    shown.append(f"{completion.num_tokens} tokens")
    if completion.ended not in (None, "eos"):
        shown.append("cut off" if completion.truncated else f"ended {visible(str(completion.ended))}")
    sign = (completion.advantage or 0) > 0, (completion.advantage or 0) < 0
    marks = {(True, False): ("+ ", "bold rgb(236,122,24)"), (False, True): ("− ", "bold rgb(64,142,232)")}
    mark, style = marks.get(sign, ("", ""))
    return Text(mark + " · ".join(shown), style=style)


def _tokens(whole: CompletionCredit, name: str, reach: float) -> Text:
    completion = whole.shortened(MOST_TOKENS)
    text = Text()
    for index, (token, value) in enumerate(zip(completion.tokens, getattr(completion, name), strict=True)):
        if index == completion.head and completion.omitted:
            text.append(f" [{completion.omitted} tokens left out] ", style="dim")
        text.append(visible(token), style=_style(name, value, reach))
        text.append("\n" * token.count("\n"))
    return text


def _style(name: str, value: float | None, reach: float) -> Style:
    if value is None:
        return Style(dim=True, strike=True) if name in "aw" else Style()  # not trained
    far = _far(name, value) / reach
    if abs(far) < _FAINTEST:
        return Style()
    colour = _OTHER if name in "dh" else _MORE if far > 0 else _LESS
    # Mixed with the dark background that nearly all terminals have; white letters can be read on all of it.
    red, green, blue = (round(30 + (part - 30) * min(1.0, abs(far))) for part in colour)
    return Style(color="white", bgcolor=f"rgb({red},{green},{blue})", underline=far > 0.5)


def _largest(completion: CompletionCredit, name: str) -> str:
    """The tokens that differ most from the rest, with their numbers: what a terminal without colours shows as well."""
    values = zip(getattr(completion, name), completion.tokens, strict=True)
    known = sorted(((x, token) for x, token in values if x is not None), key=lambda pair: -abs(_far(name, pair[0])))
    names = {
        "w": "weights farthest from 1",
        "a": "largest token advantages",
        "d": "largest squared Hellinger distances",
    }
    what = names.get(name, "highest entropies")
    return f"{what}: " + ", ".join(f"{visible(token)!r} {x:.3g}" for x, token in known[:LISTED]) if known else ""


def _hint(completion: CompletionCredit) -> str:
    """What the reference was shown, and the tokens that this makes most likelier or unlikelier."""
    if not completion.hint:
        return "no hint, plain rule"
    lists = (completion.columns.get(name, []) for name in reversed(HINDSIGHT_STATS))
    told = [row for row in zip(completion.tokens, *lists, strict=False) if None not in row]
    largest = sorted(told, key=lambda row: -abs(row[1]))[:LISTED]
    changed = ", ".join(f"{visible(token)!r} {i:+.3g} (d {d:.2g})" for token, i, d in largest)
    control = "" if completion.control is None else f"\ncompared with {_middle_left_out(completion.control)}"
    numbers = f"\nlog-ratios of the hint: {changed}" if changed else ""
    agreement = completion.hint_agreement
    agrees = "" if agreement is None else f"\nthe rewards agree with it in {agreement:.0%} of the prompt's pairs"
    return f"hint {_middle_left_out(completion.hint)}{control}{agrees}{numbers}"


def _fork(one: CompletionCredit, other: CompletionCredit) -> str:
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one.tokens, other.tokens, strict=False))))
    if not 0 < same < min(len(one.tokens), len(other.tokens)):
        return ""
    ours, theirs = (repr(visible(completion.tokens[same])) for completion in (one, other))
    return f"The first two part at token {same + 1}: {ours} and {theirs}."


def _middle_left_out(text: str) -> str:
    """A text of several lines, each made visible; of a long one the beginning and the end."""
    if len(text) > MOST_CHARACTERS:
        text = f"{text[: MOST_CHARACTERS // 2]} [...] {text[-MOST_CHARACTERS // 2 :]}"
    return visible_lines(text)
