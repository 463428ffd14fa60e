#!/usr/bin/env bash
# Make the network of clusters/gcp-gpu.yaml: ssh from one address, everything among its own nodes.
#
#   bash clusters/gcp-network.sh PROJECT REGION ADDRESS      for example my-project us-central1 203.0.113.7/32
#
# Run again with another address, it moves the rule. Costs nothing.
set -euo pipefail
if (($# != 3)); then
  sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
project=$1 region=$2 address=$3
if ! [[ $address =~ ^[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+/(2[4-9]|3[0-2])$ ]]; then
  echo "error: $address is no address of yours such as 203.0.113.7/32" >&2
  exit 2
fi
cloud() { gcloud --project "$project" --quiet compute "$@"; }
exists() { cloud "$@" > /dev/null 2>&1; }

exists networks describe rsray || cloud networks create rsray --subnet-mode custom
exists networks subnets describe rsray --region "$region" ||
  cloud networks subnets create rsray --network rsray --region "$region" --range 10.77.0.0/20
exists firewall-rules describe rsray-among-nodes ||
  cloud firewall-rules create rsray-among-nodes --network rsray --allow tcp,udp,icmp \
    --source-ranges 10.77.0.0/20
if exists firewall-rules describe rsray-ssh; then
  cloud firewall-rules update rsray-ssh --source-ranges "$address"
else
  cloud firewall-rules create rsray-ssh --network rsray --allow tcp:22 --source-ranges "$address"
fi
