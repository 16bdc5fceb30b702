"""Where a cluster is and how to log in, read from a kubeconfig as kubectl reads it.

What stands in the file, or in files that it names, is read here. Login programs and providers (`exec`,
`auth-provider`) are the kubernetes package's, imported only then: its import alone takes longer than a whole check may.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import os
import shlex
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from urllib3.util import make_headers, parse_url

from cluster.errors import KailabError
from cluster.yamls import load

Entry = dict[str, Any]
IMPERSONATIONS = ("as", "as-uid", "as-groups", "as-user-extra")  # AuthInfo in client-go's tools/clientcmd/api/v1
OURS = "kailab status, then kailab up   (starts or repairs the course cluster)"


class SharedContext(ssl.SSLContext):
    """A client's TLS settings with which many threads connect at the same time.

    urllib3 sets the application protocols anew for each connection, while OpenSSL may be reading them for another
    one in a thread that does not hold Python's lock: it then sends what is left of freed memory, and the server hangs
    up with "decode error". So they are set once.
    """

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """They stay as they are."""


def shared_context(*, cafile: Path | None = None, cadata: str | None = None) -> SharedContext:
    """As ssl.create_default_context() makes one, with all that the Python at hand demands of a server's certificate."""
    made = ssl.create_default_context(cafile=cafile, cadata=cadata)
    made.set_alpn_protocols(["http/1.1"])
    made.__class__ = SharedContext
    assert isinstance(made, SharedContext)
    return made


@dataclass(frozen=True)
class Target:
    """Where a cluster is and how to log in: server URL, TLS context, headers.

    `server_name` is the name in the server's certificate where that is not the URL's, `proxy` the URL of the proxy on
    the way. `anew` reads the login again, since it may have expired. `mend` is what to do when nothing answers.
    """

    server: str
    tls: SharedContext
    headers: Mapping[str, str]
    server_name: str = ""
    proxy: str = ""
    anew: Callable[[], Target] | None = None
    mend: str = OURS


def target(kubeconfig: Path, context: str = "") -> Target:
    """What a kubeconfig says of a context. Without a context it is the course's own file, which has but one.

    Raises KailabError when the file is missing or broken, or its login program fails.
    """
    try:
        text = kubeconfig.read_text()
    except FileNotFoundError:
        if not context:
            raise KailabError("There is no course cluster here yet.", mend="kailab up") from None
        mend = "give --kubeconfig the file with which kubectl reaches that cluster"
        raise KailabError(f"There is no {kubeconfig}.", mend=mend) from None
    except (OSError, ValueError) as broken:
        raise _unusable(kubeconfig, context, broken) from None
    try:
        return _Reader(kubeconfig, context, load(text)).target()
    except (yaml.YAMLError, AttributeError, LookupError, TypeError, ValueError, OSError) as broken:
        raise _unusable(kubeconfig, context, broken) from None


def bearer(configuration: Any) -> str:
    """The Authorization header of a Configuration of the kubernetes package, empty where a certificate is used.

    Its older releases keep the token as "authorization", newer ones as "BearerToken".
    """
    return str(configuration.get_api_key_with_prefix("BearerToken", alias="authorization") or "")


def _unusable(kubeconfig: Path, context: str, broken: Exception) -> KailabError:
    why = f"{type(broken).__name__}: {broken}"[:300]
    mend = _by_kubectl(kubeconfig, context) if context else "kailab up"
    return KailabError(f"{kubeconfig} is not a usable kubeconfig.", why=why, mend=mend)


def _by_kubectl(kubeconfig: Path, context: str) -> str:
    options = shlex.join(["--kubeconfig", str(kubeconfig), "--context", context])
    return f"kubectl {options} get nodes   (that must work first)"


