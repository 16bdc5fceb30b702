"""Kubeconfigs of other clusters: every field that leads there is followed, and what is missing is named."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import ssl
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.api import Unreachable, connect
from cluster.errors import KailabError
from cluster.kubeconfig import shared_context, target
from tests import servers

SERVER = "https://127.0.0.1:1"


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


AUTHORITY = {"certificate-authority-data": base64_of(servers.AUTHORITY)}


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """An API server behind TLS, whose certificate has another name than its address."""

    def serve(connection: Any, head: str) -> None:
        if servers.header(head, "Upgrade"):
            servers.accept_websocket(connection, head)
            connection.sendall(servers.CLOSE)
        else:
            servers.answer(connection, 200, {"gitVersion": "v1", "login": servers.header(head, "Authorization")})

    with servers.serving(serve, servers.server_tls(tmp_path)) as port:
        yield port


def written(folder: Path, cluster: dict[str, Any], user: dict[str, Any] | None = None) -> Path:
    path = folder / "theirs"
    return servers.kubeconfig(path, {"server": SERVER, **AUTHORITY, **cluster}, user or {"token": "t"})


def program(folder: Path, text: str) -> dict[str, Any]:
    """A login program, as a user's `exec`."""
    path = folder / "login"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(path), "installHint": "get it"}}


def credential(**status: str) -> str:
    return json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status})


def test_the_servers_certificate_may_have_another_name_than_its_address(tmp_path: Path, port: int) -> None:
    named = written(tmp_path, {"server": f"https://127.0.0.1:{port}", "tls-server-name": servers.NAME})
    with contextlib.closing(connect(named, "c")) as api:
        assert api.version() == "v1"
        with api.stream("/exec", 5) as opened:
            assert opened.connected
    unnamed = written(tmp_path, {"server": f"https://127.0.0.1:{port}"})
    with contextlib.closing(connect(unnamed, "c")) as api:
        with pytest.raises(Unreachable) as refused:
            api.version()
        assert "certificate" in refused.value.why
        with pytest.raises(Unreachable), api.stream("/exec", 5):
            pass


@pytest.mark.parametrize(("login", "said"), [("", ""), ("ada:se%40cret@", "Basic YWRhOnNlQGNyZXQ=")])
def test_a_proxy_on_the_way_is_used(tmp_path: Path, port: int, login: str, said: str) -> None:
    asked: list[str] = []
    with servers.tunnelling(port, asked) as proxy:
        way = {"server": f"https://{servers.NAME}:6443", "proxy-url": f"http://{login}127.0.0.1:{proxy}"}
        with contextlib.closing(connect(written(tmp_path, way), "c")) as api:
            assert api.call("GET", "/version")["login"] == "Bearer t"
            with api.stream("/exec", 5) as opened:
                assert opened.connected
    assert [head.split()[:2] for head in asked] == [["CONNECT", f"{servers.NAME}:6443"]] * 2
    assert [servers.header(head, "Proxy-Authorization") for head in asked] == [said, said]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the proxies' variables, and only those."""

    def put(**variables: str) -> None:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


def test_the_environments_proxy_is_used(tmp_path: Path, port: int, environment: Callable[..., None]) -> None:
    asked: list[str] = []
    with servers.tunnelling(port, asked) as proxy:
        environment(HTTPS_PROXY=f"127.0.0.1:{proxy}", no_proxy="example.com")
        there = written(tmp_path, {"server": f"https://{servers.NAME}:6443"})
        with contextlib.closing(connect(there, "c")) as api:
            assert api.version() == "v1"
            with api.stream("/exec", 5) as opened:
                assert opened.connected
    assert [head.split()[0] for head in asked] == ["CONNECT"] * 2


def test_on_the_way_to_this_machine_is_no_proxy(tmp_path: Path, port: int, environment: Callable[..., None]) -> None:
    environment(https_proxy="http://127.0.0.1:1", HTTPS_PROXY="http://127.0.0.1:1", NO_PROXY="example.com")
    local = written(tmp_path, {"server": f"https://127.0.0.1:{port}", "tls-server-name": servers.NAME})
    with contextlib.closing(connect(local, "c")) as api:
        assert api.version() == "v1"
        with api.stream("/exec", 5) as opened:
            assert opened.connected


