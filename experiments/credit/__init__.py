"""Which redistribution of the advantage learns forks best, where the credit lands, and what an oracle could gain."""
