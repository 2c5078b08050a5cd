"""Directions and states belong to one model: what is known of their origin is compared here."""


def require_same_model(provenance, fingerprint, *, what, advice):
    """Raise a ValueError if `provenance` names another model than the one of `fingerprint`.

    Parameters
    ----------
    provenance : dict or None
        Origin of `what`, as in ``TokenRepresentations.provenance``. Without a fingerprint nothing
        is known, and nothing is refused.
    fingerprint : str or callable returning str
        Identity of the model at hand; a callable is asked only where there is something to compare.
    what, advice : str
        Beginning and end of the message.
    """
    origin = (provenance or {}).get("fingerprint")
    if origin is None:
        return
    expected = fingerprint() if callable(fingerprint) else fingerprint
    if expected is not None and origin != expected:
        raise ValueError(
            f"{what} come from the model {provenance.get('model')!r} (fingerprint {origin}), not "
            f"from the model at hand (fingerprint {expected}). {advice}"
        )
