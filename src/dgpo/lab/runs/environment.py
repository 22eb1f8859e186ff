"""What a figure depends on besides the recipe: versions, machine and command, without the names of users."""

import os
import platform
import re
import shlex
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from dgpo.secrets import hide_in_text
from dgpo.versions import __version__


def environment(*, seed: int, num_processes: int, command: list[str]) -> dict[str, Any]:
    """Return what a figure depends on besides the recipe; without the names of users or their home directories."""
    import torch

    versions = {"dgpo": __version__}
    for package in ("torch", "trl", "transformers", "peft", "accelerate", "datasets", "reasoning-gym"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "command": hide_in_text(_anonymous(shlex.join(command))),
        "seed": seed,
        "versions": versions,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device,
        "num_processes": num_processes,
        "num_threads": torch.get_num_threads(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def command_line(arguments: list[str]) -> list[str]:
    """Return the command as a person would type it, without the path of the interpreter's scripts."""
    launched = ["torchrun/accelerate:"] if "RANK" in os.environ else []
    return [*launched, Path(sys.argv[0]).name if Path(sys.argv[0]).name.startswith("dgpo") else "dgpo", *arguments]


def _anonymous(text: str) -> str:
    """Shorten the working directory to `.`, and any other absolute path to its last part: it may name the user."""
    folder = str(Path.cwd())
    if len(folder) > 1:
        text = re.sub(rf"{re.escape(folder)}(?=[/'\" ]|$)", ".", text)
    return re.sub(r"(?<![\w.:/~-])~?/(?:[^/\s'\"]+/)*(?=[^/\s'\"]+)", ".../", text)
