"""Evaluates a model: samples what is not on the disk yet, scores it, and sums up."""

from collections.abc import Callable
from typing import Any

from dgpo.errors import ConfigError, DataError
from dgpo.lab.evaluation.loading import refuse_foreign_tokens
from dgpo.lab.evaluation.metrics import summarize
from dgpo.lab.evaluation.problems import Problem, ProblemSet, Scored
from dgpo.lab.evaluation.records import EvaluationDirectory
from dgpo.lab.evaluation.sampling import Completion, Request, Sampler, Sampling
from dgpo.lab.rewards.extraction import AnswerFormat
from dgpo.lab.rewards.lint import GoldLint, lint_golds


def fit_to_context(sampler: Sampler, problems: ProblemSet, max_tokens: int) -> int:
    """Return the longest completion that fits into the model beside the longest prompt.

    Args:
        sampler: The model.
        problems: The prompts.
        max_tokens: What the protocol allows.

    Returns:
        `max_tokens`, or less.

    Raises:
        ConfigError: If a prompt alone fills the model.
    """
    context = sampler.context
    if context is None:
        return max_tokens
    prompts = {problem.name: sampler.prompt_tokens(problem.prompt) for problem in problems.problems}
    lengths = {name: len(ids) for name, ids in prompts.items()}
    tokenizer = getattr(sampler, "tokenizer", None)
    if tokenizer is not None:
        largest = max(max(ids, default=0) for ids in [*prompts.values(), [tokenizer.pad_token_id or 0]])
        refuse_foreign_tokens("the model", tokenizer, getattr(sampler, "vocabulary", None), largest)
    longest = max(lengths, key=lambda name: lengths[name])
    if lengths[longest] >= context:
        raise ConfigError(
            f"problem {longest!r} has {lengths[longest]} tokens, and the model holds {context}; no completion fits."
        )
    return min(max_tokens, context - lengths[longest])


def unreadable_golds(problems: ProblemSet) -> list[str]:
    """Return the problems whose gold answer cannot be read as mathematics, before anything is sampled for them.

    Args:
        problems: The problems.

    Returns:
        Their names; none where the task has a scorer of its own.

    Raises:
        DataError: If no gold answer can be read.
    """
    if problems.reward is not None:
        return []
    scored = problems.scorer("auto")(problems.problems, [""] * len(problems.problems))
    bad = [problem for problem, result in zip(problems.problems, scored, strict=True) if result.score is None]
    if len(bad) == len(problems.problems):
        raise DataError(
            f"no gold answer of {problems.name} can be read as mathematics, such as {bad[0].gold!r:.60} of problem "
            f"{bad[0].name!r}; is answer_column the right one?"
        )
    return [problem.name for problem in bad]


def gold_lint(problems: ProblemSet, answer_format: AnswerFormat) -> GoldLint | None:
    """Return what scoring would do with gold answers that it should not.

    Args:
        problems: The problems.
        answer_format: Where completions give their answer.

    Returns:
        What was found; `None` where the task has a scorer of its own, or its loader has looked at them.
    """
    if problems.reward is not None:
        return None
    return lint_golds([gold for problem in problems.problems for gold in problem.golds], answer_format)


def evaluate(
    sampler: Sampler,
    problems: ProblemSet,
    *,
    n: int,
    sampling: Sampling,
    answer_format: AnswerFormat,
    batch_size: int,
    directory: EvaluationDirectory,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Return the result of an evaluation; batches that are in the directory already are not sampled again.

    The batches are the same in every run with these settings, and each has a seed of its own: a run that was killed and
    continued writes the same file as one that was not.

    Args:
        sampler: The model.
        problems: The problems, in the prompt template of the protocol.
        n: Completions per problem.
        sampling: Temperature and so on.
        answer_format: Where answers are looked for.
        batch_size: Completions that are sampled at once.
        directory: An open directory.
        on_batch: Called after each batch with the number of completions that are done, and of all.

    Returns:
        What `result.json` holds.

    Raises:
        ConfigError: If n is below 1, more than one greedy completion is asked for, or another process evaluates into
            the directory.
    """
    check_counts(n, sampling.temperature, batch_size)
    wanted = [(problem, sample) for problem in problems.problems for sample in range(n)]
    score = problems.scorer(answer_format)
    with directory.locked():
        done = directory.finished([(problem.name, sample) for problem, sample in wanted], batch_size)
        on_batch(min(done * batch_size, len(wanted)), len(wanted))
        for batch in range(done, -(-len(wanted) // batch_size)):
            part = wanted[batch * batch_size : (batch + 1) * batch_size]
            requests = [Request(problem.prompt, problem.name, sample) for problem, sample in part]
            completions = sampler.sample(requests, sampling, batch)
            texts, truncated = [x.text for x in completions], [x.truncated for x in completions]
            scored = score([problem for problem, _ in part], texts, truncated)
            directory.append([_row(*fields) for fields in zip(part, completions, scored, strict=True)])
            on_batch(batch * batch_size + len(part), len(wanted))
        return directory.write_result(summarize(directory.read_samples()))


def check_counts(n: int, temperature: float, batch_size: int) -> None:
    """Refuse numbers that cannot work.

    Args:
        n: Completions per problem.
        temperature: Of the sampling.
        batch_size: Completions at once.

    Raises:
        ConfigError: For n or a batch below 1, or several greedy completions, which would all be equal.
    """
    if n < 1:
        raise ConfigError(f"n is {n}; it must be at least 1 completion per problem.")
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; it must be at least 1.")
    if temperature == 0 and n > 1:
        raise ConfigError(f"temperature is 0, so the {n} completions of a problem would be equal; use --n 1.")


def _row(request: tuple[Problem, int], completion: Completion, scored: Scored) -> dict[str, Any]:
    problem, sample = request
    sampled = {"completion": completion.text, "tokens": completion.tokens, "truncated": completion.truncated}
    return {
        "problem": problem.name,
        "sample": sample,
        "digest": problem.digest,
        "gold": problem.gold,
        **sampled,
        **scored._asdict(),
    }
