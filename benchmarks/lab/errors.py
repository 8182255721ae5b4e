"""The lab's errors.

LabError            the lab broke: a command of `ip` failed, the router ended or does not answer
└── LabUnavailable  this machine cannot run a lab; the message says what is needed
"""


class LabError(RuntimeError):
    """The lab broke; no figure measured on it since can be trusted."""


class LabUnavailable(LabError):
    """This machine cannot run a lab. The message is one line that says what is needed."""
