#!/usr/bin/env bash
# ./distributed_train.sh N FLAGS...   trains on N processes of this machine, one per GPU (or on the CPU with --device cpu)
#
# Several machines: set torchrun's own variables on each, for two machines of 8 GPUs
#   PET_NNODES=2 PET_NODE_RANK=0 PET_MASTER_ADDR=host0 PET_MASTER_PORT=29500 ./distributed_train.sh 8 FLAGS...
# and PET_NODE_RANK=1 on the second.
set -euo pipefail
if ! [[ "${1:-}" =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: $0 N FLAGS...   (N processes on this machine, then the flags of train.py)" >&2
    exit 2
fi
processes=$1
shift
here=$(dirname "$0")
python=${PYTHON:-python3}
# One process checks the flags first: a mistake is one sentence, not one per process in a launcher's report. Asked for
# help, it gives it and nothing is started.
"$python" "$here/train.py" --check "$@"
for flag in "$@"; do
    case $flag in -h | --help) exit 0 ;; esac
done
exec "$python" -m torch.distributed.run --nproc_per_node="$processes" "$here/train.py" "$@"
