"""DGPO inside verl: a plugin for its Ray trainers."""
