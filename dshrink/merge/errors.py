"""The errors of merging.

MergeError (a DshrinkError)
    NotMergeable         the layers have no exact single convolution; the message says why
    CertificateError     a merged network that differs from what it replaces
"""

from __future__ import annotations

from dshrink.errors import DshrinkError


class MergeError(DshrinkError):
    """Base of all errors of ``dshrink.merge``: layers that do not fit together."""


class NotMergeable(MergeError):  # noqa: N818 - the word that plans and tables use for it
    """Layers without an exact single convolution under the padding mode asked for."""


class CertificateError(MergeError):
    """A merged network that differs from what it replaces by more than the tolerance."""
