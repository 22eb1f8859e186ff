"""Bad input is refused before compute is spent, with the value and the remedy; a broken run keeps what it had."""

from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from support import (
    WORDS,
    FixedDGPOTrainer,
    lora,
    loss_inputs,
    make_checkpoint,
    make_tokenizer,
    make_trainer,
    spread_reward,
)
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, TrainerCallback
from trl import GRPOConfig

from dgpo import DGPOConfig
from dgpo.engines.trl import checkpoint as saved
from dgpo.errors import ConfigError, TrainingError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 0}, r"tau must be .* above 0, got 0"),
        ({"tau": -0.5}, r"got -0\.5.*The paper uses 0\.5"),
        ({"tau": float("nan")}, r"got nan"),
        ({"kappa": -1}, r"kappa must be .* at least 0, got -1"),
        ({"credit_policy": "new"}, r"'current' or 'old', got 'new'"),
        ({"inert_warning_steps": -1}, r"inert_warning_steps must be a whole number of at least 0, got -1"),
        ({"loss_type": "luspo"}, r"loss_type='luspo'.*grpo, bnpo"),
        ({"loss_type": "vespo"}, r"loss_type='vespo'"),
        ({"importance_sampling_level": "sequence"}, r"'sequence'.*would cancel.*Use 'token'"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        DGPOConfig(output_dir=str(tmp_path), report_to=[], **options)


def test_one_generation_per_prompt_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 2 generations"):
        DGPOConfig(
            output_dir=str(tmp_path), report_to=[], use_cpu=True, num_generations=1, per_device_train_batch_size=4
        )


def test_a_plain_grpo_config_is_refused_with_the_remedy(checkpoint, tmp_path):
    args = GRPOConfig(output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False)
    with pytest.raises(ConfigError, match=r"args is a GRPOConfig.*dgpo\.DGPOConfig"):
        FixedDGPOTrainer(checkpoint, spread_reward, args)


def test_a_model_without_a_checkpoint_is_refused(checkpoint, tmp_path):
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=1))
    with pytest.raises(ConfigError, match=r"names no checkpoint.*save_pretrained"):
        make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, model=model)


def test_a_head_of_another_size_than_the_references_is_refused(checkpoint, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    model.resize_token_embeddings(len(WORDS) + 1)
    with pytest.raises(ConfigError, match=rf"Vocabulary sizes differ: policy {len(WORDS) + 1}, reference {len(WORDS)}"):
        make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, model=model)


def test_a_reference_with_another_tokenizer_is_refused(checkpoint, tmp_path):
    swapped = make_tokenizer(WORDS[:3] + WORDS[3:][::-1])
    with pytest.raises(ConfigError, match=r"another tokenizer: its token '.' has id"):
        make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, tokenizer=swapped)


def test_words_added_for_the_policy_are_fine(checkpoint, tmp_path):
    from dgpo.engines.trl.checks import check_same_tokenizer

    check_same_tokenizer(make_tokenizer([*WORDS, "extra"]), checkpoint)


def test_a_policy_changed_in_memory_is_warned_of(checkpoint, tmp_path, caplog):
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, perturb=0.05, max_steps=2)
    with caplog.at_level("WARNING", logger="dgpo.engines.trl.trainer"):
        trainer.train()
    warnings = [r.getMessage() for r in caplog.records if "differs from its reference" in r.getMessage()]
    assert len(warnings) == 1
    assert checkpoint in warnings[0]


class NanAfter(TrainerCallback):
    """Puts a nan into the model once `step` updates have been made."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, model=None, **kwargs) -> None:
        if state.global_step == self.step:
            with torch.no_grad():
                next(model.parameters()).fill_(float("nan"))


def test_a_nan_loss_names_the_step_and_keeps_the_last_checkpoint(checkpoint, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 4, "callbacks": (NanAfter(2),)}
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, **options)
    with pytest.raises(TrainingError, match=r"The loss at step 3 is not finite.*checkpoint-2"):
        trainer.train()
    weights = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert all(torch.isfinite(w).all() for w in weights.values())
    assert not (tmp_path / "checkpoint-3").exists()


class NanGradient(TrainerCallback):
    """Breaks the gradients, so that the update itself makes the parameters nan."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs) -> None:
        if state.global_step == 1:
            for parameter in model.parameters():
                parameter.grad.fill_(float("nan"))


def test_nan_parameters_are_never_saved(checkpoint, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 4, "callbacks": (NanGradient(),)}
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, **options)
    with pytest.raises(TrainingError, match=r"A parameter at step 2 is not finite.*checkpoint-1"):
        trainer.train()
    assert not (tmp_path / "checkpoint-2").exists()


def test_rollouts_that_cannot_be_saved_exactly_are_refused(tmp_path):
    with pytest.raises(TrainingError, match="'num_images' of type list"):
        saved.save_rollout_state(tmp_path, 0, 3, [{"num_images": [1, 2]}], {})


