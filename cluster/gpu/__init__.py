"""Simulated GPUs: real Kubernetes around them, simulated silicon inside.

What this folder holds: `models` and `devices` (what is in the slots), `fleet` (the YAML that says which node has
what), `node/` (the agent that runs on GPU nodes), `workload/` (what pods use), `addon` (how it gets into the cluster),
`control` (`kailab gpu`), and `scale` (hundreds of nodes without machines, by KWOK).
"""

NAMESPACE = "kailab-gpu"
METRICS_PORT = 9400  # as DCGM's exporter
SIMULATED = "kailab.dev/simulated"  # label of nodes without machines
