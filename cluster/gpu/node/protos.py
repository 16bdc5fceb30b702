"""The kubelet's gRPC interfaces, compiled from the .proto files beside this one when first used.

The files are our own, cut down to what the agent speaks; names and numbers are the wire format that the kubelet
of Kubernetes v1.37 defines in k8s.io/kubelet/pkg/apis. Each file has a name of its own, since protobuf keeps one
register of file names for the whole process.
"""

from __future__ import annotations

import functools
from types import ModuleType

import grpc

FOLDER = "cluster/gpu/node/proto"


@functools.cache
def load(name: str) -> tuple[ModuleType, ModuleType]:
    """Messages and services of `<name>.proto`, which gRPC finds as Python finds this package."""
    messages, services = grpc.protos_and_services(f"{FOLDER}/{name}.proto")
    return messages, services
