"""
A fake Talos metal agent: what a provider sees of a machine that waits in Talos, for the lab and for tests.

It is a second implementation, made from siderolabs/talos-metal-agent (the service) and jhump/grpctunnel (the tunnel), and
never from `provider.wire`: its HTTP/2 is the library h2's, its protocol buffers are `wire`'s few lines. It imports nothing else
of ours and nothing but h2, so that it can be packed into an image for a machine.

| Module | What it is |
|---|---|
| `wire` | protocol buffers by hand |
| `stream` | one gRPC call in both directions, over h2 |
| `tunnel` | the agent's end of a reverse tunnel: calls, windows, deadlines |
| `machine` | what the agent runs on: disks, BMC, power; and what was done to them |
| `faults` | what goes wrong on demand |
| `agent`, `__main__` | the five methods, called through the tunnel, which is opened again when it breaks; as a program |
"""
