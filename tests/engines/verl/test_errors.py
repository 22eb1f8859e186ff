"""What is refused, and that it says the value, the reason and the remedy."""

import importlib
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf
from support import HERE, compose_config, environment
from torch import nn

from dgpo.engines.verl import checks, conf, heads, untested
from dgpo.engines.verl.config import DGPOSettings, prepare_config, read_settings
from dgpo.errors import ConfigError, TrainingError

ACTOR, MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.model"
ROLES = ("actor", "ref")
FLASH = ("actor_rollout_ref.model.override_config.attn_implementation=flash_attention_2",)
HINDSIGHT = ("+algorithm.dgpo.rule=hindsight",)
REFUSED = {
    "tau=0": (["+algorithm.dgpo.tau=0"], r"algorithm\.dgpo\.tau .* 0"),
    "tau is no number": (["+algorithm.dgpo.tau=much"], r"algorithm\.dgpo\.tau .*'much'"),
    "another rule's option": (
        ["+algorithm.dgpo={rule:even,tau:0.1}"],
        r"algorithm\.dgpo\.rule='even': .*no option 'tau'.*Set algorithm\.dgpo\.tau=null",
    ),
    "unknown rule": (["+algorithm.dgpo.rule=capt"], r"algorithm\.dgpo\.rule='capt': .*Did you mean 'capped'"),
    "unknown option": (["+algorithm.dgpo={rule:capped,options:{cup:2}}"], r"no option 'cup'.*Did you mean 'cap'"),
    "options of no rule": (["+algorithm.dgpo.options=3"], r"algorithm\.dgpo\.options must hold options.*got 3"),
    "two values of tau": (
        ["+algorithm.dgpo={tau:0.1,options:{tau:0.2}}"],
        r"algorithm\.dgpo\.tau=0\.1 and algorithm\.dgpo\.options\.tau=0\.2 contradict",
    ),
    "a rule of the whole vocabulary": (
        [f"+algorithm.dgpo.rule='{HERE / 'credit_rules.py'}:kl_share'"],
        r"reads kl, the divergence over the vocabulary, which verl's pass",
    ),
    "a hint that nobody reads": (["+algorithm.dgpo.hint=gold"], r"hint='gold' is read by no .*rule='hindsight'"),
    "a template without it": ([*HINDSIGHT, "+algorithm.dgpo.hint_template=a"], r"dgpo\.hint_template='a' must contain"),
    "no room for it": ([*HINDSIGHT, "+algorithm.dgpo.hint_max_length=0"], r"algorithm\.dgpo\.hint_max_length is 0"),
    "it with ulysses": ([*HINDSIGHT, *FLASH, f"{ACTOR}.ulysses_sequence_parallel_size=2"], r"size=2 is not .*Use 1"),
    "a rule of the policy's change": (["+algorithm.dgpo.rule=fipo"], r"'fipo' weighs tokens by the policy's change"),
    "kappa=-1": (["+algorithm.dgpo.kappa=-1"], r"algorithm\.dgpo\.kappa .* -1"),
    "unknown key": (["+algorithm.dgpo.tua=1"], r"algorithm\.dgpo\.tua is not a setting .*'tau'\? .* tau, kappa"),
    "no section": (["+algorithm.dgpo=0.5"], r"algorithm\.dgpo must hold tau"),
    "switched off by False": (["+algorithm.dgpo=False"], r"algorithm\.dgpo must hold tau.*False.*off \(sync,"),
    "switched off by 0": (["+algorithm.dgpo=0"], r"algorithm\.dgpo must hold tau.* 0\..*off \(sync,"),
    "credit policy": (["+algorithm.dgpo.credit_policy=current"], r"'current' is not built for verl.*Use 'old'"),
    "log steps": (["+algorithm.dgpo.credit_log_steps=-1"], r"credit_log_steps must be a whole number.*-1"),
    "the older trainer": (["trainer.use_v1=False"], r"use_v1=False .*GRPO\. Set it to True"),
    "separate trainer": (["trainer.v1.trainer_mode=dgpo_separate_async"], r"'dgpo_separate_async' is not built.*Use"),
    "no switch": (["+algorithm.dgpo.skip_zero_advantage=1"], r"skip_zero_advantage must be True or False, got 1"),
    "bypass mode": (["algorithm.rollout_correction.bypass_mode=True"], r"bypass_mode=True skips .* Set it to False"),
    "gae": (["algorithm.adv_estimator=gae"], r"adv_estimator='gae'.*Use grpo"),
    "gspo": ([f"{ACTOR}.policy_loss.loss_mode=gspo"], r"loss_mode='gspo'.*Use 'vanilla'"),
    "loss of bypass mode": ([f"{ACTOR}.policy_loss.loss_mode=bypass_mode"], r"'bypass_mode'.*Use 'vanilla'"),
    "sum of squares": ([f"{ACTOR}.calculate_sum_pi_squared=True"], r"sum_pi_squared=True.*Set it to False"),
    "torchtitan": ([f"{ACTOR}.strategy=torchtitan"], r"strategy='torchtitan' is not built.*Use 'fsdp2'"),
    "megatron by its name alone": (
        [f"{ACTOR}.strategy=megatron", "actor_rollout_ref.ref.strategy=megatron"],
        r"without verl's configuration of it.*model_engine=megatron",
    ),
    "veomni reference": (["actor_rollout_ref.ref.strategy=veomni"], r"ref\.strategy='veomni' is not built"),
    "megatron reference": (["actor_rollout_ref.ref.strategy=megatron"], r"'megatron' is not built.*Use 'fsdp2'"),
    "fused kernels": ([f"{MODEL}.use_fused_kernels=True"], r"use_fused_kernels=True.*Set it to False"),
    "adapter on the head": (
        [f"{MODEL}.lora_rank=8", f"{MODEL}.target_modules=[q_proj,lm_head]"],
        r"lm_head.*Leave lm_head out",
    ),
    "adapter on the head by an expression": (
        [f"{MODEL}.lora_rank=8", f"{MODEL}.target_modules='.*(_proj|_head)'"],
        r"\(_proj\|_head\)'.*Leave lm_head out",
    ),
    "no expression": ([f"{MODEL}.lora_rank=8", f"{MODEL}.target_modules='(q_proj'"], r"'\(q_proj'.*Use 'all-linear'"),
    **{
        f"ulysses with sdpa by {role}{key}": (
            [f"actor_rollout_ref.{role}{key}.ulysses_sequence_parallel_size=2"],
            r"ulysses_sequence_parallel_size=2 with attn_implementation='sdpa'.*silently wrong",
        )
        for role in ROLES
        for key in ("", ".fsdp_config")
    },
    **{
        f"ulysses of {role} alone by {role}{key}": (
            [*FLASH, f"actor_rollout_ref.{role}{key}.ulysses_sequence_parallel_size=2", *more],
            rf"is {2 if role == 'actor' else 1} for the actor and {2 if role == 'ref' else 1} for the ref.*Give both",
        )
        # The reference's own key follows the actor's, unless it is given.
        for role, key, more in [
            ("actor", "", ["actor_rollout_ref.ref.ulysses_sequence_parallel_size=1"]),
            ("actor", ".fsdp_config", []),
            ("ref", "", []),
            ("ref", ".fsdp_config", []),
        ]
    },
    "separate reference": (["actor_rollout_ref.hybrid_engine=False"], r"hybrid_engine=False.*Set it to True"),
    "greedy sampling": (["actor_rollout_ref.rollout.temperature=0"], r"temperature=0.*Use 1\.0"),
    "no temperature": (["actor_rollout_ref.rollout.temperature=null"], r"temperature=None.*Use 1\.0"),
    "distillation": (["distillation.enabled=True"], r"distillation\.enabled=True.*Set it to False"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_configuration_that_cannot_work_is_refused_with_the_remedy(case, unchecked_shapes):
    overrides, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message):
        checks.check_config(compose_config(*overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["+algorithm.dgpo={tau:0.1,kappa:0}"],
        ["+algorithm.dgpo=null"],
        ["+algorithm.dgpo={rule:even}"],
        ["+algorithm.dgpo={rule:gtpo,options:{bonus:0.2}}"],
        [f"+algorithm.dgpo={{rule:'{HERE / 'credit_rules.py'}:signed_share',tau:null}}"],
        # No reference is built, and what `ref` says is not read.
        ["+algorithm.dgpo={rule:even}", *FLASH, f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size=2"],
        [*FLASH, f"{ACTOR}.ulysses_sequence_parallel_size=2"],  # which the reference's follows
        [*FLASH, *(f"actor_rollout_ref.{role}.fsdp_config.ulysses_sequence_parallel_size=2" for role in ROLES)],
        [*FLASH, f"{MODEL}.lora_rank=8", f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size=2"],
        [f"{MODEL}.lora_rank=8", f"{MODEL}.target_modules='.*q_proj'"],
        [f"{MODEL}.lora_rank=8", f"{MODEL}.target_modules='(?!lm_head).*'"],
        [f"{MODEL}.lora_rank=8", f"{MODEL}.target_modules=all-linear"],
        [f"{MODEL}.lora_rank=8", f"{MODEL}.target_modules='.*'", f"{MODEL}.exclude_modules=[lm_head]"],
        [f"{ACTOR}.strategy=fsdp", "actor_rollout_ref.ref.strategy=fsdp"],
        [f"{MODEL}.lora_rank=8"],
        [f"{ACTOR}.policy_loss.loss_mode=clip_cov", "algorithm.adv_estimator=rloo"],
    ],
)
def test_what_works_passes(overrides):
    checks.check_config(compose_config(*overrides))


@pytest.mark.parametrize("module", ["verl.trainer.main_ppo", "verl.trainer.main_ppo_v0"])
@pytest.mark.parametrize("mode", ["dgpo", "dgpo_colocate_async"])
def test_verls_own_start_makes_the_checks_before_ray(module, mode):
    """`use_v1=False` starts a trainer that never reads the mode: nothing later could refuse it."""
    validate = importlib.import_module(module).validate_config
    config = compose_config(f"trainer.v1.trainer_mode={mode}", "trainer.use_v1=False")
    with pytest.raises(ConfigError, match="use_v1=False"):
        validate(config, use_reference_policy=False, use_critic=False)
    config.trainer.use_v1 = True
    validate(config=config, use_reference_policy=False, use_critic=False)


def test_settings_beside_a_trainer_of_verls_own_are_called_unread(caplog):
    checks.check_start(compose_config("+algorithm.dgpo.tau=0.1"))
    assert "algorithm.dgpo is not read: trainer.v1.trainer_mode=sync" in caplog.text
    caplog.clear()
    checks.check_start(compose_config())
    assert not caplog.text


REFUSED_OF_MEGATRON = {
    "context parallel": ([f"{ACTOR}.megatron.context_parallel_size=2"], r"context_parallel_size=2 .*Set it to 1"),
    "dynamically": ([f"{ACTOR}.megatron.dynamic_context_parallel=True"], r"=True\) splits .*Set it to 1 \(False\)"),
    "its FSDP": ([f"{ACTOR}.megatron.use_megatron_fsdp=True"], r"use_megatron_fsdp=True .*Set it to False"),
    "router replay": ([f"{ACTOR}.megatron.router_replay.mode=R2"], r"mode='R2' records .*Set it to disabled"),
    "padded": ([f"{MODEL}.use_remove_padding=False"], r"use_remove_padding=False .*Set it to True"),
    "adapter": ([f"{MODEL}.lora.rank=8"], r"lora: adapters under Megatron.*strategy=fsdp2"),
    "sizes": (
        ["actor_rollout_ref.ref.megatron.tensor_model_parallel_size=4"],
        r"differ: tensor_model_parallel_size=1 and 4\..*Give both the same",
    ),
    "hints": ([*HINDSIGHT], r"'hindsight' with actor\.strategy='megatron' is not built.*Use 'fsdp2'"),
    "fsdp reference": (["actor_rollout_ref.ref.strategy=fsdp2"], r"'fsdp2' is not built.*Use 'megatron'"),
}


@pytest.mark.parametrize("case", REFUSED_OF_MEGATRON)
def test_what_megatron_cannot_do_is_refused_with_value_reason_and_remedy(case):
    overrides, message = REFUSED_OF_MEGATRON[case]
    with pytest.raises(ConfigError, match=message):
        checks.check_config(compose_config(*overrides, engine="megatron"))


def test_megatron_is_taken_with_what_was_not_run_of_it():
    sizes = [f"{ACTOR}.megatron.{axis}_model_parallel_size=2" for axis in ("tensor", "pipeline", "expert")]
    config = compose_config("trainer.v1.trainer_mode=dgpo", *sizes, engine="megatron")
    checks.check_config(config)
    assert checks.model_parallel_size(config.actor_rollout_ref.actor) == 4
    assert untested.untested_options(config) == [
        f"actor.strategy=megatron {untested.BEYOND_GLOO}",
        "actor.megatron.dtype=bfloat16",
        "actor.megatron.use_distributed_optimizer",
        "actor.optim.clip_grad (Megatron's)",
        "actor.megatron.expert_model_parallel_size=2",
    ]
    # Of another size than the actor's, and none of its ranks: no reference is built.
    other = "actor_rollout_ref.ref.megatron.tensor_model_parallel_size=4"
    checks.check_config(compose_config("+algorithm.dgpo.rule=even", other, engine="megatron"))


def test_what_was_never_run_is_named_and_what_was_run_is_not():
    assert untested.untested_options(compose_config("trainer.v1.trainer_mode=dgpo")) == []
    asked = {
        "trainer.device=cuda": "trainer.device=cuda",
        "actor_rollout_ref.rollout.name=vllm": "rollout.name=vllm",
        "actor_rollout_ref.rollout.top_p=0.9": "rollout.top_p=0.9 (the statistics are those of the whole vocabulary)",
        f"{ACTOR}.policy_loss.loss_mode=dro": "actor.policy_loss.loss_mode=dro",
        f"{ACTOR}.use_prefix_grouper=True": "actor.use_prefix_grouper (which verl's V1 trainers do not read)",
        f"{MODEL}.use_liger=True": "model.use_liger",
        "actor_rollout_ref.rollout.multi_turn.enable=True": "rollout.multi_turn",
        "algorithm.rollout_correction.rollout_is=token": "algorithm.rollout_correction (rollout_is=token)",
        "algorithm.adv_estimator=rloo": "algorithm.adv_estimator=rloo",
        "reward.reward_model.enable=True": "reward.reward_model",
        "trainer.default_hdfs_dir=hdfs://folder": "trainer.default_hdfs_dir",
        "trainer.logger=[console,wandb]": "trainer.logger=console,wandb",
    }
    assert set(untested.untested_options(compose_config(*asked))) == set(asked.values())


@pytest.mark.parametrize(("rule", "reads_reference"), [("dgpo", True), ("even", False)])
def test_a_reference_is_built_for_the_rule_and_the_wish_for_a_kl_penalty_survives(rule, reads_reference):
    for wish in (True, False):
        overrides = ("trainer.v1.trainer_mode=dgpo", f"+algorithm.dgpo.rule={rule}")
        config = compose_config(f"{ACTOR}.use_kl_loss={wish}", *overrides)
        prepare_config(config)
        part = config.actor_rollout_ref
        assert (part.actor.use_kl_loss, part.dgpo_kl_loss) == (wish or reads_reference, wish)
        assert config.trainer.v1.trainer_mode == "sync"
        assert part.ref.log_prob_micro_batch_size_per_gpu == 4


def test_settings_of_a_configuration():
    config = OmegaConf.create({"algorithm": {"dgpo": {"tau": 0.1, "credit_log_steps": 5}}})
    assert read_settings(config) == DGPOSettings(tau=0.1, credit_log_steps=5)
    assert read_settings({"algorithm": {}}) == DGPOSettings()


def test_hydra_finds_the_configuration_that_names_every_setting():
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "--config-name", "dgpo_trainer", "--cfg", "job"]
    command += ["--package", "algorithm.dgpo", "--config-dir", conf.__path__[0], "algorithm.dgpo.tau=0.2"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    printed = OmegaConf.create(done.stdout)
    section = printed.algorithm.dgpo if "algorithm" in printed else printed
    assert read_settings({"algorithm": {"dgpo": section}}) == DGPOSettings(tau=0.2)


def test_a_plugin_that_cannot_be_loaded_stops_a_dgpo_run_with_its_reason():
    code = (
        "from importlib import metadata\n"
        "real = metadata.version\n"
        "metadata.version = lambda package: '0.9.7' if package == 'verl' else real(package)\n"
        "import verl\n"
        "from verl.trainer.ppo.v1 import get_trainer_cls\n"
        "get_trainer_cls('sync')\n"
        "get_trainer_cls('dgpo')(None)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.returncode == 1
    assert "TrainingError: trainer.v1.trainer_mode asks for DGPO, but" in done.stderr
    assert "UnsupportedVersionError: verl 0.9.7 is installed" in done.stderr


@pytest.mark.parametrize("first", ["engine", "trainer"])
def test_whichever_module_comes_first_verl_gets_the_trainer(first):
    code = (
        f"import dgpo.engines.verl.{first}\n"
        "from verl.trainer.ppo.v1 import get_trainer_cls\n"
        "print(get_trainer_cls('dgpo').__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-1] == "DGPOTrainer"


class _Capped(nn.Module):
    """A model that caps its logits after the head."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 8, bias=False)

    def get_output_embeddings(self):
        return self.head

    def forward(self, hidden):
        return 30 * torch.tanh(self.head(hidden) / 30)


def test_a_model_that_changes_its_logits_after_the_head_is_refused():
    model, scoring = _Capped(), heads.ScoreTokens(torch.zeros(3, dtype=torch.long), 1.0)
    hook = heads.HeadHook(model)
    hidden = torch.randn(1, 3, 4)
    with hook.replace(scoring), pytest.raises(TrainingError, match="changes its logits after the LM head"):
        scoring.columns(model(hidden))
    assert model(hidden).shape == (1, 3, 8)  # and the head is itself again


def test_a_model_without_a_linear_head_is_refused():
    model = _Capped()
    model.head = nn.Identity()
    with pytest.raises(TrainingError, match=r"_Capped has no linear LM head .*Identity"):
        heads.HeadHook(model)
