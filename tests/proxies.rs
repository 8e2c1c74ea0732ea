//! By which names and through whom the service is asked: hosts, origins, proxies, HTTP/2,
//! Unix sockets, TLS.

#[cfg(unix)]
#[path = "common/certificate.rs"]
mod certificate;
#[path = "common/server.rs"]
mod server;

use serde_json::{Value, json};
use server::{Answer, Server, keys, quick};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A request with headers; a body makes it a POST.
fn ask(server: &Server, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Answer {
    let mut request = ureq::http::Request::builder()
        .method(if body.is_some() { "POST" } else { "GET" })
        .uri(format!("{}{path}", server.url))
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = body.map(|body| body.to_string().into_bytes());
    server.send(request.body(body.unwrap_or_default()).unwrap())
}

#[test]
fn without_keys_names_of_the_internet_are_refused_unless_they_are_known() {
    let server = Server::start(&[
        "--host",
        "known.example",
        "--public-url",
        "https://pictures.example/draw",
    ]);
    let status = |host: &str, path: &str| ask(&server, path, &[("host", host)], None).status;
    for path in [
        "/",
        "/v1/info",
        "/sdapi/v1/progress",
        "/v1/models",
        "/nowhere",
    ] {
        assert_eq!(status("evil.example:7920", path), 403, "{path}");
    }
    let evil = [("host", "evil.example"), ("origin", "http://evil.example")];
    assert_eq!(ask(&server, "/v1/jobs", &evil, Some(&quick())).status, 403);
    for host in [
        "localhost:1",
        "127.0.0.1",
        "[::1]:80",
        "calotype:7860",
        "a.localhost",
        "known.example:81",
        "pictures.example",
    ] {
        assert_eq!(status(host, "/v1/info"), 200, "{host}");
    }
    // The address that clients see is its own, whatever the proxy makes of Host.
    for (origin, wanted) in [
        ("https://pictures.example", 200),
        ("http://pictures.example", 403),
        ("https://pictures.example.evil.example", 403),
        ("null", 403),
    ] {
        let answer = ask(
            &server,
            "/v1/sdxl-torch",
            &[("origin", origin)],
            Some(&json!({
            "prompt": "a", "num_inference_steps": 20, "base64": false })),
        );
        assert_eq!(answer.status, wanted, "{origin}");
    }
}

#[test]
fn with_keys_any_name_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let key = keys(&path, &["add", "ada", "--credits", "9"]);
    let server = Server::start(&["--keys", path.to_str().unwrap()]);
    let headers = [("host", "any.example"), ("x-api-key", &key[..])];
    assert_eq!(
        ask(&server, "/v1/jobs", &headers, Some(&quick())).status,
        202
    );
}

