//! Sources as requests use them, against a server of a few lines.

use super::*;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Instant;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::ResolvedSocketAddrs;
use ureq::unversioned::transport::NextTimeout;

const LIMITS: (usize, usize, Duration) = (10_000, 4096, Duration::from_secs(5));

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::DynamicImage::new_rgb8(width, height)
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

fn sources(hosts: &[&str]) -> Sources {
    let hosts: Vec<String> = hosts.iter().map(|host| host.to_string()).collect();
    Sources::new(&hosts, LIMITS.0, LIMITS.1, LIMITS.2).unwrap()
}

/// The picture that a text stands for.
fn picture(sources: &Sources, text: &str) -> Result<Picture> {
    let bytes = sources.bytes("image", text)?;
    sources.picture_from("image", &bytes, &mut Vec::new())
}

/// Answers each connection with `head` and then `parts` of a body, `pause` apart.
fn serve(head: &'static str, parts: Vec<Vec<u8>>, pause: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes());
            for part in &parts {
                // The client hangs up once it has had enough.
                if stream.write_all(part).is_err() {
                    break;
                }
                sleep(pause);
            }
        }
    });
    address
}

fn fetch_within(address: SocketAddr, timeout: Duration) -> Result<Vec<u8>> {
    let limits = (LIMITS.0, LIMITS.1, timeout);
    let hosts = [address.to_string()];
    let loopback = |ip: IpAddr| ip.is_loopback();
    let sources = Sources::build(&hosts, limits, DefaultResolver::default(), loopback)?;
    sources.bytes("image", &format!("http://{address}/a.png?key=secret"))
}

fn fetch(head: &'static str, body: Vec<u8>) -> Result<Vec<u8>> {
    fetch_within(serve(head, vec![body], Duration::ZERO), LIMITS.2)
}

fn mask(sources: &Sources, bytes: &[u8]) -> Result<Mask> {
    sources.mask_from("mask", bytes, MaskReading::Mean, &mut Vec::new())
}

fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
    let error = result.unwrap_err();
    let message = error.to_string();
    let Error::Invalid { value, .. } = error else {
        panic!("{message}");
    };
    assert!(value.chars().count() < 150, "{value}");
    assert!(
        !message.contains("secret") && !message.contains('\n'),
        "{message}"
    );
    message
}

#[test]
fn pictures_and_masks_come_from_text_and_uploads() {
    let (sources, file) = (sources(&[]), png(16, 8));
    let text = BASE64_STANDARD.encode(&file);
    for text in [
        format!("data:image/png;base64,{text}"),
        format!(" {text}\n"),
        text,
    ] {
        assert_eq!(sources.bytes("image", &text).unwrap(), file);
        let picture = picture(&sources, &text).unwrap();
        assert_eq!((picture.width, picture.height), (16, 8));
        let bytes = sources.bytes("mask", &text).unwrap();
        assert_eq!(mask(&sources, &bytes).unwrap().values, [0; 128]);
    }
    assert_eq!(
        sources
            .picture_from("image", &file, &mut Vec::new())
            .unwrap()
            .width,
        16
    );
    assert_eq!(mask(&sources, &file).unwrap().height, 8);
}

#[test]
fn large_pictures_are_refused_before_they_are_decoded() {
    let sources = sources(&[]);
    assert!(
        sources
            .picture_from("image", &png(64, 64), &mut Vec::new())
            .is_ok()
    );
    // The pixels are cut off: had they been decoded, it would be called damaged.
    let file = &png(65, 64)[..60];
    let text = BASE64_STANDARD.encode(file);
    let expected = "is 65x64 pixels: at most 4096 are taken in all; scale";
    for result in [
        picture(&sources, &text),
        sources.picture_from("image", file, &mut Vec::new()),
    ] {
        assert!(message(result).contains(expected));
    }
    assert!(message(mask(&sources, file)).contains(expected));
    let long = vec![0; LIMITS.0 + 1];
    let expected = "image is 10001 bytes: at most 10000 bytes are taken; send";
    assert!(message(sources.picture_from("image", &long, &mut Vec::new())).starts_with(expected));
    assert!(message(sources.bytes("image", &BASE64_STANDARD.encode(&long))).starts_with(expected));
}

