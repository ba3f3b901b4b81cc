"""From a profile to the values of each chapter's parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .profile import Profile, Size


@dataclass(frozen=True)
class Units:
    """What turns relative strengths into coefficients.

    Attributes:
        keys, values: the relative strength that a coefficient of 1 amounts to.
        n_layers: of the model.
    """

    keys: float
    values: float
    n_layers: int


def parameters_for(profile: Profile, size: Size, units: Units) -> dict[str, dict[str, Any]]:
    """The values of each chapter's parameters, by the chapter's number; under `""` those of all that have them.

    Args:
        profile: of the model.
        size: which of its sizes.
        units: of the model, under the profile's task, first style, pairs and shots.

    Returns:
        Plain numbers, texts and lists.

    >>> from kvsteer_lab.reproduction.profile import read_profile
    >>> values = parameters_for(read_profile("smollm2-135m"), "quick", Units(0.5, 0.4, 30))
    >>> values[""]["CV"], values["03"]["COEFFICIENTS"]
    (3.0, [1.0, 2.0, 3.0, 6.0])
    """
    own = profile.sizes(size)
    first, second = profile.styles
    few = max(2, own.dev // 2)

    def of_values(dose: float) -> float:
        return _rounded(dose / units.values)

    doses, every = list(profile.doses), _stride(units.n_layers, own.layers)
    coefficients = [of_values(dose) for dose in doses]
    layers = None if own.layers is None else _some(units.n_layers, own.layers)
    heads = None if own.layers is None else [0, 1]
    full_key = _rounded(1 / units.keys) if units.keys > 0 else 1.0
    shared = dict(
        **dict(STYLE=first, OTHER_STYLE=second, SHOTS=own.shots, PAIRS=own.pairs, CK=0.0, CV=of_values(profile.dose)),
        **dict(N_DEV=own.dev, N_TEST=own.test, CONTROLS=own.controls, EVERY=every, CELLS=own.cells),
        **dict(REPLY={"max_new_tokens": own.new_tokens}, NEW=own.new_tokens, OUTCOME=profile.outcome),
        **dict(OTHER_TASK=profile.task),
    )
    chapters: dict[str, dict[str, Any]] = {
        "01": dict(MORE_SHOTS=own.shots + 1),
        "02": dict(MORE_PAIRS=2 * own.pairs),
        "03": dict(COEFFICIENTS=coefficients),
        "05": dict(CK=full_key, LOW=of_values(profile.dose * 0.6), HIGH=of_values(profile.dose * 2)),
        "06": dict(FIRST=first, SECOND=second, SHUFFLES=39 if size == "quick" else 199, N_CONTROLLED=few),
        "07": dict(
            CKS=[-full_key, 0.0, full_key],
            CVS=[0.0, *coefficients],
            DOSES=doses,
            WEAK=_rounded(profile.dose / 2),
            N_GRID=few,
            N_TEST=own.dev if size == "quick" else own.test,
            SEEDS=2 if size == "quick" else 5,
            EXTRACTED=[1, own.pairs // 2] if size == "quick" else [1, 3, 10, 30],
            EXAMPLES=[own.shots] if size == "quick" else [1, 3, 5],
            TEMPERATURES=[0, 1] if size == "quick" else [0, 0.5, 1, 1.5],
        ),
        "08": dict(DOSES=doses, N_CURVE=own.dev),
        **{number: dict(N=max(4, few), LAYERS=layers, HEADS=heads) for number in ("09a", "09b", "09c")},
        "11": dict(STYLES=[first, second], CVS=[0.0, *coefficients]),
        "12": dict(
            DOSE=min(profile.doses),  # where some vectors work and others don't
            LAYERS=_some(units.n_layers, 2 if size == "quick" else 3),
            NUMBERS=[2, 4] if size == "quick" else [2, 5, 20],
            RIVALS=[2] if size == "quick" else [2, 4, 8],
            DRAWS=2 if size == "quick" else 12,
            PLANTED=3 if size == "quick" else 10,  # 96 vectors are made of so many pairs each
        ),
        "13": dict(N=few, TURNS=3 if size == "quick" else 4),
        "15": dict(LEARNED=own.pairs, STEPS=4) if size == "quick" else {},
    }
    for number, name in (
        *((number, "CONTROL") for number in ("06", "09a", "09b", "09c")),
        ("12", "OTHER"),
        ("13", "OTHER"),
    ):
        chapters[number][name] = profile.comparison
    return {"": shared, **chapters}


def _rounded(number: float) -> float:
    """Three digits: a coefficient that can be typed."""
    return float(f"{number:.3g}")


def _stride(n_layers: int, wanted: int | None) -> int:
    return 1 if wanted is None else max(1, round((n_layers - 1) / wanted))


def _some(n_layers: int, wanted: int) -> list[int]:
    """Layers above the first, at even distances."""
    return sorted({1 + round(i * (n_layers - 2) / max(1, wanted - 1)) for i in range(wanted)})
