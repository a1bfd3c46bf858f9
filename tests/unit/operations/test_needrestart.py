"""What needrestart makes of our file: Perl that it evaluates after its own configuration."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from flexi.paths import ROOT

CONFIG = ROOT / "templates/base/needrestart.conf"

# As needrestart 3.5 and 3.6 decide about each service, in list, interactive and automatic mode alike: the first
# pattern that matches, in the order of their texts, says whether it is restarted; else its default does.
ASK = r"""
our %nrconf = (defno => 0, override_rc => { qr(^dbus) => 0 });
eval do { local (@ARGV, $/) = shift @ARGV; <> };
die $@ if $@;
for my $service (@ARGV) {
  my $restart = !$nrconf{defno};
  for my $pattern (sort keys %{ $nrconf{override_rc} }) {
    next unless $service =~ /$pattern/;
    $restart = $nrconf{override_rc}->{$pattern};
    last;
  }
  print "$service\n" if $restart;
}
"""


@pytest.mark.skipif(shutil.which("perl") is None, reason="needs perl")
def test_nothing_that_serves_is_restarted_and_all_else_is() -> None:
    ours = [
        *("ollama@a.service", "ollama@teaching-1.service", "flexi-agent.service", "flexi-catalogue.service"),
        *("flexi-guard.service", "flexi-share@3-1.service", "haproxy.service", "dbus.service"),
        "nvidia-persistenced.service",
    ]
    others = ["ssh.service", "cron.service", "my-ollama.service", "chrony.service"]
    script = ["perl", "-e", ASK, str(CONFIG), *ours, *others]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    assert done.stdout.split() == others
