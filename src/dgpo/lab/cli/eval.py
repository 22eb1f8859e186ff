"""`dgpo eval`: samples a model on a task, scores the completions, and says how good it is and how sure that is."""

import argparse
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from dgpo.errors import RecipeError

# vLLM keeps so many completions going at once; transformers has to hold the cache of all of them.
DEFAULT_BATCH_SIZES = {"transformers": 32, "vllm": 256}


class _Parser(argparse.ArgumentParser):
    """Raises instead of leaving the process, so that every refusal looks alike."""

    def error(self, message: str) -> NoReturn:
        raise RecipeError(f"{message}; see `{self.prog} --help`.")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return what the command line asks for.

    Args:
        words: The words after `dgpo eval`; `--top_p` is the same as `--top-p`.

    Returns:
        The options; `None` where the protocol decides.

    Raises:
        RecipeError: For an option that does not exist or a value of the wrong kind.
    """
    parser = _Parser("dgpo eval", add_help=False, allow_abbrev=False)
    parser.add_argument("model")
    parser.add_argument("--task", required=True)
    parser.add_argument("--protocol")
    parser.add_argument("--n", type=int)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--k", type=_numbers, default=None)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    parser.add_argument("--device")
    parser.add_argument("--task-args", type=_mapping, default={})
    parser.add_argument("--vllm-args", type=_mapping, default={})
    parser.add_argument("--output", type=Path)
    return parser.parse_args([_with_hyphens(word) for word in words])


def _with_hyphens(word: str) -> str:
    """`--top-p` for `--top_p`; the value after an equals sign stays as it is."""
    name, equals, value = word.partition("=")
    return re.sub(r"(?<=\w)_", "-", name) + equals + value if word.startswith("--") else word


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 1,8,32") from None


def _mapping(text: str) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no mapping such as '{{num_forks: 4}}'")
    return found


def evaluate(words: Sequence[str]) -> int:
    """Evaluate, and return the exit code.

    Args:
        words: The words after `dgpo eval`.

    Returns:
        0 when the evaluation is complete.

    Raises:
        DgpoError: For input that cannot work.
    """
    from dgpo.lab.evaluation.sampling import choose_backend

    options = parse(words)
    protocol = _protocol(options)
    backend = choose_backend(options.backend)
    if options.vllm_args and backend != "vllm":
        raise RecipeError("--vllm-args is for vLLM, and the backend is transformers; leave it out.")
    if options.device and backend == "vllm":
        raise RecipeError("--device is for transformers; vLLM uses the devices that CUDA_VISIBLE_DEVICES names.")
    if options.batch_size is None:
        options.batch_size = DEFAULT_BATCH_SIZES[backend]
    _refuse_bad_numbers(options, protocol)
    from dgpo.lab.evaluation.problems import load_problems
    from dgpo.lab.evaluation.records import PLOT, EvaluationDirectory
    from dgpo.lab.evaluation.run import evaluate as run
    from dgpo.lab.evaluation.run import fit_to_context, unreadable_golds
    from dgpo.lab.evaluation.sampling import Sampling
    from dgpo.lab.progress import Progress
    from dgpo.lab.quiet import quiet_libraries

    quiet_libraries()
    problems = load_problems(options.task, limit=options.limit, seed=options.seed, task_args=options.task_args)
    problems = problems.with_template(protocol.prompt_template)
    unreadable = unreadable_golds(problems)
    model = _model_path(options)
    sampler = _sampler(model, backend, options)
    max_tokens = fit_to_context(sampler, problems, protocol.max_tokens)
    sampling = Sampling(protocol.temperature, protocol.top_p, max_tokens, options.seed)
    settings = _settings(options, protocol, problems, model, max_tokens, backend)
    directory = EvaluationDirectory(options.output or _default_output(options, settings))
    directory.open(settings)
    progress = Progress()
    progress.say(f"Evaluation: {directory.path}")
    if max_tokens < protocol.max_tokens:
        progress.say(f"Completions end at {max_tokens} tokens: the model holds no more beside the longest prompt.")
    if unreadable:
        progress.say(f"{len(unreadable)} gold answers cannot be read, such as that of {unreadable[0]!r}; not counted.")
    if problems.reward is not None and protocol.name != "plain":
        progress.say(
            f"{options.task} brings its own prompts and scorer; of {protocol.name}, only the sampling applies."
        )
    bar = _Bar(progress, directory.path)
    try:
        result = run(
            sampler,
            problems,
            n=protocol.n,
            sampling=sampling,
            answer_format=protocol.answer_format,
            batch_size=options.batch_size,
            directory=directory,
            on_batch=bar,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Interrupted; what is finished is kept in {directory.path}. Run it again.") from None
    finally:
        progress.end()
    print_result(result, progress.console, options.k)
    from dgpo.lab.evaluation.plots import draw_pass_at_k

    draw_pass_at_k({options.model: result}, f"{options.task}, protocol {protocol.name}", directory.path / PLOT)
    return 0


def _settings(
    options: argparse.Namespace, protocol: Any, problems: Any, model: str, max_tokens: int, backend: str
) -> dict[str, Any]:
    """All that decides the completions and their scores; an evaluation is continued with the same alone."""
    from dgpo.lab.evaluation.fingerprint import model_fingerprint

    facts = asdict(protocol) | {"max_tokens": max_tokens}
    if problems.reward is not None:
        facts |= {"prompt_template": None, "answer_format": "task"}
    settings = {
        "model": options.model,
        "weights": model_fingerprint(model),
        "task": options.task,
        "problems": len(problems.problems),
        "problems_sha256": problems.fingerprint(),
        "protocol": facts.pop("name"),
        **facts,
        "changed": _changed(options),
        "seed": options.seed,
        "batch_size": options.batch_size,
        "backend": backend,
        "dtype": options.dtype,
    }
    for name in ("task_args", "vllm_args"):
        if given := getattr(options, name):
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


def _protocol(options: argparse.Namespace) -> Any:
    """The protocol with what the command line changes of it."""
    from dataclasses import replace

    from dgpo.lab.evaluation.protocols import get_protocol

    own_scorer = options.task == "forks" or options.task.startswith("reasoning_gym:")
    protocol = get_protocol(options.protocol or ("plain" if own_scorer else "dapo"))
    return replace(protocol, **_changed(options))


def _changed(options: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(options, name) for name in ("n", "temperature", "top_p", "max_tokens")}
    return {name: value for name, value in given.items() if value is not None}


def _refuse_bad_numbers(options: argparse.Namespace, protocol: Any) -> None:
    from dgpo.lab.evaluation.run import check_counts
    from dgpo.lab.evaluation.sampling import Sampling

    Sampling(protocol.temperature, protocol.top_p, protocol.max_tokens, options.seed)
    check_counts(protocol.n, protocol.temperature, options.batch_size)
    for k in options.k or ():
        if not 1 <= k <= protocol.n:
            raise RecipeError(
                f"k is {k}, and must be from 1 to n, which is {protocol.n}: pass@{k} needs {k} completions."
            )


def _model_path(options: argparse.Namespace) -> str:
    from dgpo.lab.train.assemble import named_model

    return named_model(options.model, options.task_args if options.task == "forks" else {})


def _sampler(model: str, backend: str, options: argparse.Namespace) -> Any:
    from dgpo.lab.evaluation.sampling import TransformersSampler

    if backend == "vllm":
        from dgpo.lab.evaluation.vllm_sampling import VllmSampler

        return VllmSampler(model, dtype=options.dtype, options=options.vllm_args)
    return TransformersSampler.load(model, dtype=options.dtype, device=options.device)


def _default_output(options: argparse.Namespace, settings: dict[str, Any]) -> Path:
    """A folder named after the settings: the same command finds what it wrote before."""
    names = [Path(options.model).name or "model", Path(options.task).stem if "/" in options.task else options.task]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return Path("evals") / "-".join([*(re.sub(r"[^\w.]+", "_", name) for name in names), settings["protocol"], digest])


def print_result(result: dict[str, Any], console: Any, ks: Sequence[int] | None = None) -> None:
    """Print the figures of a result as a table.

    Args:
        result: What `result.json` holds.
        console: Where to print.
        ks: Which pass@k; by default the powers of 2, and n.
    """
    from rich.table import Table

    settings, metrics, n = result["settings"], result["metrics"], result["samples_per_problem"]
    chosen = set(ks or [k for k in range(1, n + 1) if k & (k - 1) == 0 or k == n])
    table = Table(box=None, pad_edge=False)
    for heading in ("", "", "95 % interval"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, found in metrics.items():
        if name.startswith("pass@") and int(name[5:]) not in chosen:
            continue
        scale, unit = (1, "") if name == "tokens" else (100, " %")
        ends = [f"{scale * found[end]:.1f}" if found[end] is not None else "?" for end in ("low", "high")]
        table.add_row(name, f"{scale * found['value']:.1f}{unit}", f"{ends[0]} to {ends[1]}")
    asked = f"{settings['task']}: {result['problems']} problems x {n} completions, protocol {settings['protocol']}"
    sampled = (
        f"temperature {settings['temperature']}, top_p {settings['top_p']}, at most {settings['max_tokens']} tokens"
    )
    console.print(f"{asked}; {sampled}", markup=False)
    console.print(table)
    counts = ", ".join(f"{outcome} {count}" for outcome, count in result["outcomes"].items())
    console.print(f"outcomes: {counts}", markup=False)
    if result["unscored_problems"]:
        console.print(f"{result['unscored_problems']} problems have a gold answer that cannot be read; not counted.")
