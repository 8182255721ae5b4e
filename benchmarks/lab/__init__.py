"""A wide-area network on one Linux machine: real IP hosts, joined by links of chosen delay, loss and rate.

Each host is a network namespace with one TUN device; one router process reads every packet that a host sends
and writes it to its destination when it is due. The programs under test use the kernel's own TCP and UDP.
Everything else about them is real too: nothing is mocked, and nothing they send can leave the lab.

    messages.py    what the lab and its router say to each other
    network.py     decides when, and whether, each packet arrives (no clock, no files)
    router.py      the process that moves the packets
    control.py     starts, asks and stops that process
    namespaces.py  hosts: made, found again after a crash, removed, with the processes in them
    machines.py    hosts with a share of the processors each
    signals.py     Ctrl-C, SIGTERM and SIGHUP while a lab is up
    lab.py         `Lab`, which owns it all

The router adds 0.05 ms to a one-way delay (median; 0.4 ms at the 99th percentile) and takes 10 % of one core
to carry 2000 packets/s, measured on a virtual machine with two cores, with and without programs busy on both.

Needs root, /dev/net/tun and the `ip` command; `LabUnavailable` says which of them is missing.
"""

from benchmarks.lab.errors import LabError, LabUnavailable
from benchmarks.lab.lab import Lab
from benchmarks.lab.messages import Traffic

__all__ = ["Lab", "LabError", "LabUnavailable", "Traffic"]
