"""`dgpo verl-data`: the files that recipes/verl reads."""

from collections.abc import Sequence
from pathlib import Path

from dgpo.lab.cli import help as texts
from dgpo.lab.cli.parser import BAD_INPUT, OK, CommandParser, wants_help


def verl_data_parser() -> CommandParser:
    """Return the parser of `dgpo verl-data`."""
    usage = "FOLDER [--train FILE [--val FILE] [--plain]] [--dapo-math-17k SOURCE] [--aime24 SOURCE] [...]"
    parser = CommandParser("verl-data", usage, texts.VERL_DATA, texts.VERL_DATA_END)
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="where to write; it is made")
    for name in ("dapo-math-17k", "aime24", "aime25"):
        parser.add_argument(f"--{name}", dest=name, metavar="FILE|HUB_ID", help="another source than the default")
    what = "data of your own, in place of the three: train.parquet and val.parquet are written"
    parser.add_argument("--train", metavar="FILE|HUB_ID", help=what)
    parser.add_argument("--val", metavar="FILE", help="its held-out rows; by default a tenth of them, at most 256")
    what = "leave the prompts of --train as they are, for a reward function of your own"
    parser.add_argument("--plain", action="store_true", help=what)
    return parser


def verl_data(words: Sequence[str]) -> int:
    """Write the files that recipes/verl reads."""
    parser = verl_data_parser()
    if wants_help(words):
        parser.print_help()
        return OK if words else BAD_INPUT
    options = vars(parser.parse(words))
    folder = options.pop("folder")
    if folder is None:
        parser.error("dgpo verl-data needs the folder to write to")
    own = {name: options.pop(name) for name in ("train", "val", "plain")}
    sources = {name: source for name, source in options.items() if source}
    if own["train"] is None and any(own.values()):
        parser.error("--val and --plain belong to --train FILE")
    if own["train"] is not None and sources:
        parser.error(f"--train is data of your own, in place of --{next(iter(sources))}; write one or the other")
    from dgpo.lab.evaluation.verl_data import write_own_data, write_verl_data

    if own["train"] is not None:
        write_own_data(Path(folder).expanduser(), **own)
    else:
        write_verl_data(Path(folder).expanduser(), sources)
    return OK
