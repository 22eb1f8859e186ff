"""DGPO inside verl: a trainer mode of its Ray trainers, loaded by verl itself (entry point group `verl.plugins`).

Importing this package loads neither verl nor Ray: `plugin` does that, from within verl.
"""
