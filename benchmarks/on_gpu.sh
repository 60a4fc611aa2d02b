#!/usr/bin/env bash
# One report on one GPU in at most eight minutes: the tests that need CUDA, the price of every saliency, a small study.
#
#   benchmarks/on_gpu.sh --data-dir /data/cifar10 > benchmarks/results/on_gpu.txt
#   benchmarks/on_gpu.sh --device cpu --tiny        # every step of it on a CPU; its numbers say nothing
#
# All flags go to on_gpu.py. PYTHON names the interpreter, .venv/bin/python unless set.
set -u
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH=.
total=$((8 * 60))
tests=150

echo "Tests that need CUDA"
timeout "$tests" "$python" -m pytest -q -rs -m gpu tests/gpu
failed=$?
# Half a minute for what on_gpu.py imports, and for the run that is not over when its time is.
minutes=$(awk "BEGIN { print ($total - $SECONDS - 30) / 60 }")
timeout $((total - SECONDS)) "$python" benchmarks/on_gpu.py --minutes "$minutes" "$@" || failed=$?
exit $failed
