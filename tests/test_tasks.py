"""Every task has an owner: what ends by a fault of ours is logged at once, and the program goes on or ends."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client import target as client_target
from client.api import AsyncSwarmModel
from client.blocking import LoopThread
from client.session import ChainSession
from peer import packer
from peer.announcer import Announcer
from peer.compute import Engine
from peer.links import Link
from peer.rounds import Rounds
from peer.service import PeerService
from peer.worker import NICENESS
from specswarm.cli import main
from swarm import neighbours, tasks
from swarm.calls import DhtNode
from swarm.dht import Dht
from swarm.drafting.model import ModelDrafter
from swarm.errors import PeerLost, SwarmUnreachable
from swarm.libp2p import Libp2pNetwork
from swarm.memory import MemoryTransport
from swarm.tasks import Alongside, end, kept_up, owned
from swarm.transport import Stream
from swarm.wire import PUSH_PROTOCOL, SESSION_PROTOCOL, Contact
from tests import memory_swarm
from tests.models import greedy, load_whole

ROOT = Path(__file__).parents[1]
PROMPT = [5, 17, 3, 9]
BUG = RuntimeError("a bug")

STARTED = {
    # where a task or a thread is started, or something is handed to one: what becomes of a fault in it
    ("swarm/tasks.py", "create_task"): "owned: whoever calls it is the owner",
    ("swarm/tasks.py", "owned"): "Alongside: the block is broken off and raises it",
    ("swarm/lifetime.py", "owned"): "the program, ends with exit code 1; breaking off, logged",
    (
        "swarm/daemon.py",
        "owned",
    ): "waiting for the daemon's end: logged, and the network counts as ended; serving a "
    "stream: logged, and the stream ends",
    ("swarm/libp2p.py", "owned"): "watching the daemon, logged; staying in the swarm, starts again",
    ("swarm/libp2p.py", "kept_up"): "staying in the swarm: starts again",
    ("swarm/neighbours.py", "owned"): "greetings: raised by who waits for them",
    ("swarm/streams.py", "owned"): "ending a stream: logged",
    ("swarm/calls.py", "owned"): "asking the daemon where nodes are: logged, unless that has ended; asked again",
    ("swarm/dht.py", "owned"): "questions to nodes: raised by the look-up",
    ("swarm/relay.py", "owned"): "copying on a circuit: logged, and the circuit ends",
    ("swarm/memory.py", "owned"): "serving a stream: logged, and the stream ends",
    ("swarm/metrics.py", "start_http_server"): "serving the counters: logged; the program goes on without",
    ("swarm/awake.py", "call_later"): "beats and deadlines: logged by Python",
    ("peer/node.py", "kept_up"): "announcing, measuring the stage: starts again",
    ("peer/node.py", "Alongside"): "announcing while it loads or leaves: starts again, or breaks that off",
    ("peer/node.py", "run_in_executor"): "loading: the peer ends",
    ("peer/service.py", "kept_up"): "ending idle sessions: starts again",
    ("peer/announcer.py", "owned"): "measuring links: raised by announcing",
    (
        "peer/links.py",
        "owned",
    ): "a link: dropped, clients are told that this peer failed; the next push opens it anew",
    ("peer/links.py", "call_later"): "closing a link that nobody uses: logged by Python",
    ("peer/links.py", "call_soon"): "telling that there is room: logged by Python",
    ("peer/packer.py", "to_thread"): "packing: logged; states are sent as they are from now on",
    ("peer/worker.py", "submit"): "computing: logged, and the sessions are told that this peer failed",
    ("peer/worker.py", "call_soon_threadsafe"): "delivering: logged, and the session is told that this peer failed",
    ("client/api.py", "owned"): "looking at the swarm: starts again",
    ("client/api.py", "kept_up"): "looking at the swarm: starts again",
    ("client/api.py", "run_in_executor"): "loading the draft, timing it: raised",
    ("client/target.py", "owned"): "measuring the way to a peer: logged; it counts as out of reach; asking: raised",
    ("client/target.py", "to_thread"): "hashing the weights, planning a chain: raised",
    ("client/streams.py", "owned"): "opening: raised; listening: whoever waits for news gets the error",
    ("client/questions.py", "owned"): "asking a hop: logged; it counts as one that did not answer",
    ("client/loop.py", "Alongside"): "working ahead, prefilling: the round is broken off and raises it",
    ("client/loop.py", "run_in_executor"): "drafting: raised",
    ("client/generation.py", "owned"): "asking whether it is us: logged; the peer that drafted is not left alone",
    ("client/relief.py", "owned"): "preparing others: raised before the next round",
    ("client/audit.py", "owned"): "auditing: raised at the next audit or at the end",
    ("client/elsewhere.py", "owned"): "listening to a peer that drafts: raised",
    ("client/recorder.py", "run_in_executor"): "recording: raised",
    ("client/recorder.py", "to_thread"): "recording: raised",
    ("peer/worker.py", "call_soon"): "the books of a pass: logged by the event loop",
    ("client/blocking.py", "Thread"): "the event loop: who waits for its start gets the error",
    ("client/blocking.py", "owned"): "a call: raised to the thread that waits for it",
    ("client/blocking.py", "call_soon"): "breaking a call off: its task is cancelled",
    ("client/blocking.py", "call_soon_threadsafe"): "stopping: an event is set; a call: as `owned`",
    ("specswarm/status.py", "owned"): "asking a peer: raised",
    (
        "specswarm/processes.py",
        "Thread",
    ): "reading a process's output: logged by Python; the reader's end is noticed",
}
STARTERS = {
    *("create_task", "ensure_future", "owned", "kept_up", "Alongside", "run_in_executor", "to_thread", "submit"),
    *("call_soon", "call_soon_threadsafe", "call_later", "call_at", "Thread", "Timer", "start_http_server"),
}


def starts_in(source: str) -> Iterator[str]:
    """Names of the calls by which a module starts tasks, those of a TaskGroup apart."""
    tree = ast.parse(source)
    groups = {
        item.optional_vars.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
        if "TaskGroup" in ast.unparse(item.context_expr) and isinstance(item.optional_vars, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            name = getattr(function, "attr", None) or getattr(function, "id", "")
            of = getattr(getattr(function, "value", None), "id", "")
            if name in STARTERS and of not in groups:
                yield name


def test_every_task_is_in_the_table_and_started_by_the_module_for_it() -> None:
    found = {
        (str(file.relative_to(ROOT)), name)
        for package in ("swarm", "peer", "client", "specswarm")
        for file in (ROOT / package).rglob("*.py")
        for name in starts_in(file.read_text(encoding="utf-8"))
    }
    internal = {("peer/rounds.py", "submit"), ("peer/service.py", "submit")}  # to the worker's queue
    assert found - internal == STARTED.keys()


@pytest.mark.parametrize(
    "call", ["asyncio.create_task(f())", "asyncio.ensure_future(f())", "loop.create_task(f())"]
)
def test_a_task_without_an_owner_is_found(call: str) -> None:
    assert list(starts_in(f"async def g():\n    {call}\n"))
    assert not list(
        starts_in("async def g():\n    async with asyncio.TaskGroup() as t:\n        t.create_task(f())\n")
    )


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What our log has by now that is an error."""
    monkeypatch.setattr(tasks, "_FIRST_PAUSE", 0.01)
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def fails_once(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, error: BaseException = BUG) -> list[str]:
    """Have a method fail at its next call, and work from then on; the list has an item once it failed."""
    right, failed = getattr(where, name), list[str]()

    def wrapper(*arguments: Any, **options: Any) -> Any:
        if not failed:
            failed.append(name)
            raise error
        return right(*arguments, **options)

    monkeypatch.setattr(where, name, wrapper)
    return failed


