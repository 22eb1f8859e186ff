import pytest

from dgpo.rewards._pool import VerifierPool


@pytest.fixture(scope="session")
def pool():
    """Verifier processes that give up after a second; shared, as starting them takes as long."""
    with VerifierPool(seconds=1.0, num_workers=2) as pool:
        yield pool
