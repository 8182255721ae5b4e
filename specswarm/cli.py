"""The command line: options in, one configuration object, one program started."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from specswarm import console
from swarm import PROTOCOL, VERSION
from swarm.foreign import printable
from swarm.lifetime import Signals

app = typer.Typer(
    help="Serve and use large language models over a swarm of volunteer peers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

InitialPeers = Annotated[
    list[str] | None,
    typer.Option("--initial-peer", help="Address of a node of the swarm; may be given several times."),
]
HostMaddrs = Annotated[
    list[str] | None,
    typer.Option(
        "--host-maddr", help="Address to listen on, e.g. /ip4/0.0.0.0/udp/31331/quic-v1; several are fine."
    ),
]
AnnounceMaddrs = Annotated[
    list[str] | None,
    typer.Option("--announce-maddr", help="Address that others should dial, where it is not the one listened on."),
]
IdentityFile = Annotated[Path | None, typer.Option("--identity", help="Key file; made on first use.")]
SwarmKey = Annotated[
    Path | None, typer.Option("--swarm-key", help="Key file of a private swarm; `specswarm key` makes one.")
]
MetricsPort = Annotated[
    int | None, typer.Option("--metrics-port", help="Serve counters for Prometheus at this port, on loopback.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file with further options.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on standard output.")]


def _version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"specswarm {VERSION}, protocol {PROTOCOL}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print version and protocol.")
    ] = False,
) -> None:
    """Options of no command."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command; `arguments` are those of the process unless given. Ends by SystemExit."""
    with console.edge():
        console.quiet_libraries()
        console.let_threads_sleep()
        app(args=arguments, prog_name="specswarm")