async def until(is_so: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 - nobody would set an event
            await asyncio.sleep(0.01)


def test_a_fault_is_logged_the_moment_it_happens_and_the_owner_is_told(logged: Callable[[], list[str]]) -> None:
    async def fail(error: Exception) -> None:
        raise error

    async def run() -> None:
        told: list[Exception] = []
        task = owned(fail(BUG), "the work", on_failure=told.append)
        outcome = owned(fail(PeerLost("x", "gone")), "a question", on_failure=told.append)
        await asyncio.wait([task, outcome])
        assert told == [BUG]
        assert logged() == ["the work failed, by a fault of this program: a bug"]

    asyncio.run(run())


def test_work_without_end_starts_again_when_it_fails_or_ends(logged: Callable[[], list[str]]) -> None:
    async def run() -> None:
        starts = []

        async def work() -> None:
            starts.append(1)
            if len(starts) == 1:
                raise BUG
            if len(starts) > 2:
                await asyncio.Event().wait()

        task = owned(kept_up(work, "work"), "work")
        await until(lambda: len(starts) == 3)
        assert "starts again" in logged()[0]
        assert "ended, which it never should" in logged()[1]
        await end(task)

    asyncio.run(run())


def test_work_alongside_breaks_its_block_off_if_it_fails(logged: Callable[[], list[str]]) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise BUG

    async def run() -> None:
        with pytest.raises(RuntimeError, match="a bug"):
            async with Alongside(fail(), "work"):
                await asyncio.Event().wait()
        await asyncio.sleep(0)  # this task itself is not cancelled any more
        async with Alongside(asyncio.Event().wait(), "work") as task:
            pass
        assert task.cancelled()
        with pytest.raises(TimeoutError):  # a cancellation from outside is none of the work's
            async with asyncio.timeout(0.01), Alongside(asyncio.Event().wait(), "work"):
                await asyncio.Event().wait()

    asyncio.run(run())
    assert len(logged()) == 1


@contextlib.asynccontextmanager
async def swarm(target: Path, folder: Path, spans: list[str], **options: Any) -> AsyncIterator[AsyncSwarmModel]:
    async with (
        memory_swarm.peers(target, spans, folder, announce_seconds=1) as network,
        memory_swarm.client(network, target, draft="none", wait_floor=0.5, **options) as model,
    ):
        yield model


IN_A_PEER = {
    "packing": (packer, "_timed"),
    "sending on a link": (Link, "_take"),
    "computing": (Engine, "run"),
    "computing, badly": (Engine, "_run_part"),
    "bringing a result on its way": (Rounds, "_bring"),
    "renewing what is announced": (Announcer, "_measure_links"),
    "ending idle sessions": (PeerService, "_expire"),
    "taking a client's message": (PeerService, "_answer"),
    "taking what is pushed": (PeerService, "_take_hidden"),
}


@pytest.mark.parametrize("what", IN_A_PEER)
def test_a_peer_goes_on_after_a_fault_in(
    what: str, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(packer, "LEAST", 16)
    failed = fails_once(monkeypatch, *IN_A_PEER[what])

    async def run() -> None:
        async with swarm(target, tmp_path, ["0:2", "2:4"]) as model:
            for _ in range(2):
                result = await model.generate(PROMPT, max_new_tokens=6)
                assert result.token_ids == greedy(load_whole(target), PROMPT, 6)
            await until(lambda: failed)
            await until(logged)

    asyncio.run(run())


@pytest.mark.parametrize("error", [BUG, SystemExit(1), MemoryError()], ids=["bug", "exit", "memory"])
def test_whatever_the_torch_thread_raises_the_session_is_told_and_the_thread_goes_on(
    error: BaseException,
    target: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logged: Callable[[], list[str]],
) -> None:
    async def run() -> None:
        async with swarm(target, tmp_path, ["0:4"]) as model:
            fails_once(monkeypatch, Engine, "run", error)
            result = await model.generate(PROMPT, max_new_tokens=4)
            assert result.token_ids == greedy(load_whole(target), PROMPT, 4)
            assert any("computing failed" in line for line in logged())

    asyncio.run(run())


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities of their own")
def test_a_peer_computes_behind_all_else_that_runs(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, found = Engine.run, set[int]()

    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, 0)  # of the thread that asks

    def run(self: Engine, *batch: Any) -> Any:
        found.add(niceness())
        return right(self, *batch)

    async def generate() -> None:
        async with swarm(target, tmp_path, ["0:4"]) as model:
            await model.generate(PROMPT, max_new_tokens=4)

    monkeypatch.setattr(Engine, "run", run)
    asyncio.run(generate())
    assert found == {niceness() + NICENESS}


def test_a_link_that_fails_by_our_fault_is_not_blamed_on_the_neighbour(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], list[str]]
) -> None:
    right, accused = MemoryTransport.open, list[str]()

    async def broken_once(self: MemoryTransport, contact: Contact, protocol: str) -> Stream:
        if protocol == PUSH_PROTOCOL and not accused:
            accused.append(self.peer_id)
            raise BUG
        return await right(self, contact, protocol)

    monkeypatch.setattr(MemoryTransport, "open", broken_once)
    seen: list[str] = []
    note = ChainSession._note

    def noting(self: ChainSession, peer_id: str, message: Any) -> None:
        seen.append(getattr(message, "peer_id", ""))
        note(self, peer_id, message)

    monkeypatch.setattr(ChainSession, "_note", noting)

    async def run() -> None:
        async with swarm(target, tmp_path, ["0:2", "2:4"]) as model:
            result = await model.generate(PROMPT, max_new_tokens=4)
            assert result.token_ids == greedy(load_whole(target), PROMPT, 4)

    asyncio.run(run())
    assert set(filter(None, seen)) == set(accused)
    assert any("the link to" in line for line in logged())


