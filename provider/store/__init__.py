"""
State that outlives the process: SQLModel tables on SQLite (WAL).

`database.py` owns the connection: one writer thread that commits what waits in groups, and readers beside it.
`tables.py` holds the rows; nobody outside this package sees one. `machines.py` is the heart: every change of a machine
goes through `MachineStore.change`, which writes the change, its events and what the manager must learn of it in one
transaction.
"""
