"""For all tests: one torch thread, since several only wait for each other here, and in CI always the same examples."""

import os
from collections.abc import Iterator

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
if "CI" in os.environ:
    hypothesis.settings.load_profile("ci")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
