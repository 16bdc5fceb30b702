"""The checker's face in a notebook: a lab's panel, and a view of the cluster that follows it."""

from checkers.notebook.panel import Panel
from checkers.notebook.view import View

__all__ = ["Panel", "View"]
