"""`make fuzz`: the long form of the fuzzers, a process each; prints counts and the seed of whatever fell through."""

import argparse
import collections
import os
import sys
import tempfile
import time
import traceback
from multiprocessing import Pool
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
COUNTS = {"core": 200_000, "recipes": 10_000, "data": 2000}


def work(kind: str, seeds: range) -> tuple[collections.Counter, list[tuple[int, str]]]:
    """Outcomes of a range of seeds, and the tracebacks of those that fell through."""
    import cases
    import data_files
    import torch

    torch.set_num_threads(1)
    outcomes: collections.Counter = collections.Counter()
    fallen = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        schema = {}
        if kind == "recipes":
            from dgpo.lab.quiet import quiet_libraries
            from dgpo.lab.train.schema import recipe_schema

            quiet_libraries()
            schema = recipe_schema()
        calls = {
            "core": cases.core_call,
            "recipes": lambda seed: cases.recipe_run(seed, folder / "r.yaml", schema),
            "data": lambda seed: data_files.data_read(seed, folder),
        }
        for seed in seeds:
            started = time.process_time()
            try:
                outcomes[calls[kind](seed)] += 1
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                outcomes["fell through"] += 1
                fallen.append((seed, traceback.format_exc()))
            if time.process_time() - started > 20:
                outcomes["over 20 s"] += 1
                fallen.append((seed, f"it took {time.process_time() - started:.0f} s of processor time"))
        os.chdir("/")
    return outcomes, fallen


def main() -> int:
    """Fuzz, print the counts, and return 1 if anything fell through."""
    parser = argparse.ArgumentParser(description=__doc__)
    for kind, count in COUNTS.items():
        parser.add_argument(f"--{kind}", type=int, default=count)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=2)
    options = vars(parser.parse_args())
    all_fallen = 0
    for kind in COUNTS:
        seeds = range(options["first"], options["first"] + options[kind])
        parts = [(kind, seeds[index :: options["processes"]]) for index in range(options["processes"])]
        started = time.monotonic()
        with Pool(options["processes"]) as pool:
            results = pool.starmap(work, parts)
        outcomes = sum((counter for counter, _ in results), collections.Counter())
        print(
            f"{kind}: {len(seeds):,} in {time.monotonic() - started:.0f} s: {dict(sorted(outcomes.items()))}",
            flush=True,
        )
        for seed, trace in sorted(fallen for _, part in results for fallen in part)[:10]:
            print(f"--- {kind}, seed {seed}\n{trace}", flush=True)
        all_fallen += sum(len(part) for _, part in results)
    return int(all_fallen > 0)


if __name__ == "__main__":
    sys.exit(main())
