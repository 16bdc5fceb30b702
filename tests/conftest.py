"""For all tests: Ctrl-C means what it usually does, also where a CI runner has switched it off."""

from __future__ import annotations

import signal

# Processes in the background of a script ignore SIGINT, and so would those that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
