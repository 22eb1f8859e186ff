"""What a credit rule would have to know to beat GRPO, and how much of it a frozen reference knows by hindsight."""
