"""Finding a study from the text that names it, "module:ATTRIBUTE".

The names of the shipped studies live one floor up (`studies.STUDIES`); a text is imported only after the command line
has checked that the user allowed it. Leaves out: which studies exist.
"""

import hashlib
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steersman.core.errors import UserError
from steersman.store.provenance import made_by
from steersman.study.declare import Study


def load_study(spec: str) -> Study:
    """Import the study that `spec` names.

    Args:
        spec: "module:ATTRIBUTE".

    Raises:
        UserError: no such module or attribute, or it is not a `Study`. An error inside the module keeps its traceback.
    """
    module, colon, attribute = spec.partition(":")
    if not colon or not module or not attribute:
        raise UserError(f"{spec!r} does not name a study", allowed='"module:ATTRIBUTE"')
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise UserError(f"there is no module {error.name!r}", where=spec) from None
        raise
    except AttributeError:
        if hasattr(sys.modules.get(module), attribute):
            raise
        raise UserError(f"module {module!r} has no {attribute!r}", where=spec) from None
    if not isinstance(found, Study):
        raise UserError(f"is a {type(found).__name__}, not a Study", where=spec)
    return found


def code_of(spec: str) -> dict[str, str]:
    """What makes a finished run stale when it changes: our source, the study's own module, torch.

    Args:
        spec: as `load_study`, already imported.

    Returns:
        JSON values to compare with `code_in`; the study's module counts apart only where it lives outside this library.
    """
    full = made_by()
    code = {k: full[k] for k in ("source", "torch") if k in full}
    module = spec.partition(":")[0]
    file = getattr(sys.modules.get(module), "__file__", None)
    if not module.startswith("steersman.") and file:
        code["study"] = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    return code


def code_in(made: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a stored ``made_by`` that `code_of` gives."""
    return {k: made[k] for k in ("source", "torch", "study") if k in made}
