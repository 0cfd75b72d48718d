"""Classifies checkpoint candidates by what they contain: which one, if any, is the model to fetch.

The seven classes are those of the reproduction project that first probed these locations, here used for a result
that follows from content; an eighth names this project's own small policies. Reads listings and metadata (leaf names,
statistics, the tree's own facts), never a weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from flashtrail.base.errors import UserError
from flashtrail.checkpoints import artifact, facts, identity, lerobot, torch_tree
from flashtrail.checkpoints.identity import Identity
from flashtrail.checkpoints.stores import Entry, Location, StoreUnreachable, open_location

PI05_MISMATCH = "PUBLIC_PI05_LIBERO_MISMATCH"
PI0_BASE = "BASE_PI0_PRETRAIN_ONLY"
PLACEHOLDER = "LOCAL_PLACEHOLDER_ONLY"
NOT_FOUND = "NOT_FOUND"
TORCH_ONLY = "MATCH_FLASH_PI0_LIBERO_TORCH_ONLY"
LIBERO_JAX = "MATCH_FLASH_PI0_LIBERO_JAX"
NANO_JAX = "MATCH_FLASH_PI0_NANO_JAX"
UNKNOWN = "UNKNOWN_ACCESS_ERROR"
SELECTABLE = (LIBERO_JAX, NANO_JAX, TORCH_ONLY)

_CORRECT = "correct the policy's candidates"
_PLACEHOLDER_ROOT = "/openpi-assets/"
_POINTER_BYTES = 1024  # a Git LFS pointer has some 130
_PICKLE = "give the JAX (Orbax) tree; for the official runtime's pickles use `flashtrail import-pickle`"


@dataclass(frozen=True)
class Clues:
    """What was read of one candidate: its files, what they are, statistics and facts; `trouble` if it was not read.

    `stats`: norm_stats.json below assets/, or LeRobot's file -> the dims that LIBERO uses of it, or what is wrong with
    it. `conflict`: what was read of its facts and does not fit.
    """

    files: Mapping[str, int] = field(default_factory=dict)
    identity: Identity = identity.NOTHING
    stats: Mapping[str, dict[str, str] | str] = field(default_factory=dict)
    facts: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    model_json: Mapping[str, Any] | None = None
    conflict: str | None = None
    trouble: str | None = None
    listed: bool = True


def classify(uri: str, clues: Clues, policy: str = "X") -> tuple[str, str, bool]:
    """Return (class, reason, whether it can be used) of one candidate; the first rule that applies decides.

    The reason of one that cannot be used ends with the remedy. `policy` is named there.
    """
    if clues.trouble is not None:
        kind = "so whether it exists is unknown" if not clues.files else "so its content is unknown"
        return UNKNOWN, f"could not be {'read' if clues.files else 'listed'}, {kind}: {clues.trouble}", False
    if not clues.files:
        if uri.startswith(_PLACEHOLDER_ROOT):
            why = f"a path below {_PLACEHOLDER_ROOT} is a placeholder of container images and is empty"
            return PLACEHOLDER, f"{why}: {_CORRECT}", False
        return NOT_FOUND, f"nothing is stored at this address: {_CORRECT}", False
    known, found = facts.known().get(uri.rstrip("/"), {}), clues.identity
    evidence = f"{found.family}, {found.format}; identified by {', '.join(found.told_by) or 'nothing'}"
    other = PI05_MISMATCH if found.family == identity.PI05 else UNKNOWN
    if found.problem is not None:
        return UNKNOWN, f"{found.problem}: {_PICKLE}" if found.format == identity.PICKLE else found.problem, False
    if found.family != identity.PI0:
        return other, f"another model: {evidence}; FLASH's engine runs only pi0: give a pi0 tree", False
    return _classify_pi0(clues, policy, known, evidence)


def _classify_pi0(clues: Clues, policy: str, known: Mapping[str, Any], evidence: str) -> tuple[str, str, bool]:
    """The class of a pi0 tree that can be read: its statistics say whose robot it is for, facts whether it can run."""
    kind = _class_of_stats(clues)
    stats_file, problem = choose_stats(clues.stats, clues.facts, policy)
    if known.get("pretrained") or (len(clues.stats) > 1 and kind != _pi0(clues) and "asset" not in clues.facts):
        why = "a known address" if known else f"statistics of {len(clues.stats)} robots, none of them LIBERO's"
        return PI0_BASE, f"pretrained only, not tuned on LIBERO ({why}): {artifact.TUNED}", False
    if known.get("robot", "libero") != "libero":
        why = f"made for {known['robot']}, not tuned on LIBERO (resources/checkpoints/{facts.KNOWN.name})"
        return PI0_BASE, f"{why}: {artifact.TUNED}", False
    if problem := clues.conflict or problem or facts.missing(policy, clues.facts):
        return kind, problem, False
    use = clues.stats[stats_file]
    assert isinstance(use, dict)
    dims = f"state dims {use['state']}, action dims {use['actions']} of {stats_file}"
    return kind, f"{evidence}; {dims}; {facts.shown(clues.facts)}; {_size(clues.files)}", True


def _class_of_stats(clues: Clues) -> str:
    """What the statistics alone make of a pi0 tree: LIBERO's, another robot's, or unknown."""
    if any(isinstance(use, dict) for use in clues.stats.values()):
        return _pi0(clues)
    if any(artifact.OTHER_ROBOT in use for use in clues.stats.values()):
        return PI0_BASE
    return TORCH_ONLY if clues.identity.format in identity.TORCH else UNKNOWN


def _pi0(clues: Clues) -> str:
    if clues.identity.format in identity.TORCH:
        return TORCH_ONLY
    return NANO_JAX if (clues.model_json or {}).get("stem") else LIBERO_JAX


def choose_stats(
    stats: Mapping[str, dict[str, str] | str], said: Mapping[str, Mapping[str, Any]], policy: str
) -> tuple[str, str | None]:
    """Return the norm_stats.json that counts and None, or "" and why there is none."""
    if (asset := said.get("asset")) is not None:
        place = f"assets/{asset['value']}/norm_stats.json"
        if place not in stats:
            return "", (
                f"{asset['said_by']} names {asset['value']}, but {place} does not exist: use one of {_list(stats)}"
            )
        chosen = [place]
    else:
        chosen = list(stats)
    if not chosen:
        return "", "needs exactly one norm_stats.json below assets/; found: none: copy the checkpoint's assets too"
    if len(chosen) > 1:
        return "", (
            f"needs exactly one norm_stats.json below assets/; found: {_list(stats)}: name the one it was trained with "
            f"as policies.{policy}.asset, e.g. {_asset(chosen[0])}"
        )
    use = stats[chosen[0]]
    return (chosen[0], None) if isinstance(use, dict) else ("", use)


def find_norm_stats(names: Sequence[str]) -> list[str]:
    """Return the norm_stats.json files below assets/: openpi keeps them two levels down, under the asset's id."""
    paths = [PurePosixPath(name) for name in names]
    return [str(path) for path in paths if path.parts[:1] == ("assets",) and path.name == "norm_stats.json"]


