"""Errors that a person can act on."""


class KailabError(Exception):
    """What happened, why, and the command that mends it; shown without a traceback.

    `what` is one sentence; `why` may be several lines (a log tail, an API message); `mend` is what to
    type or do next. Commands that end with one exit with status 2: the student's work is not at fault.
    """

    def __init__(self, what: str, *, why: str = "", mend: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.mend = mend

    def __str__(self) -> str:
        return "\n".join(part for part in (self.what, self.why, self.mend and f"Next: {self.mend}") if part)

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in the place of a traceback (InteractiveShell.showtraceback asks for it by this name)."""
        return str(self).splitlines()
