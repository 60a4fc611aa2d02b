#!/usr/bin/env bash
#SBATCH --job-name=keepaug
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
#
# Trains under Slurm through preemptions and time limits:
#
#     sbatch examples/slurm_requeue.sh --data-dir /data/imagenet --model resnet50 --keep-cut
#
# A requeued job keeps its number, so that it finds its run and goes on from the last whole epoch, to the weights that an
# uninterrupted run would have (--exact-resume). Slurm sends TERM before it takes the nodes away, and USR1 three minutes
# before the time limit (--signal above); either stops the training and puts the job back into the queue. A run that
# ends by itself, well or with an error, is not requeued. Submit from the checkout; PYTHON names its Python.
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this script with sbatch}" || exit 2

export PET_NNODES=$SLURM_JOB_NUM_NODES PET_MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
PET_MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export PET_MASTER_ADDR

stopped=
training=
stop() {
    stopped=1
    [[ -n $training ]] && kill -TERM "$training" 2>/dev/null
}
trap stop USR1 TERM

# One task per node starts one process per GPU.
# shellcheck disable=SC2016
srun --ntasks-per-node=1 bash -c 'PET_NODE_RANK=$SLURM_NODEID exec ./distributed_train.sh "$@"' srun \
    "${SLURM_GPUS_ON_NODE:-1}" --output runs --experiment "slurm-$SLURM_JOB_ID" --exact-resume --resume auto "$@" &
training=$!

# A signal ends the first wait at once; the training may still need a moment to save.
wait "$training"
status=$?
while kill -0 "$training" 2>/dev/null; do
    wait "$training"
    status=$?
done
if [[ -n $stopped && $status -ne 0 ]]; then
    echo "Stopped by Slurm; back into the queue."
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
