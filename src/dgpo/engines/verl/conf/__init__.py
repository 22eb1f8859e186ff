"""The folder for Hydra's `--config-dir`; `hydra.searchpath` comes too late for a primary configuration."""
