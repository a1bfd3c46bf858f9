"""Every finding that there is: what it is read from, what it means for users, and the command that mends it.

`docs/admin/doctor.md` is made of this table. In commands `{site}` and `{host}` stand for names, `{ssh}` for the ssh
command to the host, other words for what the finding is about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]
"""error: users lose something now, or will with the next reboot or upgrade that nobody watches; the site is not well,
for `status`, `verify` and the doctor alike. warning: worth a look; the site is well."""


@dataclass(frozen=True)
class Kind:
    id: str
    severity: Severity
    wrong: str
    """In one line what is wrong; a finding says it with names and numbers."""
    reads: str
    means: str
    mends: str


KINDS: dict[str, Kind] = {}
"""By id, in the order of the documentation."""


def _kind(id_: str, severity: Severity, wrong: str, *, reads: str, means: str, mends: str) -> Kind:
    if id_ in KINDS:
        raise ValueError(f"two findings are called {id_}")
    KINDS[id_] = Kind(id_, severity, wrong, reads, means, mends)
    return KINDS[id_]


_DEPLOY = "./flexi deploy {site} --limit {host}"
_DEPLOY_REBOOT = _DEPLOY + " --allow-reboot"
_REBOOT = "{ssh} sudo systemctl reboot"

# -- the host itself --------------------------------------------------------------------------------------------------

UNREACHABLE = _kind(
    "unreachable",
    "error",
    "the host does not answer over SSH",
    reads="the SSH connection",
    means="the gateway sends its models elsewhere if another host has them; nothing else about the host is known",
    mends="{ssh} true",
)
NO_ROOT = _kind(
    "no-root",
    "error",
    "the SSH user may not become root without a password",
    reads="`sudo -n`",
    means="flexi can neither look nor deploy here",
    mends="{ssh} -t \"echo '{user} ALL=(ALL) NOPASSWD:ALL' | sudo tee /etc/sudoers.d/flexi\"",
)
HANGS = _kind(
    "hangs",
    "error",
    "the host gives no whole answer in time",
    reads="how far the look at the host came",
    means="with the GPUs: a driver that hangs in the kernel, and every instance with it",
    mends=_REBOOT,
)
NOT_DEPLOYED = _kind(
    "not-deployed",
    "warning",
    "flexi was never deployed to this host",
    reads="`/etc/flexi`",
    means="it serves nothing yet",
    mends=_DEPLOY,
)
WRONG_PLATFORM = _kind(
    "wrong-platform",
    "error",
    "another operating system runs than the site file says",
    reads="`/etc/os-release`",
    means="packages and pins of the wrong platform: a deploy cannot succeed",
    mends="./flexi check {site}   # once hosts.{host}.platform is {platform}",
)
CLOCK_OFF = _kind(
    "clock-off",
    "error",
    "the clock is wrong",
    reads="`date`, against this machine's clock",
    means="certificates and signed packages are refused, logs of hosts do not fit together",
    mends="{ssh} sudo systemctl restart {daemon}",
)
CLOCK_FREE = _kind(
    "clock-free",
    "error",
    "nothing keeps the clock right",
    reads="the time daemons' units",
    means="the clock drifts until certificates fail",
    mends=_DEPLOY,
)
DISK_SHORT = _kind(
    "disk-short",
    "error",
    "a disk is nearly full",
    reads="`df` of /, /boot, /var, /tmp, /opt/ollama and the models' stores",
    means="deploys, downloads of models and upgrades of packages fail, logs are lost",
    mends="{ssh} sudo du -xh --max-depth=3 {mount} | sort -h | tail",
)
INODES_SHORT = _kind(
    "inodes-short",
    "error",
    "a file system is nearly out of inodes",
    reads="`df -i` of these directories",
    means="as of a full disk, although `df` shows room",
    mends="{ssh} sudo du -x --inodes --max-depth=3 {mount} | sort -n | tail",
)
STORE_OWNER = _kind(
    "store-owner",
    "error",
    "files of a model store belong to somebody else",
    reads="`find` in the models' stores: owners",
    means="copied by hand as root: the instance cannot read or replace them, the models stay away",
    mends="{ssh} sudo chown -R ollama:ollama {store}",
)
HALF_INSTALLED = _kind(
    "half-installed",
    "error",
    "dpkg was interrupted",
    reads="`dpkg-query`: packages that are unpacked and not configured",
    means="apt refuses every further step, security updates included",
    mends="{ssh} sudo dpkg --configure -a",
)
UNIT_DOWN = _kind(
    "unit-down",
    "error",
    "a service does not run",
    reads="`systemctl show` of the units that the plan has here",
    means="without its instance a group does not serve, without the agent nobody reloads a model",
    mends="{ssh} sudo systemctl restart {unit}",
)
UNIT_NOT_ENABLED = _kind(
    "unit-not-enabled",
    "error",
    "a service will not come back after a reboot",
    reads="`systemctl show`: UnitFileState",
    means="the next reboot takes it away",
    mends=_DEPLOY,
)
FIREWALL_OPEN = _kind(
    "firewall-open",
    "error",
    "the firewall does not drop what the plan does not open",
    reads="`nft list chain inet flexi input`",
    means="instances and every other port of the host are open to everyone who reaches it",
    mends="{ssh} sudo systemctl restart flexi-firewall.service",
)
CERTIFICATE_EXPIRED = _kind(
    "certificate-expired",
    "error",
    "a certificate has expired or cannot be read",
    reads="`openssl x509` of `/etc/haproxy/flexi/*.pem`",
    means="clients refuse the gateway",
    mends="{ssh} openssl x509 -in {file} -noout -subject -enddate   # renew it (acme: sudo certbot renew), then "
    + _DEPLOY,
)
CERTIFICATE_ENDS = _kind(
    "certificate-ends",
    "warning",
    "a certificate ends soon",
    reads="`openssl x509` of `/etc/haproxy/flexi/*.pem`: less than 21 days",
    means="clients will refuse the gateway from that day on",
    mends="{ssh} openssl x509 -in {file} -noout -subject -enddate   # renew it (acme: sudo certbot renew), then "
    + _DEPLOY,
)

# -- driver and kernel ------------------------------------------------------------------------------------------------

MISMATCH = _kind(
    "driver-mismatch",
    "error",
    "the driver's library was exchanged under the loaded module",
    reads="nvidia-smi's words, `/proc/driver/nvidia/version`, the package of libcuda",
    means="what runs goes on; the next instance or model that starts finds no GPU, and the agent takes it out",
    mends=_DEPLOY_REBOOT,
)
NOT_LOADED = _kind(
    "driver-not-loaded",
    "error",
    "no NVIDIA driver is loaded",
    reads="`/proc/driver/nvidia/version`",
    means="no instance starts on this host",
    mends=_DEPLOY_REBOOT,
)
OTHER_BRANCH = _kind(
    "driver-other-branch",
    "error",
    "another driver branch runs than the site wants",
    reads="`/proc/driver/nvidia/version`",
    means="the pair of driver and Ollama is not the one that was checked",
    mends=_DEPLOY_REBOOT,
)
SMI_FAILS = _kind(
    "nvidia-smi-fails",
    "error",
    "nvidia-smi fails",
    reads="its exit status and words",
    means="what does not start with it does not start with Ollama either",
    mends="{ssh} sudo dmesg | grep -i nvrm",
)
SMI_WARNS = _kind(
    "nvidia-smi-warns",
    "warning",
    "nvidia-smi warns of a card that works",
    reads="nvidia-smi's words and exit status, e.g. 14: the infoROM is corrupted",
    means="nothing stops; a corrupted infoROM loses the card's counts of errors, and is a reason to replace it",
    mends="{ssh} nvidia-smi -q   # show it to the vendor",
)
NOUVEAU = _kind(
    "nouveau",
    "error",
    "nouveau is loaded",
    reads="`/sys/module`",
    means="it holds the cards, NVIDIA's driver cannot take them",
    mends=_DEPLOY_REBOOT,
)
SECURE_BOOT = _kind(
    "secure-boot",
    "error",
    "Secure Boot refuses the driver's module",
    reads="`mokutil --sb-state`, the module's signer, the enrolled keys",
    means="the module is not loaded at the next boot: no GPU",
    mends="{ssh} -t sudo mokutil --import /var/lib/dkms/mok.pub   # then reboot, and confirm at the console",
)
KERNEL_WITHOUT_MODULES = _kind(
    "kernel-without-modules",
    "error",
    "the kernel of the next boot has no NVIDIA module",
    reads="installed kernels, modules on disk, packages `linux-modules-nvidia-*`",
    means="after the next reboot this host has no GPU",
    mends="{ssh} sudo apt-get install {package}   # where apt knows none: sudo apt-get remove linux-image-{kernel}",
)
MODULES_DIFFER = _kind(
    "modules-differ",
    "error",
    "the next boot loads a module that does not fit the library",
    reads="`modinfo` of the next kernel's module, the package of libcuda",
    means="after the next reboot every program fails with a version mismatch",
    mends=_DEPLOY_REBOOT + " --update",
)
REBOOT_PENDING = _kind(
    "reboot-pending",
    "warning",
    "a reboot is due",
    reads="running and installed kernels",
    means="updates are not in force, and the next power cut starts what nobody has tried",
    mends=_DEPLOY_REBOOT,
)
OTHER_KERNEL = _kind(
    "other-kernel-boots",
    "warning",
    "the boot loader starts another kernel than the newest",
    reads="running and installed kernels, what a deploy's reboot left in `/var/lib/flexi/driver-boot-id`",
    means="updates of the kernel never come into force, and a deploy does not reboot for them again",
    mends="{ssh} grep GRUB_DEFAULT /etc/default/grub   # 0 starts the newest, after update-grub",
)
REBOOT_WANTED = _kind(
    "reboot-wanted",
    "warning",
    "updates ask for a reboot",
    reads="`/run/reboot-required`, `/run/reboot-required.pkgs`, the running kernel's module on disk",
    means="these updates are not in force; the service itself does not wait for them",
    mends=_REBOOT,
)

# -- packages ---------------------------------------------------------------------------------------------------------

TRANSITIONAL = _kind(
    "transitional-installed",
    "error",
    "empty packages stand in the place of the driver",
    reads="dpkg: section `oldlibs` or the word `transitional`",
    means="the night's upgrade has replaced the branch by another one; the next reboot runs it",
    mends=_DEPLOY_REBOOT + "   # where no archive has the real ones any more: driver.branch to the new one first",
)
TRANSITIONAL_COMING = _kind(
    "transitional-coming",
    "error",
    "the next upgrade replaces the driver by empty packages that pull another branch",
    reads="`apt-cache policy` and the candidate's description",
    means="`apt upgrade` or a night of unattended upgrades exchanges the driver under the running service",
    mends=_DEPLOY,
)
VENDOR_INSTALLED = _kind(
    "vendor-installed",
    "error",
    "driver packages come from NVIDIA's CUDA repository",
    reads="the archives that have the installed version, by label",
    means="mixed versions: module and library drift apart with the next upgrade",
    mends="{ssh} sudo apt-get install --reinstall --allow-downgrades --allow-change-held-packages {packages}",
)
VENDOR_COMING = _kind(
    "vendor-coming",
    "error",
    "the next upgrade takes driver packages from NVIDIA's CUDA repository",
    reads="the candidate's archive, by label",
    means="the repository outranks the distribution: `apt upgrade` mixes two drivers",
    mends=_DEPLOY,
)
UNHELD = _kind(
    "unheld",
    "error",
    "packages of the driver or the kernel are not on hold",
    reads="dpkg's selections",
    means="the next upgrade may exchange them under the running service",
    mends=_DEPLOY,
)
PINS_MISSING = _kind(
    "pins-missing",
    "warning",
    "apt's preferences lack what keeps this driver in place",
    reads="`/etc/apt/preferences.d`",
    means="only the holds keep another branch away",
    mends=_DEPLOY,
)
UPGRADES_OPEN = _kind(
    "upgrades-open",
    "warning",
    "unattended upgrades may touch driver or kernel",
    reads="`apt-config dump Unattended-Upgrade::Package-Blacklist`",
    means="they change by night, without anybody who watches",
    mends=_DEPLOY,
)
RESTARTS_OPEN = _kind(
    "restarts-open",
    "warning",
    "needrestart may restart the instances",
    reads="`/etc/needrestart/conf.d/flexi.conf`",
    means="an upgrade of a library costs minutes of loading in the middle of a lecture",
    mends=_DEPLOY,
)

# -- GPUs -------------------------------------------------------------------------------------------------------------

GPU_MISSING = _kind(
    "gpu-missing",
    "error",
    "a GPU is missing",
    reads="nvidia-smi, the cards on the PCI bus, the groups' UUIDs",
    means="its group does not serve, the others do",
    mends=_REBOOT,
)
GPU_UNUSABLE = _kind(
    "gpu-unusable",
    "error",
    "a GPU is listed and cannot be used",
    reads="nvidia-smi: words in the place of a card's numbers (`[GPU requires reset]`, `[Unknown Error]`, `ERR!`), and "
    "from driver 570 on `gpu_recovery_action`",
    means="its group is out of the gateway and its gate lets no instance start, which would compute on the CPU",
    mends="{ssh} sudo nvidia-smi --gpu-reset -i {index}   # with nothing running on it; where it refuses: " + _REBOOT,
)
GPU_OTHER = _kind(
    "gpu-other",
    "error",
    "the cards are not those of the site file",
    reads="nvidia-smi: names, memory, MIG mode and number of the cards, against `hosts.HOST.gpus`",
    means="the plan's memory does not hold: models may end on the CPU; a deploy refuses the host",
    mends="./flexi check {site}   # once {place} says the cards that are in, or the planned ones are in",
)
GPU_REPLACED = _kind(
    "gpu-replaced",
    "error",
    "a GPU was replaced",
    reads="nvidia-smi, against the UUIDs in `/etc/ollama/*.env`",
    means="its group waits for a card that is gone and does not serve",
    mends=_DEPLOY + " --accept-gpus {host}",
)
UVM_MISSING = _kind(
    "uvm-missing",
    "error",
    "the device node /dev/nvidia-uvm is missing",
    reads="`/dev/nvidia*`",
    means="CUDA finds no GPU; an instance that starts now does not get past its gate",
    mends="{ssh} sudo systemctl start flexi-gpu-nodes.service",
)
PERSISTENCE_OFF = _kind(
    "persistence-off",
    "error",
    "persistence mode is off",
    reads="nvidia-smi",
    means="the driver lets go of idle cards: the first load after a pause waits for seconds",
    mends="{ssh} sudo nvidia-smi -pm 1",
)
THROTTLING = _kind(
    "throttling",
    "warning",
    "a GPU slows itself down",
    reads="nvidia-smi: the clocks' event reasons",
    means="answers are slower than promised; heat or power supply is short",
    mends="{ssh} nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER -i {index}",
)
ECC = _kind(
    "ecc",
    "warning",
    "a GPU has had uncorrected memory errors",
    reads="nvidia-smi: volatile uncorrected errors",
    means="answers of that moment broke off or were wrong; the card is a candidate for replacement",
    mends="{ssh} nvidia-smi -q -d ECC,ROW_REMAPPER,PAGE_RETIREMENT -i {index}",
)
XID = _kind(
    "xid",
    "warning",
    "the kernel driver has reported errors of a GPU since the last boot",
    reads="the kernel's journal: `NVRM: Xid`, but for what programs cause themselves",
    means="hardware or driver is in trouble, see docs.nvidia.com/deploy/xid-errors",
    mends="{ssh} sudo journalctl -k -b -g Xid",
)
FOREIGN = _kind(
    "foreign-process",
    "warning",
    "somebody else uses a GPU of a group",
    reads="nvidia-smi: compute processes with their units, and memory that nobody accounts for",
    means="the group's models may not fit any more and end on the CPU, or answer slower",
    mends="{ssh} sudo ps -o pid,user,lstart,args -p {pid}",
)
FOREIGN_MEMORY = _kind(
    "foreign-memory",
    "warning",
    "memory of a GPU is taken by nobody that can be seen",
    reads="nvidia-smi: memory in use, less what processes and the driver take",
    means="a container's process, or what a crashed one left behind: the group's models may not fit any more",
    mends="{ssh} sudo fuser -v /dev/nvidia{index}",
)

# -- the service ------------------------------------------------------------------------------------------------------

CPU_FALLBACK = _kind(
    "cpu-fallback",
    "error",
    "an instance computes on the CPU",
    reads="`inference compute` in the journal of its present run, `/api/ps`",
    means="answers take ten times as long; the agent keeps such models out of the gateway",
    mends="{ssh} sudo systemctl restart {unit}",
)
PAIR = _kind(
    "driver-too-old",
    "error",
    "this Ollama needs a newer driver than the one that runs",
    reads="`/api/version`, the current release, the running driver",
    means="Ollama 0.30 and later use no GPU below driver 550, without a word (discover/cuda_compat.go)",
    mends="./flexi rollback {site} --host {host}   # without a release to go back to: " + _DEPLOY_REBOOT,
)
RELEASE_DIFFERS = _kind(
    "release-differs",
    "error",
    "another Ollama runs than the site wants",
    reads="`/opt/ollama/current`, `/api/version`",
    means="what was tested is not what serves",
    mends=_DEPLOY,
)
LOOP = _kind(
    "instance-loop",
    "error",
    "an instance starts again and again",
    reads="`systemctl show`: NRestarts and SubState; the agent's reason",
    means="its group does not serve",
    mends="{ssh} sudo journalctl -u {unit} -n 50",
)
NO_ANSWER = _kind(
    "instance-silent",
    "error",
    "an instance runs and does not answer",
    reads="`/api/version`",
    means="its group does not serve",
    mends="{ssh} sudo systemctl restart {unit}",
)
WRONG_GPUS = _kind(
    "instance-gpus",
    "error",
    "an instance's settings do not name the GPUs that the plan gives it",
    reads="`CUDA_VISIBLE_DEVICES` in `/etc/ollama/GROUP.env`",
    means="its models may not fit, or two groups share a card",
    mends=_DEPLOY,
)
SURPLUS = _kind(
    "surplus-instance",
    "warning",
    "an instance runs that the plan does not have here",
    reads="`systemctl show` of `ollama@` for each `/etc/ollama/*.env`",
    means="it holds GPU memory that another group was promised",
    mends=_DEPLOY,
)
AGENT_SILENT = _kind(
    "agent-silent",
    "error",
    "the agent says nothing",
    reads="`/run/flexi-agent/status.json` and its age",
    means="nobody reloads a model, and the gateway keeps the last state that it heard of",
    mends="{ssh} sudo systemctl restart flexi-agent.service",
)
MODEL_NOT_READY = _kind(
    "model-not-ready",
    "error",
    "a model is not ready, and nothing above explains it",
    reads="the agent's word for every model of the plan: starting, downloading, loading",
    means="the gateway sends it elsewhere, or lets requests for it wait",
    mends="./flexi status {site}   # what it waits for; its log: {ssh} sudo journalctl -u flexi-agent -n 50",
)
MODEL_FAULT = _kind(
    "model-fault",
    "error",
    "a model cannot be used, and nothing above explains it",
    reads="the agent's words",
    means="the gateway does not send this model here",
    mends="./flexi status {site}",
)
DRAINED = _kind(
    "drained",
    "warning",
    "a group was drained by hand",
    reads="`/etc/flexi/drain.d`",
    means="the gateway sends it nothing new",
    mends="{ssh} sudo rm /etc/flexi/drain.d/{group}",
)
DRAIN_LEFT = _kind(
    "drain-left",
    "warning",
    "a deploy drained a group and has not returned it",
    reads="`/etc/flexi/drain.d`: reasons that begin with `flexi: `",
    means="a deploy is at work, or was interrupted: the gateway sends the group nothing new",
    mends=_DEPLOY,
)

# -- the gateway and the chat -----------------------------------------------------------------------------------------

GATEWAY_DOWN = _kind(
    "gateway-down",
    "error",
    "the gateway cannot be asked",
    reads="HAProxy's admin socket, by `flexi-agent.pyz now`",
    means="nobody reaches a model",
    mends="{ssh} sudo systemctl restart haproxy.service   # its settings: sudo haproxy -c -f /etc/haproxy/haproxy.cfg",
)
GATEWAY_WRONG = _kind(
    "gateway-answers-wrong",
    "error",
    "the gateway does not answer clients as the site file says",
    reads="`/api/tags`, `/api/pull` and `/api/chat` on the gateway's own host, with a key and without",
    means="models are missing for users, or something is open that should be closed",
    mends=_DEPLOY,
)
GATEWAY_WITHHOLDS = _kind(
    "gateway-withholds",
    "error",
    "the gateway sends an instance nothing, and nothing above explains it",
    reads="`show stat` of HAProxy: its own check and the agent's",
    means="its models are served by fewer instances, or by none",
    mends="./flexi status {site}   # the gateway's table says why",
)
KEYS_DIFFER = _kind(
    "keys-differ",
    "error",
    "the gateway knows other keys than the site's keys file",
    reads="the digest of `/etc/haproxy/flexi/keys.map`, and what the running HAProxy has of it",
    means="a new key is refused or a revoked one still works, as after `keys add --here` or from a restored folder",
    mends=_DEPLOY,
)
LEDGER_SILENT = _kind(
    "ledger-silent",
    "error",
    "the ledger does not answer",
    reads="its loopback port on the gateway",
    means="requests go on, and nobody counts them",
    mends="{ssh} sudo systemctl restart flexi-ledger.service",
)
CHAT_DOWN = _kind(
    "chat-down",
    "error",
    "the chat does not serve",
    reads="its unit and its `/health` on the chat's host, its page by its name at the gateway",
    means="nobody can sign in or go on with a chat; what was written is kept",
    mends="{ssh} sudo systemctl restart flexi-chat.service   # where it fails: sudo journalctl -u flexi-chat -n 50",
)
BOT_NOT_READY = _kind(
    "bot-not-ready",
    "warning",
    "a course bot is missing, or part of its material",
    reads="what the deploy or `flexi-courses.timer` noted last",
    means="its course does without it; the timer tries again every two minutes",
    mends="{ssh} sudo journalctl -u flexi-courses.service -n 50",
)
CHECK_FAILS = _kind(
    "check-fails",
    "error",
    "a health check fails, and nothing above explains it",
    reads="`flexi verify`'s checks of the gateway and the chat, where nothing else is wrong",
    means="users meet it: the check says what",
    mends=_DEPLOY,
)
