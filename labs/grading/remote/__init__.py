"""Grading a class inside a cluster: a queue kept in the API itself, and an Indexed Job of workers that empty it."""

NAMESPACE = "kailab-grading"
WORKER = "kailab-grading-worker"  # its cluster-wide role; its ServiceAccount is `worker` in the namespace