#[test]
fn a_trusted_proxy_says_where_clients_are_and_what_they_see() {
    let forwarded = [
        ("x-forwarded-for", "203.0.113.9, 198.51.100.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "pictures.example"),
        ("x-forwarded-prefix", "/draw"),
        ("origin", "https://pictures.example"),
    ];
    let body = json!({ "prompt": "a", "response_format": "url",
                       "num_inference_steps": 1, "size": "64x64" });
    let trusting = Server::start(&[
        "--trusted-proxy",
        "127.0.0.0/8",
        "--host",
        "pictures.example",
    ]);
    let answer = ask(&trusting, "/v1/images/generations", &forwarded, Some(&body));
    assert_eq!(answer.status, 200, "{}", answer.error());
    let url = answer.json()["data"][0]["url"].as_str().unwrap().to_owned();
    assert!(
        url.starts_with("https://pictures.example/draw/v1/results/"),
        "{url}"
    );
    let job = ask(&trusting, "/v1/jobs", &forwarded, Some(&quick()));
    let path = format!("/draw/v1/jobs/{}", job.json()["id"].as_str().unwrap());
    assert_eq!(job.header("location"), Some(&path[..]));
    assert_eq!(job.json()["links"]["self"], path);
    assert_eq!(job.json()["links"]["events"], format!("{path}/events"));
    ask(&trusting, "/wp-login.php", &forwarded, None);
    let log = trusting.log();
    let line = log.lines().find(|l| l.contains("/wp-login.php")).unwrap();
    assert!(
        line.contains("client=\"198.51.100.7\"") && line.contains("code=404"),
        "{line}"
    );

    let strict = Server::spawn(&[]);
    let answer = ask(&strict, "/v1/jobs", &forwarded, Some(&quick()));
    assert_eq!(answer.status, 403);
    assert!(
        strict.log().contains("client=\"127.0.0.1\""),
        "{}",
        strict.log()
    );
}

#[test]
fn the_log_says_who_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let key = keys(&path, &["add", "ada", "--credits", "9"]);
    let server = Server::start(&["--keys", path.to_str().unwrap(), "--log", "json"]);
    ask(
        &server,
        "/v1/get-user-credits",
        &[("x-api-key", &key)],
        None,
    );
    ask(
        &server,
        "/v1/get-user-credits",
        &[("x-api-key", "wrong")],
        None,
    );
    let log = server.log();
    let lines: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .map(|line: Value| line.get("fields").unwrap_or(&line).clone())
        .filter(|line| line["route"] == "/v1/get-user-credits")
        .collect();
    let told = |n: usize, field: &str| lines[n][field].clone();
    assert_eq!([told(0, "code"), told(1, "code")], [json!(200), json!(401)]);
    assert_eq!(
        [told(0, "key"), told(1, "key")],
        [json!("ada"), Value::Null]
    );
    assert_eq!(
        [told(0, "client"), told(1, "client")],
        [json!("127.0.0.1"), json!("127.0.0.1")]
    );
    assert!(!log.contains(&key));
}

#[test]
fn cors_is_by_the_standard() {
    let server = Server::spawn(&["--cors-origin", "https://ok.example"]);
    let preflight = ureq::http::Request::builder()
        .method("OPTIONS")
        .uri(format!("{}/v1/jobs", server.url))
        .header("origin", "https://ok.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,x-api-key");
    let answer = server.send(preflight.body(Vec::new()).unwrap());
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://ok.example")
    );
    let allowed = answer.header("access-control-allow-headers").unwrap();
    assert!(
        allowed.contains("authorization") && allowed.contains("x-api-key"),
        "{allowed}"
    );
    assert_eq!(answer.header("access-control-max-age"), Some("7200"));
    for wrong in ["https://app.example/", "not an origin"] {
        let output = Command::new(env!("CARGO_BIN_EXE_calotype"))
            .args(["serve", "--listen", "127.0.0.1:0", "--cors-origin", wrong])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("as browsers send it"), "{said}");
    }
}

/// curl, which speaks HTTP/2 and to Unix sockets; `None` where there is none.
fn curl(args: &[&str]) -> Option<String> {
    let output = Command::new("curl")
        .args(["-sS", "-m", "60"])
        .args(args)
        .output();
    let Ok(output) = output else {
        assert!(std::env::var_os("CI").is_none(), "curl is missing");
        eprintln!("skipped: there is no curl");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn http_2_is_served_by_its_authority() {
    let server = Server::start(&[]);
    let origin = format!("origin: {}", server.url);
    let post = |path: &str, body: Value| {
        let url = format!("{}{path}", server.url);
        let body = body.to_string();
        let json = "content-type: application/json";
        let args = [
            "--http2-prior-knowledge",
            "-H",
            &origin,
            "-H",
            json,
            "-d",
            &body,
            &url,
        ];
        curl(&args).map(|text| serde_json::from_str::<Value>(&text).unwrap())
    };
    let body = json!({ "prompt": "a", "response_format": "url",
                       "num_inference_steps": 1, "size": "64x64" });
    let Some(answer) = post("/v1/images/generations", body) else {
        return;
    };
    let url = answer["data"][0]["url"]
        .as_str()
        .unwrap_or_else(|| panic!("{answer}"));
    assert!(url.starts_with(&server.url), "{url}");
    let job = post("/v1/jobs", quick()).unwrap();
    assert!(
        ["queued", "running", "done"].contains(&job["status"].as_str().unwrap_or_default()),
        "{job}"
    );
}

#[test]
#[cfg(unix)]
fn a_unix_socket_is_served_and_removed() {
    use std::os::unix::net::UnixStream;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calotype.sock");
    // One that nobody listens to any more.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut server = Server::launch(
        Command::new(env!("CARGO_BIN_EXE_calotype"))
            .arg("serve")
            .args(["--listen", &format!("unix:{}", path.display())]),
    );
    assert_eq!(server.url, format!("unix:{}", path.display()));
    let mut stream = UnixStream::connect(&path).unwrap();
    let ask = b"GET /healthz HTTP/1.1\r\nhost: calotype\r\nconnection: close\r\n\r\n";
    stream.write_all(ask).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"),
        "{answer}"
    );
    server.signal("TERM");
    assert!(server.child.wait().unwrap().success());
    assert!(!path.exists());
}

