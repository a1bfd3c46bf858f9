# Reads what is true on a host, as root, and changes nothing. Prints NAME=VALUE, one line each; a name may come often.
# POSIX sh, so that it also runs where nothing is installed yet. FLEXI_PROBE_ROOT is for tests: another tree to look at.
# The order matters: what can hang in the kernel, where no signal reaches it, comes last, and what was printed counts.
# smi.sh is put before it.

content() { [ -f "$R$2" ] && [ -r "$R$2" ] && lines "$1" <"$R$2"; }

the_system() {
  say time "$(date +%s.%N)"
  content os_release /etc/os-release
  content kernel /proc/sys/kernel/osrelease
  content boot_id /proc/sys/kernel/random/boot_id
  content uptime /proc/uptime
  content reboot_required /run/reboot-required
  content reboot_package /run/reboot-required.pkgs
  content tried /var/lib/flexi/driver-boot-id
  for store in "$R"/var/lib/ollama/*/models; do
    [ -d "$store" ] || continue
    set -- "$@" "$store"
    bounded 10 find "$store" ! -user ollama -print -quit | sed "s|^$R||" | lines foreign
  done
  for directory in / /boot /var /tmp /var/lib/ollama /opt/ollama; do here "$directory" && set -- "$@" "$R$directory"; done
  bounded 10 df -P -k "$@" | sed 1d | lines disk
  bounded 10 df -P -i "$@" | sed 1d | lines inodes
}

the_kernel() {
  content driver /proc/driver/nvidia/version
  for module in "$R"/sys/module/nvidia* "$R"/sys/module/nouveau; do [ -d "$module" ] && say loaded "${module##*/}"; done
  for node in "$R"/dev/nvidia*; do [ -c "$node" ] && say node "${node#"$R"}"; done
  for card in "$R"/sys/bus/pci/devices/*; do
    [ "$(cat "$card/vendor" 2>/dev/null)" = 0x10de ] || continue
    case $(cat "$card/class" 2>/dev/null) in
      0x0300* | 0x0302*) say pci "${card##*/} $(basename "$(readlink "$card/driver" 2>/dev/null)")" ;;
    esac
  done
  # Ubuntu's prebuilt modules lie in kernel/nvidia-*, those of DKMS in updates/dkms; Debian's is called nvidia-current.
  for kernel in "$R"/lib/modules/*; do
    [ -d "$kernel" ] || continue
    bounded 10 find "$kernel" \( -name 'nvidia.ko*' -o -name 'nvidia-current.ko*' -o -name 'nvidia-tesla*.ko*' \) |
      while read -r file; do
        version=$(bounded 5 modinfo -F version "$file")
        signer=$(bounded 5 modinfo -F signer "$file")
        say module "${kernel##*/}|${file#"$R"}|$version|$signer"
      done
  done
  bounded 10 dkms status | lines dkms
  if here /sys/firmware/efi; then
    say efi yes
    state=$(bounded 5 mokutil --sb-state)
    [ -n "$state" ] || {
      variable=$R/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
      [ -r "$variable" ] && state="SecureBoot byte$(od -An -tu1 -j4 -N1 "$variable" 2>/dev/null)"
    }
    say secure_boot "$state"
    bounded 5 mokutil --list-enrolled | sed -n 's/^ *Subject:.*CN *= */enrolled_key=/p'
  fi
  bounded 15 journalctl -q -k -b --no-pager -o short-unix | grep -F 'NVRM: Xid' | tail -n 100 | lines xid
}

the_packages() {
  state='${db:Status-Want}|${db:Status-Status}|${Package}|${Version}|${Section}|${binary:Summary}\n'
  bounded 20 dpkg-query -W -f "$state" '*nvidia*' 'libcuda1*' 'cuda*' 'libxnvctrl*' 'datacenter-gpu-manager*' \
    'linux-image-*' 'linux-headers-*' 'linux-modules-*' 'linux-generic*' 'linux-amd64' |
    grep -v -E '^[a-z]+\|(not-installed|config-files)\|' | lines package
  bounded 20 dpkg-query -W -f '${db:Status-Status} ${Package}\n' |
    grep -v -E '^(installed|config-files|not-installed) ' | lines half_installed
  # Without its caches apt writes nothing; a mirror's password in an address stays here.
  names=$(bounded 20 dpkg-query -W -f '${db:Status-Status} ${Package}\n' '*nvidia*' 'libcuda1*' 'libxnvctrl*' |
    sed -n 's/^installed //p')
  uncached='-o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache='
  if [ -n "$names" ]; then
    bounded 60 apt-cache $uncached policy $names | sed 's#://[^/@ ]*@#://#' | lines policy
    bounded 60 apt-cache $uncached policy | sed '/^Pinned packages/,$d; s#://[^/@ ]*@#://#' | lines source
    bounded 60 apt-cache $uncached show --no-all-versions $names |
      sed -n -E '/^(Package|Version|Section|Description(-en)?):/p; /^$/p' | lines candidate
  fi
  for file in "$R"/etc/apt/preferences "$R"/etc/apt/preferences.d/*; do
    [ -f "$file" ] || continue
    case ${file##*/} in preferences | *.pref) ;; *.*) continue ;; esac # man apt_preferences: no other extension
    sed 's/^#.*//' "$file" | lines pin
    say pin ''
  done
  bounded 10 apt-config dump Unattended-Upgrade::Package-Blacklist | lines blacklist
  here /etc/needrestart/conf.d/flexi.conf && say needrestart flexi
}

