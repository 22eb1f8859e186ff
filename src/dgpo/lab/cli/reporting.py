"""The commands that show the credit of tokens: `dgpo report` and `dgpo inspect`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from dgpo.errors import ConfigError
from dgpo.lab.cli import help as texts
from dgpo.lab.cli.parser import BAD_INPUT, OK, CommandParser, mapping, split_options, wants_help


def report_parser() -> CommandParser:
    """Return the parser of `dgpo report`."""
    usage = "RUN [RUN ...] [-o FILE.html] [--open] [--serve [--port P]] [--terminal]"
    parser = CommandParser("report", usage, texts.REPORT, texts.REPORT_END)
    what = (
        "the directory of `dgpo train`, or the output_dir of a DGPOTrainer. Tokens need a credit log: "
        "credit_log_steps: 20 in the recipe (or in DGPOConfig); curves are there without it"
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help=what)
    what = "by default RUN/report.html, and report.html for several runs"
    add = parser.add_argument
    add("-o", "--output", metavar="FILE", type=Path, help=what)
    add("--open", action="store_true", help="open the page in the browser")
    what = "give the page out instead of writing it, to browsers of this machine alone; it follows a run that trains"
    add("--serve", action="store_true", help=what)
    add("--port", type=int, metavar="8321", help="where --serve listens on 127.0.0.1; 0 is any free port")
    what = "print the most telling group of completions of the last logged step here, in colour"
    add("--terminal", action="store_true", help=what)
    return parser


def report(words: Sequence[str]) -> int:
    """Write the page of one or several runs, serve it, or print it."""
    parser = report_parser()
    if wants_help(words):
        parser.print_help()
        return OK if words else BAD_INPUT
    options = parser.parse(words)
    folders = [Path(run).expanduser() for run in options.runs]
    _refuse_together(options, ("serve", "terminal"), ("serve", "output"), ("terminal", "output"), ("terminal", "open"))
    if options.port is not None and not (options.serve and 0 <= options.port < 2**16):
        parser.error("--port needs a number from 0 to 65535, and --serve")
    if options.serve:
        from dgpo.lab.report.serve import serve

        serve(folders, port=options.port, open_it=options.open)
    elif options.terminal:
        from dgpo.lab.report.terminal import print_runs

        print_runs(folders)
    else:
        from dgpo.lab.report.files import write_report

        write_report(folders, options.output, open_it=options.open)
    return OK


def _refuse_together(options: argparse.Namespace, *pairs: tuple[str, str]) -> None:
    for one, other in pairs:
        if getattr(options, one) and getattr(options, other):
            raise ConfigError(f"--{one} and --{other} do not go together; leave one of them out.")


def inspect_parser() -> CommandParser:
    """Return the parser of `dgpo inspect`."""
    usage = "MODEL --reference REF (--text FILE | --prompt TEXT) [options] [-o FILE.html]"
    parser = CommandParser("inspect", usage, texts.INSPECT, texts.INSPECT_END)
    add = parser.add_argument
    add("model", metavar="MODEL", help="the policy")
    add("--reference", metavar="REF", required=True, help="the model to compare with")
    what = "score the text of a file, UTF-8; with --prompt, as the answer to the prompt"
    add("--text", metavar="FILE", type=Path, help=what)
    add("--prompt", metavar="TEXT", help="without --text: sample the answer from MODEL")
    what = "leave the tokenizer's chat template out: the prompt is the beginning of a text"
    add("--plain", action="store_true", help=what)
    what = "what the chat template is given, such as '{enable_thinking: false}'"
    add("--chat-template-kwargs", type=mapping, default={}, metavar="MAPPING", help=what)
    add("--max-tokens", type=int, default=256, metavar="256", help="longest answer to sample")
    what = "the credit rule: a name (dgpo by default), module:function or file.py:function; rules that compare the"
    add("--rule", default="dgpo", metavar="RULE", help=f"{what} completions of a prompt are refused: here is one")
    add("--options.NAME", dest="_", metavar="VALUE", help="an option of the rule, such as --options.cap 3")
    add("--tau", type=float, metavar="0.5", help="the same as --options.tau: small, few tokens take the credit")
    add("--kappa", type=float, metavar="1.0", help="the same as --options.kappa, the entropy gate; 0 is no gate")
    what = "what the reference is shown, for --rule hindsight: the right answer, say; it goes into the prompt"
    add("--hint", metavar="TEXT", help=what)
    add(
        "--hint-control",
        metavar="TEXT",
        help="another hint, which it is compared with, so that what any hint changes cancels; by default none",
    )
    add(
        "--hint-template",
        metavar="TEXT",
        help="how they are put together, with {prompt} and {hint}; '{hint}': it is the prompt",
    )
    what = "both models' distributions are taken at it, and answers are sampled at it"
    add("--temperature", type=float, default=1.0, metavar="1.0", help=what)
    add("--seed", type=int, default=0, metavar="0", help="decides the answer")
    add("-o", "--output", metavar="FILE", type=Path, help="by default inspect.html")
    return parser


def inspect(words: Sequence[str]) -> int:
    """Write the page of a text and two models."""
    if wants_help(words):
        inspect_parser().print_help()
        return OK if words else BAD_INPUT
    words, rule_options = split_options(words, "--options.")
    options = vars(inspect_parser().parse(words))
    del options["_"]  # in the help alone
    from dgpo.lab.report.inspect import InspectRequest, inspect_pair

    inspect_pair(InspectRequest(**options, options=rule_options))
    return OK