def test_rollout_state_survives_a_round_trip(tmp_path):
    inputs = loss_inputs()
    halves = [{k: v[i::2] if v.dim() else v for k, v in inputs.items()} for i in range(2)]
    saved.save_rollout_state(tmp_path, 1, 7, halves, {"num_processes": 2})
    step, buffer, layout = saved.load_rollout_state(tmp_path, 1, torch.device("cpu"))
    assert step == 7
    assert layout == {"num_processes": 2}
    for ours, theirs in zip(buffer, halves, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) and ours[k].dtype == theirs[k].dtype for k in theirs)
    assert saved.load_rollout_state(tmp_path, 0, torch.device("cpu")) is None
    assert not list(Path(tmp_path).rglob("*.partial"))


def test_a_missing_moving_reference_is_named(checkpoint, tmp_path):
    with pytest.raises(TrainingError, match=r"reference\.safetensors is missing"):
        saved.load_reference(tmp_path, 0, torch.nn.Linear(1, 1), sharded=False)


def test_a_checkpoint_of_another_vocabulary_size_is_not_mistaken(tmp_path):
    wide = make_checkpoint(tmp_path / "wide", vocab_size=len(WORDS) + 9)
    trainer = make_trainer(FixedDGPOTrainer, wide, tmp_path / "run", max_steps=1)
    trainer.train()  # a head padded beyond the tokenizer's words is common and right
    assert trainer.recorder.steps[0]["dgpo/hellinger_sq/max"] == 0


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_adapters_that_train_the_models_own_biases_are_refused(checkpoint, tmp_path, bias):
    adapter = lora()
    adapter.bias = bias
    with pytest.raises(ConfigError, match=rf"bias='{bias}'.*Use bias='none'"):
        make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, peft_config=adapter)


@pytest.mark.parametrize("init", ["pissa", "olora", False])
def test_adapters_that_start_elsewhere_than_the_model_are_refused(checkpoint, tmp_path, init):
    adapter = lora()
    adapter.init_lora_weights = init
    with pytest.raises(ConfigError, match=rf"init_lora_weights={init!r}.*would be the reference"):
        make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, peft_config=adapter)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "PromptTuningConfig puts new prompt"),
        (peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "PrefixTuningConfig puts new prompt"),
        (peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "PromptEncoderConfig puts new prompt"),
        (peft.LoHaConfig(task_type="CAUSAL_LM", init_weights=False), "init_weights=False starts from another policy"),
        (peft.IA3Config(task_type="CAUSAL_LM", init_ia3_weights=False), "init_ia3_weights=False starts from another"),
    ],
)
def test_adapters_that_move_the_reference_are_refused(checkpoint, tmp_path, adapter, message):
    with pytest.raises(ConfigError, match=message):
        make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, peft_config=adapter)
    make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, peft_config=lora(), credit_rule="even")  # needs none


def test_an_adapter_of_another_name_is_refused(checkpoint, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with pytest.raises(ConfigError, match=r"adapters are named mine; TRL trains and copies the one named 'default'"):
        make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, model=peft.get_peft_model(model, lora(), "mine"))


def saved_run(checkpoint, tmp_path, **options):
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1, **options}
    make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, **options).train()


def test_rollouts_of_another_layout_are_refused(checkpoint, tmp_path):
    saved_run(checkpoint, tmp_path, num_iterations=2)
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, num_iterations=1)
    with pytest.raises(TrainingError, match=r"'num_iterations': 2.*'num_iterations': 1.*do not fit"):
        trainer.train(resume_from_checkpoint=True)


def test_a_checkpoint_without_the_moving_reference_is_refused(checkpoint, tmp_path):
    saved_run(checkpoint, tmp_path)
    options = {"sync_ref_model": True, "ref_model_sync_steps": 1}
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, **options)
    with pytest.raises(TrainingError, match=r"reference\.safetensors is missing"):
        trainer.train(resume_from_checkpoint=True)


def test_a_half_written_checkpoint_is_not_called_the_last(tmp_path):
    from dgpo.engines.trl.checks import last_checkpoint_note

    (tmp_path / "checkpoint-7" / "dgpo_state").mkdir(parents=True)
    assert last_checkpoint_note(str(tmp_path)) == "No checkpoint had been saved."
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "trainer_state.json").write_text("{}")
    assert last_checkpoint_note(str(tmp_path)).endswith("checkpoint-5.")


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (lambda n: [float("inf")] * n, "failed on completion 0: it returned inf"),
        (lambda n: [1.0] * (n - 1), "rewards for"),
        (lambda n: None, "it returned NoneType, not a list of numbers"),
        (lambda n: ["1"] * n, "it returned '1'"),
        (lambda n: 1.0, "it returned float, not a list of numbers"),
    ],
)
def test_what_a_reward_returns_is_checked_from_python_too(checkpoint, tmp_path, result, said):
    from dgpo.errors import RewardError

    def scores(completions, **columns):
        return result(len(completions))

    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, reward=scores, max_steps=1)
    with pytest.raises(RewardError, match=r"reward function 'scores' failed on .*completion is") as caught:
        trainer.train()
    assert said in str(caught.value)
