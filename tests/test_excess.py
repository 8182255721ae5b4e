"""What a client has measured counts more than what peers announce."""

from __future__ import annotations

import asyncio
import subprocess
from functools import partial
from pathlib import Path

import pytest

from benchmarks.chaos.fleet import start_liar
from benchmarks.chaos.liar import Lie, ages
from client import AsyncSwarmModel
from client.excess import Excess, Trips
from client.result import Result
from client.roster import Roster
from specswarm.processes import LOOPBACK, Place, running_swarm
from swarm.errors import ChainLost
from tests import faulty, memory_swarm
from tests.models import greedy, load_whole
from tests.test_chain import LAYERS, SPANS, swarm_of
from tests.test_routing import peer
from tests.test_slow_peers import take
from tests.toy import reference
from tests.toy_swarm import PROMPT, ToyClient


def trips(announced: float, *taken: float) -> Trips:
    """Of a chain."""
    found = Trips()
    for seconds in taken:
        found.note(announced, seconds)
    return found


def test_a_chain_is_slow_by_the_median_of_several_trips() -> None:
    assert trips(0.1, 1.0, 1.0).excess is None
    assert trips(0.1, 0.1, 1.0, 1.0).excess == pytest.approx(0.9)
    assert trips(0.1, 0.1, 1.0, 0.1, 1.0, 0.1).excess == 0.0
    assert trips(0.1, 0.15, 0.15, 0.15).excess == 0.0  # slower, but not much
    assert trips(0.001, 0.04, 0.04, 0.04).excess == 0.0  # much slower, but fast
    assert trips(0.1, *[0.1] * 9, *[1.0] * 3).excess == pytest.approx(0.9)  # the newest count


def test_a_verdict_that_was_on_its_way_tells_whether_a_trip_took_longer() -> None:
    found = trips(0.1, *[0.1] * 5)
    for _ in range(3):
        found.note(0.1, 0.6, at_least=True)
    assert found.excess == pytest.approx(0.5)
    for _ in range(3):
        found.note(0.1, 0.01, at_least=True)
    assert (found.excess, found.seconds) == (0.0, 0.1)


def test_trips_of_another_chain_do_not_count() -> None:
    found = Trips().of("one")
    for _ in range(3):
        found.note(0.1, 1.0)
    assert found.of("one").excess == pytest.approx(0.9)
    assert found.of("other").excess is None


def test_a_peer_is_as_slow_as_the_fastest_chain_with_it_of_late_and_is_tried_again() -> None:
    now = [0.0]
    excess = Excess(lambda: now[0])
    excess.note(["a", "b"], 1.0)
    excess.note(["a", "c"], 0.0)
    excess.note(["a", "d"], 2.0)
    assert excess.seconds == {"b": 1.0, "d": 2.0}
    now[0] = 6.0
    excess.note(["a"], 2.0)
    assert excess.seconds["a"] == 2.0
    now[0] = 60.0
    assert excess.seconds["b"] == pytest.approx(0.5)
    now[0] = 250.0  # "a" was slow twice: that counts for longer
    assert excess.seconds == {}
    excess.note(["b"], 1.0)  # slow again: it counts for twice as long
    now[0] = 370.0
    assert excess.seconds["b"] == pytest.approx(0.5)
    excess.keep(["a"])
    excess.note(["a"], 1.0)
    assert excess.seconds == {"a": 1.0}


def roster(*peers: str) -> Roster:
    """Of a model of two layers; two peers for each."""
    found = Roster(2, lambda: 0.0)
    announced = {name: peer(name, int(name[1]), int(name[1]) + 1, num_layers=2) for name in peers}
    found.update(announced)
    found.round_trips = dict.fromkeys(announced, 0.01)
    return found


def test_a_slow_chain_is_left_for_one_of_others_and_not_for_one_as_slow() -> None:
    known = roster("a0", "a1", "b0")
    hops = known.plan(tokens=1, excluded={"b0"})
    known.excess.note(["a0", "a1"], 1.0)
    assert [hop.contact.peer_id for hop in known.faster(hops, 1.0, text=10, tokens=1)] == ["b0", "a1"]
    known.excess.note(["b0"], 0.9)  # the slow one is a1, or both
    with pytest.raises(ChainLost):
        known.faster(hops, 1.0, text=10, tokens=1)


def test_a_chain_that_takes_little_longer_than_others_promise_is_not_left() -> None:
    known = roster("a0", "a1", "b0")
    hops = known.plan(tokens=1, excluded={"b0"})
    promised = known.expected_seconds(hops, tokens=1)
    known.excess.note(["a0", "a1"], 0.9 * promised)
    with pytest.raises(ChainLost):
        known.faster(hops, 1.9 * promised, text=10, tokens=1)


