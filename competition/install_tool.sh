#!/usr/bin/env bash
# VNN-COMP: install the tool. Argument: the version of the scripts' convention, "v1".
#   PYTHON   the interpreter to make the environment with (default: python3)
#   CLINCH   what to install, with its extra onnx: a folder or a name (default: the folder above this one)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ "${1:-}" != "v1" ]; then
    echo "install_tool.sh: the first argument is '${1:-}'; expected v1." >&2
    exit 1
fi
environment=${CLINCH_ENVIRONMENT:-$here/environment}
"${PYTHON:-python3}" -m venv "$environment"
"$environment/bin/python" -m pip install --quiet "${CLINCH:-$here/..}[onnx]"
"$environment/bin/clinch" --version