def test_a_client_goes_on_looking_at_the_swarm_after_a_fault(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(client_target, "REFRESH_SECONDS", 0.02)

    async def run() -> None:
        async with swarm(target, tmp_path, ["0:4"]) as model:
            failed = fails_once(monkeypatch, model.target.roster, "update")
            await until(lambda: failed)
            looks: list[int] = []
            update = model.target.roster.update
            monkeypatch.setattr(model.target.roster, "update", lambda *found: looks.append(1) or update(*found))
            await until(lambda: looks)
            assert "looking at the swarm failed" in logged()[0]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("where", "name"),
    [(ChainSession, "_note"), (ModelDrafter, "grow")],
    ids=["listening to a hop", "working ahead"],
)
def test_a_client_fails_with_the_cause_when_one_of_its_own_tasks_does(
    where: Any, name: str, target: Path, draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:2", "2:4"], tmp_path) as network,
            memory_swarm.client(network, target, draft=str(draft), wait_floor=30.0) as model,
        ):
            fails_once(monkeypatch, where, name)
            async with asyncio.timeout(10):
                with pytest.raises(RuntimeError, match="a bug"):
                    await model.generate(PROMPT, max_new_tokens=8)
            result = await model.generate(PROMPT, max_new_tokens=8)
            assert result.token_ids == greedy(load_whole(target), PROMPT, 8)
            assert result.reroutes == 0  # nobody was blamed

    asyncio.run(run())


