from flexi.inventory import pyinfra_hosts as _pyinfra_hosts

hosts = _pyinfra_hosts(__file__)
