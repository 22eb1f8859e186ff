"""Configuration that Hydra finds with `hydra.searchpath=[pkg://dgpo.engines.verl.conf]`."""