def test_a_node_stays_in_the_swarm_and_serves_after_faults(
    monkeypatch: pytest.MonkeyPatch, logged: Callable[[], list[str]]
) -> None:
    """On the real network: in greeting others, in a stream's handler, and in answering a call."""
    listen = ["/ip4/127.0.0.1/tcp/0"]
    monkeypatch.setattr(neighbours, "PERIOD_SECONDS", 0.05)

    async def serve(stream: Stream) -> None:
        raise BUG

    async def run() -> None:
        async with (
            Libp2pNetwork.join(None, host_maddrs=listen) as one,
            Libp2pNetwork.join(None, host_maddrs=listen, initial_peers=await one.maddrs()) as other,
        ):
            failed = fails_once(monkeypatch, Dht, "_walk")
            await until(lambda: failed)
            await until(lambda: any("staying in the swarm failed" in line for line in logged()))
            looked = fails_once(monkeypatch, Dht, "_walk")
            await until(lambda: looked)
            await one.serve(SESSION_PROTOCOL, serve)
            stream = await other.open(Contact(one.peer_id), SESSION_PROTOCOL)
            with pytest.raises(PeerLost):
                await stream.receive()
            stream.close()
            assert any("serving a stream" in line for line in logged())
            fails_once(monkeypatch, DhtNode, "_result")
            await other.get("key")
            await until(lambda: any("answering rpc_find failed" in line for line in logged()))
            await other.get("key")

    asyncio.run(run())


