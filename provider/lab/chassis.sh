#!/bin/sh
# What ipmi_sim runs for each chassis command: chassis.sh FOLDER get NAME...  or  chassis.sh FOLDER set NAME VALUE...
# FOLDER has a file per state to read, and the FIFO `switch`, which the lab always holds open: nothing here ever waits.
# ipmi_sim stands still meanwhile, and an impatient client then sends its command again.
folder=$1 verb=$2
shift 2
case $verb in
get)
    for name in "$@"; do
        read -r value <"$folder/$name" || value=0
        echo "$name:$value"
    done
    ;;
set)
    while [ $# -ge 2 ]; do
        echo "$1 $2" >"$folder/switch"
        shift 2
    done
    ;;
*)
    exit 1
    ;;
esac
