"""hwloc's view of this node, in the numbers of libknlfix's: src/core/src/topology.rs says what they mean."""

import re
import subprocess
import xml.etree.ElementTree as ElementTree


def cpus_of(element):
    """The CPUs of an object: "0x3,,0x1" is {0, 64, 65}, words of 32 bits from the highest to the lowest."""
    words = [int(word or "0", 16) for word in element.get("cpuset").split(",")]
    mask = sum(word << 32 * place for place, word in enumerate(reversed(words)))
    return frozenset(cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1)


def units(xml):
    """For each CPU, in hwloc's order, its number and the CPUs of its package, node, tile and core."""
    root = ElementTree.fromstring(xml).find("object")
    objects = [element for element in root.iter("object") if element.get("cpuset")]
    # Where nodes have the same CPUs, the first is the one that the kernel has them in; the others are memory alone.
    nodes = sorted((len(cpus_of(o)), int(o.get("os_index")), cpus_of(o)) for o in objects if o.get("type") == "NUMANode")
    found = []

    def walk(element, above):
        above = [*above, element]
        if element.get("type") != "PU":
            for child in element.findall("object"):
                walk(child, above)
            return
        number = int(element.get("os_index"))
        node = next(cpus for _, _, cpus in nodes if number in cpus)
        package = next((cpus_of(o) for o in above if o.get("type") == "Package"), cpus_of(root))
        core = next(cpus_of(o) for o in above if o.get("type") == "Core")
        caches = [cpus_of(o) for o in above if re.match(r"L\dCache$", o.get("type"))]
        tile = min([cache for cache in caches if cache > core] + [node], key=len) & node
        found.append((number, package, node, tile, core))

    walk(root, [])
    return found


def cut(found, allowed):
    """What the example `topology` prints of these CPUs: number package node tile core thread, counted from 0."""
    rows, seen = [], [[], [], [], []]
    for number, *groups in found:
        if number not in allowed:
            continue
        for place in range(4):
            if tuple(groups[:place + 1]) not in seen[place][-1:]:
                seen[place].append(tuple(groups[:place + 1]))
        rows.append([number, *(len(numbers) - 1 for numbers in seen), sorted(groups[3]).index(number)])
    return rows


def view(allowed):
    """The same of this node."""
    done = subprocess.run(["lstopo-no-graphics", "--of", "xml"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, check=True)
    return cut(units(done.stdout), set(allowed))


def printed(text):
    """What the example printed, without the kinds of cores, which hwloc tells apart otherwise."""
    return [[int(word) for word in line.split()[:6]] for line in text.splitlines() if not line.startswith("#")]