@pytest.mark.parametrize(("server", "variables", "proxy"), [
    ("https://k8s.example.com:6443", {"https_proxy": "http://p:1", "http_proxy": "http://q:1"}, "http://p:1"),
    ("https://k8s.example.com:6443", {"http_proxy": "http://q:1"}, ""),
    ("http://k8s.example.com", {"HTTP_PROXY": "q:1"}, "http://q:1"),
    ("https://k8s.example.com:6443", {"https_proxy": "http://p:1", "no_proxy": "other.org, .example.com"}, ""),
    ("https://k8s.example.com:6443", {"https_proxy": "http://p:1", "NO_PROXY": "*"}, ""),
    ("https://10.1.2.3:6443", {"https_proxy": "http://p:1", "no_proxy": "192.168.0.0/16,10.0.0.0/8"}, ""),
    ("https://11.1.2.3:6443", {"https_proxy": "http://p:1", "no_proxy": "10.0.0.0/8,odd/odd"}, "http://p:1"),
    ("https://localhost:6443", {"https_proxy": "http://p:1"}, ""),
    ("https://[::1]:6443", {"https_proxy": "http://p:1"}, ""),
])  # fmt: skip
def test_proxies_are_taken_from_the_environment_as_kubectl_takes_them(
    tmp_path: Path, environment: Callable[..., None], server: str, variables: dict[str, str], proxy: str
) -> None:
    environment(**variables)
    assert target(written(tmp_path, {"server": server}), "c").proxy == proxy


def test_the_kubeconfigs_proxy_goes_before_the_environments(tmp_path: Path, environment: Callable[..., None]) -> None:
    environment(https_proxy="http://p:1", no_proxy="*")
    cluster = {"server": "https://k8s.example.com", "proxy-url": "http://q:1"}
    assert target(written(tmp_path, cluster), "c").proxy == "http://q:1"


def test_certificates_and_keys_may_be_files_or_data_in_any_mixture(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "tls.crt").write_text(servers.CERTIFICATE)
    (tmp_path / "sub" / "tls.key").write_text(servers.KEY)
    data = {"client-certificate-data": base64_of(servers.CERTIFICATE), "client-key-data": base64_of(servers.KEY)}
    files = {"client-certificate": "sub/tls.crt", "client-key": str(tmp_path / "sub" / "tls.key")}
    for certificate in (data, files):
        for key in (data, files):
            user = {name: value for name, value in certificate.items() if "certificate" in name}
            user |= {name: value for name, value in key.items() if "key" in name}
            assert "Authorization" not in target(written(tmp_path, {}, user), "c").headers


def test_a_token_may_be_a_file_and_a_password_will_do(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-a-file\n")
    for user, header in (
        ({"tokenFile": "token"}, "Bearer from-a-file"),
        ({"tokenFile": str(tmp_path / "token"), "token": "old"}, "Bearer from-a-file"),
        ({"username": "ada", "password": "secret"}, "Basic YWRhOnNlY3JldA=="),
        ({"token": "t", "exec": {"command": "never-run"}}, "Bearer t"),
    ):
        assert target(written(tmp_path, {}, user), "c").headers["Authorization"] == header


def test_a_login_program_gives_a_token_or_a_certificate(tmp_path: Path) -> None:
    by_token = program(tmp_path, f"echo '{credential(token='made')}'")
    assert target(written(tmp_path, {}, by_token), "c").headers["Authorization"] == "Bearer made"
    pair = credential(clientCertificateData=servers.CERTIFICATE, clientKeyData=servers.KEY)
    (tmp_path / "pair").write_text(pair)
    by_certificate = program(tmp_path, "cat pair")  # it runs in the kubeconfig's folder, as kubectl's does
    assert "Authorization" not in target(written(tmp_path, {}, by_certificate), "c").headers


@pytest.mark.parametrize(("text", "what", "why"), [
    ("echo 'the session has ended' >&2; exit 3", "failed", "the session has ended"),
    ("echo no JSON", "failed", "decode"),
    (f"echo '{credential()}'", "gave no token and no certificate", ""),
    (f"echo '{credential(clientCertificateData='x')}'", "gave no token and no certificate", ""),
    (None, "can't be run", "get it"),
])  # fmt: skip
def test_a_login_program_that_fails_is_named_with_its_words(
    tmp_path: Path, text: str | None, what: str, why: str
) -> None:
    """As nobody in particular one would be told of system:anonymous, and of nothing that mends it."""
    user = program(tmp_path, text or "")
    if text is None:
        Path(user["exec"]["command"]).unlink()
    path = written(tmp_path, {}, user)
    with pytest.raises(KailabError) as refused:
        connect(path, "c")
    assert refused.value.what == f"The login program {user['exec']['command']} of {path} {what}."
    assert why in refused.value.why
    assert f"kubectl --kubeconfig {path} --context c" in refused.value.mend


def test_a_provider_that_gives_no_token_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, {}, {"auth-provider": {"name": "oidc", "config": {"id-token": "no JWT"}}})
    with pytest.raises(KailabError, match="auth-provider oidc"):
        connect(path, "c")


