"""Where value changes in the completions of a language model, and which signals know it."""