def test_a_long_text_is_not_computed_anew_for_a_little() -> None:
    known = roster("a0", "a1", "b0")
    hops = known.plan(tokens=1, excluded={"b0"})
    known.excess.note(["a0", "a1"], 1.0)
    assert known.faster(hops, 1.0, text=1000, tokens=1)
    with pytest.raises(ChainLost):
        known.faster(hops, 1.0, text=100_000, tokens=1)


@pytest.mark.parametrize("slow", range(3))
def test_a_peer_that_takes_much_longer_than_it_announces_is_left_beside_the_text(slow: int) -> None:
    """And by the texts after this one, too; nobody is blamed."""

    async def run() -> None:
        swarm = await swarm_of({f"{kind}{i}": SPANS[i] for kind in "ab" for i in range(3)})
        for i in range(3):
            take(swarm, f"a{i}", 0.0, 1e-6)
        take(swarm, f"a{slow}", 0.2, 1e-9)
        record = swarm.directory.peers[f"a{slow}"].model_copy(update={"step_seconds": 1e-6})
        swarm.directory.peers[f"a{slow}"] = record
        client = ToyClient(swarm, window=3)
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert await client.generate(60) == reference(PROMPT, 60, LAYERS)
        assert f"a{slow}" not in [hop.contact.peer_id for hop in client.chain.hops]
        assert client.chain.reroutes == 1
        assert not client.target.roster.cooldowns.active
        assert loop.time() - started < 40
        hops = client.target.roster.plan(tokens=4)
        assert f"a{slow}" not in [hop.contact.peer_id for hop in hops]

    faulty.run(run())


def test_where_nobody_is_faster_a_slow_chain_serves_on() -> None:
    async def run() -> None:
        swarm = await swarm_of({f"{kind}{i}": SPANS[i] for kind in "ab" for i in range(3)})
        for kind in "ab":
            take(swarm, f"{kind}1", 0.2, 1e-9)
        client = ToyClient(swarm, window=3)
        assert await client.generate(60) == reference(PROMPT, 60, LAYERS)
        assert client.chain.reroutes <= 1

    faulty.run(run())


@pytest.mark.parametrize("in_flight", [1, 4])
def test_no_stage_is_believed_to_have_worked_longer_than_has_passed(
    in_flight: int, target: Path, tmp_path: Path
) -> None:
    async def run() -> Result:
        lies: dict[str, Lie] = {}
        async with (
            memory_swarm.peers(target, ["0:2", "2:4"], tmp_path, lies=lies) as network,
            memory_swarm.client(network, target) as model,
        ):
            lies |= dict.fromkeys(model.target.roster.peers, ages)
            return await model.generate(PROMPT, max_new_tokens=24, window=2, in_flight=in_flight)

    result = asyncio.run(run())
    assert result.token_ids == greedy(load_whole(target), PROMPT, 24)
    assert 0 < max(result.compute_seconds) <= result.seconds


def test_a_real_peer_that_boasts_is_left_beside_the_text(target: Path, tmp_path: Path) -> None:
    """It says that it takes a microsecond, and takes a second for each round."""

    def place(number: int) -> Place:
        return LOOPBACK, partial(start_liar, subprocess.Popen, "late") if number == 3 else None

    async def run(initial_peers: list[str], honest: str, liar: str) -> None:
        async with AsyncSwarmModel.connect(
            str(target), initial_peers=initial_peers, threads=1, window=2, in_flight=1
        ) as model:
            roster = model.target.roster
            while len(roster.round_trips) < 3:
                await model.refresh()
            roster._salt = None  # no preferences of its own
            roster.round_trips = {
                **dict.fromkeys(roster.round_trips, 0.001),
                honest: 0.1,
            }  # however busy this machine is
            assert liar in [hop.contact.peer_id for hop in await model.target.plan(tokens=3)]
            result = await model.generate(PROMPT, max_new_tokens=100)
            assert result.token_ids == greedy(load_whole(target), PROMPT, 100)
            assert (liar in [peer_id for peer_id, _ in result.chain], result.reroutes) == (False, 1)
            assert liar not in [hop.contact.peer_id for hop in await model.target.plan(tokens=3)]
            assert not model.target.roster.cooldowns.active

    options = ["--threads", "1"]
    with running_swarm(
        str(target), ("0:2", "2:4", "2:4"), tmp_path, options=options, place=place, ready_seconds=90
    ) as (initial_peers, programs):
        asyncio.run(run(initial_peers, *(str(program.ready["peer_id"]) for program in programs[2:])))