def test_a_login_as_another_user_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(KailabError, match=r"acts as another user \(as, as-groups\)"):
        target(written(tmp_path, {}, {"token": "t", "as": "viewer", "as-groups": ["readers"]}), "c")
    target(written(tmp_path, {}, {"token": "t", "as": ""}), "c")


def test_a_providers_token_is_used(tmp_path: Path) -> None:
    token = f"e30.{base64.urlsafe_b64encode(b'{}').decode().rstrip('=')}.x"
    path = written(tmp_path, {}, {"auth-provider": {"name": "oidc", "config": {"id-token": token}}})
    assert target(path, "c").headers["Authorization"] == f"Bearer {token}"


@pytest.mark.parametrize(("cluster", "user", "said"), [
    ({"certificate-authority-data": "", "certificate-authority": "no-ca.pem"}, {}, "no-ca.pem"),
    ({"certificate-authority-data": base64_of("nothing")}, {}, "no certificate"),
    ({"certificate-authority-data": base64_of("ü")}, {}, "no certificate"),
    ({}, {"tokenFile": "no-token"}, "no-token"),
    ({}, {"client-certificate": "no.crt", "client-key": "no.key"}, "no.crt"),
    ({}, {"client-certificate-data": base64_of(servers.CERTIFICATE)}, "no client-key"),
    ({"proxy-url": "socks5://127.0.0.1:1080"}, {}, "socks5"),
])  # fmt: skip
def test_what_a_kubeconfig_names_and_is_not_there_is_told(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], said: str
) -> None:
    path = written(tmp_path, cluster, user)
    with pytest.raises(KailabError, match="not a usable kubeconfig") as refused:
        connect(path, "c")
    assert said in refused.value.why
    assert "kailab up" not in refused.value.mend
    assert str(path) in refused.value.mend


def test_a_context_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    path = written(tmp_path, {})
    with pytest.raises(KailabError) as refused:
        connect(path, "other")
    assert refused.value.why.endswith("it has no context 'other', but: c")


@pytest.mark.parametrize("lost", ["", " client-certificate-d", " null"])
def test_a_file_that_was_cut_off_before_the_login_is_not_one_without_a_login(tmp_path: Path, lost: str) -> None:
    """The API server would take us for system:anonymous, and a cluster that is being made for one that is broken."""
    (tmp_path / "ours").write_text(f"""
current-context: c
clusters: [{{name: c, cluster: {{server: "{SERVER}"}}}}]
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
users:
- name: u
  user:{lost}
""")
    with pytest.raises(KailabError, match="not a usable kubeconfig"):
        connect(tmp_path / "ours")


def test_who_needs_no_login_has_none(tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    servers.kubeconfig(path, {"server": "http://127.0.0.1:8001"}, {})  # as for `kubectl proxy`
    assert "Authorization" not in target(path, "c").headers


def test_another_clusters_file_that_is_missing_is_not_ours(tmp_path: Path) -> None:
    with pytest.raises(KailabError) as refused:
        connect(tmp_path / "theirs", "c")
    assert str(tmp_path / "theirs") in refused.value.what
    assert "kailab up" not in str(refused.value)
    with pytest.raises(KailabError, match="not a usable kubeconfig"):
        connect(tmp_path, "c")


def test_what_mends_another_cluster_is_not_kailab_up(tmp_path: Path) -> None:
    with contextlib.closing(connect(written(tmp_path, {}), "c")) as api, pytest.raises(Unreachable) as refused:
        api.version()
    assert "kailab" not in refused.value.mend
    assert "--context c" in refused.value.mend


def test_no_other_authority_is_trusted_and_nobody_signs_what_its_owner_wants_unsigned(tmp_path: Path) -> None:
    found = target(written(tmp_path, {}), "c")
    assert (found.tls.verify_mode, len(found.tls.get_ca_certs())) == (ssl.CERT_REQUIRED, 1)
    unsigned = target(written(tmp_path, {"certificate-authority-data": "", "insecure-skip-tls-verify": True}), "c")
    assert (unsigned.tls.verify_mode, unsigned.tls.check_hostname) == (ssl.CERT_NONE, False)


def test_no_connection_changes_what_others_say_of_protocols() -> None:
    tls = shared_context()
    tls.set_alpn_protocols(["another"])  # as urllib3 does for each connection
    said = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        tls.wrap_bio(ssl.MemoryBIO(), said, server_hostname=servers.NAME).do_handshake()
    hello = said.read()
    assert b"http/1.1" in hello
    assert b"another" not in hello


def test_a_server_must_show_a_certificate_with_its_name() -> None:
    made, usual = shared_context(), ssl.create_default_context()
    assert made.check_hostname
    assert made.verify_mode is ssl.CERT_REQUIRED
    assert made.verify_flags == usual.verify_flags  # stricter in newer Pythons
