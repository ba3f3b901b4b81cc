"""Tables written for reading: p-values are never shown as zero, other numbers have three digits."""

from __future__ import annotations

import pandas as pd

from .._util.html import TextTable
from .._util.terms import in_terms


def readable(table: pd.DataFrame, decimals: int | None = None) -> pd.DataFrame:
    """The same table as text: numbers with three digits, p-values below 0.001 as `<0.001`, missing numbers left blank.

    Args:
        table: any table of results; columns called `p` or `p_...` hold p-values.
        decimals: how many all numbers of the table have that aren't whole by nature (p-values keep three), so that a
            column has one format; by default three digits each.

    Returns:
        A table of strings. Columns and labels that the field calls otherwise have its terms: `reasoned` is the CoT
        rate, `dose` the relative strength, `forced 'Step'` a response prefill.

    Examples:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> kv.stats.readable(pd.DataFrame({"gain": [0.12345, -1.0], "p": [0.0004, 0.04]})).to_numpy().tolist()
        [['0.123', '<0.001'], ['-1', '0.040']]
        >>> kv.stats.readable(pd.DataFrame({"gain": [0.12345, -1.0]}), decimals=2).gain.tolist()
        ['0.12', '-1.00']
    """
    written = TextTable(
        {name: [_write(str(name), value, decimals) for value in table[name]] for name in table.columns},
        index=table.index,
    )
    return in_terms(written)


def _write(name: str, value: object, decimals: int | None) -> str:
    if pd.isna(value):
        return ""
    if not isinstance(value, float):
        return str(value)
    if name == "p" or name.startswith("p_"):
        return "<0.001" if value < 0.001 else f"{value:.3f}"
    if decimals is not None:
        return f"{round(float(value), decimals) + 0.0:.{decimals}f}"
    value += 0.0  # no minus zero
    return (
        f"{value:.0f}"
        if float(value).is_integer() and abs(value) < 1e6
        else f"{value:.3g}"
        if abs(value) < 100
        else f"{value:.0f}"
    )
