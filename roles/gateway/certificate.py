"""The gateway's certificate: in place before HAProxy starts with it, and ordered, where it is, once HAProxy runs."""

from pyinfra.api import deploy
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files, systemd

from flexi.configs.rendering import render
from flexi.local_files.certificates import external_account, pem
from flexi.operations import certificate, host_files
from flexi.plan.model.gateway import GatewayPlan

SETTINGS = "/etc/flexi/certbot.ini"
TIMER = "certbot.timer"


@deploy("Certificate")
def provide(gateway: GatewayPlan, dest: str) -> list[OperationMeta]:
    """Put a certificate in place; returns the operations after which HAProxy must read it anew."""
    tls = gateway.tls
    if tls is None or tls.acme is None:
        # Without its settings certbot's hook leaves the certificate in use alone.
        files.file(name="Order no certificate any more", path=SETTINGS, present=False)
    if tls is None:
        return []
    files.put(
        name="Write the program that brings certificates to HAProxy",
        src="templates/gateway/flexi-certificate",
        dest=certificate.PROGRAM,
        mode="0755",
    )
    if tls.certificate and tls.key:
        brought = certificate.upload(name="Bring the certificate", pem=pem(tls.certificate, tls.key), dest=dest)
        return [brought]
    made = certificate.self_sign(
        name="Make a certificate to start with" if tls.acme else "Make the certificate",
        names=tls.names,
        dest=dest,
        only_first=tls.acme is not None,
    )
    return [made]


@deploy("Certificate")
def order(gateway: GatewayPlan, dest: str) -> None:
    """Order the certificate once the gateway answers: the authority asks it."""
    acme = gateway.tls and gateway.tls.acme
    if not acme:
        return
    settings = host_files.secret(
        name="Write how the certificate is ordered",
        dest=SETTINGS,
        content=render("gateway/certbot.ini.j2", gateway=gateway, account=external_account(acme.account)),
    )
    certificate.order(name="Order the certificate", settings=SETTINGS, dest=dest, after=[settings])
    systemd.service(name="Have it renewed", service=TIMER, running=True, enabled=True)
