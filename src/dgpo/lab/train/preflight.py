"""Task, model and plan held against each other before anything is trained: what cannot run, or would run in silence."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dgpo.errors import ConfigError, DataError, RecipeError
from dgpo.lab.evaluation.loading import load_tokenizer, refuse_foreign_tokens, refuse_unusable_folder
from dgpo.lab.foreign_code import loading_fault, refuse_remote_code
from dgpo.lab.tasks.prompting import PromptFormat
from dgpo.lab.train.lora import check_targets
from dgpo.lab.train.recipe import Recipe
from dgpo.lab.train.validate import world_size

_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
_BATCH = 1000  # prompts that are tokenized at once


@dataclass(frozen=True)
class ModelFacts:
    """What decides whether a model can read a prompt.

    Attributes:
        name: What messages call it.
        tokenizer: Its tokenizer.
        context: Tokens of prompt and completion that it holds; None where unknown.
        vocabulary: Rows of its embedding; None where unknown.
    """

    name: str
    tokenizer: Any
    context: int | None = None
    vocabulary: int | None = None


def read_model(name: str, model: str, *, planning: bool = False) -> ModelFacts:
    """Return the facts of a model without its weights.

    Args:
        name: What the recipe calls it.
        model: Its folder or hub id.
        planning: See `load_tokenizer`.

    Returns:
        The facts.

    Raises:
        ConfigError: If it has no tokenizer.
        RecipeError: If its configuration cannot be read.
    """
    file = Path(model) / "config.json"
    if Path(model).is_dir():
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RecipeError(f"The model folder {model} has no config.json that can be read: {error}.") from error
    else:
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(model, trust_remote_code=False).to_dict()
        except Exception as error:  # whatever the files of somebody's make the library raise
            raise RecipeError(loading_fault(f"The model {model}", error)) from error
    if not isinstance(config, dict):
        raise RecipeError(f"The model folder {model} has no config.json that can be read: it holds no mapping.")
    refuse_remote_code(f"The model {name}", model)
    refuse_unusable_folder(f"The model {name}", model)
    inner = config.get("text_config")
    text = {**config, **(inner if isinstance(inner, dict) else {})}
    context = next((text[key] for key in _POSITIONS if isinstance(text.get(key), int)), None)
    vocabulary = text.get("vocab_size")
    return ModelFacts(
        name, load_tokenizer(model, planning=planning), context, vocabulary if isinstance(vocabulary, int) else None
    )


def read_model_of(recipe: Recipe, model: str, *, planning: bool = False) -> ModelFacts:
    """Return the facts of a recipe's model, which has the modules that LoRA is to adapt.

    Args:
        recipe: The recipe.
        model: Folder or hub id of its model.
        planning: See `load_tokenizer`.

    Returns:
        The facts.

    Raises:
        RecipeError: If a module is named that the model has not.
    """
    facts = read_model(recipe["model_name_or_path"], model, planning=planning)
    check_targets(recipe, model)
    return facts


def check_data_fills_a_step(rows: int, prompts: int) -> str | None:
    """Refuse fewer prompts than one sampling takes; return what is left out of every epoch.

    Args:
        rows: Training prompts.
        prompts: Prompts that are sampled at once.

    Returns:
        A sentence, or None where every prompt has its turn.

    Raises:
        RecipeError: If not one step could be made.

    Example:
        >>> check_data_fills_a_step(7, 4)
        '3 of the 7 training prompts are left out of every epoch: a sampling takes 4 prompts, and the last one must ...'
    """
    if rows < prompts:
        raise RecipeError(
            f"There are {rows} training prompts, and one sampling takes {prompts}, so that no step could be made. Give "
            "more prompts, or sample fewer at once: lower per_device_train_batch_size or gradient_accumulation_steps, "
            "or raise num_generations."
        )
    left = rows % prompts
    if not left:
        return None
    return (
        f"{left} of the {rows} training prompts are left out of every epoch: a sampling takes {prompts} prompts, and "
        "the last one must be full. Other ones are left out each time."
    )


def fit_task(recipe: Recipe, task: Any, model: ModelFacts, template_kwargs: Any) -> tuple[Any, list[str]]:
    """Return the task with prompts in the form that this model is trained with, and what there is to say.

    Args:
        recipe: The recipe: length of completions, and what becomes of long prompts.
        task: A `dgpo.lab.tasks.Task`.
        model: The model that reads it.
        template_kwargs: What the chat template is given.

    Returns:
        The task, without prompts that are too long where the recipe says so, and notes.

    Raises:
        RecipeError: For prompts that are too long, or tokens that the model does not have.
        DataError: If every prompt is too long.
    """
    prompts = task.prompt_format(template_kwargs)
    limit, why = _limit(recipe, model)
    notes: list[str] = []
    fitted: dict[str, Any] = {}
    for kind in ("train", "held_out"):
        rows = getattr(task, kind)
        if rows is None:
            continue
        lengths, largest = _tokenized(rows["prompt"], prompts, model.tokenizer)
        refuse_foreign_tokens(model.name, model.tokenizer, model.vocabulary, largest)
        if limit is not None and any(length > limit for length in lengths):
            rows = _without_long(rows, lengths, limit, why, recipe, held_out=kind == "held_out", notes=notes)
        fitted[kind] = rows if rows is None else prompts.apply(rows, model.tokenizer)
    return replace(task, **fitted), notes


def rendered(prompt: Any, prompts: PromptFormat, tokenizer: Any) -> str:
    """Return a prompt as the model reads it, on one line, for people."""
    return json.dumps(prompts.text(prompt, tokenizer), ensure_ascii=False)


def _limit(recipe: Recipe, model: ModelFacts) -> tuple[int | None, str]:
    """The longest prompt allowed, and why."""
    given, completion = recipe["max_prompt_length"], recipe["max_completion_length"]
    room = None if model.context is None or completion is None else model.context - completion
    if room is not None and room < 1:
        raise RecipeError(
            f"{recipe.place('max_completion_length')}: max_completion_length is {completion}, and {model.name} holds "
            f"{model.context} tokens of prompt and completion; no prompt fits. Lower it below {model.context}."
        )
    if given is not None and (room is None or given <= room):
        return given, f"max_prompt_length is {given}"
    if room is None:
        return None, ""
    why = f"{model.name} holds {model.context} tokens, of which max_completion_length takes {completion}"
    return room, why


def _tokenized(prompts: Sequence[Any], form: PromptFormat, tokenizer: Any) -> tuple[list[int], int]:
    """The length of each prompt, and the largest token id of all."""
    special = {"add_special_tokens": False} if form.uses_chat(tokenizer) else {}
    lengths: list[int] = []
    largest = max((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), default=0)
    for start in range(0, len(prompts), _BATCH):
        texts = [form.text(prompt, tokenizer) for prompt in prompts[start : start + _BATCH]]
        for ids in tokenizer(texts, **special)["input_ids"]:
            lengths.append(len(ids))
            largest = max(largest, max(ids, default=0))
    return lengths, largest


def _without_long(
    rows: Any, lengths: list[int], limit: int, why: str, recipe: Recipe, *, held_out: bool, notes: list[str]
) -> Any:
    """The rows whose prompts are short enough; raises where the recipe refuses the others."""
    kind = "held-out" if held_out else "training"
    long = sum(length > limit for length in lengths)
    if recipe["long_prompts"] != "drop":
        raise RecipeError(
            f"{long} of the {len(lengths)} {kind} prompts are longer than {limit} tokens, the longest has "
            f"{max(lengths)}: {why}. Set long_prompts: drop to leave them out, or "
            + ("raise max_prompt_length." if why.startswith("max_prompt") else "lower max_completion_length.")
        )
    notes.append(f"{long} of the {len(lengths)} {kind} prompts are left out: longer than {limit} tokens ({why})")
    kept = [index for index, length in enumerate(lengths) if length <= limit]
    if not kept and not held_out:
        raise DataError(
            f"every training prompt is longer than {limit} tokens ({why}); the shortest has {min(lengths)}."
        )
    return rows.select(kept) if kept else None


def check_processes(in_group: int) -> None:
    """Raise if the processes of this launch do not work together, which would be as many runs of one process.

    Args:
        in_group: The number of processes in the process group.

    Raises:
        ConfigError: If the launcher started more.
    """
    if in_group != world_size():
        raise ConfigError(
            f"The launcher started {world_size()} processes, and the process group has {in_group}. Without an "
            "accelerator, processes work together with `--use_cpu true`."
        )
