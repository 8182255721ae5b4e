"""For all tests: one torch thread, since several only wait for each other here, and in CI always the same examples."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from benchmarks.chaos.nursery import Forked
from specswarm import processes
from tests.models import save_llama

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
if "CI" in os.environ:
    hypothesis.settings.load_profile("ci")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def heeded_signals() -> None:
    """Programs heed signals also where the tests were started to ignore them: in the background, or by nohup."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(scope="session", autouse=True)
def forked_programs(heeded_signals: None) -> Iterator[None]:
    """Peers and clients as processes are forked from one that has imported them: that saves seconds for each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "spawn", Forked)
        yield


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 4 layers."""
    return save_llama(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="session")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The target with blurred weights: it often agrees, and often not."""
    return save_llama(tmp_path_factory.mktemp("draft"), noise=0.05)
