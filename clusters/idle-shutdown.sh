#!/usr/bin/env bash
# Shut this machine down after a time without a running job. Runs on the head of a cloud cluster.
#
#   idle-shutdown.sh DASHBOARD_PORT TOKEN_FILE IDLE_MINUTES
#
# Ray's dashboard says whether a driver is active; when it does not answer the machine counts as
# idle too, so that a broken head does not cost money for ever. One copy runs at a time.
set -euo pipefail
port=$1 token_file=$2 idle_minutes=$3
shutdown=${RSRAY_SHUTDOWN:-sudo shutdown -h now}
pause=${RSRAY_IDLE_PAUSE:-60}
exec 9> "$(dirname "$token_file")/idle-shutdown.lock"
flock -n 9 || exit 0

busy() {
  # The token goes in on standard input: a command line can be read by every account.
  printf 'header = "Authorization: Bearer %s"\n' "$(cat "$token_file")" |
    curl --silent --fail --max-time 30 --config - \
      "http://127.0.0.1:$port/api/component_activities" |
    grep -Eq '"is_?[aA]ctive": *"ACTIVE"'
}

idle_since=$(date +%s)
while true; do
  if busy; then
    idle_since=$(date +%s)
  elif (($(date +%s) - idle_since >= idle_minutes * 60)); then
    echo "idle for $idle_minutes minutes: shutting down"
    $shutdown
    exit 0
  fi
  sleep "$pause"
done
