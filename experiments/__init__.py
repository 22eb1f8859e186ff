"""Evidence for or against the paper's claims: seeds, intervals, and results that are committed whatever they say."""
