"""Fleets of simulated nodes: hundreds of GPU nodes in the course cluster, without machines behind them.

Real are the Node and Pod objects, the scheduler, the controllers and the API server's work with them; KWOK plays the
kubelets. Nothing runs in such a pod.
"""

from cluster.gpu.scale.membership import join, leave, members, reopen, wait_ready
from cluster.gpu.scale.plan import fleet, groups, nodes, spread

__all__ = ["fleet", "groups", "join", "leave", "members", "nodes", "reopen", "spread", "wait_ready"]
