"""What every benchmark needs: where it ran, interleaved times, peak memory in a process of its own, results as JSON.

Scripts in this folder import it by name (`python benchmarks/x.py` puts this folder on the path).
"""

import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
MIB = 2**20
# Variables of the environment that change what is measured: a command is not complete without them.
TELLING = ("TRITON_INTERPRET", "THP_MEM_ALLOC_ENABLE")


def machine(*packages: str) -> dict[str, Any]:
    """Return what a figure depends on: processor, cores, threads, python, versions of `packages` (those installed)."""
    facts: dict[str, Any] = {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    if "torch" in sys.modules:
        import torch

        facts |= {"threads": torch.get_num_threads(), "cpu_capability": torch.backends.cpu.get_cpu_capability()}
        if torch.cuda.is_available():
            total = torch.cuda.get_device_properties(0).total_memory
            facts |= {"gpu": torch.cuda.get_device_name(), "gpu_mib": total // MIB, "cuda": torch.version.cuda}
    return facts | {"versions": versions("dgpo", *packages)}


def processor() -> str:
    """Return the processor's name as the system knows it, with the wide instructions that decide how fast it is."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return platform.processor() or platform.machine()
    fields = dict(
        (part.strip() for part in line.split(":", 1)) for line in cpuinfo.read_text().splitlines() if ":" in line
    )
    flags = set(fields.get("flags", "").split())
    wide = [name for name in ("amx_tile", "avx512_bf16", "avx512f", "avx2") if name in flags][:2]
    return " ".join([fields.get("model name", platform.machine()), *([f"({', '.join(wide)})"] if wide else [])])


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def command() -> str:
    """Return the command as a person would type it: no interpreter's path, no directory of this machine."""
    setting = [f"{name}={os.environ[name]}" for name in TELLING if name in os.environ]
    text = shlex.join([*setting, "python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    text = re.sub(rf"{re.escape(str(Path.cwd()))}/", "", text)
    return re.sub(r"(?<![\w.:~-])/(?:[^/\s'\"]+/)+", ".../", text)


def save(path: Path | None, result: Mapping[str, Any], *packages: str) -> None:
    """Write a result as JSON, headed by the command and the machine; nothing where `path` is None.

    `packages` are those whose versions the figures depend on, besides dgpo itself.
    """
    if path is None:
        return
    whole = {"command": command(), "machine": machine(*packages), **result}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded(whole), indent=1) + "\n")
    print(f"written: {path}")


def _rounded(value: Any) -> Any:
    """Keep five digits of a number: more are noise, and make results unreadable."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def synchronize() -> None:
    """Wait for what was queued on the GPU, if there is one."""
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any]) -> float:
    """Return the wall time of one call, the GPU's work included."""
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def interleaved(contenders: Mapping[str, Callable[[], Any]], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Return seconds per call of each contender: they take turns, forwards and backwards; warm-up rounds are dropped.

    What disturbs the machine for a while then disturbs all of them, and nobody always runs first.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(warm_up + repeats):
        order = list(contenders) if round_ % 2 == 0 else list(reversed(contenders))
        for name in order:
            taken = seconds_of(contenders[name])
            if round_ >= warm_up:
                seconds[name].append(taken)
    return seconds


def ratios(seconds: Mapping[str, list[float]], name: str, other: str) -> list[float]:
    """Return name / other of each round: what the rounds have in common (the machine's mood) cancels."""
    return [a / b for a, b in zip(seconds[name], seconds[other], strict=True)]


def spread(values: Iterable[float]) -> dict[str, float]:
    """Return median, least and greatest."""
    values = list(values)
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


class Peak:
    """What `peak_memory` found: the highest use of memory above what was in use before, in bytes."""

    bytes = 0

    @property
    def mib(self) -> float:
        """The same in MiB."""
        return self.bytes / MIB


@contextmanager
def peak_memory(device: str = "cpu") -> Iterator[Peak]:
    """Measure the block's peak memory: resident memory of this process, or what torch allocates on a GPU.

    Resident memory counts whatever library asked for it, matrix libraries included. Memory that was freed before the
    block is not always given back to the system and hides later use: measure in a fresh process (`own_process`).
    """
    import torch

    peak = Peak()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        torch.cuda.synchronize()
        peak.bytes = torch.cuda.max_memory_allocated() - before
        return
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _resident_bytes("VmRSS")
    yield peak
    peak.bytes = _resident_bytes("VmHWM") - before


@contextmanager
def allocated_memory() -> Iterator[Peak]:
    """Count the block's peak of what torch allocates on the CPU, to the byte and the same in every run.

    Libraries that allocate by themselves (oneDNN's scratch buffers) are left out, which `peak_memory` counts.
    """
    from torch.profiler import ProfilerActivity, profile

    peak, held = Peak(), 0
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield peak
    changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak.bytes = max(peak.bytes, held)


def _resident_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field + ":")).split()[1])


def own_process(*arguments: str) -> Any:
    """Run this script again with other arguments and return the JSON that it prints last.

    The C library gives freed memory back at once there. What it would keep otherwise is some tens of MiB, more or less
    by chance, and resident memory would measure that.

    Raises:
        RuntimeError: If it fails, with the end of what it said.
    """
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    process = [sys.executable, sys.argv[0], *arguments]
    done = subprocess.run(process, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
