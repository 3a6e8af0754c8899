"""
The program that runs in the machine's memory: it discovers, reports and wipes, and does as little else as it can.

    init.sh ─▶ __main__: network ─▶ trust (pinned CA) ─▶ enrol ─▶ inventory ─▶ work, for ever

It dials out and nobody dials in. Everything it keeps is in memory: when it does not know how to go on, it restarts the
machine, which comes back with a new ticket. It runs on the standard library alone, so that the image stays small, and
on one thread but for what takes long (loading drivers, each disk of a wipe), so that there is one order of events.
"""
