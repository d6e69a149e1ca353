#!/bin/sh
# Four hosts on one machine, as network namespaces: ft-a and ft-b for the replicas, ft-arbiter for a tie-breaker, ft-client for the
# guest's clients. docs/split-brain.md uses them.
#
#     hosts.sh up | down                as root
#     hosts.sh cut | heal               the wire between a and b: packets are dropped, and nobody is told
#     hosts.sh cut-arbiter | heal-arbiter
#
#   ft-a 10.99.0.1 ---------------- wire ---------------- 10.99.0.2 ft-b
#   ft-a 10.98.0.1 --- arbiter --- ft-arbiter 10.98.0.3 --- arbiter --- 10.98.0.2 ft-b
#   ft-a br0 (ft0) --- lan --- ft-client 10.0.2.100/24 --- lan --- br0 (ft0) ft-b
set -eu

drop() { # what the hosts do not let in by this interface
    for host in ft-a ft-b; do
        ip netns exec $host nft add table inet cut-"$1"
        ip netns exec $host nft add chain inet cut-"$1" in '{ type filter hook input priority 0; }'
        ip netns exec $host nft add rule inet cut-"$1" in iifname "$1" drop
    done
}

let_in() {
    for host in ft-a ft-b; do
        ip netns exec $host nft delete table inet cut-"$1"
    done
}

up() {
    for host in ft-a ft-b ft-arbiter ft-client; do
        ip netns add $host
        ip -n $host link set lo up
    done
    ip link add wire netns ft-a type veth peer name wire netns ft-b
    for host in ft-arbiter ft-client; do
        ip -n $host link add br0 type bridge
        ip -n $host link set br0 up
    done
    ip -n ft-arbiter address add 10.98.0.3/24 dev br0
    ip -n ft-client address add 10.0.2.100/24 dev br0
    number=0
    for name in a b; do
        host=ft-$name number=$((number + 1))
        ip -n $host address add 10.99.0.$number/24 dev wire
        ip -n $host link set wire up
        ip link add arbiter netns $host type veth peer name to-$name netns ft-arbiter
        ip -n $host address add 10.98.0.$number/24 dev arbiter
        ip -n $host link set arbiter up
        ip -n ft-arbiter link set to-$name master br0 up
        ip link add lan netns $host type veth peer name to-$name netns ft-client
        ip -n ft-client link set to-$name master br0 up
        ip -n $host link add br0 type bridge
        ip -n $host tuntap add dev ft0 mode tap
        ip -n $host link set ft0 master br0 up
        ip -n $host link set lan master br0 up
        ip -n $host link set br0 up
    done
}

case "${1:-}" in
    up) up ;;
    down) for host in ft-a ft-b ft-arbiter ft-client; do ip netns delete $host; done ;;
    cut) drop wire ;;
    heal) let_in wire ;;
    cut-arbiter) drop arbiter ;;
    heal-arbiter) let_in arbiter ;;
    *) sed -n '2,8p' "$0"; exit 2 ;;
esac
