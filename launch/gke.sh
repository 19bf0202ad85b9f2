#!/usr/bin/env bash
# GKE: a JobSet whose pods are the hosts of one run.
#
#   KIND=tpu IMAGE=host/wmpo_jax:tpu CLAIM=shared-disk HOSTS=16 CHIPS=4 \
#     ACCELERATOR=tpu-v5p-slice TOPOLOGY=4x4x4 \
#     bash launch/gke.sh [--dry-run] --config=configs/libero.py --workdir=/runs/libero
#   KIND=gpu IMAGE=host/wmpo_jax:cuda CLAIM=shared-disk HOSTS=2 CHIPS=8 \
#     ACCELERATOR=nvidia-h100-80gb bash launch/gke.sh ...
#
# CLAIM is a ReadWriteMany PersistentVolumeClaim, mounted as /runs. Any pod that fails restarts all
# of them, except for exit status 2: a mistake in the command would only be repeated. Hosts wait half
# an hour for each other, since nodes and images come when they come. NAME (default wmpo-jax) is the
# JobSet's.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
need KIND IMAGE CLAIM HOSTS CHIPS ACCELERATOR

name=${NAME:-wmpo-jax}
case $KIND in
tpu)
  need TOPOLOGY
  resource=google.com/tpu
  selector="cloud.google.com/gke-tpu-accelerator: $ACCELERATOR
                cloud.google.com/gke-tpu-topology: $TOPOLOGY"
  ;;
gpu)
  resource=nvidia.com/gpu
  selector="cloud.google.com/gke-accelerator: $ACCELERATOR"
  ;;
*)
  echo "$0: KIND is tpu or gpu, not $KIND" >&2
  exit 2
  ;;
esac

# JSON strings are YAML strings.
quoted() {
  local text
  for text in "$@"; do
    text=${text//\\/\\\\}
    printf '                    - "%s"\n' "${text//\"/\\\"}"
  done
}

manifest() {
  cat <<EOF
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
spec:
  failurePolicy:
    maxRestarts: 100
    rules:
      - action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  network:
    enableDNSHostnames: true
  replicatedJobs:
    - name: hosts
      replicas: 1
      template:
        spec:
          parallelism: $HOSTS
          completions: $HOSTS
          completionMode: Indexed
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes:
                  containerName: main
                  operator: In
                  values: [2]
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 600
              nodeSelector:
                $selector
              containers:
                - name: main
                  image: $IMAGE
                  args:
$(quoted "$@")
                  env:
                    - name: JAX_COORDINATOR_ADDRESS
                      value: $name-hosts-0-0.$name:8476
                    - name: WMPO_JOIN_SECONDS
                      value: "1800"
                    - name: JAX_NUM_PROCESSES
                      value: "$HOSTS"
                    - name: JAX_PROCESS_ID
                      valueFrom:
                        fieldRef:
                          fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']
                  resources:
                    limits:
                      $resource: $CHIPS
                  volumeMounts:
                    - name: runs
                      mountPath: /runs
              volumes:
                - name: runs
                  persistentVolumeClaim:
                    claimName: $CLAIM
EOF
}

if [ -n "$dry" ]; then
  manifest "$@"
else
  manifest "$@" | kubectl apply --filename=-
fi
