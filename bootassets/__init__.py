"""
The agent image: kernel and initramfs made from the distribution's own packages, without root and without a chroot.

    apt index ─▶ closure ─▶ .debs (checked, cached) ─▶ unpacked ─▶ a chosen tree ─▶ cpio ─▶ zstd ─▶ base layer (cached)
    provider/agent, domain, wire ──────────────────────────────────────────▶ cpio ─▶ zstd ─▶ agent layer
    base layer + agent layer = initramfs.zst          (the kernel unpacks concatenated archives one after the other)

The base layer holds kernel modules, firmware, Python and busybox. What is not named, or needed by something named, is
not in the image. It depends on the packages and on this folder only, so a change to the agent packs a few hundred
kilobytes again and takes a second.

Reproducible: the same packages and the same sources give the same bytes. Names are sorted, times are 0, owners are
root, inodes are numbered, .pyc files are made by the image's own interpreter with a fixed hash seed.
"""
