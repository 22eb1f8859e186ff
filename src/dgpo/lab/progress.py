"""Progress bars on a terminal, and plain lines in files and pipes."""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from dgpo.lab.foreign_text import say, visible

Item = TypeVar("Item")

TRAINING, EVALUATING = "training", "measuring the held-out accuracy"
_SMOOTHED_LOGS = 10
# Where there is no bar, a line is printed at least so often, if anything happens.
_LONGEST_SILENCE = 60.0


class Progress:
    """The steps of a run as they are made.

    Args:
        quiet: Print nothing at all: the processes beside the main one.
        console: Where to print; standard output by default.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        # Plain lines go to files and pipes, where wrapping at 80 columns would only break them.
        width = None if sys.stdout.isatty() else 200
        self.console = console or Console(quiet=quiet, highlight=False, width=width, soft_wrap=True)
        self._quiet = quiet
        self._bar: Bar | None = None
        self._task: Any = None
        self._total = self._first = self._step = 0
        self._started = self._said = time.monotonic()
        self._label, self._tenth = "", -1
        self._rewards: deque[float] = deque(maxlen=_SMOOTHED_LOGS)
        self._accuracies: deque[float] = deque(maxlen=_SMOOTHED_LOGS)
        self._held_out: float | None = None

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        say(text, self.console)

    def begin(self, label: str, total: int, done: int = 0) -> None:
        """Start to count: training steps or batches of an evaluation.

        Args:
            label: What is done, such as `"training"`.
            total: How many there are; 0 where unknown.
            done: How many were made before, by the run that this one resumes.
        """
        goes_on = label == self._label
        self.end()
        self._label, self._total, self._first, self._step = label, total, done, done
        self._tenth = -1
        self._started = self._said = time.monotonic()
        if self.console.is_terminal and not self._quiet:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=self.console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(label, total=total or None, completed=done, figures="")
        elif label != TRAINING and not goes_on:
            self.say(f"{label} ...")

    def end(self) -> None:
        """Take the bar away."""
        self._label = ""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def note(self, *, reward: float | None, accuracy: float | None, held_out: float | None = None) -> None:
        """Show the figures of a logged step from now on.

        Args:
            reward: Mean reward of the step's completions.
            accuracy: Mean of the first reward function on them.
            held_out: Accuracy on the held-out prompts, where it was just measured.
        """
        if reward is not None:
            self._rewards.append(reward)
        if accuracy is not None:
            self._accuracies.append(accuracy)
        if held_out is not None:
            self._held_out = held_out

    def advance(self, step: int, *, known: bool = True) -> None:
        """Show that a step was made.

        Args:
            step: Steps made in all.
            known: Whether the figures of the step are; a plain line waits for them, but not for minutes.
        """
        self._step = step
        if self._bar is not None:
            self._bar.update(self._task, completed=step, figures=self._figures())
        elif (self._label == TRAINING or step < self._total) and self._due(step, known):
            parts = (f"{self._label} {step}/{self._total}", self._figures(), self._remaining())
            self.say("  ".join(part for part in parts if part))

    def _due(self, step: int, known: bool) -> bool:
        """Whether a plain line is due: for the first figures, about every tenth of the way, and once a minute."""
        tenth, now = 10 * step // max(1, self._total), time.monotonic()
        due = (known and tenth > self._tenth) or now - self._said > _LONGEST_SILENCE
        if due:
            self._said = now
            self._tenth = max(tenth, self._tenth) if known else self._tenth
        return due

    def _figures(self) -> str:
        parts: list[str] = []
        if self._label != TRAINING:
            return ""
        if self._rewards:
            parts.append(f"reward {self._rewards[-1]:.3f}")
        if self._held_out is not None:
            parts.append(f"held-out accuracy {self._held_out:.3f}")
        elif self._accuracies:
            parts.append(f"accuracy {sum(self._accuracies) / len(self._accuracies):.3f}")
        return "  ".join(parts)

    def _remaining(self) -> str:
        made = self._step - self._first
        if made < 1 or self._total <= self._step:
            return ""
        return f"about {duration((time.monotonic() - self._started) / made * (self._total - self._step))} left"


def track(items: Iterable[Item], description: str) -> Iterator[Item]:
    """Yield the items, under a progress bar that goes away at the end; without a terminal, nothing is shown.

    Args:
        items: Anything to iterate over; the bar has an end if it has a length.
        description: What stands before the bar.

    Yields:
        Item: The items, one by one.

    Example:
        >>> list(track([1, 2], "counting"))
        [1, 2]
    """
    console = Console(file=sys.stderr)
    total = len(items) if isinstance(items, Sized) else None
    columns = BarColumn(), TaskProgressColumn(), TimeRemainingColumn(elapsed_when_finished=True)
    # Not rich's own `track`: it takes the description for markup.
    text = TextColumn("{task.description}", markup=False)
    bar = Bar(text, *columns, console=console, transient=True, disable=not console.is_terminal)
    with bar:
        yield from bar.track(items, total=total, description=visible(description))


@contextmanager
def step_bar(description: str, total: int, *, figure: str, show: bool = True) -> Iterator[Callable[[float], None]]:
    """Yield a function that counts a step and shows a figure of it, on a bar on the standard error.

    Args:
        description: What stands before the bar.
        total: How many steps there are.
        figure: What the figure is called.
        show: Whether there is a bar at all.

    Yields:
        Callable[[float], None]: To call once a step, with the figure.
    """
    console = Console(file=sys.stderr)
    if show and not console.is_terminal:  # the bar would be drawn at its end alone
        say(f"{description} ...", sys.stderr)
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(figure + " {task.fields[figure]:.3f}"),
        TimeRemainingColumn(),
        console=console,
        disable=not show or not console.is_terminal,
    )
    with bar:
        task = bar.add_task(description, total=total, figure=math.nan)
        yield lambda value: bar.update(task, advance=1, figure=value)


def duration(seconds: float) -> str:
    """Return a time for people.

    Args:
        seconds: A duration, 0 or more.

    Returns:
        The two largest units.

    Example:
        >>> duration(75), duration(8), duration(7300)
        ('1 min 15 s', '8 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