def probe_candidate(uri: str, declared: Mapping[str, Any] | None = None, policy: str = "X") -> dict[str, Any]:
    """List one candidate and read its metadata; return its part of the record: verdict, reason, identity, facts."""
    clues = _look(uri, declared or {}, policy)
    verdict, reason, usable = classify(uri, clues, policy)
    place = choose_stats(clues.stats, clues.facts, policy)[0]
    return {
        "uri": uri,
        "class": verdict,
        "reason": reason,
        "usable": usable,
        "listed": clues.listed,
        "family": clues.identity.family,
        "format": clues.identity.format,
        "told_by": list(clues.identity.told_by),
        "facts": dict(clues.facts),
        "model": facts.as_tree(clues.facts, clues.model_json),
        "norm_stats": [place] if place else list(clues.stats),
        "dims_used": clues.stats[place] if place else None,
        "total_bytes": sum(clues.files.values()),
        "files": dict(clues.files),
    }


def _look(uri: str, declared: Mapping[str, Any], policy: str) -> Clues:
    """Read the metadata that identifies a candidate."""
    location = open_location(uri)
    try:
        entries = location.entries()
    except FileNotFoundError:
        return Clues()
    except StoreUnreachable as error:
        return Clues(trouble=str(error), listed=False)
    reader = _Reader(location, entries)
    try:
        reader.refuse_pointers()
        found = identity.identify(reader.files, reader.read)
        stats = {name: reader.use_of(name) for name in find_norm_stats(list(reader.files))}
        torch = found.format in identity.TORCH and found.family == identity.PI0
        if torch and not stats:
            stats = dict([reader.use_beside_weights()])
        own = reader.json(facts.MODEL_JSON) if facts.MODEL_JSON in reader.files else None
        try:
            model_json = None if own is None else facts.read_model_json(own)
            config = reader.json(facts.CONFIG_JSON) if torch and facts.CONFIG_JSON in reader.files else {}
            for name in identity.weights_of(reader.files) if torch else ():
                torch_tree.stored_in(name, reader.files[name], reader.read)
            said = facts.resolve(policy, uri, declared, model_json, lerobot.described(config))
        except UserError as error:  # read, and not what it should say
            stem = own if isinstance(own, dict) else None
            return Clues(reader.files, found, stats, model_json=stem, conflict=str(error))
        return Clues(reader.files, found, stats, said, model_json)
    except FileNotFoundError:
        return Clues(reader.files, trouble="it changed while it was being read: run again", listed=False)
    except UserError as error:
        return Clues(reader.files, trouble=str(error), listed=not isinstance(error, StoreUnreachable))


