"""The command line `dgpo`: argument parsing and nothing else.

Nothing here imports torch, transformers or TRL before a command needs them, so that `dgpo --help` answers at once.
"""
