"""verl's worker with DGPO's engine: it links the reference to the policy and reports what it was built from."""

from typing import Any

from omegaconf import open_dict
from verl.single_controller.base.decorator import Dispatch, register
from verl.workers.engine_workers import ActorRolloutRefWorker

from dgpo.engines.verl.compat import check_verl_version
from dgpo.engines.verl.engine import register_engines
from dgpo.errors import TrainingError
from dgpo.versions import __version__


class DGPOWorker(ActorRolloutRefWorker):
    """Policy, rollout and reference of one rank."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # type: ignore[untyped-decorator]
    def init_model(self) -> None:
        """Build the models as verl does, with DGPO's engine, and link the reference to the policy."""
        check_verl_version()
        expected = register_engines(self.config.actor.strategy)
        with open_dict(self.config):
            # What the user set; `prepare_config` sets it so that the trainer builds a reference.
            self.config.actor.use_kl_loss = self.config.pop("dgpo_kl_loss")
        super().init_model()
        engine = self.actor.engine
        if not isinstance(engine, expected):
            raise TrainingError(
                f"verl built {type(engine).__module__}.{type(engine).__name__} on this worker and not DGPO's engine"
                " (VERL_ENGINE_DEVICE or VERL_ENGINE_VENDOR is set, or another plugin takes precedence): the run would"
                " be GRPO. Unset them."
            )
        if self.ref is not None:
            engine.reference_engine = self.ref.engine
            policy, reference = engine.vocab_size, self.ref.engine.vocab_size
            if policy != reference:
                raise TrainingError(
                    f"Vocabulary sizes differ: policy {policy}, reference {reference}; the Hellinger distance compares"
                    " distributions over one vocabulary. Both models are loaded from actor_rollout_ref.model.path."
                )

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # type: ignore[untyped-decorator]
    def dgpo_facts(self) -> dict[str, Any]:
        """Return what the trainer needs from this rank: `dgpo` (version), `engine` and `vocab_size`."""
        engine = self.actor.engine
        return {"dgpo": __version__, "engine": type(engine).__name__, "vocab_size": engine.vocab_size}
