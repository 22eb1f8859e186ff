"""Evaluation protocols by name: prompt, sampling and extraction of the answer, which only together make a figure."""

from dataclasses import dataclass

from dgpo.errors import ConfigError
from dgpo.lab.rewards.extraction import AnswerFormat
from dgpo.names import did_you_mean


@dataclass(frozen=True)
class Protocol:
    """How problems are prompted, completions sampled and answers extracted.

    Attributes:
        name: What the command line calls it.
        n: Completions per problem.
        temperature: Of the sampling.
        top_p: Of the sampling.
        max_tokens: Longest completion.
        prompt_template: A text around `{prompt}`; `None` leaves the problem as it is.
        answer_format: Where the answer of a mathematical problem is looked for.
        source: Where this comes from, and what in it is our choice.
    """

    name: str
    n: int
    temperature: float
    top_p: float
    max_tokens: int
    prompt_template: str | None
    answer_format: AnswerFormat
    source: str


_DAPO_PROMPT = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{prompt}\n\nRemember to put your answer "
    'on its own line after "Answer:".'
)
_BOXED_PROMPT = (
    "Solve the following math problem efficiently and clearly.  The last line of your response should be of the "
    "following format: 'Therefore, the final answer is: $\\boxed{ANSWER}$. I hope it is correct' (without quotes) "
    "where ANSWER is just the final number or expression that solves the problem. Think step by step before "
    "answering.\n\n{prompt}"
)

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "dapo",
            n=32,
            temperature=1.0,
            top_p=0.7,
            max_tokens=20480,
            prompt_template=_DAPO_PROMPT,
            answer_format="dapo",
            source="DAPO (arXiv:2503.14476) and its recipe in verl: prompt of DAPO-Math-17k, answers in the last 300 "
            "characters. Answers are compared by math-verify, not as text.",
        ),
        Protocol(
            "lighteval",
            n=64,
            temperature=1.0,
            top_p=1.0,
            max_tokens=32768,
            prompt_template=_BOXED_PROMPT,
            answer_format="math_verify",
            source="lighteval's tasks aime24 and aime25: prompt, n = 64, math-verify's own search for the answer. "
            "lighteval leaves the sampling to its caller; temperature, top_p and length are our choice.",
        ),
        Protocol(
            "open-r1",
            n=64,
            temperature=0.6,
            top_p=0.95,
            max_tokens=32768,
            prompt_template=_BOXED_PROMPT,
            answer_format="math_verify",
            source="open-r1, which runs lighteval with temperature 0.6, top_p 0.95 and 32768 tokens.",
        ),
        Protocol(
            "plain",
            n=8,
            temperature=1.0,
            top_p=1.0,
            max_tokens=1024,
            prompt_template=None,
            answer_format="auto",
            source="Ours: the prompt of the task as it stands, sampled as in training.",
        ),
    )
}
"""The protocols; `plain` is the default of tasks that bring a scorer of their own, `dapo` that of the others."""


def get_protocol(name: str) -> Protocol:
    """Return the protocol of this name.

    Args:
        name: One of `PROTOCOLS`.

    Returns:
        The protocol.

    Raises:
        ConfigError: If there is none.

    Example:
        >>> get_protocol("dapo").top_p
        0.7
    """
    if name not in PROTOCOLS:
        hint = did_you_mean(str(name), PROTOCOLS)
        raise ConfigError(f"there is no protocol {name!r}.{hint} The protocols are: {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]
