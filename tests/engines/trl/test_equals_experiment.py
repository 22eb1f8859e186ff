"""The experiments' light training loop computes the loss that `DGPOTrainer` computes, from the same logits."""

import pytest
import torch
from support import FixedDGPOTrainer, loss_inputs, make_trainer

from dgpo import assign_credit
from dgpo.rules import resolve
from experiments.credit.train import Rollout, policy_loss, token_stats


@pytest.mark.parametrize(("tau", "beta"), [(0.02, 0.0), (0.5, 0.0), (0.02, 0.1)])
def test_loss_and_gradients_are_those_of_the_trainer(checkpoint, tmp_path, tau, beta):
    options = {"perturb": 0.05, "tau": tau, "beta": beta, "use_bias_correction_kl": False}
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path, **options)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    inputs = loss_inputs()
    theirs = trainer._compute_loss(trainer.model, dict(inputs))
    parameters = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    expected = torch.autograd.grad(theirs, parameters)

    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    length = inputs["completion_ids"].shape[1]
    logits, ref_logits = (
        model(input_ids=ids, attention_mask=attention).logits[None, :, -length - 1 : -1]
        for model in (trainer.model, trainer.ref_model)
    )
    rollout = Rollout(
        prompts=inputs["prompt_ids"][None],
        completions=inputs["completion_ids"][None],
        mask=inputs["completion_mask"].bool()[None],
        rewards=torch.zeros(1, len(ids)),
        advantages=inputs["advantages"][None],
        causal=torch.zeros(1, len(ids), length),
        roles={},
    )
    (stats,) = token_stats(logits, ref_logits.detach(), rollout, None, 4)
    credit = assign_credit(stats, resolve("dgpo", tau=tau))
    assert credit.weights.max() > (1.2 if tau < 0.1 else 1.0)  # a redistribution that could be wrong
    ours = policy_loss(logits, rollout, [stats.logps], [credit.token_advantages], ref_logits.detach(), beta=beta)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    for found, wanted in zip(torch.autograd.grad(ours, parameters), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)
