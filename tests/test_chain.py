"""A chain whose hops die, hang, lie or refuse: what it costs, who is blamed, and that the tokens stay the same."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from peer.limits import DEFAULTS
from peer.metrics import REFUSALS
from swarm.errors import ChainLost, DaemonEnded, PeerLost
from swarm.span import Span
from swarm.speculation.tree import DraftTree
from swarm.wire import SESSION_PROTOCOL, Ask, Broken, Open, Pong, Progress, Refused, Round
from tests import faulty
from tests.faulty import FaultyNetwork, FaultyStream
from tests.toy import VOCAB, reference
from tests.toy_swarm import PROMPT, ToyClient, ToySwarm

LAYERS = 4
COUNT = 30
SPANS = [Span(0, 1), Span(1, 3), Span(3, 4)]


async def swarm_of(names: dict[str, Span], **options: Any) -> ToySwarm:
    swarm = ToySwarm(FaultyNetwork(5), LAYERS, **options)
    for name, span in names.items():
        await swarm.start(name, span)
    return swarm


def pairs() -> dict[str, Span]:
    """Two peers for each span: `a0` and `b0`, ..."""
    return {f"{kind}{i}": span for i, span in enumerate(SPANS) for kind in "ab"}


def generated(names: dict[str, Span], act: Callable[[ToySwarm, ToyClient, int], None], **options: Any) -> ToyClient:
    """The client after COUNT tokens; `act` is called after each verdict with the number of tokens so far."""

    async def run() -> ToyClient:
        swarm = await swarm_of(names)
        client = ToyClient(swarm, window=3, **options)
        tokens = await client.generate(COUNT, lambda done: act(swarm, client, done))
        assert tokens == reference(PROMPT, COUNT, LAYERS)
        return client

    return faulty.run(run())


def once(act: Callable[[ToySwarm, ToyClient], None], at: int = 10) -> Callable[[ToySwarm, ToyClient, int], None]:
    """Do something after the first verdict that brings the text to `at` tokens."""
    done_already: list[bool] = []

    def acting(swarm: ToySwarm, client: ToyClient, done: int) -> None:
        if done >= at and not done_already:
            done_already.append(True)
            act(swarm, client)

    return acting


def name_of(client: ToyClient, hop: int) -> str:
    return client.hops[hop].contact.peer_id


@pytest.mark.parametrize("lost", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)], ids=str)
def test_any_hops_may_die_at_once(lost: tuple[int, ...]) -> None:
    client = generated(pairs(), once(lambda s, c: [s.kill(name_of(c, hop)) for hop in lost] and None))
    assert client.chain.reroutes >= 1
    assert client.chain.stall_seconds > 0


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_mend_computes_the_lost_layers_once_and_sends_the_client_no_states(lost: int) -> None:
    def work(swarm: ToySwarm, client: ToyClient) -> tuple[dict[str, int], tuple[int, int]]:
        return {name: engine.computed for name, engine in swarm.engines.items()}, client.chain.traffic

    before: list[tuple[dict[str, int], tuple[int, int]]] = []
    after: list[tuple[dict[str, int], tuple[int, int]]] = []
    text: list[int] = []

    def act(swarm: ToySwarm, client: ToyClient, done: int) -> None:
        if before and not after and client.chain.reroutes:
            after.append(work(swarm, client))
        if done >= 15 and not before:
            before.append(work(swarm, client))
            text.append(len(PROMPT) + done)
            swarm.kill(name_of(client, lost))

    client = generated(pairs(), act)
    more = {name: after[0][0][name] - before[0][0][name] for name in before[0][0]}
    substitute = name_of(client, lost)
    assert more.pop(substitute) <= (text[0] + 2 * 4) * len(SPANS[lost])  # the text, and the round, perhaps twice
    assert all(count <= 3 * 4 * 2 for count in more.values())  # the others: the round alone, perhaps again
    sent, received = (after[0][1][i] - before[0][1][i] for i in (0, 1))
    assert sent + received < 1500


def test_one_peer_is_replaced_by_several_narrower_ones() -> None:
    names = {"first": Span(0, 1), "wide": Span(1, 4), "x": Span(1, 2), "y": Span(2, 3), "z": Span(3, 4)}
    client = generated(names, once(lambda s, _: s.kill("wide")))
    assert [hop.contact.peer_id for hop in client.hops] == ["first", "x", "y", "z"]


def test_without_a_peer_that_fits_the_gap_another_chain_is_opened() -> None:
    names = {"one": Span(0, 2), "two": Span(2, 4), "all": Span(0, 4)}

    def act(swarm: ToySwarm, client: ToyClient) -> None:
        swarm.kill("all")

    client = generated(names, once(act))
    assert [hop.contact.peer_id for hop in client.hops] == ["one", "two"]
    assert client.chain.reroutes == 1


@pytest.mark.parametrize("hop", [0, 1, 2])
def test_a_hop_that_leaves_is_replaced_between_rounds_and_free_to_go(hop: int) -> None:
    gone: list[str] = []

    def act(swarm: ToySwarm, client: ToyClient) -> None:
        name = name_of(client, hop)

        async def leave() -> None:
            await swarm.services[name].drain(30.0)
            gone.append(name)

        swarm.network.nodes[name].start(leave())

    client = generated(pairs(), once(act))
    assert gone
    assert gone[0] not in {hop.contact.peer_id for hop in client.hops}
    assert (client.chain.reroutes, client.chain.stall_seconds) == (1, 0.0)


@pytest.mark.parametrize("hop", [0, 1, 2])
def test_when_others_take_over_nobody_else_computes_anything_twice(hop: int) -> None:
    """They run the same tokens, and the first hop, where it stays, only what the client gives it."""
    staying: dict[str, Span] = {}

    def act(swarm: ToySwarm, client: ToyClient) -> None:
        names = [name_of(client, i) for i in range(len(SPANS))]
        staying.update({name: span for i, (name, span) in enumerate(zip(names, SPANS, strict=True)) if i != hop})
        swarm.network.nodes[names[hop]].start(swarm.services[names[hop]].drain(30.0))

    async def run() -> set[float]:
        """Tokens that each of the other hops has run."""
        swarm = await swarm_of(pairs())
        client, acting = ToyClient(swarm, window=3), once(act)
        await client.generate(COUNT, lambda done: acting(swarm, client, done))
        assert client.chain.reroutes == 1
        return {swarm.engines[name].computed / len(span) for name, span in staying.items()}

    assert len(faulty.run(run())) == 1


def test_a_hop_that_leaves_is_replaced_only_where_no_verdict_is_on_its_way() -> None:
    """What is on its way would be lost, and the text would wait for a whole trip more."""
    found: list[tuple[int, bool]] = []

    async def run(seed: int) -> None:
        swarm = await swarm_of(pairs())
        swarm.network.random.seed(seed)
        client = ToyClient(swarm, window=3, growths=(0, 2, 4, 8))
        expected = reference(PROMPT, 200, LAYERS)

        def act(done: int) -> None:
            if 10 <= done < 20:
                name = name_of(client, 1)
                swarm.network.nodes[name].start(swarm.services[name].drain(30.0))
            found.append((client.chain.reroutes, client.chain.judges([*PROMPT, *expected[:done]])))

        assert await client.generate(60, act) == expected[:60]
        assert client.chain.reroutes

    for seed in range(10):
        found.append((0, False))
        faulty.run(run(seed))
    assert sum(is_on_its_way for _, is_on_its_way in found) > 30
    moves = [before for before, now in pairwise(found) if now[0] > before[0]]
    assert len(moves) >= 10
    assert not any(was_on_its_way for _, was_on_its_way in moves)


@pytest.mark.parametrize("hop", [0, 1])
def test_who_takes_over_has_opened_the_way_to_the_next_hop_before(hop: int) -> None:
    knew: list[bool] = []

    async def run() -> None:
        swarm = await swarm_of(pairs())
        client = ToyClient(swarm, window=3)
        leaving = list[str]()

        def act(done: int) -> None:
            if done >= 10 and not leaving:
                leaving.append(name_of(client, hop))
                swarm.network.nodes[leaving[0]].start(swarm.services[leaving[0]].drain(30.0))
            if leaving and not client.chain.reroutes:
                (substitute,) = {f"a{hop}", f"b{hop}"} - {*leaving}
                neighbours = {stream.peer_id for stream in swarm.network.nodes[substitute].streams}
                knew.append(name_of(client, hop + 1) in neighbours)

        await client.generate(COUNT, act)
        assert client.chain.reroutes == 1

    faulty.run(run())
    assert knew[-1]


@pytest.mark.parametrize("hop", [0, 1])
def test_who_takes_over_a_long_text_is_given_it_by_and_by(hop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.session.MAX_AHEAD", 16)
    prompt = [i % VOCAB for i in range(200)]

    async def run() -> ToyClient:
        swarm = await swarm_of(pairs(), limits=DEFAULTS.model_copy(update={"max_in_flight": 64}))
        client = ToyClient(swarm, window=3, prompt=prompt)
        acting = once(lambda s, c: s.network.nodes[name_of(c, hop)].start(s.drain(name_of(c, hop))))
        tokens = await client.generate(3 * COUNT, lambda done: acting(swarm, client, done))
        assert tokens == reference(prompt, 3 * COUNT, LAYERS)
        return client

    client = faulty.run(run())
    assert (client.chain.reroutes, client.chain.stall_seconds) == (1, 0.0)


def test_who_could_not_be_given_the_text_to_take_over_is_not_blamed() -> None:
    """The hop before has not kept it: what is on its way at the end is for the mend."""
    blamed: set[str] = set()

    async def run() -> None:
        swarm = await swarm_of(pairs(), max_sent_bytes=40)
        client = ToyClient(swarm, window=3)
        leaving: list[str] = []

        def act(done: int) -> None:
            if done >= 10 and not leaving:
                leaving.append(name_of(client, 1))
                swarm.network.nodes[leaving[0]].start(swarm.drain(leaving[0], 20.0))
            blamed.update(client.target.roster.cooldowns.active - {*leaving})

        assert await client.generate(400, act) == reference(PROMPT, 400, LAYERS)
        assert leaving[0] not in {hop.contact.peer_id for hop in client.hops}

    faulty.run(run())
    assert blamed == set()


def test_two_hops_may_leave_at_once() -> None:
    def act(swarm: ToySwarm, client: ToyClient) -> None:
        for name in (name_of(client, 0), name_of(client, 1)):
            swarm.network.nodes[name].start(swarm.services[name].drain(30.0))

    client = generated(pairs(), once(act))
    assert client.chain.stall_seconds == 0.0


def test_a_peer_that_nobody_can_replace_serves_until_it_is_gone() -> None:
    def act(swarm: ToySwarm, client: ToyClient) -> None:
        swarm.network.nodes["only"].start(swarm.services["only"].drain(30.0))

    client = generated({"first": Span(0, 1), "only": Span(1, 3), "last": Span(3, 4)}, once(act))
    assert client.chain.reroutes == 0


def test_a_hung_hop_is_found_by_asking_and_is_out_until_it_answers() -> None:
    def act(swarm: ToySwarm, client: ToyClient) -> None:
        swarm.network.nodes[name_of(client, 1)].is_hung = True

    client = generated(pairs(), once(act))
    assert client.chain.reroutes == 1
    assert client.chain.stall_seconds < 0.5 + 0.5 + 1.0  # the wait, the survey, the mend


def test_who_is_asked_whether_it_is_us_and_is_silent_holds_up_nothing() -> None:
    def act(swarm: ToySwarm, client: ToyClient) -> None:
        swarm.network.nodes["silent"].is_hung = True
        swarm.kill(name_of(client, 0))

    client = generated({"one": Span(0, 4), "other": Span(0, 4), "silent": Span(0, 1)}, once(act))
    assert client.chain.reroutes == 1
    assert client.chain.stall_seconds < 1.5


@pytest.mark.parametrize("knows_others", [True, False])
def test_if_everybody_is_silent_nobody_is_blamed(knows_others: bool) -> None:
    def act(swarm: ToySwarm, client: ToyClient) -> None:
        swarm.network.nodes["client"].is_hung = True
        asyncio.get_running_loop().call_later(20, swarm.network.nodes["client"].resume)

    alone = {"first": Span(0, 1), "only": Span(1, 3), "last": Span(3, 4)}
    client = generated(pairs() if knows_others else alone, once(act))
    assert client.chain.reroutes == 0
    assert 19 < client.chain.stall_seconds < 30


def test_a_client_whose_streams_all_end_because_it_is_cut_off_blames_nobody() -> None:
    client = generated(pairs(), once(lambda swarm, _: swarm.network.cut_off("client", 20)))
    assert client.target.roster.cooldowns.active == set()
    assert 19 < client.chain.stall_seconds < 35


def test_a_client_that_cannot_open_its_first_chain_because_it_is_cut_off_blames_nobody() -> None:
    async def run() -> ToyClient:
        swarm = await swarm_of(pairs())
        client = ToyClient(swarm, window=3)
        await client.target.refresh()
        swarm.network.cut_off("client", 20)
        await client.chain.prefill(PROMPT)
        verdict = await client.chain.verify(PROMPT, DraftTree((), ()))
        assert [*verdict.tokens] == reference(PROMPT, 1, LAYERS)
        await client.chain.close()
        return client

    assert faulty.run(run()).target.roster.cooldowns.active == set()


def test_a_client_that_is_a_hop_itself_does_not_take_its_own_answer_for_news_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> ToyClient:
        swarm = await swarm_of({"first": Span(0, 1), "a": Span(3, 4), "b": Span(3, 4)})
        client = ToyClient(swarm, window=3)
        await swarm.start("client", Span(1, 3))
        others = [node for name, node in swarm.network.nodes.items() if name != "client"]

        async def is_reachable() -> bool:
            return not any(node.is_hung for node in others)

        def cut_off() -> None:
            for node in others:
                node.is_hung = True
                asyncio.get_running_loop().call_later(20, node.resume)

        monkeypatch.setattr(swarm.directory, "is_reachable", is_reachable)
        acting = once(lambda *_: cut_off())
        tokens = await client.generate(COUNT, lambda done: acting(swarm, client, done))
        assert tokens == reference(PROMPT, COUNT, LAYERS)
        return client

    client = faulty.run(run())
    assert client.chain.reroutes == 0
    assert client.target.roster.cooldowns.active == set()


def test_a_client_whose_own_end_of_the_network_is_gone_blames_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "specswarm")

    def act(swarm: ToySwarm, _: ToyClient) -> None:
        swarm.network.nodes["client"].has_ended = True
        swarm.kill("client")

    with pytest.raises(DaemonEnded, match="start this program again"):
        generated(pairs(), once(act))
    assert caplog.messages == []


def test_others_that_died_with_the_chain_do_not_make_it_this_machines_fault() -> None:
    def act(swarm: ToySwarm, client: ToyClient) -> None:
        for name in {hop.contact.peer_id for hop in client.hops} | others.keys():
            swarm.network.nodes[name].is_hung = True

    others = {name: Span(0, 1) for name in ("x", "y", "z")}
    client = generated(others | pairs(), once(act))
    assert client.chain.reroutes == 1
    assert client.chain.stall_seconds < 10


def test_layers_that_nobody_serves_any_more_are_named_at_once_and_in_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "specswarm")
    with pytest.raises(ChainLost, match="1:3"):
        generated(
            {"first": Span(0, 1), "only": Span(1, 3), "last": Span(3, 4)},
            once(lambda s, _: s.kill("only")),
            timeout=5,
        )
    assert [message.partition("; ")[2] for message in caplog.messages] == ["", "waiting up to 5 s for one"]


def test_a_peer_that_comes_back_goes_on() -> None:
    def act(swarm: ToySwarm, client: ToyClient) -> None:
        swarm.kill("only")
        loop = asyncio.get_running_loop()
        loop.call_later(7, lambda: loop.create_task(swarm.start("only", Span(1, 3))))

    client = generated({"first": Span(0, 1), "only": Span(1, 3), "last": Span(3, 4)}, once(act))
    assert 7 < client.chain.stall_seconds < 15


def intercept(swarm: ToySwarm, name: str, answer: Callable[[FaultyStream, Any], Any]) -> None:
    """Have a peer of the swarm answer messages on client streams by `answer` first; None: as it always does."""
    node = swarm.network.nodes[name]
    honest = node._handlers[SESSION_PROTOCOL]

    async def handle(stream: FaultyStream) -> None:
        receive = stream.receive

        async def receive_what_is_left() -> Any:
            while True:
                message = await receive()
                reply = answer(stream, message)
                if reply is None:
                    return message
                await stream.send(reply)

        stream.receive = receive_what_is_left  # type: ignore[method-assign]
        await honest(stream)

    node._handlers[SESSION_PROTOCOL] = handle


def generated_with(name: str, answer: Callable[[FaultyStream, Any], Any]) -> ToyClient:
    async def run() -> ToyClient:
        swarm = await swarm_of(pairs() | {name: SPANS[int(name[-1])]})
        swarm.directory.peers[name] = swarm.directory.peers[name].model_copy(update={"step_seconds": 0.0})
        intercept(swarm, name, answer)
        client = ToyClient(swarm, window=3)
        assert await client.generate(COUNT) == reference(PROMPT, COUNT, LAYERS)
        return client

    return faulty.run(run())


def test_a_peer_that_answers_but_passes_nothing_on_is_left() -> None:
    def answer(_: FaultyStream, message: Any) -> Any:
        match message:
            case Ask(session, nonce):
                return Progress(session, nonce, 1, 1000, 1, 0, 1000, 0, 0)
            case Round(session=session):
                return Pong(0)
        return None

    client = generated_with("x0", answer)
    assert "x0" not in {hop.contact.peer_id for hop in client.hops}


def saying(**of_itself: int) -> Callable[[FaultyStream, Any], Any]:
    """A first hop that gives no round on, and says this of itself."""

    def answer(_: FaultyStream, message: Any) -> Any:
        match message:
            case Ask(session, nonce):
                return Progress(session, nonce, kept=0, computed=0, worked=0, queued=0, **of_itself)
            case Round(session=session):
                return Pong(0)
        return None

    return answer


def test_a_peer_that_says_it_has_passed_on_what_it_keeps_is_left_at_once() -> None:
    client = generated_with("x0", saying(held=1000, taken=1000, waiting=0))
    assert "x0" not in {hop.contact.peer_id for hop in client.hops}
    assert client.chain.reroutes == 1


@pytest.mark.parametrize("waiting", [0, 1])
def test_a_chain_in_which_the_only_peer_keeps_every_round_to_itself_is_given_up(waiting: int) -> None:
    started: list[float] = []

    def act(swarm: ToySwarm, _: ToyClient) -> None:
        intercept(swarm, "only", saying(held=1000, taken=1000, waiting=waiting))
        for stream in list(swarm.network.nodes["only"].streams):
            stream.close()
        started.append(asyncio.get_running_loop().time())

    async def run() -> float:
        swarm = await swarm_of({"only": SPANS[0], "a1": SPANS[1], "b1": SPANS[1], "a2": SPANS[2], "b2": SPANS[2]})
        client = ToyClient(swarm, window=3, timeout=20)
        acting = once(act)
        with pytest.raises((PeerLost, ChainLost)):
            await client.generate(COUNT, lambda done: acting(swarm, client, done))
        return asyncio.get_running_loop().time() - started[0]

    assert 20 < faulty.run(run()) < 60


@pytest.mark.parametrize("is_patient", [False, True], ids=["for one verdict", "for one after the other"])
def test_a_peer_that_accuses_its_neighbours_again_and_again_is_left_itself(is_patient: bool) -> None:
    accused: list[str] = []
    numbers = set[int]()

    def accuse(stream: FaultyStream, message: Any) -> Any:
        if isinstance(message, Round) and message.judged and not (is_patient and message.number in numbers):
            numbers.add(message.number)
            after = clients[0].chain.hops[1].contact.peer_id
            accused.append(after)
            return Broken(message.session, after, "it is gone")
        return None

    clients: list[ToyClient] = []

    async def run() -> ToyClient:
        swarm = await swarm_of(pairs() | {"x0": SPANS[0], "c1": SPANS[1]})
        swarm.directory.peers["x0"] = swarm.directory.peers["x0"].model_copy(update={"step_seconds": 0.0})
        intercept(swarm, "x0", accuse)
        client = ToyClient(swarm, window=3)
        clients.append(client)
        assert await client.generate(COUNT) == reference(PROMPT, COUNT, LAYERS)
        return client

    client = faulty.run(run())
    assert len(accused) == 2
    assert "x0" not in {hop.contact.peer_id for hop in client.hops}


def test_a_peer_that_refuses_every_round_is_left() -> None:
    def answer(_: FaultyStream, message: Any) -> Any:
        return Refused(message.session, "unlawful", "mood") if isinstance(message, Round) else None

    client = generated_with("x0", answer)
    assert client.chain.reroutes == 1


def test_a_hop_that_refuses_one_round_is_not_given_the_whole_text_again() -> None:
    text: list[int] = []
    computed: list[int] = []

    def refuse(swarm: ToySwarm, client: ToyClient) -> None:
        name = name_of(client, 1)
        (session,) = swarm.tables[name]
        swarm.services[name]._replies[session.id].post(Refused(session.id, "unlawful", "mood"))
        text.append(len(session.tokens))
        computed.append(swarm.engines[name].computed)

    def act(swarm: ToySwarm, client: ToyClient, done: int) -> None:
        refusing(swarm, client, done)
        if text and len(computed) == 1 and done > 25:
            computed.append(swarm.engines[name_of(client, 1)].computed)

    refusing = once(refuse, at=20)
    client = generated(pairs(), act)
    assert client.chain.reroutes == 0
    assert computed[1] - computed[0] < text[0] * len(SPANS[1])


@pytest.mark.parametrize(("before", "after"), [(64, 4), (4, 64)])
def test_a_substitute_that_takes_another_number_at_a_time_makes_nobody_look_guilty(before: int, after: int) -> None:
    """What was sent before the mend may be judged while it is sent again with fewer drafts, or with more."""
    lost: set[str] = set()

    async def run(seed: int) -> None:
        swarm = ToySwarm(FaultyNetwork(seed), LAYERS)
        for name, span in {"first": SPANS[0], "last": SPANS[2], "spare": SPANS[2]}.items():
            await swarm.start(name, span, max_round=64)
        await swarm.start("dies", SPANS[1], max_round=before)
        seconds = 0.05 + seed * 0.002
        await swarm.start("other", SPANS[1], max_round=after)
        swarm.directory.peers["other"] = swarm.directory.peers["other"].model_copy(update={"step_seconds": 0.1})
        client = ToyClient(swarm, window=14)
        acting = once(lambda s, _: asyncio.get_running_loop().call_later(seconds, s.kill, "dies") and None)
        tokens = await client.generate(2 * COUNT, lambda done: acting(swarm, client, done))
        assert tokens == reference(PROMPT, 2 * COUNT, LAYERS)
        lost.update(client.target.roster.cooldowns.active)

    for seed in range(60):
        faulty.run(run(seed))
    assert lost == {"dies"}


def test_what_was_sent_ahead_and_lost_is_not_taken_for_there_under_another_number() -> None:
    """The next hop's cache has drafts that did not stand where the lost text belongs, and the client is cut off before
    it can learn that anything was lost."""
    text, wrong = reference(PROMPT, 60, LAYERS), [0] * 20
    beside = DraftTree((*wrong, *text[:20]), (*range(-1, 19), -1, *range(20, 39)))

    async def run() -> None:
        swarm = ToySwarm(FaultyNetwork(5), LAYERS)
        for i, span in enumerate(SPANS):
            await swarm.start(f"hop{i}", span, max_round=64)
        client = ToyClient(swarm, window=3)
        await client.target.refresh()
        first = await client.chain.verify(PROMPT, beside)
        assert [*first.tokens] == text[:21]
        assert client.chain.settled == len(PROMPT)

        node = swarm.network.nodes["client"]
        losing = next(stream for stream in swarm.network.nodes["hop0"].streams if stream.peer_id == "hop1")
        losing.deliver = lambda _: None  # type: ignore[method-assign]
        verdict = asyncio.create_task(client.chain.verify([*PROMPT, *text[:21]], DraftTree.chain(text[21:24])))
        await asyncio.sleep(0.2)
        await client.chain.send_more(DraftTree((text[24],), (2,)))
        await asyncio.sleep(0.1)
        node.is_hung = True
        del losing.deliver
        asyncio.get_running_loop().call_later(20, node.resume)
        second = await verdict
        assert [*second.tokens] == text[21 : 21 + len(second.tokens)]
        await client.chain.close()

    faulty.run(run())


def test_results_that_are_longer_than_a_substitute_takes_reach_it_in_parts() -> None:
    prompt = [i % VOCAB for i in range(1000)]
    refused = REFUSALS.labels("unlawful")
    before = refused._value.get()

    async def run(death: float) -> None:
        swarm = await swarm_of({})
        for name, span in {"first": SPANS[0], "dies": SPANS[1], "last": SPANS[2]}.items():
            await swarm.start(name, span, max_round=32)
        await swarm.start("other", SPANS[1], max_round=4)
        swarm.directory.peers["other"] = swarm.directory.peers["other"].model_copy(update={"step_seconds": 0.1})
        client = ToyClient(swarm, window=3, prompt=prompt)
        asyncio.get_running_loop().call_later(death, swarm.kill, "dies")
        assert await client.generate(3) == expected
        assert client.chain.reroutes == 1

    expected = reference(prompt, 3, LAYERS)
    for death in (0.3, 0.35, 0.4):
        faulty.run(run(death))
    assert refused._value.get() == before


@pytest.mark.parametrize("why", ["full", "stranger"])
def test_who_refuses_a_session_is_left_for_that_reason(why: Any) -> None:
    """And not because its session is not there, as it says of the round that follows."""
    opened: list[str] = []

    def answer(_: FaultyStream, message: Any) -> Any:
        if isinstance(message, Open):
            opened.append(message.fingerprint)
            return Refused(message.session, why, "no room")
        return None

    client = generated_with("x0", answer)
    assert len(opened) == 1
    assert client.target.roster.cooldowns.active == {"x0"}


def test_who_was_prepared_for_other_layers_begins_anew() -> None:
    """It holds what a leaving hop holds, when that hop dies together with the next one, and it takes over both."""
    cases: list[bool] = []

    async def run(seed: int) -> None:
        swarm = await swarm_of({"first": Span(0, 1), "leaves": Span(1, 3), "last": Span(3, 4)})
        swarm.network.random.seed(seed)
        client = ToyClient(swarm, window=3)
        await swarm.start("both", Span(1, 4))
        swarm.directory.peers["both"] = swarm.directory.peers["both"].model_copy(update={"step_seconds": 0.1})

        def act(done: int) -> None:
            names = {hop.contact.peer_id for hop in client.hops}
            if done >= 5 and "leaves" in swarm.network.nodes and not swarm.tables["leaves"].is_leaving:
                swarm.network.nodes["leaves"].start(swarm.services["leaves"].drain(30.0))
            if len(swarm.tables["both"]) and {"leaves", "last"} <= names & swarm.network.nodes.keys():
                cases.append(True)
                swarm.kill("leaves")
                swarm.kill("last")

        assert await client.generate(COUNT, act) == reference(PROMPT, COUNT, LAYERS)
        assert client.target.roster.cooldowns.active <= {"leaves", "last"}

    for seed in range(10):
        faulty.run(run(seed))
    assert cases


def test_a_death_while_a_long_text_is_on_its_way_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.session.MAX_AHEAD", 32)
    monkeypatch.setattr("client.mending.MAX_AHEAD", 32)
    prompt = [i % VOCAB for i in range(400)]

    async def run(death: float) -> float:
        loop = asyncio.get_running_loop()
        swarm = await swarm_of(pairs())
        client = ToyClient(swarm, window=3, prompt=prompt)
        loop.call_later(death, lambda: swarm.kill(client.chain.hops[1].contact.peer_id))
        assert await client.generate(8) == reference(prompt, 8, LAYERS)
        return loop.time()

    undisturbed = faulty.run(run(1000.0))
    assert max(faulty.run(run(0.55 + 0.1 * i)) for i in range(18)) < 2 * undisturbed + 2.0


def test_an_error_of_our_own_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        swarm = await swarm_of(pairs())
        client = ToyClient(swarm, window=3)
        with pytest.raises(ZeroDivisionError):
            await client.generate(COUNT, lambda done: monkeypatch.setattr(client.chain, "_take", lambda *_: 1 // 0))
        assert client.target.roster.cooldowns.active == set()

    faulty.run(run())