@app.command()
def bootstrap(
    initial_peer: InitialPeers = None,
    host_maddr: HostMaddrs = None,
    announce_maddr: AnnounceMaddrs = None,
    identity: IdentityFile = None,
    swarm_key: SwarmKey = None,
    metrics_port: MetricsPort = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Host a node by which others find the swarm; prints the addresses to hand out."""
    from swarm import bootstrap as node
    from swarm.config import load

    settings = load(
        node.BootstrapConfig,
        "bootstrap",
        config,
        {
            "initial_peers": initial_peer,
            "host_maddrs": host_maddr,
            "announce_maddrs": announce_maddr,
            "identity": identity,
            "swarm_key": swarm_key,
            "metrics_port": metrics_port,
        },
    )

    async def program(signals: Signals) -> None:
        await node.serve(settings, partial(ready, signals), signals.stop)

    def ready(signals: Signals, peer_id: str, maddrs: list[str]) -> None:
        signals.serves = True
        if json:
            console.print_json(event="ready", peer_id=peer_id, maddrs=maddrs, span=None, model=None)
        else:
            console.say("bootstrap node is up; peers and clients join with any of:")
            print("\n".join(f"--initial-peer {maddr}" for maddr in maddrs), flush=True)

    console.run(program)


@app.command()
def join(
    model: Annotated[str, typer.Argument(help="Folder, hub id, or 'embedded'.")],
    initial_peer: InitialPeers = None,
    layers: Annotated[str | None, typer.Option(help="Layers A:B to serve, half open.")] = None,
    num_layers: Annotated[int | None, typer.Option(help="How many layers; which, the swarm decides.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32 (default), bfloat16 or float16: see README on which texts stay the same."),
    ] = None,
    quantize: Annotated[
        str | None, typer.Option(help="int8 or nf4: see README on which texts stay the same.")
    ] = None,
    draft: Annotated[
        str | None, typer.Option(help="Draft model, to draft for clients and run their generations here.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    threads: Annotated[int | None, typer.Option(help="Processor threads for computing.")] = None,
    cache_mib: Annotated[int | None, typer.Option(help="Memory for all sessions' caches.")] = None,
    max_session_tokens: Annotated[int | None, typer.Option(help="Of one text; default: as many as fit.")] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="Peer id of a client that may use this peer; default: all may.")
    ] = None,
    deny: Annotated[
        list[str] | None, typer.Option(help="Peer id of a node that may neither use this peer nor push to it.")
    ] = None,
    uplink_mbit: Annotated[
        float | None, typer.Option(help="Upload speed, Mbit/s, by which packing pays or not; default 100.")
    ] = None,
    behind_nat: Annotated[
        bool | None,
        typer.Option("--behind-nat", help="No connection from outside arrives here: be reached by relay."),
    ] = None,
    host_maddr: HostMaddrs = None,
    announce_maddr: AnnounceMaddrs = None,
    identity: IdentityFile = None,
    swarm_key: SwarmKey = None,
    metrics_port: MetricsPort = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Serve layers of a model to the swarm until told to stop."""
    from peer import node
    from peer.config import PeerConfig
    from specswarm.drafting import drafting
    from swarm.config import load

    settings = load(
        PeerConfig,
        "join",
        config,
        {
            "model": model,
            "initial_peers": initial_peer,
            "layers": layers,
            "num_layers": num_layers,
            "device": device,
            "dtype": dtype,
            "quantize": quantize,
            "draft": draft,
            "revision": revision,
            "threads": threads,
            "cache_mib": cache_mib,
            "max_session_tokens": max_session_tokens,
            "allow": allow,
            "deny": deny,
            "uplink_mbit": uplink_mbit,
            "behind_nat": behind_nat,
            "host_maddrs": host_maddr,
            "announce_maddrs": announce_maddr,
            "identity": identity,
            "swarm_key": swarm_key,
            "metrics_port": metrics_port,
        },
    )

    async def program(signals: Signals) -> None:
        beside = drafting(settings) if settings.draft else node.nothing_else
        await node.serve(settings, partial(ready, signals), signals.stop, beside)

    def ready(signals: Signals, peer: node.Ready) -> None:
        signals.serves = True
        gc.freeze()  # a full collection over all that the libraries hold would stop a round for 0.2 s
        if json:
            span = [peer.span.start, peer.span.end]
            console.print_json(event="ready", peer_id=peer.peer_id, maddrs=peer.maddrs, span=span, model=peer.model)
        else:
            console.say(f"peer {peer.peer_id} serves layers {peer.span} of {printable(peer.model)}")

    console.run(program)


@app.command()
def generate(
    model: Annotated[str, typer.Argument(help="The target: folder or hub id with its tokenizer, or 'embedded'.")],
    initial_peer: InitialPeers = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Default: standard input.")] = None,
    draft: Annotated[str | None, typer.Option(help="Draft model, or 'ngram', or 'none'.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Default 64.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0, the default, is greedy.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw among so many tokens; 0: all.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw among the likeliest with this much mass.")] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1: repeat less; default: the model's own.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="For temperature > 0; random if not given.")] = None,
    special_tokens: Annotated[
        bool | None,
        typer.Option(help="Whether the prompt's text may name control tokens of the model; default: it may."),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(help="Most tokens drafted a round; default: auto; awc: by AWC's network; 0: plain decoding."),
    ] = None,
    tree: Annotated[bool | None, typer.Option(help="Whether drafts branch; default: they do.")] = None,
    in_flight: Annotated[
        str | None, typer.Option(help="Rounds on their way at a time; default: auto; 1: one after the other.")
    ] = None,
    acceptance: Annotated[
        str | None,
        typer.Option(help="Which drafts stand: match (default), rejection, for sampled text, or semantic, lossy."),
    ] = None,
    semantic: Annotated[
        Path | None,
        typer.Option(help="Judge by semantic, as leniently as this file of `specswarm calibrate` says: lossy."),
    ] = None,
    evidence_k: Annotated[
        str | None, typer.Option(help="Probabilities sent with a draft, under rejection; default: auto.")
    ] = None,
    draft_at: Annotated[
        str | None, typer.Option(help="Where to draft: auto (default), client, or peer (one that offers it).")
    ] = None,
    wire: Annotated[
        str | None,
        typer.Option(help="Between peers: exact (default), or int8, half or less the bytes, LOSSY: another text."),
    ] = None,
    fingerprint: Annotated[str | None, typer.Option(help="Which weights, if several are served.")] = None,
    allow: Annotated[list[str] | None, typer.Option(help="Peer id to use; several are fine; default: all.")] = None,
    deny: Annotated[list[str] | None, typer.Option(help="Peer id not to use; several are fine.")] = None,
    identity: Annotated[
        Path | None, typer.Option(help="Key file, for peers that serve only clients they know; made on first use.")
    ] = None,
    swarm_key: SwarmKey = None,
    metrics_port: MetricsPort = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    threads: Annotated[int | None, typer.Option(help="Processor threads for drafting.")] = None,
    audit: Annotated[
        float | None, typer.Option(help="Share of rounds after which other peers judge the text again; 0 to 1.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds without progress after which to give up.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Keep the tokens in this file; if it has some, go on from there.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Add to this file what the draft thought of each token of the text.")
    ] = None,
    explain: Annotated[
        bool, typer.Option(help="Say afterwards what a trip costs, and what its drafts bring.")
    ] = False,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Generate text through the swarm, streamed as it comes."""
    from client.api import AsyncSwarmModel
    from client.config import ClientConfig, GenerationConfig
    from client.journal import Journal
    from client.prompt import check_text
    from specswarm import calibrate as calibration
    from specswarm import outcome
    from swarm.config import load

    settings = load(
        ClientConfig,
        "client",
        config,
        {
            "model": model,
            "initial_peers": initial_peer,
            "draft": draft,
            "draft_at": draft_at,
            "wire": wire,
            "fingerprint": fingerprint,
            "allow": allow,
            "deny": deny,
            "identity": identity,
            "swarm_key": swarm_key,
            "metrics_port": metrics_port,
            "revision": revision,
            "threads": threads,
            "audit": audit,
            "timeout": timeout,
        },
    )
    options = load(
        GenerationConfig,
        "generate",
        config,
        {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "repetition_penalty": repetition_penalty,
            "seed": seed,
            "special_tokens": special_tokens,
            "window": window,
            "tree": tree,
            "in_flight": in_flight,
            "acceptance": acceptance or ("semantic" if semantic else None),
            "semantic": calibration.read(semantic) if semantic else None,
            "evidence_k": evidence_k,
            "resume": resume,
            "record": record,
        },
    )
    goes_on = prompt is None and options.resume is not None and Journal.read(options.resume) is not None
    text = console.read_text() if prompt is None and not goes_on else prompt
    if text is not None:
        text = check_text(console.as_text(text))

    async def program(_: Signals) -> None:
        async with AsyncSwarmModel.connect_with(settings) as connected:
            gc.freeze()  # as for a peer
            generation = connected.stream(text, **options.model_dump(exclude_unset=True))
            async for piece in generation:
                if not json:
                    print(piece, end="", flush=True)
            if json:
                console.print_json(**outcome.as_json(generation.result))
            else:
                print(flush=True)
                console.say(outcome.summary(generation.result))
            if explain:
                console.say(outcome.explanation(generation.result))

    console.run(program)


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help="The target: folder or hub id with its tokenizer, or 'embedded'.")],
    file: Annotated[Path, typer.Option(help='Lines of {"prompt", "answer"}: validation, nothing that tests.')],
    initial_peer: InitialPeers = None,
    draft: Annotated[str | None, typer.Option(help="Draft model.")] = None,
    loss: Annotated[float, typer.Option(help="Most points of accuracy that may be lost.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Where to write the thresholds.")] = Path("semantic.toml"),
    temperature: Annotated[float | None, typer.Option(help="0, the default, is greedy.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Default 64.")] = None,
    seed: Annotated[int, typer.Option(help="Of the first prompt, for temperature > 0.")] = 1,
    swarm_key: SwarmKey = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Find how lenient the lossy rule `semantic` may be: for a stated loss of accuracy on a validation file."""
    from client.config import ClientConfig, GenerationConfig
    from specswarm import calibrate as calibration
    from swarm.config import load

    options = {"model": model, "initial_peers": initial_peer, "draft": draft, "swarm_key": swarm_key}
    settings = load(ClientConfig, "client", config, options)
    wanted = load(
        GenerationConfig, "generate", config, {"temperature": temperature, "max_new_tokens": max_new_tokens}
    )
    examples = calibration.read_examples(file)
    match, others = console.run(lambda _: calibration.calibrate(settings, wanted, examples, seed))
    chosen = calibration.report(match, others, loss, is_json=json)
    if chosen is None:
        sys.exit(1)
    calibration.write(out, match, chosen)
    console.say(f"{out} has the setting that is marked: it is lossy; generate --semantic {out}")


@app.command()
def status(
    initial_peer: InitialPeers = None,
    swarm_key: SwarmKey = None,
    identity: Annotated[
        Path | None, typer.Option("--identity", help="Key file of your own peer: also show whom it limits.")
    ] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """List the swarm's models, peers and spans, the layers nobody serves, and whom your own peer limits."""
    from specswarm import status as report
    from swarm.config import load

    settings = load(
        report.StatusConfig,
        "status",
        config,
        {"initial_peers": initial_peer, "swarm_key": swarm_key, "identity": identity},
    )

    async def program(_: Signals) -> None:
        found = await report.look(settings)
        if json:
            console.print_json(**found.as_dict())
        else:
            report.show(found)

    console.run(program)


class _FileFirst(TyperGroup):
    """`simulate FILE` is `simulate run FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the command before what is no command."""
        if args and args[0] not in {*self.commands, "--help"}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


simulator = typer.Typer(
    cls=_FileFirst,
    no_args_is_help=True,
    help="Predict what a swarm would do, in virtual time, with its own policies.",
)
app.add_typer(simulator, name="simulate")


@simulator.command("run")
def simulate(
    scenario: Annotated[Path, typer.Argument(help="TOML file: what the swarm is like; see configs/scenarios.")],
    sweep: Annotated[
        list[str] | None, typer.Option(help="KEY=A,B,C: with each of these values; several make all combinations.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, by chance of their own.")] = 3,
    plot: Annotated[Path | None, typer.Option(help="Folder for a picture of the sweep.")] = None,
    json: Json = False,
) -> None:
    """Run a scenario: `specswarm simulate FILE` does that, too."""
    from specswarm.simulate import simulate as run

    run(scenario, sweep or [], seeds, plot, is_json=json)


@simulator.command("calibrate")
def calibrate_simulator(
    lab_run: Annotated[
        Path, typer.Argument(help="As `make bench-simulator` writes it: benchmarks/results/lab-run.json.")
    ],
    json: Json = False,
) -> None:
    """Print the parts of a scenario (stage, draft, transport, cores) that fit a lab run."""
    from specswarm.simulate import calibrate as run

    run(lab_run, is_json=json)


@app.command()
def key(file: Annotated[Path, typer.Argument(help="Where to put it.")]) -> None:
    """Make the key of a private swarm, to be handed to its members."""
    from swarm.membership import make_key

    make_key(file)
    console.say(f"{file} is the key of a swarm of your own: give it to bootstrap, join and generate by --swarm-key")


@app.command()
def demo() -> None:
    """A swarm of four peers on this machine: two answers, and plain against speculative decoding."""
    from specswarm.demo import run_demo

    sys.exit(run_demo())
