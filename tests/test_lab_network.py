"""The lab's network: what it decides of every packet. No root, no clock."""

import socket
from collections.abc import Iterator

import pytest

from benchmarks.lab import Lab, Traffic
from benchmarks.lab.messages import (
    MAX_DATAGRAM,
    MAX_HOSTS,
    Command,
    Cut,
    GetTraffic,
    Heal,
    Links,
    ResetTraffic,
    SetDelay,
    SetLoss,
    SetRate,
    Start,
    TrafficReport,
    decode_command,
    decode_reply,
    encode,
)
from benchmarks.lab.network import QUEUE_S, Network

SUBNET = "10.77.9"
FOREVER = 1e9


def links(
    hosts: int = 3,
    delay_ms: float = 25.0,
    jitter_ms: float = 0.0,
    rate_mbit: float | None = None,
    reorder: bool = False,
    behind_nat: tuple[int, ...] = (),
) -> Links:
    return Links(
        hosts=hosts,
        delay_ms=delay_ms,
        jitter_ms=jitter_ms,
        loss=0.0,
        rate_mbit=rate_mbit,
        reorder=reorder,
        seed=1,
        behind_nat=behind_nat,
    )


def packet(address: str, size: int = 100, mark: int = 0) -> bytes:
    """An IPv4 packet as far as the network looks at it."""
    to = bytes(int(part) for part in address.split("."))
    return bytes([0x45]) + bytes(15) + to + mark.to_bytes(4) + bytes(size - 24)


def datagram(to: int, here: int, there: int) -> bytes:
    """A packet to that host from one port to another."""
    data = packet(f"{SUBNET}.{to + 1}", size=40)
    return data[:20] + here.to_bytes(2) + there.to_bytes(2) + data[24:]


def marks(arrivals: Iterator[tuple[int, bytes]]) -> list[int]:
    return [int.from_bytes(arrived[20:24]) for _, arrived in arrivals]


def test_packet_arrives_after_the_delay_of_its_pair() -> None:
    network = Network(SUBNET, links())
    network.apply(SetDelay(80, (0, 2)))
    network.send(0, packet(f"{SUBNET}.2"), now=10.0)
    network.send(2, packet(f"{SUBNET}.1"), now=10.0)
    assert network.next_due == pytest.approx(10.025)
    assert [dst for dst, _ in network.arrivals(10.02)] == []
    assert [dst for dst, _ in network.arrivals(10.03)] == [1]
    assert [dst for dst, _ in network.arrivals(10.09)] == [0]
    assert network.next_due is None


@pytest.mark.parametrize("reorder", [False, True])
def test_jitter_reorders_a_pair_only_if_asked_to(reorder: bool) -> None:
    network = Network(SUBNET, links(jitter_ms=10, reorder=reorder))
    for mark in range(200):
        network.send(0, packet(f"{SUBNET}.2", mark=mark), now=mark / 1e3)
    arrived = marks(network.arrivals(FOREVER))
    assert sorted(arrived) == list(range(200))
    assert (arrived == sorted(arrived)) is not reorder


def test_rate_spaces_packets_out_and_drops_what_a_full_uplink_cannot_hold() -> None:
    network = Network(SUBNET, links(delay_ms=0, rate_mbit=8))  # 1 ms per 1000 bytes
    for _ in range(1000):
        network.send(0, packet(f"{SUBNET}.2", size=1000), now=5.0)
    assert len(list(network.arrivals(5.0505))) == 50
    assert len(list(network.arrivals(FOREVER))) == pytest.approx(QUEUE_S * 1e3 - 50, abs=1)


def test_rate_of_one_host_does_not_slow_another() -> None:
    network = Network(SUBNET, links(delay_ms=0, rate_mbit=8))
    for _ in range(100):
        network.send(0, packet(f"{SUBNET}.3", size=1000), now=0.0)
    network.send(1, packet(f"{SUBNET}.3", size=1000), now=0.0)
    assert len(list(network.arrivals(0.0015))) == 2


def test_rate_can_be_set_for_one_host_alone() -> None:
    network = Network(SUBNET, links(delay_ms=0))
    network.apply(SetRate(8, 0))
    for src in (0, 1):
        for _ in range(100):
            network.send(src, packet(f"{SUBNET}.3", size=1000), now=0.0)
    assert len(list(network.arrivals(0.0005))) == 100
    assert len(list(network.arrivals(0.0105))) == 10
    assert len(list(network.arrivals(FOREVER))) == 90
    network.apply(SetRate(None, 0))
    network.send(0, packet(f"{SUBNET}.3"), now=1.0)
    assert network.next_due == 1.0


