#!/usr/bin/env bash
# VNN-COMP: run an instance. Arguments: v1, category, network, specification, results file, seconds.
# The results file gets one word, sat, unsat, timeout or unknown, and after sat the counterexample; error where Clinch
# could not read the instance.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ "${1:-}" != "v1" ]; then
    echo "run_instance.sh: the first argument is '${1:-}'; expected v1." >&2
    exit 1
fi
if [ $# -lt 6 ]; then
    echo "run_instance.sh: give v1, the category, a network, a specification, a results file and seconds." >&2
    exit 1
fi
network=$3 specification=$4 results=$5 seconds=$6
[ -f "$network" ] || network=$network.gz
[ -f "$specification" ] || specification=$specification.gz
# the word is counted from the call of this script
tool=${CLINCH_COMMAND:-${CLINCH_ENVIRONMENT:-$here/environment}/bin/clinch}
$tool verify "$network" "$specification" --timeout "$seconds" > "$results.unfinished"
code=$?
if [ $code -gt 1 ]; then
    echo error > "$results.unfinished"
fi
mv "$results.unfinished" "$results"
[ $code -le 1 ]
