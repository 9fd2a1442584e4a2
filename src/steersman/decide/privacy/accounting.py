"""What several experiments on the same people give away together: by adding epsilons, or as concentrated privacy.

Leaves out: any accountant of our own. The way from concentrated privacy to (epsilon, delta) is that of Google's package
dp-accounting, and without the package it is refused.
"""

import math
from collections.abc import Iterable, Sequence
from importlib.util import find_spec

from steersman.core.errors import UserError
from steersman.decide.privacy.certificate import PrivacyCertificate


def compose(certificates: Iterable[PrivacyCertificate]) -> float:
    """Epsilon of all of several experiments on the same people: the sum (basic composition).

    Args:
        certificates: of experiments that may have been chosen one after the other.

    Returns:
        The sum of their epsilons; 0 for none.

    Raises:
        UserError: certificates that differ in what one person may change.

    Source: Dwork et al. 2006.
    """
    return math.fsum(c.epsilon for c in _together(certificates))


def zcdp(certificates: Iterable[PrivacyCertificate]) -> float:
    """rho of the zero-concentrated privacy of all of several experiments on the same people.

    rho = sum_i epsilon_i^2 / 2: epsilon-privacy is epsilon^2/2-concentrated, and rhos add.

    Args:
        certificates: as for `compose`.

    Returns:
        rho >= 0; infinite where some experiment promises nothing.

    Raises:
        UserError: as for `compose`.

    Source: Bun and Steinke 2016, proposition 1.4 and lemma 1.7.
    """
    return math.fsum(c.epsilon**2 / 2 for c in _together(certificates))


def epsilon_at(certificates: Iterable[PrivacyCertificate], delta: float) -> float:
    """An epsilon with which all of several experiments together are (epsilon, delta)-private.

    The smaller of the sum of epsilons and what dp-accounting's Renyi accountant makes of `zcdp`. It pays for many
    experiments of small epsilon; one alone keeps its own.

    Args:
        certificates: as for `compose`.
        delta: probability that the bound fails, in (0, 1); far below one over the number of people.

    Returns:
        Epsilon; infinite where some experiment promises nothing.

    Raises:
        UserError: as for `compose`; a delta outside (0, 1); dp-accounting is not installed.

    Source: the conversion of the package dp-accounting, which is not repeated here.
    """
    if not 0 < delta < 1:
        raise UserError(f"delta {delta}", allowed="above 0 and below 1")
    found = _together(certificates)
    if find_spec("dp_accounting") is None:
        raise UserError(
            "the package dp-accounting is not installed",
            where="epsilon_at",
            cure="pip install dp-accounting; compose and zcdp need no package.",
        )
    simple = compose(found)
    if not math.isfinite(simple) or not found:
        return simple
    from dp_accounting import NeighboringRelation, ZCDpEvent
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)
    accountant.compose(ZCDpEvent(zcdp(found)))
    return min(simple, float(accountant.get_epsilon(delta)))


def _together(certificates: Iterable[PrivacyCertificate]) -> Sequence[PrivacyCertificate]:
    found = list(certificates)
    if len({c.neighbouring for c in found}) > 1:
        raise UserError("certificates differ in what one person may change", cure="Add only those that agree.")
    if any(c.delta for c in found):
        raise UserError("a certificate with a delta", allowed="pure promises, delta 0")
    return found
