"""What a credit log holds: the settings of a run, and completions with the credit of each of their tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

SCHEMA = "dgpo-credit/2"
MAX_COMPLETIONS, MAX_TOKENS, MAX_BYTES = 8, 4096, 64 * 2**20
PER_TOKEN_FIELDS = ("w", "a", "d", "h", "s", "logp", "log_ratio")
"""Lists of `CompletionCredit` with one number a token; those that a rule or an engine does not give are None."""

EOS, LENGTH = "eos", "length"
"""Why a completion ended: with an end-of-sequence token, or cut off at its greatest length."""

Column = list[float | None]
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class CreditSettings:
    """What the figures of a log depend on; it heads every file.

    Attributes:
        rule: The credit rule as it was named, such as `"dgpo"` or `"my_rules.py:capped"`.
        options: Its options, defaults included.
        source: Digest of the file that defines it; `""` where there is none.
        vocab_size: V, the vocabulary that d and h run over.
        engine: `"trl"`, `"verl"`, `"inspect"`, or `"watch"`: the run was trained without the rule.
        credit_policy: `"current"` or `"old"`: whose distribution gave the credit.
        temperature: Of the sampling; both distributions are taken at it.
        trainer: Settings of the trainer by name, as far as an engine gives them.

    Example:
        >>> from dgpo.rules import resolve
        >>> CreditSettings(**resolve("capped", cap=3.0).describe(), vocab_size=50, engine="trl").options
        {'tau': 0.5, 'kappa': 1.0, 'cap': 3.0}
    """

    rule: str
    options: Mapping[str, Any]
    source: str
    vocab_size: int
    engine: str
    credit_policy: str = "current"
    temperature: float = 1.0
    trainer: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class CompletionCredit:
    """One completion and the credit of its tokens. The lists have one entry a kept token, in order.

    Of a long completion the first and the last tokens are kept: the answer stands at the end.

    Attributes:
        prompt: The prompt as text, special tokens by name.
        ids: Token ids.
        tokens: Their text, from `token_texts`; the empty string begins a character that a later token completes.
        w: Weights; `None` for a token that is not trained (a tool's answer), and everywhere for a signed rule.
        a: Token advantages of a signed rule; `None` for a token that is not trained, and everywhere for other rules.
        d: Squared Hellinger distances, in [0, 1]; `None` without a reference, as are `s` and `log_ratio`.
        h: Normalised entropies H / log V, in [0, 1].
        s: Gated scores d * h^kappa, in [0, 1].
        logp: The policy's log-probability of the token, natural logarithm.
        log_ratio: `logp` minus the reference's log-probability of the token.
        columns: Further numbers by name, one list each, as an engine or a rule gives them.
        advantage: A of the completion; `None` where there is none.
        reward: The weighted sum of the rewards; `None` where there is none.
        rewards: Each reward function's value by its name.
        answer: The correct answer, as text; `None` where it is not known.
        hint: What the reference was shown where the rule reads a hint, `""` where it had none; `None` for other rules.
        control: What the hint was compared with; `None` where that was the plain prompt, or there is no hint.
        hint_agreement: How often the better one of two hinted completions of the prompt is the one that the hint makes
            likelier, in [0, 1]; `None` where no two differ in reward, or there is no hint.
        group: Which prompt of the step the completion belongs to, a number or a name; `None` where it is not known.
        ended: Why it ended: `"eos"`, `"length"`, or an engine's own word; `None` where it is not known.
        num_tokens: Tokens of the whole completion, kept or not.
        head: How many of the kept tokens stand before those that are left out; by default all.
        effective_share: ESS / T over all trained tokens, in [0, 1], of |a| for a signed rule; `None` where none counts.
        alternatives: For some kept tokens, by index: `{"policy": [[text, probability], ...], "reference": [...]}`, the
            likeliest tokens at that place.
    """

    prompt: str
    ids: list[int]
    tokens: list[str]
    w: Column = field(default_factory=list)
    d: Column = field(default_factory=list)
    h: Column = field(default_factory=list)
    s: Column = field(default_factory=list)
    logp: Column = field(default_factory=list)
    log_ratio: Column = field(default_factory=list)
    a: Column = field(default_factory=list)
    columns: dict[str, Column] = field(default_factory=dict)
    advantage: float | None = None
    reward: float | None = None
    rewards: dict[str, float | None] = field(default_factory=dict)
    answer: str | None = None
    hint: str | None = None
    control: str | None = None
    hint_agreement: float | None = None
    group: int | str | None = None
    ended: str | None = None
    num_tokens: int = 0
    head: int = -1
    effective_share: float | None = None
    alternatives: dict[int, dict[str, list[tuple[str, float]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in PER_TOKEN_FIELDS:
            if not getattr(self, name):
                setattr(self, name, [None] * len(self.ids))
        lists = {name: getattr(self, name) for name in ("ids", "tokens", *PER_TOKEN_FIELDS)} | self.columns
        lengths = {name: len(values) for name, values in lists.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"All lists of a completion have one entry a token, got lengths {lengths}.")
        self.num_tokens = self.num_tokens or len(self.ids)
        if self.head < 0:
            self.head = len(self.ids)
        if self.effective_share is None:
            self.effective_share = effective_share([abs(x) for x in self.credit if x is not None])

    @property
    def is_signed(self) -> bool:
        """Whether a signed rule gave its tokens their advantages."""
        return any(a is not None for a in self.a)

    @property
    def credit(self) -> Column:
        """What the rule gave: weights, or token advantages of a signed rule; `None` for a token that is not trained."""
        return self.a if self.is_signed else self.w

    @property
    def truncated(self) -> bool:
        """Whether the completion was cut off at its greatest length."""
        return self.ended == LENGTH

    @property
    def omitted(self) -> int:
        """How many tokens are left out, after the first `head` ones."""
        return self.num_tokens - len(self.ids)

    def shortened(self, max_tokens: int) -> "CompletionCredit":
        """Return this completion with at most so many tokens: the first and the last ones.

        The numbers that are of the whole completion stay as they are.
        """
        if len(self.ids) <= max_tokens:
            return self
        rest = len(self.ids) - self.head if self.omitted else len(self.ids)
        head, tail = head_and_tail(self.head, rest, max_tokens)
        start = len(self.ids) - tail
        facts = dict(vars(self))
        for name in ("ids", "tokens", *PER_TOKEN_FIELDS):
            facts[name] = ends(facts[name], head, tail)
        facts["columns"] = {name: ends(values, head, tail) for name, values in self.columns.items()}
        facts["alternatives"] = {
            index if index < head else index - start + head: place
            for index, place in self.alternatives.items()
            if index < head or index >= start
        }
        return CompletionCredit(**(facts | {"head": head}))


@dataclass(frozen=True)
class LoggedStep:
    """What one file holds.

    Attributes:
        step: The optimizer step, counted from 1.
        header: The file's first line: schema, settings, and how the completions were chosen.
        completions: In the order of the file.
    """

    step: int
    header: dict[str, Any]
    completions: list[CompletionCredit]


def effective_share(credited: Sequence[float]) -> float | None:
    """Return ESS / T of the weights of one completion, ESS = (sum w)^2 / sum w^2; `None` where all are 0.

    Args:
        credited: Weights of its trained tokens, or sizes of their advantages.

    Returns:
        In (0, 1].

    Example:
        >>> effective_share([0.5, 1.5])
        0.8
    """
    if not any(credited):
        return None
    return sum(credited) ** 2 / sum(w * w for w in credited) / len(credited)


def head_and_tail(first: int, last: int, max_tokens: int) -> tuple[int, int]:
    """Return how many of the first and of the last tokens are kept of a completion that is too long.

    Args:
        first: How many of its first tokens there are: all, or those before what is left out already.
        last: How many of its last tokens there are: all, or those after what is left out already.
        max_tokens: How many are kept in total, fewer than there are.

    Returns:
        Two counts.

    Example:
        >>> head_and_tail(9, 9, 4), head_and_tail(9, 0, 4), head_and_tail(1, 9, 6)
        ((2, 2), (4, 0), (1, 5))
    """
    tail = min(last, max_tokens // 2)
    head = min(first, max_tokens - tail)
    return head, min(last, max_tokens - head)


def ends(values: Sequence[_Item], head: int, tail: int) -> list[_Item]:
    """Return the first `head` and the last `tail` entries of a list that has more of them."""
    return [*values[:head], *values[len(values) - tail :]]
