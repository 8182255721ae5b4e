"""The failure lab: what a generation goes through while peers die, hang, leave and links break, on a wide-area lab.

scenarios.py   what happens in each run, drawn from a seed (no processes)
fleet.py       the swarm's processes on the lab's hosts: started, killed, stopped, brought back
director.py    one run: a generation that is watched, and the acts that its scenario sets down
report.py      the table
"""
