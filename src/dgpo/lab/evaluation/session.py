"""One evaluation from a request: samples a model on a task, scores the completions, writes and prints the result."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dgpo.errors import ConfigError, DgpoError
from dgpo.lab.evaluation.problems import ProblemSet, asks_protocol, load_problems
from dgpo.lab.evaluation.protocols import Protocol, get_protocol
from dgpo.lab.evaluation.sampling import Sampler, Sampling, TransformersSampler, choose_backend
from dgpo.lab.foreign_code import refused_options
from dgpo.lab.tasks.prompting import PromptFormat
from dgpo.secrets import find_secrets

# vLLM works on so many completions at once; transformers must hold the cache of all of them.
DEFAULT_BATCH_SIZES = {"transformers": 32, "vllm": 256}


@dataclass
class EvaluationRequest:
    """What to evaluate, and how; `None` leaves a value to the protocol or the backend.

    Attributes:
        model: A folder, a hub id, or `forks`.
        task: Where the problems come from; see `load_problems`.
        protocol: Its name; by default `dapo` for exams, and `plain` for everything that can be trained on, which is
            asked and scored as in training.
        n: Completions per problem.
        temperature: Of the sampling, 0 or more.
        top_p: Of the sampling, above 0 and at most 1.
        max_tokens: Longest completion.
        k: Which pass@k the printed table shows.
        limit: Only the first so many problems.
        seed: Of the sampling and the prompts.
        batch_size: Completions sampled at once.
        backend: `auto`, `vllm` or `transformers`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device: Of transformers, such as `cuda:1`.
        task_args: Options of the task.
        rewards: Names of scorers, of which the first one scores; by default the task's own.
        reward_options: Options of rewards, by their names.
        chat_template_kwargs: What the chat template is given, such as `{"enable_thinking": False}`.
        held_out: Take the prompts that a training holds out.
        eval_size: How many these are; with `held_out` alone.
        task_seed: Which ones; by default `seed`.
        vllm_args: Arguments of `vllm.LLM`.
        output: The folder; by default one in `evals/`, named after the settings.
    """

    model: str
    task: str
    protocol: str | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    k: Sequence[int] | None = None
    limit: int | None = None
    seed: int = 0
    batch_size: int | None = None
    backend: str = "auto"
    dtype: str = "auto"
    device: str | None = None
    task_args: dict[str, Any] = field(default_factory=dict)
    rewards: Sequence[str] | None = None
    reward_options: dict[str, Any] = field(default_factory=dict)
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    held_out: bool = False
    eval_size: int | None = None
    task_seed: int | None = None
    vllm_args: dict[str, Any] = field(default_factory=dict)
    output: Path | None = None

    def changes(self) -> dict[str, Any]:
        """Return the values of the protocol that this request changes."""
        given = {name: getattr(self, name) for name in ("n", "temperature", "top_p", "max_tokens")}
        return {name: value for name, value in given.items() if value is not None}

    def resolved_protocol(self) -> Protocol:
        """Return the protocol with the changes applied."""
        asked = asks_protocol(self.task, self.protocol)
        return replace(get_protocol(self.protocol or ("dapo" if asked else "plain")), **self.changes())

    def load(self) -> ProblemSet:
        """Return the problems: as the protocol asks and scores them, or as training does."""
        if asks_protocol(self.task, self.protocol) and (self.rewards or self.held_out):
            raise ConfigError(
                f"{self.task} is asked and scored by the protocol {self.resolved_protocol().name}, which leaves "
                "--rewards and --run no room; leave --protocol out."
            )
        return load_problems(
            self.task,
            limit=self.limit,
            seed=self.seed if self.task_seed is None else self.task_seed,
            task_args=self.task_args,
            rewards=self.rewards,
            reward_options=self.reward_options,
            as_trained=not asks_protocol(self.task, self.protocol),
            held_out=self.held_out,
            eval_size=self.eval_size,
        )


def evaluate_model(request: EvaluationRequest) -> dict[str, Any]:
    """Evaluate a model, print its figures, and return what `result.json` holds.

    Args:
        request: What to evaluate.

    Returns:
        The result; it is written with the completions and a picture of pass@k.

    Raises:
        DgpoError: For input that cannot work.
    """
    kept: list[Path] = []
    with _explained(kept):
        return _evaluate(request, kept)


@contextmanager
def _explained(kept: list[Path]) -> Iterator[None]:
    """Say what is kept, and how to go on, when Ctrl-C or the disk ends an evaluation."""
    again = "what is finished is kept in {}; run the same command again to continue."
    try:
        yield
    except KeyboardInterrupt:
        rest = again.format(kept[0]) if kept else "nothing was sampled yet."
        raise KeyboardInterrupt(f"Interrupted; {rest}") from None
    except OSError as error:
        if error.errno is None:
            raise  # of transformers, for a model that it cannot read
        reason = f"{error.strerror}{f' ({error.filename})' if error.filename else ''}"
        if not kept:
            raise ConfigError(f"The evaluation cannot begin: {reason}.") from error
        raise DgpoError(f"The evaluation stopped: {reason}. W{again[1:].format(kept[0])}") from error


def _evaluate(request: EvaluationRequest, kept: list[Path]) -> dict[str, Any]:
    protocol = request.resolved_protocol()
    # The model of forks is too small for vLLM: another one would be made.
    wanted = "transformers" if (request.model, request.backend) == ("forks", "auto") else request.backend
    backend = choose_backend(wanted)
    batch_size = request.batch_size if request.batch_size is not None else DEFAULT_BATCH_SIZES[backend]
    request = replace(request, backend=backend, batch_size=batch_size)
    _check(request, protocol, batch_size)
    from dgpo.lab.evaluation.plots import draw_pass_at_k
    from dgpo.lab.evaluation.records import PLOT, EvaluationDirectory
    from dgpo.lab.evaluation.run import evaluate as run
    from dgpo.lab.evaluation.run import fit_to_context, gold_lint, unreadable_golds
    from dgpo.lab.evaluation.tables import print_result
    from dgpo.lab.progress import Progress
    from dgpo.lab.quiet import quiet_libraries

    quiet_libraries()
    problems = request.load().with_template(protocol.prompt_template)
    unreadable = unreadable_golds(problems)
    lint = gold_lint(problems, protocol.answer_format)
    problems.scorer(protocol.answer_format)  # refuses a reward that cannot be measured
    model = _model_path(request)
    sampler = _sampler(model, request, PromptFormat(problems.chat, request.chat_template_kwargs))
    max_tokens = fit_to_context(sampler, problems, protocol.max_tokens)
    sampling = Sampling(protocol.temperature, protocol.top_p, max_tokens, request.seed)
    settings = _settings(request, protocol, problems, model, max_tokens)
    directory = EvaluationDirectory(request.output or _default_output(request, settings))
    directory.open(settings)
    kept.append(directory.path)
    progress = Progress()
    progress.say(f"Evaluation: {directory.path}")
    for note in problems.notes:
        progress.say(f"{request.task}: {note}")
    if max_tokens < protocol.max_tokens:
        progress.say(f"Completions end at {max_tokens} tokens: the model holds no more beside the longest prompt.")
    if unreadable:
        progress.say(f"{len(unreadable)} gold answers cannot be read, such as that of {unreadable[0]!r}; not counted.")
    if lint is not None and (lint.unequal or lint.partial):
        progress.say(f"{request.task}: {lint}.")
    if problems.reward is not None and protocol.name != "plain":
        progress.say(
            f"{request.task} brings its own prompts and scorer; of {protocol.name}, only the sampling applies."
        )
    bar = _Bar(progress, directory.path)
    try:
        result = run(
            sampler,
            problems.for_model(sampler.prompts, sampler.tokenizer),
            n=protocol.n,
            sampling=sampling,
            answer_format=protocol.answer_format,
            batch_size=batch_size,
            directory=directory,
            on_batch=bar,
        )
    finally:
        progress.end()
    print_result(result, progress.console, request.k)
    draw_pass_at_k({request.model: result}, f"{request.task}, protocol {protocol.name}", directory.path / PLOT)
    return result


def _settings(
    request: EvaluationRequest, protocol: Protocol, problems: ProblemSet, model: str, max_tokens: int
) -> dict[str, Any]:
    """All that decides the completions and their scores; an evaluation is continued with the same alone."""
    from dgpo.lab.evaluation.fingerprint import model_fingerprint

    facts = asdict(protocol) | {"max_tokens": max_tokens}
    if problems.reward is not None:
        facts |= {"prompt_template": None, "answer_format": "task"}
    settings = {
        "model": request.model,
        "weights": model_fingerprint(model),
        "task": request.task,
        "problems": len(problems.problems),
        "problems_sha256": problems.fingerprint(),
        "protocol": facts.pop("name"),
        **facts,
        "changed": request.changes(),
        "seed": request.seed,
        "batch_size": request.batch_size,
        "backend": request.backend,
        "dtype": request.dtype,
    }
    of_task = ("task_args", "rewards", "reward_options", "chat_template_kwargs", "held_out", "task_seed")
    for name in (*of_task, "vllm_args"):
        if given := getattr(request, name):
            settings[name] = json.loads(json.dumps(given, default=str))  # as it will be read back
    return settings


class _Bar:
    """Shows the completions that are done."""

    def __init__(self, progress: Any, path: Path) -> None:
        self._progress, self._path, self._begun = progress, path, False

    def __call__(self, done: int, total: int) -> None:
        if not self._begun:
            self._begun = True
            if done:
                self._progress.say(f"Continuing: {done} of {total} completions are there.")
            self._progress.begin("sampling", total, done)
        self._progress.advance(done)


def _check(request: EvaluationRequest, protocol: Protocol, batch_size: int) -> None:
    """Refuse what cannot work, or must not be run or stored, before anything is loaded."""
    from dgpo.lab.evaluation.run import check_counts

    for option, reason in refused_options(vars(request)):
        raise ConfigError(f"{option} cannot be set: {reason}.")
    for option in find_secrets(vars(request)):
        raise ConfigError(
            f"{option} looks like a secret (its value is not shown), and the settings of an evaluation are stored. "
            "Leave it out, and give it by the environment: HF_TOKEN or `hf auth login` for the hub."
        )

    if request.vllm_args and request.backend != "vllm":
        raise ConfigError("--vllm-args is for vLLM, and the backend is transformers; leave it out.")
    if request.device and request.backend == "vllm":
        raise ConfigError("--device is for transformers; vLLM uses the devices that CUDA_VISIBLE_DEVICES names.")
    Sampling(protocol.temperature, protocol.top_p, protocol.max_tokens, request.seed)
    check_counts(protocol.n, protocol.temperature, batch_size)
    for k in request.k or ():
        if not 1 <= k <= protocol.n:
            raise ConfigError(
                f"k is {k}, and must be from 1 to n, which is {protocol.n}: pass@{k} needs {k} completions."
            )


def _model_path(request: EvaluationRequest) -> str:
    from dgpo.lab.evaluation.loading import named_model

    for_vllm = request.backend == "vllm"
    return named_model(request.model, request.task_args if request.task == "forks" else {}, for_vllm=for_vllm)


def _sampler(model: str, request: EvaluationRequest, prompts: PromptFormat) -> Sampler:
    if request.backend == "vllm":
        from dgpo.lab.evaluation.vllm_sampling import VllmSampler

        return VllmSampler(model, dtype=request.dtype, options=request.vllm_args, prompts=prompts)
    return TransformersSampler.load(model, dtype=request.dtype, device=request.device, prompts=prompts)


def _default_output(request: EvaluationRequest, settings: dict[str, Any]) -> Path:
    """A folder named after the settings: the same request continues what it wrote before."""
    names = [Path(request.model).name or "model", Path(request.task).stem if "/" in request.task else request.task]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return Path("evals") / "-".join([*(re.sub(r"[^\w.]+", "_", name) for name in names), settings["protocol"], digest])
