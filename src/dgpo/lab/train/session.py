"""The session of a run: a new run directory is made, an old one is continued, anything else is refused."""

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgpo.checkpoint_files import Checkpoints
from dgpo.errors import DgpoError, RecipeError, TrainingError
from dgpo.lab.progress import Progress
from dgpo.lab.runs import checkpoints
from dgpo.lab.runs.directory import RunDirectory
from dgpo.lab.runs.environment import command_line
from dgpo.lab.runs.files import BEFORE, ENVIRONMENT, FINAL, RECIPE, SUMMARY
from dgpo.lab.runs.history import history_of
from dgpo.lab.runs.intact import as_finite, intact_mapping
from dgpo.lab.train import validate
from dgpo.lab.train.recipe import Recipe, load_recipe, parse_recipe, recipe_of_values
from dgpo.lab.train.schema import Field


@dataclass(frozen=True)
class Request:
    """A call of `dgpo train`, parsed.

    Attributes:
        recipe: The YAML file; `None` to take the one in the run directory that is resumed.
        overrides: `["--key", "value", ...]`.
        resume: Whether to continue a run.
        resume_dir: Its directory; `None` to take `output_dir`.
        dry_run: `""`, `"short"` or `"full"`.
        arguments: The whole command line, for the record.
    """

    recipe: Path | None
    overrides: list[str]
    resume: bool = False
    resume_dir: Path | None = None
    dry_run: str = ""
    arguments: tuple[str, ...] = ()

    @property
    def names_no_recipe(self) -> bool:
        """Whether the recipe in the run directory is taken as it is."""
        return self.recipe is None and not self.overrides


@dataclass
class Session:
    """One run, once everything that can be refused without its data and model has been.

    Attributes:
        recipe: The resolved recipe.
        config: Its `DGPOConfig`.
        directory: The run directory.
        progress: The bar; prints in the main process alone.
        checkpoints: The checkpoint to continue from; empty for a new run.
        is_main: Whether this process writes.
        before: What was measured before training by the run that is continued.
        seconds_before: Training time of that run.
    """

    recipe: Recipe
    config: Any
    directory: RunDirectory
    progress: Progress
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    is_main: bool = True
    before: Sequence[dict[str, Any]] = ()
    seconds_before: float = 0.0


def resume_directory(request: Request, schema: dict[str, Any]) -> Path | None:
    """Return the directory of the run to continue; `None` for a new run.

    Args:
        request: The parsed command line.
        schema: The fields of a recipe.

    Returns:
        The directory named after `--resume`, or else the recipe's `output_dir`.

    Raises:
        RecipeError: If `--resume` stands there and neither it nor the recipe names a directory, or it names no run.
    """
    if not request.resume:
        return None
    if request.resume_dir is not None:
        if not (request.resume_dir / ENVIRONMENT).is_file():
            checkpoints.refuse_without_recipe(request.resume_dir)
        return request.resume_dir
    if request.recipe is not None:
        output_dir = load_recipe(request.recipe, request.overrides, schema)["output_dir"]
        if output_dir:
            return Path(output_dir).expanduser()
    runs = sorted(Path("runs").glob(f"*/{RECIPE}"), key=lambda file: file.stat().st_mtime)
    newest = f" The newest one here is `dgpo train --resume {runs[-1].parent}`." if runs else ""
    raise RecipeError(f"--resume needs the directory of the run: `dgpo train --resume RUN_DIR`.{newest}")


def read_recipe(request: Request, resume_dir: Path | None, schema: dict[str, Field]) -> Recipe:
    """Return the recipe of a call: the one named, or that of the run to continue.

    Args:
        request: The parsed command line.
        resume_dir: The run to continue, if there is one.
        schema: The fields of a recipe.

    Returns:
        The recipe with its overrides; what is wrong with single values stands in `problems`.

    Raises:
        RecipeError: If none is named, the file cannot be read, or that of the run is not as the run wrote it.
    """
    if request.recipe is not None:
        recipe = parse_recipe(request.recipe, request.overrides, schema)
    elif resume_dir is None:
        raise RecipeError("`dgpo train` needs a recipe, such as `dgpo train quickstart`.")
    else:
        recipe = _own_recipe(resume_dir, request.overrides, schema)
    if resume_dir is not None:
        recipe.values["output_dir"] = str(resume_dir)
    return recipe


def _own_recipe(directory: Path, overrides: list[str], schema: dict[str, Field]) -> Recipe:
    """The recipe of a run; the copy in its environment takes the place of a file that is gone."""
    path = directory / RECIPE
    kept = _kept_recipe(directory, schema)
    if kept is not None and not path.exists():
        return recipe_of_values(kept.values, overrides, schema, path)
    checkpoints.refuse_without_recipe(directory)
    if kept is not None:
        try:
            own = load_recipe(path, [], schema)
        except RecipeError as error:
            raise RecipeError(f"{error}\n{checkpoints.COPY}") from None
        checkpoints.refuse_other_recipe(kept.everything(), own.everything(), directory, own=True)
    return parse_recipe(path, overrides, schema)


def _kept_recipe(directory: Path, schema: dict[str, Field]) -> Recipe | None:
    """The copy of a run's recipe, if its environment holds one."""
    values = intact_mapping(directory / ENVIRONMENT, []).get("recipe")
    if not isinstance(values, dict):
        return None
    try:
        return recipe_of_values(values, [], schema, directory / RECIPE)
    except (ValueError, TypeError, KeyError):
        return None