class _Reader:
    """One context of a kubeconfig. Raises whatever a misshapen document leads to."""

    def __init__(self, kubeconfig: Path, context: str, document: Any) -> None:
        self._kubeconfig, self._named = kubeconfig, context
        self._context: str = context or document["current-context"]
        entry = _entry(document, "context", self._context)
        self._cluster = _entry(document, "cluster", entry["cluster"])
        self._user = _entry(document, "user", entry["user"]) if entry.get("user") else {}

    def target(self) -> Target:
        user = self._logged_in()
        headers = {"User-Agent": "kailab", "Accept": "application/json"}
        if authorization := self._authorization(user):
            headers["Authorization"] = authorization
        return Target(
            str(self._cluster["server"]).rstrip("/"), self._tls(user), headers,
            server_name=str(self._cluster.get("tls-server-name") or ""), proxy=self._proxy(),
            anew=lambda: target(self._kubeconfig, self._named),
            mend=_by_kubectl(self._kubeconfig, self._named) if self._named else OURS,
        )  # fmt: skip

    def _held(self, entry: Entry, name: str) -> bytes:
        """What a field holds itself or in the file that it names, as seen from the kubeconfig's folder."""
        if within := entry.get(f"{name}-data"):
            return base64.b64decode(within)
        return (self._kubeconfig.parent / entry[name]).read_bytes() if entry.get(name) else b""

    def _tls(self, user: Entry) -> SharedContext:
        authority = self._held(self._cluster, "certificate-authority")
        text = authority.decode("ascii", "ignore")
        if authority and "-----BEGIN" not in text:  # an empty text would mean every authority that this machine trusts
            raise ValueError("certificate-authority holds no certificate")
        tls = shared_context(cadata=text or None)
        if self._cluster.get("insecure-skip-tls-verify"):  # its owner's choice
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        if certificate := self._held(user, "client-certificate"):
            key = self._held(user, "client-key")
            if not key:
                raise ValueError("there is a client-certificate and no client-key")
            _load_client_certificate(tls, certificate + b"\n" + key)
        return tls

    def _authorization(self, user: Entry) -> str:
        if user.get("tokenFile"):
            return f"Bearer {(self._kubeconfig.parent / user['tokenFile']).read_text().strip()}"
        if user.get("token"):
            return f"Bearer {user['token']}"
        if user.get("username"):
            return make_headers(basic_auth=f"{user['username']}:{user.get('password', '')}")["authorization"]
        return ""

    def _proxy(self) -> str:
        url = str(self._cluster.get("proxy-url") or "") or _environments_proxy(str(self._cluster["server"]))
        if url and parse_url(url).scheme not in ("http", "https"):
            raise ValueError(f"proxy {url!r} is not one of http or https, and kailab knows no other proxies")
        return url

    def _logged_in(self) -> Entry:
        """The user with a token or certificate in the place of what it is got from."""
        user = self._user
        if acts := [name for name in IMPERSONATIONS if user.get(name)]:
            # Left out, one would act with rights that its owner has put away. Followed, a submission could not get
            # a user of its own: the API server takes one impersonation at a time.
            raise KailabError(
                f"Context {self._context} of {self._kubeconfig} acts as another user ({', '.join(acts)}), which "
                "kailab can't.", mend="give a context whose user has these rights by itself",
            )  # fmt: skip
        if "auth-provider" in user:
            return {**user, "token": self._by_provider()}
        if "exec" in user and not (user.get("token") or user.get("tokenFile")):
            return {**user, **self._by_program(user["exec"])}
        return user

    def _by_provider(self) -> str:
        """The token of OpenID Connect or Google, which the package also renews and writes back."""
        from kubernetes import client, config

        loaded, why = client.Configuration(), ""
        try:
            config.load_kube_config(str(self._kubeconfig), self._context, client_configuration=loaded)
        except Exception as failed:  # noqa: BLE001 - it goes over the network, through three packages
            why = str(failed)
        token = bearer(loaded).removeprefix("Bearer ")
        if not token:
            name = self._user["auth-provider"].get("name", "")
            raise self._no_login(f"The auth-provider {name} of {self._kubeconfig} gave no token.", why)
        return token

    def _by_program(self, spec: Entry) -> Entry:
        """What a login program gives ("client-go credential plugins" in kubernetes.io/docs), as fields of a user.

        Without it the package would go on as nobody, and the API server would refuse system:anonymous.
        """
        from kubernetes.config import ConfigException
        from kubernetes.config.exec_provider import ExecProvider
        from kubernetes.config.kube_config import ConfigNode

        cluster, folder = ConfigNode("cluster", self._cluster), str(self._kubeconfig.parent)
        program = f"The login program {spec['command']} of {self._kubeconfig}"
        try:
            given = ExecProvider(ConfigNode("exec", spec), folder, cluster).run()
        except OSError as missing:
            raise self._no_login(f"{program} can't be run.", spec.get("installHint") or str(missing)) from None
        except ConfigException as failed:
            raise self._no_login(f"{program} failed.", str(failed)) from None
        except AttributeError:  # the package stumbles where the program's words went to the terminal
            raise self._no_login(f"{program} failed.", "It has said why above.") from None
        if given.get("token"):
            return {"token": given["token"]}
        if not (given.get("clientCertificateData") and given.get("clientKeyData")):
            raise self._no_login(f"{program} gave no token and no certificate.", "")
        pair = (("client-certificate", "clientCertificateData"), ("client-key", "clientKeyData"))
        return {f"{name}-data": base64.b64encode(given[its].encode()) for name, its in pair}

    def _no_login(self, what: str, why: str) -> KailabError:
        return KailabError(what, why=why[:500], mend=_by_kubectl(self._kubeconfig, self._context))


def _environments_proxy(server: str) -> str:
    """The proxy on the way to a server by HTTPS_PROXY, HTTP_PROXY and NO_PROXY, as kubectl and all Go programs take it
    (golang.org/x/net/http/httpproxy): none to this machine itself, and NO_PROXY may hold networks.
    """
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return ""
    from urllib import request  # slow to import

    address, proxies = urlsplit(server), request.getproxies_environment()
    host = address.hostname or ""
    if host == "localhost" or request.proxy_bypass_environment(host, proxies):  # type: ignore[attr-defined]
        return ""
    with contextlib.suppress(ValueError):  # a name is in no network
        ip = ipaddress.ip_address(host)
        if ip.is_loopback or any(ip in network for network in _networks(proxies.get("no", ""))):
            return ""
    url = proxies.get(address.scheme, "")
    return url if "://" in url or not url else f"http://{url}"


def _networks(no_proxy: str) -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for entry in no_proxy.split(","):
        if "/" in entry:
            with contextlib.suppress(ValueError):
                yield ipaddress.ip_network(entry.strip(), strict=False)


def _entry(document: Any, what: str, name: str) -> Entry:
    present: dict[str, Any] = {entry["name"]: entry[what] for entry in document[f"{what}s"]}
    if name not in present:
        raise ValueError(f"it has no {what} {name!r}, but: {', '.join(map(str, present)) or 'none'}")
    found = present[name]
    if isinstance(found, dict):
        return found
    raise ValueError(f"its {what} {name!r} has no fields")  # cut off: not the same as a user without a login


def _load_client_certificate(tls: ssl.SSLContext, pem: bytes) -> None:
    """OpenSSL reads certificates only from files, so the pair goes through a private one for a moment."""
    import tempfile

    descriptor, name = tempfile.mkstemp(prefix="kailab-")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        tls.load_cert_chain(name)
    finally:
        Path(name).unlink()
