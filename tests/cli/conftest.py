import pytest


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A RUN of digits, trained for an epoch of few images; tests change copies."""
    from real_files import train_digits

    return train_digits(tmp_path_factory.mktemp("trained") / "run")
