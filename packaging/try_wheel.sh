#!/usr/bin/env bash
# `make wheels`: the sdist and the wheel into dist/; then, in an environment of its own, what a stranger's first minute
# needs from the wheel alone, and from each extra. Arguments: extras to try, by default onnx, report, data and all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
limits=$PWD/constraints.txt
try=$(mktemp -d)
trap 'rm -rf "$try"' EXIT
rm -rf dist
"$python" -m venv "$try/build"
"$try/build/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$limits" build
"$try/build/bin/python" -m pip wheel --quiet --no-deps --wheel-dir dist --constraint "$limits" .
"$try/build/bin/python" -m build --quiet --sdist --outdir dist .
wheel=$(ls "$PWD"/dist/*.whl)
cd "$try"

fresh() {
    "$python" -m venv --clear "$try/env"
    "$try/env/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$limits" "$1"
}

echo "== the wheel alone"
fresh "$wheel"
"$try/env/bin/python" -c '
import clinch as cl
from clinch.demo import SHAPE, digits, network
net = cl.load(network(), input_shape=SHAPE)
x, z = net.input, net.output
problem = cl.Problem(cl.Minimize(cl.norm(x - digits().x[0], 2)), [x >= 0, x <= 1, z.argmax() != 4])
print(problem.solve(time_limit=60))
try:
    cl.load("net.onnx")
except cl.ClinchError as error:
    assert "clinch-nn[onnx]" in str(error), error
'
"$try/env/bin/clinch" evaluate clinch.demo:network --eps 0.02 --limit 4 --out run
for extra in "${@:-onnx report data all}"; do
    for one in $extra; do
        echo "== [$one]"
        "$try/env/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$limits" "$wheel[$one]"
        case $one in
            onnx) "$try/env/bin/python" -c 'import clinch.network.onnx' ;;
            report) "$try/env/bin/clinch" report run --out page.html && "$try/env/bin/clinch" figure run --out f.pdf ;;
            data) "$try/env/bin/python" -c 'import PIL.Image, sklearn.datasets' ;;
            all) "$try/env/bin/clinch" demo --time-limit 30 ;;
        esac
    done
done
echo "WHEEL: $(basename "$wheel") works from a clean environment."
