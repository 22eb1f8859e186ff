"""Held-out evaluation inside training. Loaded only by a training run: its base class is transformers'."""

from typing import Any

from transformers import Trainer, TrainerCallback

from dgpo.errors import RecipeError
from dgpo.lab.evaluation.metrics import Sample, summarize
from dgpo.lab.evaluation.problems import NO_ANSWER, ProblemSet
from dgpo.lab.evaluation.sampling import Request, Sampling, TransformersSampler, seed_of
from dgpo.lab.rewards.extraction import AnswerFormat
from dgpo.lab.tasks.prompting import PromptFormat


class HeldOutEvaluation(TrainerCallback):
    """Samples held-out problems every few steps and logs `eval/avg@k`, `eval/maj@k` and `eval/pass@k`.

    The random state of the training is left as it was: with and without it, a run takes the same steps. Batches are
    divided among the processes, and each has a seed of its own: the number of processes does not change a figure. Every
    evaluation draws with the same seeds, so what changes is the model.

    Args:
        problems: The problems.
        every: Steps between two evaluations; the last step is evaluated too.
        n: Completions per problem, the k of the names.
        sampling: Temperature and so on.
        answer_format: Where answers are looked for.
        batch_size: Completions that are sampled at once.
        template_kwargs: What the chat template is given, as in training.
    """

    def __init__(
        self,
        problems: ProblemSet,
        *,
        every: int,
        n: int,
        sampling: Sampling,
        answer_format: AnswerFormat,
        batch_size: int,
        template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.problems, self.every, self.n, self.sampling = problems, every, n, sampling
        self._score = problems.scorer(answer_format)
        self._batch_size = batch_size
        self._prompts = PromptFormat(problems.chat, template_kwargs or {})
        self._trainer: Any = None
        self._last = -1

    def watch(self, trainer: Any) -> None:
        """Evaluate the model of this trainer, and log through it.

        Args:
            trainer: The trainer.

        Raises:
            RecipeError: If its model is sharded by FSDP.
        """
        if trainer.is_fsdp_enabled:
            # Ranks that sample batches of different lengths would wait for each other forever.
            raise RecipeError(
                "eval_task cannot be measured while FSDP shards the model; leave eval_every out, and run `dgpo eval` "
                "on the checkpoints instead."
            )
        self._trainer = trainer
        self.problems = self.problems.for_model(self._prompts, trainer.processing_class)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate when it is due."""
        due = state.global_step % self.every == 0 or state.global_step >= state.max_steps
        if due and state.global_step != self._last:
            self._last = state.global_step
            should_log = control.should_log
            self.log(self.evaluate())
            control.should_log = should_log  # logging has cleared it, and the step's own line is still due

    def log(self, metrics: dict[str, float]) -> None:
        """Log figures by transformers' method; TRL's own would clear the metrics that it has accumulated so far."""
        Trainer.log(self._trainer, metrics)

    def evaluate(self) -> dict[str, float]:
        """Return the figures of the model as it is now, the same in every process."""
        from accelerate.utils import gather_object
        from trl.models import unwrap_model_for_generation

        trainer = self._trainer
        accelerator, model = trainer.accelerator, trainer.model_wrapped
        was_training = trainer.model.training
        trainer.model.eval()
        try:
            with unwrap_model_for_generation(model, accelerator) as unwrapped:
                sampler = TransformersSampler(unwrapped, trainer.processing_class, self._prompts)
                rows = self._rows(sampler, accelerator.process_index, accelerator.num_processes)
        finally:
            trainer.model.train(was_training)
        samples: dict[str, list[Sample]] = {}
        for name, sample in gather_object(rows):
            samples.setdefault(name, []).append(sample)
        summary = summarize(samples)
        metrics = summary["metrics"]
        shown = [f"avg@{self.n}", f"maj@{self.n}", "truncated", "unparseable"]
        ks = sorted({2**power for power in range(self.n.bit_length())} | {self.n})
        counts = {"eval/problems": summary["problems"], "eval/unscored_problems": summary["unscored_problems"]}
        return {f"eval/{name}": metrics[name].value for name in [*shown, *(f"pass@{k}" for k in ks)]} | counts

    def _rows(self, sampler: TransformersSampler, rank: int, world: int) -> list[tuple[str, Sample]]:
        """The samples of this process's share of the batches."""
        wanted = [(problem, sample) for problem in self.problems.problems for sample in range(self.n)]
        rows: list[tuple[str, Sample]] = []
        for start in range(rank * self._batch_size, len(wanted), world * self._batch_size):
            part = wanted[start : start + self._batch_size]
            requests = [Request(problem.prompt, problem.name, sample) for problem, sample in part]
            completions = sampler.sample(requests, self.sampling, seed_of(start))
            texts, truncated = [x.text for x in completions], [x.truncated for x in completions]
            scored = self._score([problem for problem, _ in part], texts, truncated)
            for (problem, _), completion, result in zip(part, completions, scored, strict=True):
                unparseable = result.outcome in NO_ANSWER
                columns = result.score, result.answer, completion.tokens, completion.truncated
                sample = Sample(*columns, unparseable, result.value)
                rows.append((problem.name, sample))
        return rows
