"""
Between the world and the decisions.

`machines.py` knows all machines and wakes their workers; `worker.py` brings one machine a step nearer to what is
desired, again and again. `boots.py`, `agents.py`, `desired.py` and `operators.py` are the desks at which the shells
(boot HTTP, agent HTTPS, manager link, operator API) report and ask; each writes facts and wakes the worker, and none
performs steps itself.
"""
