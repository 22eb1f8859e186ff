"""SmolLM2-135M-Instruct on two arithmetic tasks: GRPO, GRPO with a KL penalty, DGPO, entropy-only weights."""
