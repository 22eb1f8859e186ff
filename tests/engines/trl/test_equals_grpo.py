"""DGPO is GRPO when it should be: with weights of 1 the parameters are TRL's, whatever loss and accumulation."""

import pytest
import torch
from support import FixedDGPOTrainer, FixedGRPOTrainer, lora, make_trainer, parameters

# exp(s / 1e9) is exactly 1 in float32 for every score in [0, 1].
WEIGHTS_OF_ONE = {"tau": 1e9}
LOSS_TYPES = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"]


def train_both(checkpoint, tmp_path, dgpo=None, **options):
    trainers = []
    for trainer_class, extra in ((FixedGRPOTrainer, {}), (FixedDGPOTrainer, {**WEIGHTS_OF_ONE, **(dgpo or {})})):
        trainer = make_trainer(trainer_class, checkpoint, tmp_path / trainer_class.__name__, **options, **extra)
        start = parameters(trainer)
        trainer.train()
        assert (parameters(trainer) - start).abs().max() > 1e-3  # an update that could differ has been made
        trainers.append(trainer)
    return trainers


def assert_same_training(ours, theirs, relative=2e-6):
    for step, (a, b) in enumerate(zip(ours.recorder.gradients, theirs.recorder.gradients, strict=True)):
        assert (a - b).norm() <= relative * b.norm(), f"gradients of update {step}"
    torch.testing.assert_close(parameters(ours), parameters(theirs), rtol=0, atol=2e-6)


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_weights_of_one_give_grpo(checkpoint, tmp_path, loss_type, accumulation):
    batch = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 8 if accumulation == 1 else 4}
    grpo, dgpo = train_both(checkpoint, tmp_path, loss_type=loss_type, **batch)
    assert all(entry["dgpo/weight/std"] == 0 for entry in dgpo.recorder.steps)
    assert_same_training(dgpo, grpo)


@pytest.mark.parametrize("credit_policy", ["current", "old"])
@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_several_updates_per_rollout(checkpoint, tmp_path, loss_type, credit_policy):
    options = {"num_iterations": 2, "steps_per_generation": 2, "per_device_train_batch_size": 4, "max_steps": 8}
    dgpo_options = {"credit_policy": credit_policy}
    grpo, dgpo = train_both(checkpoint, tmp_path, dgpo_options, loss_type=loss_type, **options)
    assert dgpo.generation_calls == grpo.generation_calls == 2
    assert_same_training(dgpo, grpo, relative=1e-5)


def test_truncated_completions_are_masked_alike(checkpoint, tmp_path):
    grpo, dgpo = train_both(checkpoint, tmp_path, mask_truncated_completions=True, max_completion_length=8)
    assert_same_training(dgpo, grpo)


def test_lora(checkpoint, tmp_path):
    grpo, dgpo = train_both(checkpoint, tmp_path, peft_config=lora(), learning_rate=1.0)
    assert dgpo.ref_model is None
    assert_same_training(dgpo, grpo, relative=1e-5)


def test_gradient_checkpointing(checkpoint, tmp_path):
    for reentrant in (False, True):
        options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
        grpo, dgpo = train_both(checkpoint, tmp_path / str(reentrant), **options)
        assert_same_training(dgpo, grpo)


def test_a_kl_penalty_is_trls_when_asked_for(checkpoint, tmp_path):
    grpo, dgpo = train_both(checkpoint, tmp_path, beta=0.5, perturb=0.05)
    assert dgpo.recorder.steps[-1]["kl"] > 0
    for ours, theirs in zip(dgpo.recorder.steps, grpo.recorder.steps, strict=True):
        assert ours["kl"] == pytest.approx(theirs["kl"], rel=1e-4)
    assert_same_training(dgpo, grpo, relative=1e-4)


def test_trls_other_options_combine(checkpoint, tmp_path):
    options = {
        "top_entropy_quantile": 0.5,
        "entropy_coef": 0.01,
        "epsilon_high": 0.28,
        "delta": 2.0,
        "temperature": 0.7,
    }
    grpo, dgpo = train_both(checkpoint, tmp_path, **options)
    assert_same_training(dgpo, grpo, relative=1e-5)


def test_true_weights_do_change_the_update(checkpoint, tmp_path):
    """The comparison above could not fail if the weights never reached the loss."""
    grpo, dgpo = train_both(checkpoint, tmp_path, {"tau": 0.001}, perturb=0.05)
    assert (parameters(dgpo) - parameters(grpo)).abs().max() > 1e-3


ARCHITECTURES = {
    "Gemma2": {"final_logit_softcapping": 5.0, "head_dim": 8, "sliding_window": 16},  # softcapped logits
    "Cohere": {"logit_scale": 0.3},  # scaled logits
    "Phi": {"tie_word_embeddings": False},  # a bias in the head
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": True},  # an auxiliary loss
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_heads_of_other_architectures(tmp_path, name):
    import transformers
    from support import WORDS, make_tokenizer

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        **{
            "vocab_size": len(WORDS),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "initializer_range": 0.2,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 2,
            **ARCHITECTURES[name],
        }
    )
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    if name == "Phi":
        torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(tmp_path / "model")
    make_tokenizer(WORDS).save_pretrained(tmp_path / "model")
    grpo, dgpo = train_both(str(tmp_path / "model"), tmp_path, disable_dropout=True, max_steps=2)
    assert dgpo.recorder.steps[0]["dgpo/hellinger_sq/max"] == 0
    assert dgpo.recorder.steps[1]["dgpo/hellinger_sq/max"] > 0
    assert_same_training(dgpo, grpo, relative=1e-5)
