"""Would torch.compile make the CPU tiles faster? The pair's reduction of a block as it is and compiled, side by side.

    python benchmarks/compiled_tiles.py --save benchmarks/results/compiled_tiles.json

The reduction is the costliest work between the matrix products. Compiled, its fifteen passes over a block become a few;
what that saves is set against the seconds that compiling takes once in every process (an empty cache; a C++ compiler is
needed). Processor time, so that other work on the machine counts little.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import save, spread

from dgpo.lm_head.running_stats import EMPTY_MAX, HALF_LOG2_E, reduce_pair
from dgpo.tensor_types import Tensor

TRAINING_STEP_ENTRIES = 2048 * 49152  # of one head over 2,048 tokens


def reduction(x: Tensor, ref_x: Tensor) -> tuple[Tensor, ...]:
    """What `reduce_pair` computes, without its reuse of buffers, which a compiler decides itself."""
    high, ref_high = x.amax(1).clamp(min=EMPTY_MAX), ref_x.amax(1).clamp(min=EMPTY_MAX)
    log2_a, log2_b = (x - high[:, None]) * HALF_LOG2_E, (ref_x - ref_high[:, None]) * HALF_LOG2_E
    a, b = torch.exp2(log2_a), torch.exp2(log2_b)
    norm, ref_norm = (a * a).sum(1).sqrt(), (b * b).sum(1).sqrt()
    tz = torch.where(a > 0, log2_a * a * a, 0.0).sum(1) / HALF_LOG2_E
    gap = (a - (norm / ref_norm.clamp(min=0.5))[:, None] * b).square().sum(1).sqrt()
    return high, norm, tz, ref_high, ref_norm, gap


def nanoseconds(work: Callable[[], Any], entries: int, repeats: int) -> dict[str, float]:
    """Return processor time per entry: median, least and greatest."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append((time.process_time() - start) / entries * 1e9)
    return spread(times)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--save", type=Path, help="write the results as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = 3 * torch.randn(arguments.rows, arguments.vocab)
    ref_x = x + 0.1 * torch.randn_like(x)
    blocks, out = [x.clone(), ref_x.clone(), torch.empty_like(x)], torch.empty(6, arguments.rows)

    def as_it_is() -> Tensor:
        # The copies stand for the matrix product that fills the block; they are taken off again below.
        reduce_pair(blocks[0].copy_(x), blocks[1].copy_(ref_x), 1.0, blocks[2], out)
        return out

    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        compiled = torch.compile(reduction)
        start = time.perf_counter()
        difference = (torch.stack(compiled(x, ref_x)) - as_it_is()).abs().max().item()
        start_up = time.perf_counter() - start
        times = {
            "as it is": nanoseconds(as_it_is, x.numel(), arguments.repeats),
            "compiled": nanoseconds(lambda: compiled(x, ref_x), x.numel(), arguments.repeats),
            "copies": nanoseconds(lambda: (blocks[0].copy_(x), blocks[1].copy_(ref_x)), x.numel(), arguments.repeats),
        }
    saved = times["as it is"]["median"] - times["copies"]["median"] - times["compiled"]["median"]
    saved *= TRAINING_STEP_ENTRIES / 1e9
    result = {
        "nanoseconds_per_entry": times,
        "start_up_seconds": start_up,
        "largest_difference": difference,
        "saved_seconds_per_2048_tokens_of_vocabulary_49152": saved,
    }
    for name, each in times.items():
        print(f"{name:10} {each['median']:.2f} ns an entry ({each['min']:.2f} to {each['max']:.2f})")
    print(f"compiling takes {start_up:.1f} s and saves {saved:.3f} s a step of 2,048 tokens")
    save(arguments.save, result, "torch")


if __name__ == "__main__":
    main()
