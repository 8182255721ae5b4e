"""For all tests: one torch thread, since several only wait for each other here, and in CI always the same examples."""

import contextlib
import faulthandler
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest
import torch

from benchmarks.chaos.nursery import Forked
from specswarm import processes
from tests.models import save_llama

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
if "CI" in os.environ:
    hypothesis.settings.load_profile("ci")


STARTED_BY = "SPECSWARM_TESTS"
"""Names, in the environment of each process of a run, the one that began it."""
STDERR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault(STARTED_BY, str(os.getpid()))
    config.stash[STDERR] = os.dup(2)  # before the output of tests is captured


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process more than there are cores, for many tests wait for other programs; but these take much memory."""
    return min(len(os.sched_getaffinity(0)) + 1, 4)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """What comes after a test has the same time: pytest ends its watch when the test fails."""
    seconds = float(item.config.getini("faulthandler_timeout"))
    faulthandler.dump_traceback_later(seconds, exit=True, file=item.config.stash[STDERR])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Nothing outlives the tests, not even what was started by a process that ended in the middle of one."""
    os.close(config.stash[STDERR])
    if os.environ[STARTED_BY] == str(os.getpid()):
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(STARTED_BY) == str(os.getpid()) != str(process.pid):
                    process.kill()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """A command that a test runs in this process keeps its log from pytest."""
    log = logging.getLogger("specswarm")
    level, propagate, handlers = log.level, log.propagate, log.handlers[:]
    yield
    log.setLevel(level)
    log.propagate, log.handlers[:] = propagate, handlers


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
