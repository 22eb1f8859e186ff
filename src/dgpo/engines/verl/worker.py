"""verl's worker with DGPO's engine: it knows where the reference is and says what it is made of."""

from typing import Any

from omegaconf import open_dict
from verl.single_controller.base.decorator import Dispatch, register
from verl.workers.engine_workers import ActorRolloutRefWorker

from dgpo.engines.verl.compat import check_verl_version
from dgpo.engines.verl.engine import HeadStatistics, register_engines
from dgpo.errors import TrainingError
from dgpo.versions import __version__


class DGPOWorker(ActorRolloutRefWorker):
    """Policy, rollout and reference of one rank."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        """Build the models as verl does, with DGPO's engine, and link the reference to the policy."""
        check_verl_version()
        register_engines()
        with open_dict(self.config):
            # Set for the trainer alone, which builds a reference only then; see `prepare_config`.
            self.config.actor.use_kl_loss = self.config.pop("dgpo_kl_loss")
        super().init_model()
        engine = self.actor.engine
        if not isinstance(engine, HeadStatistics):
            raise TrainingError(
                f"verl built {type(engine).__module__}.{type(engine).__name__} on this worker and not DGPO's engine"
                " (VERL_ENGINE_DEVICE or VERL_ENGINE_VENDOR is set, or another plugin takes precedence): the run would"
                " be GRPO. Unset them."
            )
        if self.ref is not None:
            engine.reference_engine = self.ref.engine
            sizes = [part.vocab_size for part in (engine, self.ref.engine)]
            if sizes[0] != sizes[1]:
                raise TrainingError(
                    f"The policy's head has {sizes[0]} words and the reference's {sizes[1]}; the Hellinger distance"
                    " compares distributions over the same words. Both are loaded from actor_rollout_ref.model.path."
                )

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def dgpo_facts(self) -> dict[str, Any]:
        """Return what the trainer has to know of this rank: `dgpo` (version), `engine` and `vocab_size`."""
        engine = self.actor.engine
        return {"dgpo": __version__, "engine": type(engine).__name__, "vocab_size": engine.vocab_size}
