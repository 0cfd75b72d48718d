"""The bundle's RO-Crate: who made which file from what, in the Workflow Run RO-Crate profile 0.5.

The profiles of that family are for RO-Crate 1.1; `make audit-crate` and the tests hold the crate to them with the
validator of the RO-Crate community.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from flashtrail import __version__
from flashtrail.base import documents, provenance
from flashtrail.record import snakemake_record

NAME = "ro-crate-metadata.json"
WORKFLOW = "Snakefile"
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
LICENCE = "https://spdx.org/licenses/Apache-2.0"
# RO-Crate 1.1 has no word for it; this is the one of the Workflow Run profiles.
_TERMS = {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}
_SNAKEMAKE = {"name": "Snakemake", "url": {"@id": "https://snakemake.readthedocs.io"}}
# Whole directories: every file in them has its checksum in the manifest, and none a meaning of its own here.
FOLDERS = {
    snakemake_record.METADATA: "Snakemake's record of each output: inputs with checksums, parameters, code, times",
    "results/logs": "Inputs, outputs and parameters of each job (JSON), and its output",
    "results/benchmarks": "Time of each job, as Snakemake measured it",
    "reports/episodes": "A page for each episode",
    "src": "The package that the workflow ran",
    "rules": "The workflow's rules",
    "scripts": "One adapter for each rule",
    "notebooks": "Sources of the reports",
    "profiles": "Settings of the machines, and their config overlays",
    "envs": "Pinned environments",
    "resources/published": "Other people's figures, with their sources",
    "resources/drills": "Statistics of another robot, made up for a drill",
}
_TYPES = {".parquet": "application/vnd.apache.parquet", ".ipynb": "application/x-ipynb+json", ".yaml": "text/yaml"}
_DESCRIBED = {
    "config.yaml": "The experiment",
    "claims.yaml": "The claims as data: statement, test, margin, what would refute each",
    "results/claims/claims.json": "The verdict on each claim, with counts, interval and rows",
    "reports/final.html": "The report",
    "reports/index.html": "All reports, and what became of their sources' claims",
    "results/drills/bounds.json": "Clean bounds of the drills' predicates",
    "results/drills/diagnosis.json": "What the predicates say of each drill and of clean runs",
    "reports/drills.html": "The drills",
    "results/checkup/checkup.json": "The checkup's verdict, with counts and interval",
    "reports/checkup.html": "The checkup",
    snakemake_record.REPORT: "Snakemake's own report",
    snakemake_record.GRAPH: "Graph of the rules (DOT)",
    "record/bundle.json": "What was bundled, from which code",
    "results/claims/looks.parquet": "When the verdict on each comparison was computed, on how many episodes",
    "record/row-digests.parquet": "A digest of every row of every table",
}


def write(root: Path, files: Sequence[str], title: str, inputs: Sequence[str], results: Sequence[str]) -> None:
    """Write ro-crate-metadata.json for these files of a bundle (relative paths, itself and the manifest left out).

    `inputs` and `results` are those of the whole run; they become the workflow's formal parameters.
    """
    from rocrate.model.computationalworkflow import ComputationalWorkflow
    from rocrate.model.contextentity import ContextEntity
    from rocrate.rocrate import ROCrate

    times = snakemake_record.span(snakemake_record.records(root))
    crate = ROCrate(version="1.1")

    def add(identifier: str, kind: str, /, **values: Any) -> ContextEntity:
        return crate.add(ContextEntity(crate, identifier, properties={"@type": kind, **values}))

    crate.name, crate.license = title, add(LICENCE, "CreativeWork", name="Apache License 2.0", identifier=LICENCE)
    crate.description = "Tables, verdicts, reports and provenance of one run; flashtrail audit checks it."
    crate.root_dataset["conformsTo"] = [
        add(uri, "CreativeWork", name=name, version=uri.rsplit("/", 1)[1]) for uri, name in PROFILES.items()
    ]
    if times:
        crate.datePublished = times[1]
    for folder, what in FOLDERS.items():
        if any(_within(file, folder) for file in files):
            crate.add_dataset(root / folder, folder, properties={"name": folder, "description": what})
    own = [f for f in files if f != WORKFLOW and not any(_within(f, folder) for folder in FOLDERS)]
    entities = {file: crate.add_file(root / file, file, properties=_about(root, file)) for file in own}
    language = add("#snakemake", "ComputerLanguage", **_SNAKEMAKE, identifier={"@id": _SNAKEMAKE["url"]["@id"]})  # type: ignore[index]
    workflow = crate.add(ComputationalWorkflow(crate, root / WORKFLOW, WORKFLOW, properties=_about(root, WORKFLOW)))
    workflow["name"], workflow["version"] = "FLASHTrail", __version__
    workflow["programmingLanguage"], workflow["license"] = language, crate.root_dataset["license"]
    crate.root_dataset["mainEntity"] = workflow
    for direction, chosen in (("input", inputs), ("output", results)):
        formal = []
        for file in chosen:
            parameter = add(f"#{direction}/{file}", "FormalParameter", additionalType="File", name=file)
            parameter["workExample"], entities[file]["exampleOfWork"] = entities[file], parameter
            formal.append(parameter)
        workflow[direction] = formal
    engine_entity = add("#snakemake-engine", "SoftwareApplication", **_SNAKEMAKE, softwareVersion=_engine_version(root))
    agent = add("#operator", "Person", name="Whoever ran the workflow")
    started = {"startTime": times[0], "endTime": times[1]} if times else {}
    run = add("#run", "CreateAction", name="The run of the workflow", **started)
    run["instrument"], run["agent"] = workflow, agent
    run["object"], run["result"] = [entities[f] for f in inputs], [entities[f] for f in results]
    run["actionStatus"] = {"@id": "http://schema.org/CompletedActionStatus"}
    workflow["softwareRequirements"] = engine_entity
    crate.root_dataset["mentions"] = run
    crate.metadata.extra_terms.update(_TERMS)
    _dump(crate.metadata.generate(), root / NAME)


def listed(root: Path) -> tuple[set[str], set[str], dict[str, str]]:
    """Return the files and folders that the crate describes, and the SHA-256 that it gives of files."""
    graph = provenance.json_load(root / NAME)["@graph"]
    kinds = [(e, e["@type"] if isinstance(e["@type"], list) else [e["@type"]]) for e in graph]
    files = {e["@id"] for e, kind in kinds if "File" in kind}
    folders = {e["@id"].rstrip("/") for e, kind in kinds if "Dataset" in kind and e["@id"] != "./"}
    return files, folders, {e["@id"]: e["sha256"] for e, _ in kinds if "sha256" in e}


def uncovered(files: Sequence[str], described: set[str], folders: set[str]) -> list[str]:
    """Return the files that the crate says nothing of."""
    return [f for f in files if f not in described and not any(_within(f, folder) for folder in folders)]


def _within(file: str, folder: str) -> bool:
    return PurePosixPath(file).is_relative_to(folder)


def _about(root: Path, file: str) -> dict[str, Any]:
    path = PurePosixPath(file)
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(file)[0] or "text/plain"
    return {
        "name": file,
        **({"description": _DESCRIBED[file]} if file in _DESCRIBED else {}),
        "encodingFormat": kind,
        "contentSize": str((root / file).stat().st_size),
        "sha256": provenance.sha256_file(root / file),
    }


def _engine_version(root: Path) -> str:
    """Return the version of Snakemake that the run's environment pins."""
    path = root / "envs" / "workflow.yaml"
    pins: Sequence[Any] = documents.mapping(path, "dependencies:")["dependencies"] if path.is_file() else []
    packages = [p for entry in pins if isinstance(entry, Mapping) for p in entry.get("pip", [])]
    return next((p.partition("==")[2] for p in packages if p.startswith("snakemake==")), "unknown")


def _dump(metadata: Mapping[str, Any], path: Path) -> None:
    """Write the crate with its entities in the order of their names, so that one run gives one file."""
    ordered = {**metadata, "@graph": sorted(metadata["@graph"], key=lambda e: str(e["@id"]))}
    with provenance.write_atomic(path) as temporary:
        temporary.write_text(json.dumps(ordered, indent=2, sort_keys=True) + "\n", encoding="utf-8")
