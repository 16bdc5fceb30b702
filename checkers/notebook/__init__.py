"""The checker's face in a notebook: a lab's panel, and a view of the cluster that follows it."""

from checkers.notebook.panel import Panel

__all__ = ["Panel"]
