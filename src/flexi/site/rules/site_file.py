"""What the schema cannot say: keys of a site file that do not go together. Pure; each problem knows its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flexi.catalog import fit as fitting
from flexi.catalog import platforms, ports
from flexi.configfile.document import Path
from flexi.configfile.findings import Problem, nearest, shown, suggestion
from flexi.site.model import Site
from flexi.site.rules.chat import chat_problems
from flexi.site.rules.moodle import moodle_problems
from flexi.site.rules.tls import tls_problems
from flexi.site.rules.two_gateways import pair_problems
from flexi.site.schema.site_file import Firewall, Group, Host


def problems(site: Site) -> list[Problem]:
    """Everything that keeps `site` from being deployed."""
    found: list[Problem] = []
    rules = (_gateway, _addresses, _driver, _toolkits, _mirrors, _apt, _cards, _groups, _models, _ports, _firewall)
    for rule in (*rules, _aliases, _classes, pair_problems, tls_problems, chat_problems, moodle_problems):
        found.extend(rule(site))
    # Whether the models fit is only worth saying when cards and models are known and told apart.
    return found or list(_room(site))


def _gateway(site: Site) -> Iterator[Problem]:
    hosts = list(site.content.hosts)
    if site.content.gateway.host not in hosts:
        name = site.content.gateway.host
        yield Problem(("gateway", "host"), "is none of the hosts", suggestion(name, hosts), shown(name))


def _aliases(site: Site) -> Iterator[Problem]:
    models = {model.lower(): model for _, _, _, group in site.groups() for model in group.models}
    for alias, model in site.content.gateway.aliases.items():
        path = ("gateway", "aliases", alias)
        if alias.lower() in models:
            remedy = "choose another name, or remove the model from its group"
            yield Problem(path, "is a model of the site itself", remedy, shown(alias), at_key=True)
        if model.lower() not in models:
            remedy = suggestion(model, list(models.values()))
            yield Problem(path, "is in no group", remedy, shown(model))


def _addresses(site: Site) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for name, host in site.content.hosts.items():
        path = ("hosts", name, "address")
        if host.address in first:
            reason = f"is the address of {first[host.address]} too"
            yield Problem(path, reason, "give each host its own", shown(host.address))
        first.setdefault(host.address, name)


def _driver(site: Site) -> Iterator[Problem]:
    driver, version = site.content.driver, site.content.ollama.version
    branch = platforms.BRANCHES.get(driver.branch)
    if branch is None:
        remedy = suggestion(driver.branch, list(platforms.BRANCHES))
        yield Problem(("driver", "branch"), "is no driver branch that flexi knows", remedy, shown(driver.branch))
        return
    needed = platforms.ollama_needs(version)
    if branch.major < needed:
        yield Problem(
            ("ollama", "version"),
            f"computes on the CPU under driver {branch.major}: it needs {needed} or newer",
            "set ollama.version to 0.24.0, or driver.branch to 580-server",
            shown(version),
        )
    if platforms.version_tuple(version) < platforms.OLLAMA_FIRST_ZSTD:
        yield Problem(
            ("ollama", "version"),
            f"has no {platforms.OLLAMA_ARCHIVE}, and holes that are known",
            "set ollama.version to 0.24.0",
            shown(version),
        )
    for name, host in site.content.hosts.items():
        if host.gpus is None:
            continue
        platform = platforms.PLATFORMS[host.platform]
        if driver.branch not in platform.drivers:
            shipped = ", ".join(platform.drivers)
            yield Problem(
                ("hosts", name, "platform"),
                f"ships no driver {driver.branch}",
                f"set driver.branch to {shipped}, or another platform",
                shown(host.platform),
            )
        elif driver.kernel not in platform.kernels:
            yield Problem(
                ("driver", "kernel"),
                f"is no kernel flavour of {host.platform} ({name})",
                suggestion(driver.kernel, list(platform.kernels)),
                shown(driver.kernel),
            )


def _toolkits(site: Site) -> Iterator[Problem]:
    branch = platforms.BRANCHES.get(site.content.driver.branch)
    for name, host in site.content.hosts.items():
        path = ("hosts", name, "cuda")
        if host.cuda is None:
            continue
        needed = platforms.cuda_needs(host.cuda)
        if needed is None:
            majors = ", ".join(f"{major}.x" for major in platforms.CUDA_MINIMUM_DRIVER)
            yield Problem(path, "is no CUDA toolkit that flexi knows", f"write one of {majors}", shown(host.cuda))
        elif branch and branch.major < needed:
            runs = max(m for m, least in platforms.CUDA_MINIMUM_DRIVER.items() if least <= branch.major)
            yield Problem(
                path,
                f"needs driver {needed} or newer, the site has {branch.major}",
                f"set a toolkit {runs}.x, or a newer driver.branch",
                shown(host.cuda),
            )
        elif platforms.version_tuple(host.cuda) < platforms.PLATFORMS[host.platform].oldest_cuda:
            oldest = ".".join(map(str, platforms.PLATFORMS[host.platform].oldest_cuda))
            reason = f"is not in NVIDIA's repository for {host.platform}, which begins with {oldest}"
            yield Problem(path, reason, f'write "{oldest}" or later, in quotes', shown(host.cuda))


def _mirrors(site: Site) -> Iterator[Problem]:
    mirrors = site.content.mirrors
    wanting = {host.platform for host in site.content.hosts.values() if host.cuda}
    if mirrors.cuda and len(wanting) > 1:
        reason = f"holds one platform's packages, the site has {' and '.join(sorted(wanting))}"
        yield Problem(("mirrors", "cuda"), reason, "install toolkits on one platform only", shown(mirrors.cuda))
    if mirrors.cuda_key_fingerprint and not mirrors.cuda:
        path = ("mirrors", "cuda_key_fingerprint")
        yield Problem(path, "has no mirror to go with", "set mirrors.cuda, or remove it", at_key=True)
    if mirrors.models and mirrors.models.count("/") > 2:
        yield Problem(("mirrors", "models"), "has a path", "write scheme, host and port only", shown(mirrors.models))


def _apt(site: Site) -> Iterator[Problem]:
    mirrors = site.content.mirrors
    platforms_here = [host.platform for host in site.content.hosts.values()]
    names: set[str] = set()
    for index, source in enumerate(mirrors.apt):
        here = ("mirrors", "apt", index)
        if source.name == platforms.CUDA_SOURCE:
            yield Problem((*here, "name"), "is the name of NVIDIA's repository", "choose another", shown(source.name))
        elif source.name in names:
            yield Problem((*here, "name"), "is another repository's too", "choose another", shown(source.name))
        names.add(source.name)
        if source.platform not in platforms_here:
            remedy = suggestion(source.platform, sorted(set(platforms_here)))
            yield Problem((*here, "platform"), "is no host's platform", remedy, shown(source.platform))
        if source.key and source.key_url:
            yield Problem((*here, "key_url"), "stands beside key", "remove one of the two", at_key=True)
        elif source.key_url and not source.key_fingerprint:
            reason = "has no fingerprint: any key that comes would be trusted"
            yield Problem((*here, "key_url"), reason, "set key_fingerprint, or give the key as a file", at_key=True)
        elif source.key_url and mirrors.apt_only:
            reason = "needs gpg and curl on the hosts before the hosts have a repository"
            yield Problem((*here, "key_url"), reason, "give the key as a file with key", at_key=True)
        elif source.key_fingerprint and not source.key_url:
            yield Problem((*here, "key_fingerprint"), "has no key_url to go with", "remove it", at_key=True)
    if mirrors.apt_only:
        for platform in dict.fromkeys(platforms_here):
            if platform not in {source.platform for source in mirrors.apt}:
                remedy = f"add a repository for {platform} to mirrors.apt, or remove apt_only"
                yield Problem(("mirrors", "apt_only"), f"leaves {platform} without any repository", remedy)


def _cards(site: Site) -> Iterator[Problem]:
    for name, host in site.content.hosts.items():
        if host.gpus is None:
            if host.groups:
                yield Problem(("hosts", name, "groups"), "need cards", f"add hosts.{name}.gpus", at_key=True)
            elif name not in site.gateways and not site.has_chat(name):
                remedy = f"add gpus and groups, or name it in gateway.host or chat.host, or remove {name}"
                reason = "has neither GPUs nor the gateway nor the chat: nothing to do"
                yield Problem(("hosts", name), reason, remedy, at_key=True)
            continue
        if not host.groups:
            remedy = f"add hosts.{name}.groups, e.g. groups: {{{name[:1]}: {{gpus: all, models: [llama3:8b]}}}}"
            yield Problem(("hosts", name, "gpus"), "are in no group", remedy, at_key=True)
        if site.gpu_bytes(host) is None:
            known = list(site.gpu_memory_mib)
            model = host.gpus.model
            close = nearest(model, known)
            remedy = (f"did you mean '{close}'? Otherwise " if close else "") + f"set hosts.{name}.gpus.memory_mib"
            yield Problem(("hosts", name, "gpus", "model"), "is no card that flexi knows", remedy, shown(model))


def _groups(site: Site) -> Iterator[Problem]:
    owner: dict[str, str] = {}
    for host_name, host, name, group in site.groups():
        path = ("hosts", host_name, "groups", name)
        if name in owner:
            remedy = "choose another name: a group's name is used once in the whole site"
            yield Problem(path, f"is a group of {owner[name]} too", remedy, at_key=True)
        owner.setdefault(name, host_name)
        if host.gpus is None or group.gpus == "all":
            continue
        seen: set[int | str] = set()
        for index, gpu in enumerate(group.gpus):
            here = (*path, "gpus", index)
            if gpu in seen:
                yield Problem(here, "stands in this group twice", "name each GPU once", shown(gpu))
            seen.add(gpu)
            if isinstance(gpu, int) and gpu >= host.gpus.count:
                last = host.gpus.count - 1
                reason = f"is no GPU of {host_name}, which has {host.gpus.count}"
                yield Problem(here, reason, f"write 0 to {last}, or correct hosts.{host_name}.gpus.count", shown(gpu))
    for host_name, host in site.content.hosts.items():
        yield from _shared_cards(host_name, host)


def _shared_cards(host_name: str, host: Host) -> Iterator[Problem]:
    taken: dict[int | str, str] = {}
    kinds: dict[str, str] = {}
    used = 0
    for name, group in host.groups.items():
        path = ("hosts", host_name, "groups", name, "gpus")
        cards = range(group.card_count(host)) if group.gpus == "all" else group.gpus
        used += len(set(cards))
        kind = "UUIDs" if cards and isinstance(cards[0], str) else "indices"
        for gpu in dict.fromkeys(cards):
            if gpu in taken:
                remedy = "give each group its own GPUs" + (" (all takes every one)" if group.gpus == "all" else "")
                yield Problem(path, f"takes GPU {gpu}, which {taken[gpu]} has", remedy)
                break
            taken[gpu] = name
        kinds.setdefault(kind, name)
    if len(kinds) > 1:
        remedy = "use one of the two on a host"
        yield Problem(("hosts", host_name, "groups"), "name GPUs by index and by UUID", remedy, at_key=True)
    elif "UUIDs" in kinds and host.gpus and used > host.gpus.count:
        reason = f"name {used} GPUs, the host has {host.gpus.count}"
        remedy = f"correct hosts.{host_name}.gpus.count"
        yield Problem(("hosts", host_name, "groups"), reason, remedy, at_key=True)


def _models(site: Site) -> Iterator[Problem]:
    known = list(site.content.models) + list(site.catalogue)
    for host_name, _, group_name, group in site.groups():
        seen: set[str] = set()
        for index, model in enumerate(group.models):
            path = ("hosts", host_name, "groups", group_name, "models", index)
            if model.lower() in seen:
                yield Problem(path, "stands in this group twice", "name each model once", shown(model))
            elif site.model(model) is None:
                close = nearest(model, known)
                remedy = (f"did you mean '{close}'? Otherwise " if close else "") + f"describe it under models: {model}"
                yield Problem(path, "is no model that flexi knows the size of", remedy, shown(model))
            seen.add(model.lower())


def _classes(site: Site) -> Iterator[Problem]:
    """Models that consumers may use but no group has: most likely a slip, and the class would have nothing."""
    served = list(dict.fromkeys(model for _, _, _, group in site.groups() for model in group.models))
    lower = {model.lower() for model in served}
    for name, rules in site.content.gateway.classes.items():
        if rules.models == "all":
            continue
        for index, model in enumerate(rules.models):
            if model.lower() not in lower:
                path = ("gateway", "classes", name, "models", index)
                yield Problem(path, "is no model of any group", suggestion(model, served), shown(model))


def _ports(site: Site) -> Iterator[Problem]:
    ssh = site.content.ssh
    for name in site.gateways:
        port = site.users_port
        taken = {ssh.port: "SSH", **_own_ports(site, name)}
        if port in taken:
            reason = f"is taken by {taken[port]} on {name}"
            yield Problem(("gateway", "port"), reason, "choose another, e.g. 80", shown(port))
        chat_port = site.content.chat.port if site.content.chat else None
        taken |= {port: "the API"} | ({site.http_port: "plain HTTP"} if site.http_port else {})
        if chat_port in taken:
            reason = f"is taken by {taken[chat_port]} on {name}"
            yield Problem(("chat", "port"), reason, "choose another, or remove it", shown(chat_port))
    for name in site.content.hosts:
        own = _own_ports(site, name)
        if ssh.port in own:
            reason = f"is taken by {own[ssh.port]} on {name}"
            yield Problem(("ssh", "port"), reason, "let SSH listen on another, e.g. 22", shown(ssh.port))
            break


def _own_ports(site: Site, name: str) -> dict[int, str]:
    host = site.content.hosts[name]
    is_gateway = name in site.gateways
    has_chat = site.has_chat(name)
    return ports.taken(len(host.groups), has_gpus=host.gpus is not None, is_gateway=is_gateway, has_chat=has_chat)


def _firewall(site: Site) -> Iterator[Problem]:
    """Ports that may be opened: not flexi's own, whose rules follow from the rest of the file."""
    content = site.content
    places: list[tuple[Path, Firewall, list[str]]] = [(("firewall",), content.firewall, list(content.hosts))]
    places += [(("hosts", name, "firewall"), host.firewall, [name]) for name, host in content.hosts.items()]
    for path, firewall, names in places:
        for index, allowed in enumerate(firewall.allow):
            for name in names:
                problem = _closed(site, name, allowed.port)
                if problem:
                    yield Problem((*path, "allow", index, "port"), *problem, shown(allowed.port))
                    break


