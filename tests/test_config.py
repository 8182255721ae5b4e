"""Configuration: who beats whom, and that every mistake is one line that names the file and the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from client.config import ClientConfig, GenerationConfig
from peer.config import PeerConfig
from swarm.bootstrap import BootstrapConfig
from swarm.codec import decode, encode
from swarm.config import INITIAL_PEERS_VARIABLE, SECTIONS, load
from swarm.errors import UsageError
from swarm.span import Span
from swarm.speculation.sampling import Sampling
from swarm.speculation.semantic import Leniency
from swarm.wire import Open


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INITIAL_PEERS_VARIABLE, raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "swarm.toml"
    path.write_text(
        'initial_peers = ["/from/top"]\n'
        '[join]\nmodel = "m"\nlayers = "2:5"\ncache_mib = 77\ninitial_peers = ["/from/section"]\n'
        '[client]\nmodel = "m"\nwindow = 3\n'
    )
    return path


def test_option_beats_file_beats_default(file: Path) -> None:
    config = load(PeerConfig, "join", file, {"cache_mib": 5})
    assert (config.cache_mib, config.layers, config.dtype) == (5, Span(2, 5), "float32")
    assert load(PeerConfig, "join", file, {}).cache_mib == 77


def test_option_that_is_not_given_beats_nothing(file: Path) -> None:
    config = load(PeerConfig, "join", file, {"cache_mib": None, "initial_peers": [], "host_maddrs": ()})
    assert config.cache_mib == 77
    assert config.initial_peers == ("/from/section",)
    assert config.host_maddrs == PeerConfig.model_fields["host_maddrs"].default


@pytest.mark.parametrize(("given_", "read"), [("auto", "auto"), ("awc", "awc"), ("8", 8), (0, 0)])
def test_a_window_is_a_number_or_the_name_of_who_chooses_it(file: Path, given_: object, read: object) -> None:
    assert load(ClientConfig, "client", file, {"window": given_}).window == read
    assert load(GenerationConfig, "generate", file, {"window": given_}).window == read


def test_thresholds_come_from_a_table_or_an_option(tmp_path: Path) -> None:
    file = tmp_path / "swarm.toml"
    file.write_text('[generate]\nacceptance = "semantic"\n[generate.semantic]\ntau = 0.5\n')
    assert load(GenerationConfig, "generate", file, {}).semantic == Leniency(tau=0.5)
    assert load(GenerationConfig, "generate", file, {"semantic": {"entropy": 0.1}}).semantic == Leniency(
        entropy=0.1
    )
    assert load(GenerationConfig, "generate", None, {}).acceptance == "match"
    for wrong in ({"tau": 1.5}, {"tao": 0.5}, 0.5):
        with pytest.raises(UsageError, match=r"semantic: .*(tau|tao|object)"):
            load(GenerationConfig, "generate", None, {"semantic": wrong})


def test_option_of_zero_or_false_is_given(file: Path) -> None:
    assert load(ClientConfig, "client", file, {"window": 0}).window == 0


def test_initial_peers_come_from_option_section_top_of_the_file_or_environment(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(INITIAL_PEERS_VARIABLE, "/from/a, /from/b /from/c")
    given_, silent = {"initial_peers": ["/from/option"]}, tmp_path / "silent.toml"
    silent.write_text('[join]\nmodel = "m"\n')
    assert load(PeerConfig, "join", file, given_).initial_peers == ("/from/option",)
    assert load(PeerConfig, "join", file, {}).initial_peers == ("/from/section",)
    assert load(ClientConfig, "client", file, {}).initial_peers == ("/from/top",)
    assert load(PeerConfig, "join", silent, {}).initial_peers == ("/from/a", "/from/b", "/from/c")
    assert load(ClientConfig, "client", None, {"model": "m"}).initial_peers == ("/from/a", "/from/b", "/from/c")


def test_program_that_needs_no_peers_starts_without(file: Path) -> None:
    assert load(BootstrapConfig, "bootstrap", None, {}).initial_peers == ()
    assert load(GenerationConfig, "generate", file, {}).max_new_tokens == 64


def test_who_needs_an_initial_peer_is_told_how_to_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INITIAL_PEERS_VARIABLE, raising=False)
    for kind, section in ((PeerConfig, "join"), (ClientConfig, "client")):
        with pytest.raises(
            UsageError, match=rf"^initial_peers: none is given: use --initial-peer, set {INITIAL_PEERS_VARIABLE}"
        ):
            load(kind, section, None, {"model": "m"})


def test_home_folder_is_found(file: Path) -> None:
    assert load(PeerConfig, "join", file, {"identity": "~/peer.key"}).identity == Path.home() / "peer.key"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[join]\nmodel = 'm'\nchache_mib = 5\n", "chache_mib"),
        ("[jion]\nmodel = 'm'\n", "jion"),
        ("model = 'm'\n", "model"),
        ("[join]\nmodel = 5\n", "model"),
        ("[join]\ncache_mib = 5\n", "model"),
        ("[join]\nmodel = 'm'\ncache_mib = 0\n", "cache_mib"),
        ("[join]\nmodel = 'm'\ncache_mib = 'much'\n", "cache_mib"),
        ("[join]\nmodel = 'm'\nlayers = '5:2'\n", "layers"),
        ("[join]\nmodel = 'm'\nlayers = 'all'\n", "layers"),
        ("[join]\nmodel = 'm'\nlayers = 7\n", "layers"),
        ("[join]\nmodel = 'm'\nlayers = '0:2'\nnum_layers = 2\n", "num-layers"),
        ("[join]\nmodel = 'm'\ndtype = 'float8'\n", "dtype"),
        ("[join]\nmodel = 'm'\ninitial_peers = '/a'\n", "initial_peers"),
        ("[join]\nmodel = 'm'\ninitial_peers = []\n", "initial_peers"),
        ("[join]\nmodel = 'm'\nidle_seconds = nan\n", "idle_seconds"),
        ("join = 5\n", "join"),
        ("[[join]]\nmodel = 'm'\n", "join"),
        ("client = 5\n[join]\nmodel = 'm'\n", "client"),
        ("[join\n", "line 1"),
        ("[join]\nmodel = \n", "line 2"),
        ("[join]\nmodel = 'm'\nmodel = 'n'\n", "line 3"),
        ("\0", "line 1"),
    ],
    ids=repr,
)
def test_mistake_in_the_file_is_one_line_that_names_file_and_key(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "swarm.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as mistake:
        load(PeerConfig, "join", path, {"initial_peers": [] if "initial_peers" in text else ["/a"]})
    assert str(path) in str(mistake.value)
    assert named in str(mistake.value).replace(str(path), "")
    assert "\n" not in str(mistake.value)


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00model")
    for path in (tmp_path / "nowhere.toml", tmp_path, tmp_path / "binary"):
        with pytest.raises(UsageError) as mistake:
            load(PeerConfig, "join", path, {})
        assert str(path) in str(mistake.value)
        assert "\n" not in str(mistake.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"model": "m", "unknown": 1}, "unknown"),
        ({}, "model"),
        ({"model": "m", "window": 65}, "window"),
        ({"model": "m", "window": -1}, "window: neither auto, awc nor a number from 0 to 64"),
        ({"model": "m", "window": "many"}, "window"),
        ({"model": "m", "in_flight": "awc"}, "in_flight: neither auto nor a number from 1 to 16"),
        ({"model": "m", "window": 1.5}, "window"),
        ({"model": "m", "timeout": 0}, "timeout"),
        ({"model": "m", "wire": "int4"}, "wire"),
        ({"model": "m", "wire": "int8", "audit": 0.1}, "audit with --wire exact"),
        ({"model": "m", "timeout": float("nan")}, "timeout"),
        ({"model": "m", "fingerprint": "xyz"}, "fingerprint"),
        ({"model": "m", "initial_peers": []}, "initial_peers"),
    ],
    ids=str,
)
def test_wrong_option_is_one_line_that_names_it(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named) as mistake:
        load(ClientConfig, "client", None, {"initial_peers": ["/a"], **options})
    assert "\n" not in str(mistake.value)


def test_configuration_does_not_change() -> None:
    config = load(ClientConfig, "client", None, {"model": "m", "initial_peers": ["/a"]})
    with pytest.raises(ValidationError):
        config.window = 9  # type: ignore[misc]


def test_every_program_has_its_section(tmp_path: Path) -> None:
    path = tmp_path / "swarm.toml"
    path.write_text("".join(f"[{section}]\n" for section in SECTIONS))
    assert load(BootstrapConfig, "bootstrap", path, {}) == BootstrapConfig()


@settings(max_examples=100, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.floats(),
            "top_k": st.integers(-1, 1 << 40),
            "top_p": st.floats(),
            "repetition_penalty": st.floats(),
            "seed": st.integers(-1, 1 << 65),
        },
    )
)
def test_sampling_that_a_client_may_ask_for_is_one_that_peers_take(options: dict[str, Any]) -> None:
    try:
        config = load(GenerationConfig, "generate", None, options)
    except UsageError:
        return
    sampling = Sampling(config.temperature, config.top_k, config.top_p, config.seed or 0)
    request = Open(bytes(16), "a" * 64, 0, 1, None, None, 0, 1, sampling)
    assert decode(encode(request)) == request


def test_a_key_file_that_nobody_named_is_in_the_users_home() -> None:
    assert PeerConfig(model="m", initial_peers=("a",)).identity == Path.home() / ".config/specswarm/peer.key"
    assert BootstrapConfig().identity == Path.home() / ".config/specswarm/bootstrap.key"
