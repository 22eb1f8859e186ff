"""What `dgpo.watch` refuses, with the reason and the remedy."""

import pytest
from support import WORDS, FixedDGPOTrainer, FixedGRPOTrainer, answered, make_checkpoint, make_trainer

import dgpo
from dgpo.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"every": 0}, "every must be a whole number of at least 1, got 0"),
        ({"completions": True}, "completions must be a whole number"),
        ({"answer": "anser"}, r"no column 'anser'. Did you mean 'answer'\?"),
        ({"credit_rule": "dgpo"}, "reads hellinger_sq, and there is no reference"),
        ({"credit_rule": "gtpo", "completions": 3}, "compares all completions of a prompt"),
        ({"reference": "/nowhere/model"}, "The reference '/nowhere/model' cannot be loaded"),
        ({"credit_rule": "dgpoo"}, "Did you mean 'dgpo'"),
    ],
)
def test_what_cannot_be_watched_is_refused(checkpoint, tmp_path, given, message):
    trainer = make_trainer(FixedGRPOTrainer, checkpoint, tmp_path, dataset=answered())
    with pytest.raises(ConfigError, match=message):
        dgpo.watch(trainer, **given)


def test_other_trainers_are_refused(checkpoint, tmp_path):
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, tmp_path)
    with pytest.raises(ConfigError, match=r"FixedDGPOTrainer writes a credit log of its own.*credit_log_steps=20"):
        dgpo.watch(trainer)
    with pytest.raises(ConfigError, match="GRPOTrainer; object is none"):
        dgpo.watch(object())
    trainer = make_trainer(FixedGRPOTrainer, checkpoint, tmp_path)
    dgpo.watch(trainer)
    with pytest.raises(ConfigError, match="watched already"):
        dgpo.watch(trainer)


def test_another_vocabulary_is_refused(checkpoint, tmp_path):
    other = make_checkpoint(tmp_path / "other", vocab_size=len(WORDS) + 1)
    trainer = make_trainer(FixedGRPOTrainer, checkpoint, tmp_path / "run")
    with pytest.raises(ConfigError, match="Vocabulary sizes differ: policy 23, reference 24"):
        dgpo.watch(trainer, reference=other)