@pytest.mark.parametrize("what", ["_child", "_listen_task"])
def test_a_network_whose_daemon_is_gone_says_so_and_blames_nobody(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarm.daemon._LOOK_SECONDS", 0.05)

    async def serve(stream: Stream) -> None:
        await stream.receive()

    async def run() -> None:
        async with Libp2pNetwork.join(None, host_maddrs=["/ip4/127.0.0.1/tcp/0"]) as network:
            await network.serve(SESSION_PROTOCOL, serve)
            part = getattr(network._p2p, what)
            part.kill() if what == "_child" else part.cancel()
            async with asyncio.timeout(10):
                with pytest.raises(SwarmUnreachable, match="the network daemon has ended"):
                    await network.run()
            for call in (network.open(Contact("12D3KooW"), SESSION_PROTOCOL), network.get("key")):
                with pytest.raises(SwarmUnreachable, match="the network daemon has ended"):
                    await call

    asyncio.run(run())


def test_streams_that_were_handed_over_and_say_nothing_end_with_the_daemon() -> None:
    async def serve(stream: Stream) -> None:
        await stream.receive()

    async def run() -> None:
        async with Libp2pNetwork.join(None, host_maddrs=["/ip4/127.0.0.1/tcp/0"]) as network:
            await network.serve(SESSION_PROTOCOL, serve)
            path = network._p2p._client.control.listen_maddr["unix"]
            reader, writer = await asyncio.open_unix_connection(path)
            await until(lambda: network._p2p._serving)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()

    asyncio.run(run())


def test_a_daemon_that_ends_while_it_is_told_what_to_hand_over_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("swarm.libp2p.CONNECT_SECONDS", 0.5)
    start = Dht.start

    async def started(dht: Dht) -> None:
        p2p = dht._node._p2p
        p2p._child.kill()
        await p2p._child.wait()
        await start(dht)

    monkeypatch.setattr(Dht, "start", started)

    async def run() -> None:
        async with asyncio.timeout(10):
            with pytest.raises(SwarmUnreachable, match="the network daemon did not start"):
                async with Libp2pNetwork.join(None, host_maddrs=["/ip4/127.0.0.1/tcp/0"]):
                    pass

    asyncio.run(run())


def test_a_program_that_ends_by_a_bug_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails_once(monkeypatch, Libp2pNetwork, "join")
    with pytest.raises(SystemExit) as ended:
        main(["status", "--initial-peer", "/ip4/127.0.0.1/tcp/9/p2p/x"])
    assert ended.value.code == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("specswarm: ")]
    assert line == "specswarm: a bug of this program ended it: a bug; its log above says where"


def test_who_waits_for_a_loop_that_cannot_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fails_once(monkeypatch, LoopThread, "_serve")
    with pytest.raises(RuntimeError, match="a bug"):
        LoopThread()


def test_a_thread_that_ends_by_a_fault_is_in_the_log(logged: Callable[[], list[str]]) -> None:
    before = threading.excepthook

    def fail() -> None:
        raise BUG

    try:
        loop = asyncio.new_event_loop()
        tasks.report_strays(loop)
        thread = threading.Thread(target=fail, name="metrics")
        thread.start()
        thread.join()
        loop.call_soon(fail)
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.call_exception_handler({"exception": BUG})  # uvloop does not always say what failed
        loop.close()
    finally:
        threading.excepthook = before
    assert "the thread metrics ended" in logged()[0]
    assert "callback" in logged()[1]
    assert "a callback failed" in logged()[2]