#[test]
#[cfg(target_os = "linux")]
fn a_socket_that_systemd_opened_is_used() {
    if Command::new("python3").arg("-V").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "python3 is missing");
        eprintln!("skipped: there is no python3");
        return;
    }
    // As systemd does it: descriptor 3, and the id of the process that takes it.
    let script = "import os, socket, sys\n\
        s = socket.socket(); s.bind((sys.argv[1], 0)); s.listen()\n\
        os.dup2(s.fileno(), 3); os.set_inheritable(3, True)\n\
        os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n\
        os.execv(sys.argv[2], sys.argv[2:])";
    let handed_over = |address| {
        let mut command = Command::new("python3");
        command
            .args(["-c", script, address, env!("CARGO_BIN_EXE_calotype")])
            .args(["serve", "--listen", "127.0.0.1:1"]);
        command
    };
    let server = Server::launch(&mut handed_over("127.0.0.1"));
    assert!(!server.url.ends_with(":1"), "{}", server.url);
    assert_eq!(server.get("/healthz").0, 200);
    drop(server);

    // Not where others reach it and nobody needs a key.
    let mut open = handed_over("0.0.0.0");
    let mut child = open.stderr(Stdio::piped()).spawn().unwrap();
    let ended = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        child.try_wait().unwrap().is_some()
    });
    let _ = child.kill();
    assert!(ended, "it serves strangers");
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(said.contains("is open to other machines"), "{said}");
}

#[test]
#[cfg(unix)]
fn tls_is_spoken_with_the_certificate_of_the_hour() {
    let folder = tempfile::tempdir().unwrap();
    let Some(()) = certificate::certificate(folder.path(), "first") else {
        return;
    };
    let file = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let server = Server::spawn(&["--tls-cert", &cert, "--tls-key", &key]);
    assert!(
        server.url.starts_with("https://127.0.0.1:"),
        "{}",
        server.url
    );
    let url = format!("{}/healthz", server.url);
    let ask = |cert: &str| {
        let version = "%{http_version} %{http_code}";
        curl(&["--cacert", cert, "-o", "/dev/null", "-w", version, &url])
    };
    let Some(said) = ask(&cert) else { return };
    assert_eq!(said, "2 200");
    let first = std::fs::read(&cert).unwrap();
    certificate::certificate(folder.path(), "second");
    server.signal("HUP");
    let start = std::time::Instant::now();
    while !server.log().contains("certificate was read again") {
        assert!(start.elapsed().as_secs() < 10, "{}", server.log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(ask(&cert).unwrap(), "2 200");
    let old = folder.path().join("old.pem");
    std::fs::write(&old, first).unwrap();
    let output = Command::new("curl")
        .args(["-sS", "--cacert"])
        .arg(&old)
        .arg(&url)
        .output()
        .unwrap();
    assert!(
        !output.status.success(),
        "the old certificate is not used any more"
    );
    // What cannot be read leaves the last one.
    std::fs::write(&cert, "no certificate").unwrap();
    server.signal("HUP");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(server.log().contains("the old certificate stays"));
}
