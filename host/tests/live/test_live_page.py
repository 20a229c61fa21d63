"""The live page: who may look, what a viewer that does not read costs, and how everything ends."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import mujoco
import numpy as np
import pytest
from mcap.reader import make_reader

from balance_hil.environment import open_environment
from balance_hil.live import LivePage, server
from balance_hil.recording import RecordingWriter, Step
from balance_hil.recording.format import step_encoder

pytest.importorskip("uvicorn", reason="the extra live is not installed: pip install 'balance-hil[live]'")
client = pytest.importorskip("websockets.sync.client", reason="the extra live is not installed: pip install 'balance-hil[live]'")
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402 - once it is known to be installed

META = {
    "policy": "ppo", "bundle": "b", "environment": "balance/Balance-v0", "clock": "realtime", "faults": [], "max_steps": 9,
    "seeds": [1], "board": {"definition": "native", "processor": "x86_64", "engine": "int8", "engine_version": "1"},
}  # fmt: skip


@pytest.fixture(scope="module")
def env():
    with open_environment("balance/Balance-v0") as env:
        env.reset(seed=1)
        env.scene.begin_episode()
        yield env


@pytest.fixture
def page(env):
    with LivePage() as page:
        page.begin(META, env, can_inject=True)
        yield page


def step(number, env=None, **more):
    state = env.scene.state() if env is not None else None
    return Step(number * 0.005, 0, number, [0.0] * 6, [0.1, 0.2], False, [0.0] * 3, 1.0, state=state, **more)


def get(url, **headers):
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=5)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def watch(url, **options):
    return client.connect(url.replace("http:", "ws:").replace("/?", "/stream?"), max_size=None, **options)


def messages_until(stream, wanted, timeout_s=10):
    """Messages up to the first for which ``wanted`` holds."""
    seen = []
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for topic, message in json.loads(stream.recv(timeout=timeout_s)):
            seen.append((topic, message))
            if wanted(topic, message):
                return seen
    raise AssertionError(f"not among {len(seen)} messages")


def requests_within(page, timeout_s=5):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if given := list(page.requests()):
            return given
        time.sleep(0.01)
    return []


def has_ended(process, timeout_s):
    process.wait(timeout_s)
    return process.poll() is not None


def test_a_viewer_who_comes_late_sees_the_run(page, env):
    for number in range(10):
        page.step(number * 0.005, step(number, env, round_trip_us=700.0))
    page.fault(0.05, 0, 10, "late", "the reply of step 9 took 8 ms", round_trip_us=8000.0)
    page.episode(0.05, {"episode": 0, "seed": 1, "steps": 10, "failed": False})
    with watch(page.url) as stream:
        seen = messages_until(stream, lambda topic, message: topic == "summary" and message["counts"].get("late"))
        run = dict(seen)["begin"]
        assert run["policy"] == "ppo"
        assert run["targets"]["speed_target_rad_s"] == [-20.0, 20.0]
        assert len(dict(seen)["/tf"]) == 7 * len(run["frames"])
        assert {"world", *run["frames"]} >= set(dict(seen)["/scene"])
        assert [message[1]["step"] for topic, message in seen if topic == "/step"] == list(range(10))
        counts = dict(seen)["summary"]
        assert (counts["counts"]["steps"], counts["max_us"]) == (10, 8000.0)
        assert counts["bins"][2] == 10
        assert sum(counts["bins"]) == 11  # the late reply is among them
        page.end("PASS")
        assert messages_until(stream, lambda topic, _: topic == "end")[-1] == ("end", {"verdict": "PASS"})
        page.close()
        with pytest.raises(ConnectionClosed):
            list(iter(lambda: stream.recv(timeout=2), None))


def test_a_viewer_who_comes_after_many_steps_sees_what_runs(page, env):
    for number in range(6000):
        page.step(number * 0.005, step(number, env if number == 0 else None))
        if number % 50 == 0:
            time.sleep(0.001)
    with watch(page.url) as stream:
        seen, number = messages_until(stream, lambda topic, message: topic == "/step"), 6000
        while seen[-1][1][1]["step"] <= 5000:  # what the server cannot take yet on a busy computer is left out
            page.step(number * 0.005, step(number, None))
            seen += messages_until(stream, lambda topic, message: topic == "/step")
            number += 1
        assert {"begin", "/scene", "/tf"} <= {topic for topic, _ in seen}


def test_a_scene_that_the_server_could_not_take_is_sent_again(page, env):
    page.step(0.0, step(0, env))
    changed = {"floor": env.scene.shapes["world"]}
    before = env.scene.shapes
    page._process.send_signal(signal.SIGSTOP)
    try:
        for number in range(20_000):  # more than the socket holds
            page.step(number * 0.005, step(number))
        env.scene.shapes = changed
        page.step(100.0, step(20_000, env))
    finally:
        page._process.send_signal(signal.SIGCONT)
    try:
        with watch(page.url) as stream:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                page.step(101.0, step(20_001, env))
                if any(topic == "/scene" and set(shapes) == {"floor"} for topic, shapes in json.loads(stream.recv(timeout=5))):
                    break
            else:
                pytest.fail("the viewers have the old scene")
    finally:
        env.scene.shapes = before


def test_a_step_that_is_recorded_too_is_encoded_once_and_its_pose_computed_once(page, env, tmp_path, monkeypatch):
    computed = []
    monkeypatch.setattr(mujoco, "mj_kinematics", lambda *arguments: computed.append(arguments))
    encode = step_encoder(env.spec, env.trace)
    encoded = []
    page.begin(META, env, can_inject=True, encode=lambda one: encoded.append(encode(one)) or encoded[-1])
    with RecordingWriter(tmp_path / "a.mcap", {}, env.spec, env.trace, scene=env.scene, encode=encode) as writer:
        one = step(7, env)
        for sink in (page, writer):
            sink.step(0.035, one)
        assert encode(one) is encoded[0]
    assert len(computed) == 1


def test_nobody_without_the_token_or_from_elsewhere_gets_in(page):
    address, token = page.url.split("?token=")
    port = urlsplit(page.url).port
    assert parse_qs(urlsplit(page.url).query)["token"][0] == token
    assert len(token) >= 16
    assert get(page.url) == 200
    assert get(page.url, Origin=f"http://localhost:{port}") == 200
    for url, headers in [
        (address, {}),
        (address + "?token=", {}),
        (address + f"?token={token[:-1]}", {}),
        (address + f"?token={token}x", {}),
        (address + "?token=%C3%A9", {}),
        (page.url, {"Host": "evil.example"}),
        (page.url, {"Host": f"evil.example:{port}"}),
        (page.url, {"Origin": "http://evil.example"}),
        (page.url, {"Origin": f"https://127.0.0.1.evil.example:{port}"}),
        (page.url, {"Origin": "null"}),
        (page.url, {"Host": "evil.example", "Origin": f"http://localhost:{port}"}),
    ]:
        assert get(url, **headers) == 403, (url, headers)
        if "Host" not in headers:
            with pytest.raises(InvalidStatus) as refused, watch(url, additional_headers=headers):
                pass
            assert refused.value.response.status_code == 403
    for path in ("stream?", "live.js?", "../server.py?"):
        assert get(address + path + f"token={token}") == 404
    with watch(page.url, origin=f"http://127.0.0.1:{port}") as stream:
        assert stream.recv(timeout=5)


def test_two_programs_that_take_the_same_port_at_once_get_one_each(monkeypatch):
    """Both may bind it as long as neither listens."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((server.HOST, 0))
        port = other.getsockname()[1]

        class Slower(socket.socket):
            def listen(self, *backlog):
                if self.getsockname()[1] == port:
                    other.listen()
                super().listen(*backlog)

        monkeypatch.setattr(server.socket, "socket", Slower)
        with server.listen(port) as listening:
            assert listening.getsockname()[1] != port
            assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_it_listens_on_loopback_only_and_takes_another_port_where_its_own_is_taken(page):
    with LivePage(port=urlsplit(page.url).port) as other:
        assert urlsplit(other.url).port != urlsplit(page.url).port
        for each in (page, other):
            assert get(each.url) == 200
            hexadecimal = f":{urlsplit(each.url).port:04X}"
            listening = [
                line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if hexadecimal in line.split()[1]
            ]
            assert set(listening) == {"0100007F" + hexadecimal}
            assert hexadecimal not in Path("/proc/net/tcp6").read_text()


