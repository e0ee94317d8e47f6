"""Writes what the program is built of as a CycloneDX document: the crates of the locked dependency graph, without those
that only tests and build scripts use at home, with licences, hashes and who needs whom."""

import json
import sys
import tomllib

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

METADATA, LOCK, OUTPUT = sys.argv[1:]


def main():
    with open(METADATA, encoding="utf-8") as file:
        metadata = json.load(file)
    with open(LOCK, "rb") as file:
        hashes = {(p["name"], p["version"]): p.get("checksum") for p in tomllib.load(file)["package"]}
    packages = {package["id"]: package for package in metadata["packages"]}
    needs = {node["id"]: needed(node) for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    reached = reachable(root, needs)
    components = {one: component(packages[one], hashes, one == root) for one in sorted(reached)}
    bom = Bom(components=[c for one, c in components.items() if one != root])
    bom.metadata.component = components[root]
    for one, it in components.items():
        bom.register_dependency(it, [components[other] for other in needs[one]])
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    errors = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if errors:
        sys.exit(f"the document is no CycloneDX: {errors}")
    with open(OUTPUT, "w", encoding="utf-8") as file:
        file.write(text)
    print(f"{OUTPUT}: {len(components) - 1} crates")


def needed(node):
    """What a crate needs to be built or to run, and not to be tested."""
    is_needed = lambda dependency: any(kind["kind"] != "dev" for kind in dependency["dep_kinds"])
    return [dependency["pkg"] for dependency in node["deps"] if is_needed(dependency)]


def reachable(root, needs):
    found, waiting = set(), [root]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += needs[one]
    return found


def component(package, hashes, is_root):
    name, version = package["name"], package["version"]
    checksum = hashes.get((name, version))
    # Old crates separate alternatives by a slash.
    licence = (package["license"] or "").replace("/", " OR ")
    return Component(
        type=ComponentType.APPLICATION if is_root else ComponentType.LIBRARY,
        name=name,
        version=version,
        bom_ref=f"{name}@{version}",
        purl=PackageURL("cargo", name=name, version=version),
        licenses=[LicenseFactory().make_from_string(licence)] if licence else [],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=checksum)] if checksum else [],
    )


if __name__ == "__main__":
    main()
