"""Training runs: recipe, session, trainer and held-out accuracy."""
