"""The per-token record of a run: its format, how it is collected, and token text."""
