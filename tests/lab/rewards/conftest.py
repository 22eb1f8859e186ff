import pytest

from dgpo.lab.rewards.pool import VerifierPool


@pytest.fixture(scope="session")
def pool():
    """Verifier processes whose limit no answer of these tests comes near; shared, as starting them takes a second."""
    with VerifierPool(seconds=20, num_workers=2) as pool:
        yield pool
