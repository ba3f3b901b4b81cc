"""`kvsteer` among the models of lm-evaluation-harness, which looks for none by itself, so its command is run here:

python -m kvsteer_lab.integrations.lm_eval run --model kvsteer --model_args pretrained=...,vectors=...,cv=4 ...
"""

from __future__ import annotations

from typing import Any

from .._util.extras import import_extra
from .harness_model import HarnessModel


def register_lm_eval() -> type[Any]:
    """Make `--model kvsteer` known to lm-evaluation-harness in this process.

    Returns:
        The class that the harness makes models of, a `HarnessModel`.

    Raises:
        ImportError: the harness isn't installed.

    >>> import kvsteer_lab as kv, lm_eval  # doctest: +SKIP
    >>> kv.integrations.register_lm_eval()  # doctest: +SKIP
    >>> lm_eval.simple_evaluate("kvsteer", "pretrained=tiny", ["arc_easy"], limit=4)  # doctest: +SKIP
    """
    registry = import_extra("lm_eval.api.registry", "lm-eval").model_registry
    import_extra("lm_eval.models", "lm-eval")
    if "kvsteer" not in registry:
        base = import_extra("lm_eval.api.model", "lm-eval").LM
        registry.register("kvsteer", target=type("KVSteerLM", (HarnessModel, base), {"__doc__": HarnessModel.__doc__}))
    return registry.get("kvsteer")


def main() -> None:
    """The harness's own command, with `kvsteer` among its models; what is refused is one sentence."""
    try:
        register_lm_eval()
        import_extra("lm_eval.__main__", "lm-eval").cli_evaluate()
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