class _Reader:
    """One candidate's files by name; a lone file goes by the last part of its location."""

    def __init__(self, location: Location, entries: Sequence[Entry]) -> None:
        self._location = location
        self._entries = {entry.name or PurePosixPath(location.uri).name: entry for entry in entries}
        self.files = {name: entry.bytes for name, entry in self._entries.items()}

    def read(self, name: str, size: int, start: int = 0) -> bytes:
        return self._location.head(self._entries[name], size, start)

    def json(self, name: str) -> Any:
        return identity.read_json(self.read, name, self.files[name])

    def use_of(self, name: str) -> dict[str, str] | str:
        try:
            return artifact.use_of_stats(self.json(name), name)
        except UserError as error:
            return str(error)

    def use_beside_weights(self) -> tuple[str, dict[str, str] | str]:
        """Where a PyTorch checkpoint's statistics are, and their use; without any, what was looked for."""
        try:
            found = lerobot.norm_stats(self.files, self.read)
            if found is None:
                return "none", f"has no statistics, looked for in {lerobot.PLACES}: copy those of its training there"
            return found[0], artifact.use_of_stats(found[1], found[0])
        except UserError as error:
            return "unreadable", str(error)

    def refuse_pointers(self) -> None:
        """Stop at a Git LFS pointer in a local clone; elsewhere it would cost a request a file, and fetch looks."""
        for name, size in self.files.items():
            small = not self._location.scheme and 0 < size <= _POINTER_BYTES
            if small and name.split("/")[0] == "params" and self.read(name, size).startswith(identity.LFS_POINTER):
                raise UserError(identity.pointer(name))


def probe(candidates: Sequence[str], declared: Mapping[str, Any] | None = None, policy: str = "X") -> dict[str, Any]:
    """Probe every candidate and return the JSON record; `selected` is the URI if exactly one matches, else None.

    `declared`: what ``policies.X`` says of the checkpoint (`policy_facts.PolicyFacts`); `policy` its name.
    """
    if not candidates:
        raise UserError("no checkpoint candidates: name at least one under policies.*.candidates")
    results = [probe_candidate(uri, declared, policy) for uri in candidates]
    matches = [result["uri"] for result in results if result["usable"]]
    return {"version": 3, "candidates": results, "selected": matches[0] if len(matches) == 1 else None}


def select(record: dict[str, Any]) -> dict[str, Any]:
    """Return the one candidate that can be used; UserError lists the candidates if none or several can be used."""
    candidates = record["candidates"]
    matches = [c for c in candidates if c.get("usable", c["class"] in (LIBERO_JAX, NANO_JAX))]  # version 2: no `usable`
    if len(matches) > 1:
        uris = ", ".join(c["uri"] for c in matches)
        raise UserError(
            f"{len(matches)} checkpoint candidates match ({uris}): leave only one in the policy's candidates"
        )
    if not matches:
        reasons = "; ".join(f"{c['uri']}: {c['class']} ({c['reason']})" for c in candidates)
        raise UserError(f"no checkpoint candidate can be used: {reasons}")
    return matches[0]


def _asset(path: str) -> str:
    return str(PurePosixPath(path).parent.relative_to("assets"))


def _list(names: Mapping[str, Any]) -> str:
    return ", ".join(names) or "none"


def _size(files: Mapping[str, int]) -> str:
    return f"{len(files)} files, {sum(files.values()) / 1e6:,.1f} MB"
