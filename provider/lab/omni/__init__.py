"""
A fake Omni: what a static infra provider sees of a real one, for the lab and for tests.

It is a second implementation, made from descriptions of the wire and never from `provider.wire`: its messages come from its
own .proto files, signatures are checked by Sequoia, and rules and transitions follow Omni's sources. A test that passes against
it says something because two readings agree.

| Module | What it is |
|---|---|
| `protos`, `names`, `resources` | messages; types, namespaces, labels; a resource as a value |
| `state`, `queries`, `storage` | the COSI state with its history, in memory and in SQLite |
| `keys`, `accounts`, `signatures` | OpenPGP keys, who holds them, and the check of each call |
| `access` | who may read and write what |
| `service`, `management` | the gRPC services |
| `join`, `life` | how a machine comes in, and what Omni's controllers make of it |
| `desk`, `desk_http`, `desk_client`, `machine_port` | what the user does; the same over HTTP; what machines say |
| `faults`, `gate` | what goes wrong on demand, in calls and in connections |
| `factory` | a tiny Image Factory |
| `fake`, `__main__` | all of it together; as a program |
| `talos_agent` | the agent in a machine that waits in Talos, which talks to the provider and not to Omni |

One event loop runs everything, and no method that changes the state awaits in the middle: there are no locks.
"""
