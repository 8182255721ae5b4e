"""`python -m benchmarks.lab --hosts 3 --delay-ms 25`: a lab that stays up until Ctrl-C."""

import argparse
import signal
import sys
from contextlib import suppress

from benchmarks.lab import Lab, LabError


def main() -> None:
    """Bring a lab up, say how to run programs on its hosts, wait."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lab", description="A lab that stays up until Ctrl-C."
    )
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="one way, between any two hosts")
    parser.add_argument("--jitter-ms", type=float, default=0.0, help="mean extra delay of a packet")
    parser.add_argument("--loss", type=float, default=0.0, help="chance of a packet to be lost")
    parser.add_argument("--rate-mbit", type=float, help="upload rate of each host (default: unlimited)")
    try:
        with Lab(**vars(parser.parse_args())) as lab, suppress(KeyboardInterrupt):
            for host in lab.hosts:
                print(f"{lab.address(host)}    ip netns exec {lab.namespace(host)} PROGRAM ...")
            print("Ctrl-C ends the lab and what runs on its hosts.", flush=True)
            signal.pause()
    except (LabError, ValueError) as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
