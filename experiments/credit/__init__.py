"""Which redistribution of the advantage learns forks best, where the credit goes, and what an oracle gains."""
