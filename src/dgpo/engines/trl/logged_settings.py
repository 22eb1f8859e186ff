"""The settings of a trainer that its credit log holds, so that a page can say in which ones two runs differ."""

import re
from dataclasses import MISSING, fields
from typing import Any

from dgpo.io import finite

_NO_SETTING = re.compile(
    r"output_dir|run_name|report_to|disable_tqdm|use_cpu|debug|push_to_hub.*|resume_from_checkpoint|tau|kappa"
    r"|generation_batch_size"  # follows from the others
    r"|(hub|log|logging|save|dataloader|credit|trackio|ddp|vllm_server|eval_on)_.*|.*token.*"
)
"""What does not change the training, what the header has elsewhere, and what may be a secret."""


def logged_settings(args: Any, model: Any) -> dict[str, Any]:
    """Return a trainer's settings that are not their default, its seed and its model, by name.

    Args:
        args: A `GRPOConfig`.
        model: The policy.

    Returns:
        Numbers, text and truth values alone, without paths of outputs and without secrets.
    """
    settings: dict[str, Any] = {}
    path = getattr(model.config, "_name_or_path", "")
    if path:
        settings["model_name_or_path"] = str(path)
    for field in fields(args):
        value, default = getattr(args, field.name, None), field.default
        value = getattr(value, "value", value)  # of an enumeration
        if field.default_factory is not MISSING or value == getattr(default, "value", default):
            continue
        if isinstance(value, str | int | float) and not _NO_SETTING.fullmatch(field.name):
            settings[field.name] = value
    return dict(finite(settings | {"seed": args.seed}))
