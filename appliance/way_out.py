"""Which proxy the node goes out through, from settings or environment."""

from __future__ import annotations

from appliance.settings import Settings
from appliance.settings_network import ProxySection
from federation.errors import SettingsRefused
from federation.wire.dial import Proxy, environment_proxy

MAX_PASSWORD_BYTES = 4096


def proxy_of(settings: Settings, address: str) -> Proxy | None:
    """The proxy towards a coordinator.

    Args:
        settings: of the node; what they say goes before the environment.
        address: the coordinator's ``host:port``.

    Raises:
        SettingsRefused: the URL or the password's file cannot be used.
    """
    section = settings.federation.proxy
    if section is None:
        return environment_proxy(address)
    return Proxy.parse(
        section.url,
        authorities=section.authorities,
        user=section.user,
        password=_password(section),
    )


def _password(section: ProxySection) -> str:
    if section.password_file is None:
        return ""
    try:
        with section.password_file.open("rb") as stream:
            content = stream.read(MAX_PASSWORD_BYTES)
    except OSError as error:
        raise SettingsRefused(
            f"the proxy's password file cannot be read ({error.strerror}): check its path and mode"
        ) from error
    return content.decode("utf-8", "replace").strip("\r\n")