#[test]
fn urls_are_refused_unless_their_host_is_allowed() {
    let none = message(sources(&[]).bytes("image", "https://me:secret@example.org/?secret"));
    let expected =
        "image is a URL: pictures by URL are not allowed here; send the picture as base64";
    assert_eq!(none, expected);
    let sources = sources(&["example.org", "*.example.net:8080"]);
    for (url, expected) in [
        (
            "https://example.com/a?secret",
            "\"https://example.com/a\": pictures from this host",
        ),
        (
            "HTTPS://EXAMPLE.COM#secret",
            "\"https://EXAMPLE.COM/\": pictures from this host",
        ),
        (
            "https://example.org:444/",
            "pictures from this host or port",
        ),
        ("http://example.org:443/", "pictures from this host or port"),
        ("http://a.example.net/", "pictures from this host or port"),
        ("http://127.0.0.1/", "pictures from this host or port"),
        ("http://2130706433/", "pictures from this host or port"),
        ("http://[::1]/", "pictures from this host or port"),
        (
            "http://me:secret@example.org/",
            "\"http://example.org/\": must have no user name",
        ),
        (
            "http://example.org@evil.net/",
            "\"http://evil.net/\": must have no user name",
        ),
        ("http://example.org:secret/", "a URL that cannot be read"),
        ("http://example.org:99999/", "a URL that cannot be read"),
        ("http://example.org/a secret", "a URL that cannot be read"),
        ("http://example.org\\@secret/", "a URL that cannot be read"),
        (
            "http://example.org/\r\nHost: secret",
            "a URL that cannot be read",
        ),
        ("http:///secret", "a URL that cannot be read"),
        ("http://", "a URL that cannot be read"),
        (
            "ftp://example.org/secret",
            "image is a URL of another scheme: send",
        ),
        (
            "file:///etc/secret",
            "image is a URL of another scheme: send",
        ),
        ("http:/example.org/secret", "text that is no base64"),
    ] {
        let message = message(sources.bytes("image", url));
        assert!(message.contains(expected), "{url}: {message}");
    }
    let long = format!("http://evil.net/{}", "a".repeat(9000));
    assert!(message(sources.bytes("image", &long)).contains("aaa...\": pictures from"));
}

#[test]
fn allowed_names_of_private_addresses_are_refused() {
    let sources = sources(&["localhost", "localhost:81"]);
    for url in ["https://localhost/a", "http://LOCALHOST:81/a"] {
        let message = message(sources.bytes("image", url));
        assert!(
            message.contains("its host has an address that is not public; check"),
            "{message}"
        );
    }
}

#[test]
fn a_picture_is_fetched_whole() {
    let file = png(8, 8);
    assert_eq!(
        fetch("200 OK\r\nConnection: close", file.clone()).unwrap(),
        file
    );
    let exact = vec![7; LIMITS.0];
    assert_eq!(
        fetch("200 OK\r\nContent-Length: 10000", exact.clone()).unwrap(),
        exact
    );
    let chunks = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n".to_vec();
    assert_eq!(
        fetch("200 OK\r\nTransfer-Encoding: chunked", chunks).unwrap(),
        b"abcde"
    );
}

#[test]
fn other_answers_are_refused() {
    for status in [
        "301 Moved",
        "302 Found",
        "303 See",
        "307 Temporary",
        "308 Permanent",
    ] {
        let head = format!("{status}\r\nLocation: http://127.0.0.1:9/secret\r\nContent-Length: 0");
        let message = message(fetch(head.leak(), vec![]));
        assert!(
            message.contains("/a.png\": it redirects to another URL, which is not"),
            "{message}"
        );
    }
    for (head, expected) in [
        (
            "404 Not Found\r\nContent-Length: 0",
            "its host answered 404 Not Found; check the URL",
        ),
        ("500 Oh\r\nContent-Length: 0", "its host answered 500"),
        ("204 No Content", "its host answered 204"),
        (
            "206 Partial Content\r\nContent-Length: 0",
            "its host answered 206",
        ),
        ("no number", "it could not be fetched ("),
        ("200 OK\r\nContent-Length: 50", "it could not be fetched ("),
    ] {
        let message = message(fetch(head, vec![1]));
        assert!(message.contains(expected), "{head}: {message}");
    }
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let message = message(fetch_within(closed, LIMITS.2));
    assert!(message.contains("it could not be fetched ("), "{message}");
}

