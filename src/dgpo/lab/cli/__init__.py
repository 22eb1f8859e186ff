"""The command line `dgpo`: train from a recipe, prepare a model, list the tasks.

Each module holds one idea; `main` alone parses arguments and prints errors. Nothing here imports torch, transformers
or TRL before a command needs them, so that `dgpo --help` answers at once.
"""
