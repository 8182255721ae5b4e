"""The failure lab: what a generation goes through while peers die, hang, leave and links break, on a wide-area lab.

    python -m benchmarks.chaos            parts 1 to 3: kills; hangs, cuts and bad links; peers that leave and come
    python -m benchmarks.chaos.attack     part 4: a hostile client beside an honest one
    python -m benchmarks.chaos.deceit     part 5: peers that lie, and a client that audits
    python -m benchmarks.chaos.strangers  part 6: a stranger who asks for a lot, and an honest client beside
    python -m benchmarks.chaos.soak       four clients for half an hour, while peers come and go

Each prints its bars, writes JSON and exits with 1 if a bar was missed; `python -m benchmarks.chaos.summary` makes one
table of all.

bars.py        what is asked: bounds on figures (pure)
report.py      what is printed and written

scenarios.py   what happens in each run, drawn from a seed (pure)
runs.py        what is recorded of each, and what all say of the bars (pure)
agenda.py      when each act is due (pure)
director.py    one run: a generation that is watched, and the acts that its scenario sets down
fleet.py       the swarm's processes on the lab's hosts: started, killed, stopped, brought back
nursery.py     how they are up again within a second or two

hostile_messages.py  what a stranger sends, drawn from a seed (pure)
attacker.py          the process that sends it
liar.py              a peer that lies
resources.py         what a program takes of the machine
"""