#[test]
fn long_bodies_are_cut_whatever_their_length_says() {
    let expected = "/a.png\": at most 10000 bytes are taken; send a smaller picture";
    let body = vec![7; LIMITS.0 + 1];
    for head in [
        "200 OK\r\nContent-Length: 10001",
        "200 OK\r\nConnection: close",
    ] {
        assert!(
            message(fetch(head, body.clone())).contains(expected),
            "{head}"
        );
    }
    // A body without end stops at the limit, long before the timeout.
    let begun = Instant::now();
    let endless = vec![vec![7; 1000]; 100_000];
    let address = serve(
        "200 OK\r\nConnection: close",
        endless,
        Duration::from_micros(10),
    );
    assert!(message(fetch_within(address, Duration::from_secs(60))).contains(expected));
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn slow_hosts_are_given_up() {
    let drops = vec![vec![7]; 200];
    let slow_body = serve(
        "200 OK\r\nConnection: close",
        drops,
        Duration::from_millis(50),
    );
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for address in [slow_body, silent.local_addr().unwrap()] {
        let begun = Instant::now();
        let message = message(fetch_within(address, Duration::from_millis(300)));
        assert!(
            message.contains("its host took longer than 300ms; check"),
            "{message}"
        );
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}

/// Answers lookups with `answers` in turn, each a set of addresses.
#[derive(Debug)]
struct Scripted {
    answers: Vec<Vec<SocketAddr>>,
    asked: Arc<AtomicUsize>,
}

impl Resolver for Scripted {
    fn resolve(
        &self,
        _: &Uri,
        _: &Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst);
        let mut found = self.empty();
        for address in &self.answers[asked] {
            found.push(*address);
        }
        Ok(found)
    }
}

#[test]
fn a_connection_goes_to_the_address_that_was_checked() {
    let address = serve(
        "200 OK\r\nContent-Length: 2",
        vec![b"ok".to_vec()],
        Duration::ZERO,
    );
    let private: SocketAddr = "10.0.0.1:80".parse().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let lookup = Scripted {
        answers: vec![vec![address], vec![private], vec![address, private]],
        asked: asked.clone(),
    };
    let hosts = ["example.org".to_string()];
    let loopback = |ip: IpAddr| ip.is_loopback();
    let sources = Sources::build(&hosts, LIMITS, lookup, loopback).unwrap();
    let fetch = || sources.bytes("image", "http://example.org/");
    assert_eq!(fetch().unwrap(), b"ok");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    // The name's next answers are others: each fetch is checked anew, and as a whole.
    for lookups in [2, 3] {
        assert!(message(fetch()).contains("an address that is not public"));
        assert_eq!(asked.load(Ordering::SeqCst), lookups);
    }
}

#[test]
fn random_text_is_refused_or_read_without_panic() {
    const PIECES: [&str; 20] = [
        "data:",
        "DATA:",
        ";base64",
        ",",
        "http://",
        "https://",
        "example.org",
        ":",
        "@",
        "/",
        "[",
        "]",
        "%",
        "iVBORw0KGgo",
        "=",
        "\u{202e}",
        "é",
        "\0",
        " ",
        "0x7f.1",
    ];
    let sources = sources(&["8.8.8.8:1"]);
    let mut random = StdRng::seed_from_u64(7);
    let mut read = 0;
    for _ in 0..10_000 {
        let mut text = String::new();
        for _ in 0..random.random_range(0..8) {
            match random.random_range(0..3) {
                0 => text.push(random.random()),
                1 => text.push(char::from(random.random_range(b' '..=b'~'))),
                _ => text.push_str(PIECES[random.random_range(0..PIECES.len())]),
            }
        }
        match sources.bytes("image", &text) {
            Ok(_) => read += 1,
            Err(error) => assert!(error.to_string().lines().count() == 1, "{text:?}: {error}"),
        }
        assert!(picture(&sources, &text).is_err());
        assert!(mask(&sources, text.as_bytes()).is_err());
    }
    assert!(read > 100, "{read}");
}
