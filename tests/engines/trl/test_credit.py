"""The weights that reach TRL's loss are the paper's: against dense float64 softmaxes, masks and all."""

import math

import pytest
import torch
from support import WORDS, FixedDGPOTrainer, lora, loss_inputs, make_trainer
from trl import GRPOTrainer

from largest_storage import Largest


def dense_weights(trainer, inputs, mask, temperature=1.0):
    """Equations 2 to 5 with [B, T, V] float64 probabilities."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    length = inputs["completion_ids"].shape[1]
    with torch.no_grad():
        log_p, log_q = (
            (
                model(input_ids=ids, attention_mask=attention).logits[:, -length - 1 : -1].double() / temperature
            ).log_softmax(-1)
            for model in (trainer.model, trainer.ref_model)
        )
    d = 0.5 * ((0.5 * log_p).exp() - (0.5 * log_q).exp()).square().sum(-1)
    h = -(log_p.exp() * log_p).sum(-1) / math.log(len(WORDS))
    scores = (d * h**trainer.args.kappa / trainer.args.tau).masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) * mask.sum(-1, keepdim=True), d


def advantages_seen_by_trl(trainer, inputs, monkeypatch):
    """Run the loss and return what TRL found in `inputs["advantages"]`, with the loss."""
    seen = {}
    theirs = GRPOTrainer._compute_loss

    def spy(self, model, inputs):
        loss = theirs(self, model, inputs)
        seen["advantages"] = inputs["advantages"]
        return loss

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", spy)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    loss = trainer._compute_loss(trainer.model, inputs)
    return seen["advantages"], loss


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("tool_mask", [False, True])
def test_token_advantages_match_dense_float64(checkpoint, tmp_path, monkeypatch, temperature, tool_mask):
    options = {"perturb": 0.05, "tau": 0.02, "kappa": 0.5, "temperature": temperature}
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, **options)
    inputs = loss_inputs()
    mask = inputs["completion_mask"].bool()
    if tool_mask:
        inputs["tool_mask"] = torch.ones_like(inputs["completion_mask"])
        inputs["tool_mask"][:, 3:6] = 0
        mask = mask & inputs["tool_mask"].bool()
    expected, d = dense_weights(trainer, inputs, mask, temperature)
    assert d[mask].max() > 0.01
    assert expected[mask].max() > 1.2  # a redistribution that could be wrong

    advantages, loss = advantages_seen_by_trl(trainer, inputs, monkeypatch)
    torch.testing.assert_close(advantages.double(), expected * inputs["advantages"][:, None], rtol=1e-4, atol=1e-5)
    assert torch.equal(advantages[~mask], torch.zeros_like(advantages[~mask]))
    assert torch.isfinite(loss)


def test_one_policy_forward_and_one_reference_backbone_forward_and_no_logits(checkpoint, tmp_path):
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, perturb=0.05)
    calls = {"policy": 0, "reference": 0, "head": 0}

    def counting(name):
        def hook(*_):
            calls[name] += 1

        return hook

    trainer.model.model.register_forward_hook(counting("policy"))
    trainer.ref_model.model.register_forward_hook(counting("reference"))
    trainer.model.lm_head.register_forward_hook(counting("head"))
    trainer.ref_model.lm_head.register_forward_hook(counting("head"))
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    trainer._compute_loss(trainer.model, loss_inputs()).backward()
    assert calls == {"policy": 1, "reference": 1, "head": 0}


def test_a_batch_without_trained_tokens_is_a_differentiable_zero(checkpoint, tmp_path):
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, perturb=0.05)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    inputs = {**loss_inputs(), "completion_mask": torch.zeros(4, 20, dtype=torch.long)}
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    assert loss.item() == 0
    assert all((p.grad == 0).all() for p in trainer.model.parameters())


@pytest.mark.parametrize("case", ["float32", "bfloat16", "autocast", "lora", "lora bfloat16"])
def test_the_first_step_is_exactly_grpo(checkpoint, tmp_path, case):
    options = {
        "dtype": torch.bfloat16 if "bfloat16" in case else torch.float32,
        "bf16": case == "autocast",
        "peft_config": lora() if "lora" in case else None,
        "learning_rate": 1.0,
    }
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, max_steps=2, **options)
    trainer.train()
    first, second = trainer.recorder.steps
    assert first["dgpo/hellinger_sq/max"] == 0
    assert first["dgpo/weight/max"] == 1
    assert first["dgpo/weight/std"] == 0
    assert first["dgpo/effective_share"] == 1
    assert first["kl"] == 0
    assert second["dgpo/hellinger_sq/mean"] > 0


def test_a_trained_adapter_has_a_copy_of_itself_as_reference(checkpoint, tmp_path):
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32), lora())
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, model=model, learning_rate=1.0, max_steps=2)
    trainer.train()
    assert sorted(trainer.model.peft_config) == ["default", "ref"]
    assert trainer.recorder.steps[0]["dgpo/hellinger_sq/max"] == 0
    assert trainer.recorder.steps[1]["dgpo/hellinger_sq/mean"] > 0


def test_old_credit_is_fixed_for_the_whole_rollout(checkpoint, tmp_path):
    """With one rollout and four updates, "old" keeps the weights of the sampling policy, "current" recomputes them."""
    distances = {}
    for credit_policy in ("old", "current"):
        options = {"num_iterations": 4, "max_steps": 4, "learning_rate": 0.5, "credit_policy": credit_policy}
        trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path / credit_policy, perturb=0.05, **options)
        seen = []
        theirs = GRPOTrainer._compute_loss

        def spy(self, model, inputs, theirs=theirs, seen=seen):
            loss = theirs(self, model, inputs)
            seen.append(inputs["advantages"].clone())
            return loss

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(GRPOTrainer, "_compute_loss", spy)
            trainer.train()
        distances[credit_policy] = [(a - seen[0]).abs().max().item() for a in seen[1:]]
    assert distances["old"] == [0.0, 0.0, 0.0]
    assert min(distances["current"]) > 0


def test_a_moving_reference_follows(checkpoint, tmp_path):
    options = {"sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 1.0, "max_steps": 4}
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, learning_rate=0.5, **options)
    trainer.train()
    distances = [entry["dgpo/hellinger_sq/max"] for entry in trainer.recorder.steps]
    # The reference becomes the policy after updates 2 and 4, so that steps 1 and 3 start from equal models.
    assert distances[0] == 0
    assert distances[2] == 0
    assert distances[1] > 0
    assert distances[3] > 0


def test_evaluation_logs_its_own_credit(checkpoint, tmp_path):
    from support import make_dataset

    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, perturb=0.05)
    metrics = trainer.evaluate(eval_dataset=make_dataset(4))
    assert metrics["eval_dgpo/hellinger_sq/mean"] > 0
    assert 0 < metrics["eval_dgpo/effective_share"] <= 1


def test_no_tensor_of_a_training_step_is_as_large_as_the_logits(tmp_path):
    from support import make_checkpoint

    vocab_size = 16384  # several tiles of the vocabulary
    checkpoint = make_checkpoint(tmp_path / "wide", vocab_size=vocab_size, hidden_size=8)
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, perturb=0.05)
    inputs = loss_inputs()
    num_tokens = int(inputs["completion_mask"].sum())

    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    with Largest() as largest:
        trainer._compute_loss(trainer.model, inputs).backward()
    assert largest.numel >= vocab_size * 8  # the head and its gradient were seen
    assert largest.numel < num_tokens * vocab_size
