"""The run directory: what is written there, how it is read, and how a resumed run continues it."""
