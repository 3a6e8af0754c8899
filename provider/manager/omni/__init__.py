"""
The link to Sidero Omni: we call its COSI state service, read what it wants of our machines, and write how they are.

| Module | What it does |
|---|---|
| `link` | dials, and dials again; what runs on one connection |
| `presence` | says that we are there: provider status, heartbeat, and that nobody else has our id |
| `machines` | what is wanted of each machine, its status, its finalizers |
| `join` | how machines join Omni, kept on disk for when Omni is away |
| `state` | one call to the state service, and what its failure means |
| `view` | what a watch has shown so far, over all its interruptions |
| `credentials` | the service account key |
| `adoption` | before the first start: what Sidero's own provider left there |
"""
