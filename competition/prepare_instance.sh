#!/usr/bin/env bash
# VNN-COMP: prepare an instance. Arguments: v1, category, network, specification.
# Nothing is converted; files that are missing are told here, where no time is measured.
set -euo pipefail
if [ "${1:-}" != "v1" ]; then
    echo "prepare_instance.sh: the first argument is '${1:-}'; expected v1." >&2
    exit 1
fi
if [ $# -lt 4 ]; then
    echo "prepare_instance.sh: give v1, the category, a network and a specification." >&2
    exit 1
fi
for file in "$3" "$4"; do
    if [ ! -f "$file" ] && [ ! -f "$file.gz" ]; then
        echo "prepare_instance.sh: there is no file $file." >&2
        exit 1
    fi
done
