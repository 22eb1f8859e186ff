"""`dgpo train`: from a recipe to a trained model, with everything that happened in the run directory."""

import contextlib
from pathlib import Path
from typing import Any

from dgpo.checkpoint_files import TRAINER_STATE
from dgpo.engines.trl.settings import check_hint_data
from dgpo.errors import ConfigError, DgpoError, TrainingError
from dgpo.lab.foreign_text import say
from dgpo.lab.progress import EVALUATING
from dgpo.lab.quiet import quiet_libraries
from dgpo.lab.runs.directory import RunDirectory, default_path
from dgpo.lab.runs.files import AFTER, BEFORE, FINAL, TRAIN
from dgpo.lab.train import validate
from dgpo.lab.train.assemble import build_config, build_trainer, load_task, model_path, reward_names, weight_bytes
from dgpo.lab.train.finish import Interrupted, RunSummary, why_it_failed
from dgpo.lab.train.loading import without_garbage_collection
from dgpo.lab.train.plan import describe_plan, num_steps, prompts_per_sampling
from dgpo.lab.train.planned import planned_config
from dgpo.lab.train.preflight import check_data_fills_a_step, check_processes, fit_task, read_model_of
from dgpo.lab.train.recipe import Recipe, raise_problems
from dgpo.lab.train.schema import declared_schema, recipe_schema
from dgpo.lab.train.session import Request, Session, check_resume, open_session, read_recipe, resume_directory
from dgpo.lab.train.signal import SignalMonitor


def train(request: Request) -> int:
    """Train, and return the exit code.

    Args:
        request: The parsed command line.

    Returns:
        0 when the run is complete, or when a dry run found nothing to refuse.

    Raises:
        DgpoError: For input that cannot work, and for a run that failed; what was written stays.
    """
    begun: list[Session] = []
    try:
        return _start(request, begun)
    except KeyboardInterrupt as error:
        if error.args:
            raise
        raise Interrupted("Interrupted." if begun else "Interrupted; nothing was trained yet.") from None
    except DgpoError:
        raise
    except OSError as error:
        if error.errno is None:
            raise
        raise TrainingError(f"The run could not begin: {why_it_failed(error)}.") from error
    except RuntimeError as error:
        if begun or validate.world_size() == 1:
            raise
        raise TrainingError(f"The run could not begin: {why_it_failed(error)}.") from error


def _start(request: Request, begun: list[Session]) -> int:
    """Train; the session is put into `begun` once the run directory is claimed."""
    quiet_libraries()
    # A mistake in the recipe is found without TRL, which takes seconds to load.
    schema = declared_schema()
    resume_dir = resume_directory(request, schema)
    recipe = read_recipe(request, resume_dir, schema)
    path = Path(recipe["output_dir"]).expanduser() if recipe["output_dir"] else default_path(recipe.name)
    _refuse_bad_values(recipe, path, new=resume_dir is None, dry_run=bool(request.dry_run))
    if request.dry_run:
        config = planned_config(recipe, path)
        if resume_dir is not None:
            check_resume(recipe, resume_dir, config.world_size, own=request.names_no_recipe)
        if config.process_index == 0:
            say(describe_plan(recipe, config, path, full=request.dry_run == "full"))
        return 0
    with without_garbage_collection():
        import torch

        schema = recipe_schema()
    recipe = read_recipe(request, resume_dir, schema)
    raise_problems(recipe.problems)
    config = build_config(recipe, path)
    check_processes(config.world_size)
    if recipe["num_threads"] is not None:
        torch.set_num_threads(recipe["num_threads"])
    # Data that cannot be used, or a model that is not there, leaves no directory behind.
    with config.main_process_first(desc="task"):
        task = load_task(recipe)
    check_hint_data(config, task.train.names())
    check_data_fills_a_step(len(task.train), prompts_per_sampling(config))
    model = model_path(recipe, config)
    facts = read_model_of(recipe, model)
    notes = list(task.notes)
    task, more = fit_task(recipe, task, facts, config.chat_template_kwargs)
    left_out = check_data_fills_a_step(len(task.train), prompts_per_sampling(config))
    notes += [*more, *([left_out] if left_out and config.max_steps <= 0 else [])]
    with contextlib.ExitStack() as stack:
        session = open_session(request, recipe, config, path, stack, resuming=resume_dir is not None)
        begun.append(session)
        for note in notes:
            session.progress.say(f"Note: {note}")
        _run(session, task, model)
    return 0


def _refuse_bad_values(recipe: Recipe, path: Path, *, new: bool, dry_run: bool) -> None:
    """Refuse everything that can be refused at once; the directory of a new run must be empty."""
    problems = recipe.problems + validate.check_recipe(recipe) + validate.check_device(recipe)
    try:
        validate.check_output_dir(path, create=False)
        if validate.is_main_process():
            if not dry_run:
                RunDirectory(path).refuse_if_locked()
            if new:
                RunDirectory(path).refuse_if_used()
    except ConfigError as error:
        problems.append(str(error))
    raise_problems(problems)


def _run(session: Session, task: Any, model: str) -> None:
    """Train from the start or a checkpoint to the end, and write its figures."""
    from dgpo.lab.train.callbacks import RunRecorder

    summary = RunSummary(session, task)
    recipe, config = session.recipe, session.config
    session.progress.say(f"Run directory: {session.directory.path}")
    with summary.explain_errors():
        validate.check_space_for_checkpoints(
            session.directory.path,
            weight_bytes=weight_bytes(model),
            lora=recipe["use_peft"],
            limit=recipe["save_total_limit"],
        )
        recorder = summary.recorder = RunRecorder(
            session.directory if session.is_main else None,
            session.progress,
            reward_name=reward_names(task)[0],
            signal=SignalMonitor(task, config.num_generations, config.reward_weights),
            completions_every=recipe["completions_every"],
            first_step=session.checkpoints.step,
            seconds_before=session.seconds_before,
            before=session.before,
        )
        session.progress.begin("loading the model", 0)
        trainer = build_trainer(recipe, config, task, model, recorder)
        evaluates = recipe["eval_before_and_after"] and task.held_out is not None
        if evaluates and not session.before:
            session.progress.begin(EVALUATING, 0)
            recorder.phase = BEFORE
            trainer.evaluate()
            summary.say_accuracy(BEFORE)
        recorder.phase = TRAIN
        _train(trainer, session)
        if not recorder.has_trained:
            raise TrainingError(f"no step was made, of {len(trainer.train_dataset)} training prompts")
        summary.trained_seconds = recorder.session_seconds
        trainer.save_model(str(session.directory.path / FINAL))
        if evaluates:
            session.progress.begin(EVALUATING, 0)
            recorder.phase = AFTER
            trainer.evaluate()
        summary.write("complete", trainer=trainer)
    summary.print_table()


def _train(trainer: Any, session: Session) -> None:
    """Make the steps that are left.

    A run that was killed after its last checkpoint has none left; transformers would make one too many.
    """
    from transformers.trainer_callback import TrainerState

    newest, step = session.checkpoints.newest, session.checkpoints.step
    planned = num_steps(session.config, len(trainer.train_dataset))
    if newest is not None and planned is not None and step >= planned:
        trainer._load_from_checkpoint(str(newest))
        trainer.state = TrainerState.load_from_json(str(newest / TRAINER_STATE))
        return
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
