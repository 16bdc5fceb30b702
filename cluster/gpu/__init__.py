"""Simulated GPUs: real Kubernetes around them, simulated silicon inside.

What this folder holds: `models` and `devices` (what is in the slots), `fleet` (the YAML that says which node has
what), `node/` (the agent that runs on GPU nodes), `workload/` (what pods use), `addon` (how it gets into the cluster),
`control` (`kailab gpu`), `scale` (hundreds of nodes without machines, by KWOK), and `use` (how busy those are).
"""

NAMESPACE = "kailab-gpu"
METRICS_PORT = 9400  # as DCGM's exporter
SIMULATED = "kailab.dev/simulated"  # label of nodes without machines
GROUP = "kailab.dev/fleet"  # label of these: the fleet that they belong to
SPEC = "kailab.dev/gpus"  # their annotation: what is in their slots, as JSON
FLEET_CONFIG_MAP = "fleet"  # the same for the course cluster's own nodes, by name
