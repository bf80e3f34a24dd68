"""The error that has everything that is wrong with settings or files, so that one attempt is enough to mend them."""

from podpair.common.redaction import redact


class FaultsError(Exception):
    """What was given can't be used; `faults` are all the reasons, a line each, with passwords in URLs masked."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = [redact(fault) for fault in faults]
        super().__init__("\n".join(self.faults))
