# Asks nvidia-smi about the host's cards and prints its answers untouched, as NAME=VALUE lines: flexi_host.agent.smi judges
# them. POSIX sh, changes nothing. FLEXI_PROBE_ROOT is for tests: another tree to look at.

LC_ALL=C
PATH=${PATH:-/usr/bin:/bin}:/usr/sbin:/sbin
export LC_ALL PATH
R=${FLEXI_PROBE_ROOT:-}

bounded() { # bounded SECONDS COMMAND…: its output, nothing where it is missing; 124 or 137 where it took too long
  seconds=$1
  shift
  command -v "$1" >/dev/null 2>&1 || return 127
  timeout -k 2 "$seconds" "$@" </dev/null 2>/dev/null
}
lines() { sed "s|^|$1=|"; }
say() { printf '%s=%s\n' "$1" "$2"; }
here() { [ -e "$R$1" ] || [ -L "$R$1" ]; }

ask_smi() { # ask_smi FIELDS [INDEX]: what nvidia-smi prints, complaints included; its status, 124 or 137 after 20 s
  timeout -k 2 20 nvidia-smi "--query-gpu=$1" "$csv" ${2:+-i "$2"} </dev/null 2>&1
}

the_cards() { # the_cards FIELDS: every card once; sets `answering` to `all`, or to the indices of those that do
  answering=
  csv=--format=csv,noheader,nounits
  command -v nvidia-smi >/dev/null 2>&1 || return 1
  answer=$(ask_smi "$1")
  status=$?
  say smi_fields "$1"
  say smi_status $status
  printf '%s\n' "$answer" | lines smi
  case $status in
    0 | 14) answering=all ;; # 14: the infoROM is corrupted, and every card has its line
    124 | 137) return 0 ;;
  esac
  if [ -z "$answering" ]; then
    here /proc/driver/nvidia/version || return 0
    case $answer in *'Failed to initialize NVML'*) return 0 ;; esac # the driver as a whole: no card answers alone either
    # One lost card can make nvidia-smi refuse every question about the whole host: then each is asked alone, as many
    # as the driver knows of, and 16 where it does not say.
    count=0
    for card in "$R"/proc/driver/nvidia/gpus/*; do count=$((count + 1)); done
    [ "$count" -gt 16 ] || count=16
    index=0
    while [ $index -lt "$count" ]; do
      if printf '%s\n' "$answer" | grep -E -q "^ *$index *, *GPU-"; then
        answering="$answering $index"
      elif card=$(ask_smi "$1" $index) || [ $? -eq 14 ]; then
        if printf '%s\n' "$card" | grep -E -q "^ *$index *,"; then
          answering="$answering $index"
          printf '%s\n' "$card" | lines smi
        fi
      fi
      index=$((index + 1))
    done
    return 0
  fi
  # What a driver does not know makes nvidia-smi refuse the whole question.
  for fields in uuid,mig.mode.current,gpu_recovery_action uuid,mig.mode.current uuid,gpu_recovery_action; do
    answer=$(ask_smi "$fields")
    case $answer in *'is not a valid field to query'*) continue ;; esac
    printf '%s\n' "$answer" | lines smi_health
    break
  done
}
