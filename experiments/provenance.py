"""When, on what machine and with which versions something was computed; JSON files that say so."""

import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dgpo.io import finite, write_atomically

_PACKAGES = ("dgpo", "torch", "transformers", "trl", "numpy")


def command_record() -> dict[str, Any]:
    """Return what a committed figure must name: date, command, machine and versions."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"-m {module.name.removesuffix('.__main__')}" if module else Path(sys.argv[0]).name
    command = " ".join(["python", program, *map(shlex.quote, sys.argv[1:])])
    made = made_record()
    return {"date": made.pop("date"), "command": command, **made}


def made_record() -> dict[str, Any]:
    """Return when, on what machine and with which versions something is computed."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def range_of(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return from when to when cells were computed, and each machine, Python and version that occurs.

    Args:
        records: Of `made_record`.

    Returns:
        `first`, `last`, `machines`, `python`, `versions`.
    """
    return joined(map(_range, records))


def joined(ranges: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the range that covers several of `range_of`."""
    ranges = list(ranges)
    dates = sorted(date for one in ranges for date in (one["first"], one["last"]) if date)
    versions = {(name, version) for one in ranges for name, each in one["versions"].items() for version in each}
    return {
        "first": dates[0] if dates else None,
        "last": dates[-1] if dates else None,
        "machines": sorted({machine for one in ranges for machine in one["machines"]}),
        "python": sorted({python for one in ranges for python in one["python"]}),
        "versions": {name: sorted(v for n, v in versions if n == name) for name in dict(sorted(versions))},
    }


def made_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return when and on what the cells of a command were made; older results know the last command's alone."""
    made: Mapping[str, Any] = record.get("made") or _range(record)
    return made


def _range(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "first": record["date"],
        "last": record["date"],
        "machines": [record["machine"]],
        "python": [record["python"]],
        "versions": {name: [version] for name, version in record["versions"].items()},
    }


def write_json(path: Path, value: Any) -> None:
    """Write JSON that is whole or absent: floats with five digits, nan and infinity as null.

    Args:
        path: The file; its folder is made.
        value: What `json.dumps` takes.
    """
    write_atomically(path, json.dumps(_rounded(finite(value)), separators=(",", ":")) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
