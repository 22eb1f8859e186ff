"""A whole run of verl on the CPU through Ray: python run_verl.py MODEL [overrides ...]"""

import sys

import verl  # noqa: F401  isort: skip
from support import DGPO, compose_config, data_overrides
from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config

if __name__ == "__main__":
    model, *overrides = sys.argv[1:]
    config = compose_config(*data_overrides(model), *DGPO, *overrides)
    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    run_ppo(config, TaskRunnerV1)