def test_loss_is_the_share_of_packets_asked_for() -> None:
    network = Network(SUBNET, links())
    network.apply(SetLoss(0.25))
    for _ in range(4000):
        network.send(0, packet(f"{SUBNET}.2"), now=0.0)
    assert len(list(network.arrivals(FOREVER))) == pytest.approx(3000, abs=150)


def test_cut_loses_packets_on_their_way_to_the_host() -> None:
    network = Network(SUBNET, links())
    network.send(0, packet(f"{SUBNET}.2"), now=0.0)
    network.apply(Cut(1))
    network.send(1, packet(f"{SUBNET}.1"), now=0.0)
    assert list(network.arrivals(FOREVER)) == []
    network.apply(Heal(1))
    network.send(1, packet(f"{SUBNET}.1"), now=0.0)
    assert [dst for dst, _ in network.arrivals(FOREVER)] == [0]


def test_host_behind_nat_hears_only_from_where_it_has_sent_to() -> None:
    network = Network(SUBNET, links(behind_nat=(1, 2)))

    def arrives(src: int, dst: int, here: int, there: int) -> bool:
        network.send(src, datagram(dst, here, there), now=0.0)
        return [dst for dst, _ in network.arrivals(FOREVER)] == [dst]

    assert not arrives(0, 1, 5, 9)
    assert arrives(1, 0, 9, 5)
    assert arrives(0, 1, 5, 9)
    assert not arrives(0, 1, 6, 9)  # another port there
    assert not arrives(0, 1, 5, 8)  # and here
    assert not arrives(2, 1, 5, 9)  # and another host, ...
    assert arrives(1, 2, 9, 5)  # ... until both have sent
    with pytest.raises(ValueError, match="behind NAT"):
        links(hosts=2, behind_nat=(2,))


@pytest.mark.parametrize("address", ["224.0.0.2", "10.77.8.2", f"{SUBNET}.0", f"{SUBNET}.4", "8.8.8.8"])
def test_packets_to_anywhere_else_are_dropped(address: str) -> None:
    network = Network(SUBNET, links())
    network.send(0, packet(address), now=0.0)
    network.send(0, b"\x60" + packet(f"{SUBNET}.2")[1:], now=0.0)  # IPv6
    network.send(0, b"\x45", now=0.0)
    assert network.next_due is None


def test_traffic_counts_packets_and_bytes_of_each_direction() -> None:
    network = Network(SUBNET, links())
    for size in (100, 300):
        network.send(0, packet(f"{SUBNET}.2", size=size), now=0.0)
    assert network.apply(GetTraffic()) == TrafficReport([(0, 1, Traffic(packets=2, bytes=400))])
    network.apply(ResetTraffic())
    assert network.apply(GetTraffic()) == TrafficReport([])


@pytest.mark.parametrize(
    "command",
    [
        Start(SUBNET, links()),
        SetDelay(1.5),
        SetDelay(2, (0, 1)),
        SetLoss(0.5),
        SetRate(None),
        SetRate(10),
        SetRate(0.5, 2),
        Cut(2),
    ],
)
def test_commands_survive_the_wire(command: Command) -> None:
    assert decode_command(encode(command)) == command


def test_the_largest_reply_is_one_datagram() -> None:
    pairs = [(a, b, Traffic(10**9, 10**12)) for a in range(MAX_HOSTS) for b in range(MAX_HOSTS)]
    router, lab = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with router, lab:
        router.send(encode(TrafficReport(pairs)))
        assert decode_reply(lab.recv(MAX_DATAGRAM)) == TrafficReport(pairs)


def test_values_that_no_network_has_are_refused() -> None:
    for hosts in (0, 65):
        with pytest.raises(ValueError, match="1 to 64 hosts"):
            Lab(hosts)
    with pytest.raises(ValueError, match="delay"):
        Lab(2, delay_ms=-1)
    with pytest.raises(ValueError, match="loss"):
        SetLoss(1.1)
    with pytest.raises(ValueError, match="rate"):
        SetRate(0)
