#!/bin/sh
# PID 1 of the agent image: mounts what Linux programs expect and keeps the agent running.
# The agent is a child, so that even its crash cannot take the machine down with a kernel panic.

mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o nosuid,mode=0755 devtmpfs /dev
mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs /run
exec </dev/console >/dev/console 2>&1

export PATH=/usr/bin HOME=/ PYTHONPATH=/usr/lib/bootwright PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

crashes=0
while [ "$crashes" -lt 20 ]; do
    python3 -S -m "${BOOTWRIGHT_PROGRAM:-provider.agent}"
    status=$?
    crashes=$((crashes + 1))
    echo "bootwright: the agent ended (status $status, $crashes times now); it is started again in 10 seconds"
    sleep 10
done
echo "bootwright: the agent cannot run here; restarting the machine in 5 minutes"
sleep 300
reboot -f
