"""Where the paper's rule could matter: DGPO less GRPO along the settings of a training."""
