# Ray's own `ray stop` kills every Ray on a host, and `ray down` runs it by name, on the head only.
# The processes of a cluster carry its name in their environment; these and their children are
# asked to stop, and killed when they have not after ten seconds.
ours() {
  marked=$(grep -lzsxF "$mark" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 | tr '\n' ' ')
  ps -eo pid=,ppid=,stat= | awk -v marked="$marked" '
    BEGIN { n = split(marked, m); for (i = 1; i <= n; i++) is[m[i]] = 1 }
    $3 !~ /^Z/ { parent[$1] = $2 }
    END {
      for (p in parent)
        for (q = p; q + 0 > 1; q = (q in parent ? parent[q] : 0)) if (q in is) { print p; break }
    }'
}
found=$(ours | wc -l)
for signal in TERM KILL; do
  for p in $(ours); do kill -s "$signal" "$p" 2>/dev/null; done
  for _ in $(seq 50); do [ -z "$(ours)" ] && break; sleep 0.2; done
done
if grep -qs "\"cluster_name\": \"$name\"" ~/ray_bootstrap_config.yaml; then
  rm -f ~/ray_bootstrap_config.yaml ~/ray_bootstrap_key.pem
fi
rm -f "$token" "/tmp/ray/cluster-$name.state" "/tmp/ray/cluster-$name.lock"
echo "$found $(ours | wc -l)"