def _closed(site: Site, name: str, port: int) -> tuple[str, str] | None:
    """Reason and remedy why the site file must not open `port` on a host; None where it may."""
    content = site.content
    if port == content.ssh.port:
        return "is SSH's, which is open already", "set ssh.allow_from"
    chat_port = content.chat.port if content.chat else None
    if name in site.gateways and port in (site.users_port, site.http_port, chat_port):
        return "is the gateway's, which is open already", "set gateway.allow_from"
    owner = _own_ports(site, name).get(port)
    if owner:
        return f"is for {owner} on {name}, which nobody but flexi may reach", "remove it: users go through the gateway"
    return None


def _room(site: Site) -> Iterator[Problem]:
    for host_name, host, group_name, group in site.groups():
        result = site.fit(host, site.loads(group), group)
        if result.missing is None:
            continue
        index = [model.lower() for model in group.models].index(result.missing.name.lower())
        path = ("hosts", host_name, "groups", group_name, "models", index)
        ordered = site.order_that_fits(host, group)
        remedy = _reorder(ordered) if ordered else _make_room(site, result, group_name)
        yield Problem(path, _does_not_fit(result, group_name), remedy, shown(result.missing.name))


def _does_not_fit(result: fitting.Fit, group: str) -> str:
    missing = result.missing
    assert missing is not None
    cards = len(result.gpu_bytes)
    need = f"{_gb(missing.facts.weights_bytes)} of weights and {_gb(missing.kv_bytes)} of contexts"
    have = f"{cards} × {_gb(result.gpu_bytes[0])}"
    beside = f" beside {', '.join(p.load.name for p in result.placed)}" if result.placed else ""
    return f"does not fit into group {group}{beside}: {need}, the group has {have}"


def _reorder(ordered: Sequence[fitting.Load]) -> str:
    names = ", ".join(load.name for load in ordered)
    return f"they are loaded in the order of this list, and fit in this one: [{names}]"


def _make_room(site: Site, result: fitting.Fit, group_name: str) -> str:
    missing = result.missing
    assert missing is not None
    for _, host, name, group in site.groups():
        if name != group_name and _has_room(site, host, group, missing):
            return f"move it to group {name}, where it fits"
    if missing.kv_bytes > 0.1 * missing.facts.weights_bytes:
        return "lower the group's context or parallel, or move a model to another group"
    if not result.placed:
        return "choose a smaller model, or give the group more GPUs"
    return "move a model to another group, or choose a smaller one"


def _has_room(site: Site, host: Host, group: Group, wanted: fitting.Load) -> bool:
    more = fitting.load(wanted.name, wanted.facts, group.context, group.parallel, group.kv_cache)
    return site.fit(host, [*site.loads(group), more], group).missing is None


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
