"""
The lab: whole machines on one box, from the power button to the manager, with nothing left behind.

What is what, from the outside in:

- `namespaces` starts the lab again inside network, process and mount namespaces of its own. The kernel removes
  everything in them when the lab's first process is gone, whatever way it went.
- `network` makes two bridges: machines boot on the one, BMCs live on the other.
- `machines` are QEMU processes (`qemu`) with prefilled `disks`, each behind a BMC (`bmc`) that holds the power switch.
- `daemons` runs provider and manager as processes of their own with ordinary configuration files, and `uplink` is the
  wire between those two, which can be cut.
- `managers` is what the lab wants of a manager: of our own, or (`omni_manager`) of the fake Omni in `omni`. With that one,
  machines run `lab_talos`, whose image `talos` makes, and the story is that of `omni_story`.
- `witness` writes down what provider and manager say happened; `story` presses the buttons, waits for the witness and
  looks at the disks from outside; `summary` and `view` tell people.

Nothing in the provider knows of the lab.
"""
