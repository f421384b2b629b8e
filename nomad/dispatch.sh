#!/bin/sh
# Dispatches a parameterized job and waits for its end. Exit code 0 only if it completed.
# nomad/dispatch.sh migrate
set -eu

# Seconds to wait. A migration is far quicker; a task that cannot be placed waits for ever.
limit=${LIMIT_SECONDS:-600}
job=$1

id=$(nomad job dispatch -detach "$job" | sed -n 's/^Dispatched Job ID *= *//p')
test -n "$id" || { echo "failed to dispatch $job" >&2; exit 1; }
echo "dispatched $id"

waited=0
while test "$waited" -lt "$limit"; do
  # One word an allocation: pending, running, complete, failed, lost.
  states=$(nomad job allocs -t '{{ range . }}{{ .ClientStatus }} {{ end }}' "$id" 2>/dev/null || true)
  case " $states" in
    *" failed "* | *" lost "*)
      allocation=$(nomad job allocs -t '{{ with index . 0 }}{{ .ID }}{{ end }}' "$id")
      nomad alloc logs "$allocation" || true
      nomad alloc logs -stderr "$allocation" >&2 || true
      echo "$id failed" >&2
      exit 1
      ;;
    *" complete "*)
      echo "$id completed"
      exit 0
      ;;
  esac
  sleep 1
  waited=$((waited + 1))
done
echo "$id did not end within $limit s: nomad job status $id" >&2
exit 1
