"""Grading a class: every submission in a namespace of its own that it can't leave, results that survive a crash."""
