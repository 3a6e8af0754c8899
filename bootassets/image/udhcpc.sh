#!/bin/sh
# Called by busybox udhcpc with the event in $1 and the lease in variables; sets the address up and tells the agent.
# shellcheck disable=SC2154  # The variables are set by udhcpc.

case "$1" in
deconfig)
    ip address flush dev "$interface"
    ip link set dev "$interface" up
    ;;
bound | renew)
    ip address replace "$ip/$mask" dev "$interface"
    for gateway in $router; do
        ip route replace default via "$gateway" dev "$interface"
        break
    done
    for server in $dns; do
        echo "nameserver $server"
    done >/etc/resolv.conf
    # Written at once or not at all: the agent waits for this file.
    echo "$interface $ip/$mask" >/run/bootwright-lease.new
    mv /run/bootwright-lease.new /run/bootwright-lease
    ;;
esac