@pytest.mark.slow
def test_a_viewer_that_does_not_read_holds_nobody_up(page, env):
    stalled = socket.create_connection(("127.0.0.1", urlsplit(page.url).port))
    with stalled, watch(page.url) as reading:
        address = urlsplit(page.url)
        lines = [f"GET /stream?{address.query} HTTP/1.1", f"Host: {address.netloc}", "Connection: Upgrade", "Upgrade: websocket"]
        lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "", ""]
        stalled.sendall("\r\n".join(lines).encode())
        assert stalled.recv(12) == b"HTTP/1.1 101"

        def resident_bytes():
            return int(Path(f"/proc/{page._process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        before_bytes = resident_bytes()
        for number in range(60_000):  # 15 MB: more than sockets hold
            page.step(number * 0.005, step(number))
            if number % 100 == 0:
                time.sleep(0.001)
                if number % 2000 == 0:
                    reading.recv(timeout=5)
        page.step(1e6, step(123_456))
        for _ in range(200):  # what the server could not take at once was dropped: until it takes one again
            time.sleep(0.02)
            page.step(1e6, step(123_456))
            if any(topic == "/step" and message[1]["step"] == 123_456 for topic, message in json.loads(reading.recv(timeout=5))):
                break
        else:
            pytest.fail("the viewer that reads does not see the latest step")
        assert resident_bytes() - before_bytes < 16e6  # 7 to 9 MB here; 27 MB without a bound


def test_requests_arrive_and_hostile_ones_do_not(page):
    with watch(page.url) as stream:
        for text in ("", "{", "[]", "7", '{"a": 1}', '{"do": "x", "y": "' + "z" * 2000 + '"}', "[" * 1000, b"\xff\xfe"):
            stream.send(text)
        stream.send('{"do": "pause"}')
        assert requests_within(page) == [{"do": "pause"}]
        with pytest.raises(ConnectionClosed):
            list(iter(lambda: (stream.send("x" * 1_000_000), stream.recv(timeout=5)), None))
    assert get(page.url) == 200
    assert list(page.requests()) == []


def test_the_loop_goes_on_when_the_server_is_killed(page, env):
    page._process.kill()
    page._process.wait()
    page.step(0.0, step(0, env))
    page.end("PASS")
    assert list(page.requests()) == []
    start_s = time.monotonic()
    page.close()
    assert time.monotonic() - start_s < 1


def test_it_ends_with_the_loop_even_if_a_viewer_stays(page):
    with watch(page.url):
        page.close()
        assert has_ended(page._process, 1)


def test_it_ends_when_the_loop_is_killed():
    program = (
        "from balance_hil.live import LivePage; import time; p = LivePage(); print(p._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as loop:
        server = int(loop.stdout.readline())
        loop.kill()
        deadline = time.monotonic() + 5
        while Path(f"/proc/{server}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not Path(f"/proc/{server}").exists()


def test_foxglove_gets_steps_scene_and_poses_with_the_names_of_a_recording(env, tmp_path):
    pytest.importorskip("foxglove", reason="the extra live is not installed: pip install 'balance-hil[live]'")
    with LivePage("foxglove") as page:
        assert page.url.startswith("ws://127.0.0.1:")
        page.begin(META, env, can_inject=True)
        with client.connect(page.url, subprotocols=["foxglove.sdk.v1"], max_size=None) as stream:
            channels = {}
            deadline = time.monotonic() + 10
            while not {"/step", "/tf", "/scene", "/log", "/fault"} <= set(channels) and time.monotonic() < deadline:
                data = stream.recv(timeout=10)
                if isinstance(data, str) and (message := json.loads(data))["op"] == "advertise":
                    channels |= {each["topic"]: each for each in message["channels"]}
            wanted = [{"id": i, "channelId": channels[topic]["id"]} for i, topic in enumerate(("/step", "/tf", "/scene"))]
            stream.send(json.dumps({"op": "subscribe", "subscriptions": wanted}))
            time.sleep(0.3)
            env.scene.shapes = dict(env.scene.shapes)  # as if it had changed: it is sent again
            got = {}
            for number in range(100):
                page.step(number * 0.005, step(number, env))
                while len(got) < 3:
                    try:
                        data = stream.recv(timeout=0.05)
                    except TimeoutError:
                        break
                    if isinstance(data, bytes) and data[0] == 1:
                        got[int.from_bytes(data[1:5], "little")] = json.loads(data[13:])
                if len(got) == 3:
                    break
            assert set(got[0]["observation"]) == {signal.name for signal in env.spec.observation}
            assert {each["child_frame_id"] for each in got[1]["transforms"]} == set(env.scene.frames)
            assert got[2]["entities"]
            assert channels["/step"]["encoding"] == "json"
            with RecordingWriter(tmp_path / "a.mcap", {}, env.spec, env.trace, scene=env.scene):
                pass
            with (tmp_path / "a.mcap").open("rb") as file:
                summary = make_reader(file).get_summary()
            recorded = {each.topic: summary.schemas[each.schema_id].name for each in summary.channels.values()}
            assert {topic: channel["schemaName"] for topic, channel in channels.items()} == recorded


def test_steps_are_encoded_as_the_recording_encodes_them(page):
    page.step(0.5, step(100, input_int8=[1] * 6, output_int8=[2, 3], round_trip_us=1234.5))
    with watch(page.url) as stream:
        seen = messages_until(stream, lambda topic, _: topic == "/step")
    run_s, message = seen[-1][1]
    assert (run_s, message["t_s"], message["round_trip_us"]) == (0.5, 0.5, 1234.5)
    assert np.allclose(list(message["action"].values()), [0.1, 0.2])