def check_resume(recipe: Recipe, directory: Path, num_processes: int, *, own: bool = False) -> Checkpoints:
    """Return the checkpoint to continue from; raise if there is none, or the recipe is another one.

    Args:
        recipe: The recipe with its overrides.
        directory: The run directory.
        num_processes: How many processes there are.
        own: Whether the recipe is the one in the directory, without overrides.

    Returns:
        The checkpoints of the directory.
    """
    if not directory.is_dir():
        checkpoints.refuse_without_recipe(directory)
    checkpoints.refuse_other_recipe(_stored(recipe, directory).everything(), recipe.everything(), directory, own=own)
    found = checkpoints.newest_checkpoint(directory)
    assert found.newest is not None
    checkpoints.refuse_other_processes(found.newest, num_processes)
    return found


def _stored(recipe: Recipe, directory: Path) -> Recipe:
    """The recipe that the run has: as the environment holds it, or else `recipe.yaml`."""
    return _kept_recipe(directory, recipe.schema) or load_recipe(directory / RECIPE, [], recipe.schema)


def open_session(
    request: Request, recipe: Recipe, config: Any, path: Path, stack: contextlib.ExitStack, *, resuming: bool
) -> Session:
    """Lock, check and write the run directory in the main process, and return the session in every process.

    Args:
        request: The parsed command line.
        recipe: The resolved recipe.
        config: Its `DGPOConfig`; `output_dir` is set to the run directory of the main process.
        path: The run directory.
        stack: Holds the lock of the directory until the run has ended.
        resuming: Whether it is continued.

    Returns:
        The session, the same in every process.

    Raises:
        DgpoError: In every process, for whatever the main one refused.
    """
    from accelerate.utils import broadcast_object_list

    is_main = config.process_index == 0
    # The clock of another process may name another directory, and its disk may not be this one.
    outcome: list[Any] = [str(path), Checkpoints(), (), 0.0, None]
    notes: list[str] = []
    if is_main:
        try:
            outcome[1], notes = _prepare(request, recipe, path, config, stack, resuming=resuming)
            metrics = RunDirectory(path).read_metrics()
            outcome[2] = [line for line in metrics if line.get("phase") == BEFORE]
            outcome[3] = max((as_finite(line.get("wall_seconds")) or 0.0 for line in metrics), default=0.0)
        except DgpoError as error:
            outcome[4] = error
        except OSError as error:
            reason = error.strerror or error
            outcome[4] = TrainingError(f"The run directory {path} cannot be written: {reason} ({error.filename}).")
    if config.world_size > 1:
        broadcast_object_list(outcome)
    directory, resumable, before, seconds_before, error = outcome
    if error is not None:
        raise error
    config.output_dir = directory
    progress = Progress(quiet=not is_main)
    for name, fault in resumable.incomplete.items():
        progress.say(f"Passing over {name}: {fault}.")
    for note in notes:
        progress.say(note)
    if resumable.newest is not None:
        progress.say(f"Resuming from {resumable.newest}, step {resumable.step}.")
    return Session(recipe, config, RunDirectory(Path(directory)), progress, resumable, is_main, before, seconds_before)


def _refuse_complete(recipe: Recipe, path: Path) -> None:
    """Refuse to resume a complete run, unless the recipe now has more steps."""
    summary = intact_mapping(path / SUMMARY, [])
    if summary.get("status") != "complete":
        return
    stored = _stored(recipe, path)
    if all(stored[name] == recipe[name] for name in ("max_steps", "num_train_epochs")):
        steps = summary.get("steps")
        raise RecipeError(
            f"The run in {path} is complete ({steps} steps); its model is in {path / FINAL}. Give it more steps, such "
            f"as `--max_steps {2 * steps if isinstance(steps, int) else 'N'}`, or start a new run."
        )


def _prepare(
    request: Request, recipe: Recipe, path: Path, config: Any, stack: contextlib.ExitStack, *, resuming: bool
) -> tuple[Checkpoints, list[str]]:
    """Lock and write the directory; return what to continue from, and what had to be mended."""
    directory = RunDirectory(path)
    resumable, notes = Checkpoints(), list[str]()
    if resuming and not path.is_dir():
        checkpoints.refuse_without_recipe(path)
    validate.check_output_dir(path, create=True)
    stack.enter_context(directory.lock())
    if resuming:
        resumable = check_resume(recipe, path, config.world_size, own=request.names_no_recipe)
        _refuse_complete(recipe, path)
        assert resumable.newest is not None
        history = history_of(resumable.newest)
        notes = directory.cut_to(resumable.step, history, rollout=config.generation_batch_size)
        for name in resumable.incomplete:
            # The trainer would write into the remains of a checkpoint that was cut off.
            if (path / name).is_symlink():
                (path / name).unlink()
            else:
                shutil.rmtree(path / name)
    else:
        directory.refuse_if_used()  # another run may have been quicker
        directory.clear_failed_start()
    directory.write_environment(
        seed=recipe["seed"],
        num_processes=config.world_size,
        command=command_line(list(request.arguments)),
        resumed_from=resumable.newest.name if resumable.newest else None,
        credit=config.resolve_rule().describe(),
        recipe=recipe.to_store(),
    )
    directory.write_recipe(recipe.to_store())
    return resumable, notes