the_service() {
  here /etc/flexi && say flexi yes
  for file in "$R"/etc/flexi/drain.d/*; do
    [ -f "$file" ] && say drain "${file##*/}|$(head -n 1 "$file" 2>/dev/null)"
  done
  for file in "$R"/opt/ollama/*/.archive-sha256; do
    file=${file%/.archive-sha256}
    [ -f "$file/.archive-sha256" ] && [ ! -L "$file" ] && say release "${file##*/}"
  done
  for link in current previous; do
    here /opt/ollama/$link && say "release_$link" "$(basename "$(readlink "$R/opt/ollama/$link")")"
  done
  for file in "$R"/etc/haproxy/flexi/*.pem; do
    [ -f "$file" ] && say certificate "${file#"$R"}|$(bounded 5 openssl x509 -in "$file" -noout -enddate)"
  done
  content agent /run/flexi-agent/status.json
  set --
  for file in "$R"/etc/ollama/*.env; do
    [ -f "$file" ] || continue
    group=${file##*/}
    group=${group%.env}
    set -- "$@" "ollama@$group.service"
    # Two of its settings only: an address of a proxy may carry a password.
    gpus=$(sed -n 's/^CUDA_VISIBLE_DEVICES=//p' "$file")
    address=$(sed -n 's/^OLLAMA_HOST=//p' "$file" | tr -d "\"'")
    say instance "$group|$gpus|$address"
    case $address in
      *[!0-9A-Za-z.:/_-]* | '') continue ;;
      0.0.0.0:*) address=127.0.0.1:${address#0.0.0.0:} ;;
    esac
    say answer "$group|version|$(bounded 6 curl -fsS -m 5 "http://${address#http://}/api/version" | tr -d '\n')"
    say answer "$group|ps|$(bounded 6 curl -fsS -m 5 "http://${address#http://}/api/ps" | tr -d '\n')"
    run=$(bounded 5 systemctl show -p InvocationID --value "ollama@$group.service")
    [ -n "$run" ] && bounded 10 journalctl -q --no-pager -o cat -u "ollama@$group.service" \
      "_SYSTEMD_INVOCATION_ID=$run" | head -n 400 | grep -F 'inference compute' | lines "compute_$group"
  done
  bounded 10 systemctl show -p Id,LoadState,ActiveState,SubState,UnitFileState,NRestarts,ActiveEnterTimestampMonotonic \
    "$@" flexi-agent.service flexi-firewall.service flexi-catalogue.service flexi-guard.service haproxy.service \
    flexi-ledger.service flexi-ledger.socket keepalived.service certbot.timer \
    flexi-chat.service flexi-chat-cleaning.timer flexi-courses.timer flexi-chat-front.service flexi-chat-redis.service \
    postgresql.service \
    nvidia-persistenced.service systemd-timesyncd.service chrony.service chronyd.service ntpsec.service ntp.service \
    openntpd.service | lines unit
}

the_gpus() {
  fields=index,uuid,name,pci.bus_id,memory.total,memory.used,temperature.gpu,persistence_mode
  the_cards "$fields,ecc.errors.uncorrected.volatile.total" || return 0
  for card in $answering; do
    case $card in all) the_use ;; *) the_use "$card" ;; esac
  done
}

the_use() { # the_use [INDEX]: what slows that card, or any, and who computes on it
  # The field's name since driver 535, and before.
  for field in clocks_event_reasons.active clocks_throttle_reasons.active; do
    reasons=$(bounded 20 nvidia-smi "--query-gpu=uuid,$field" $csv ${1:+-i "$1"}) && break
  done && printf '%s\n' "$reasons" | lines throttle
  bounded 20 nvidia-smi --query-compute-apps=gpu_uuid,pid,used_memory $csv ${1:+-i "$1"} | grep '^GPU-' |
    while IFS=', ' read -r uuid pid used; do
      # The unified hierarchy's line, or that of systemd's own where there are several (man cgroups).
      owner=$(sed -n 's/^[0-9]*:\(name=systemd\)\{0,1\}://p' "$R/proc/$pid/cgroup" 2>/dev/null | tail -n 1)
      say process "$uuid|$pid|$used|$(cat "$R/proc/$pid/comm" 2>/dev/null)|$owner"
    done
}

main() {
  say probe 1
  the_system
  say read system
  the_kernel
  say read kernel
  the_packages
  say read packages
  the_service
  say read service
  the_gpus
  say read gpus
  say time_end "$(date +%s.%N)"
}
main </dev/null
