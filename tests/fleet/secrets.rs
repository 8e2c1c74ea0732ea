//! Credentials and TLS between the broker and whom it serves.

use crate::broker::Broker;
use crate::certificate::certificate;
use crate::server::{Server, wait_until};
use crate::tasks::{drawn, figure, front, order};
use crate::{as_worker, calotype};
use base64::Engine;
use nkeys::KeyPair;
use serde_json::{Value, json};
use std::path::Path;

/// A broker that is its users' as `nsc` sets them up: an operator, the account that it lets
/// in, and users by files of credentials.
struct Operator {
    key: KeyPair,
    account: KeyPair,
    system: KeyPair,
}

impl Operator {
    fn new() -> Self {
        Self {
            key: KeyPair::new_operator(),
            account: KeyPair::new_account(),
            system: KeyPair::new_account(),
        }
    }

    /// The lines of nats-server's configuration.
    fn lines(&self) -> String {
        let limits: Value = [
            "subs", "data", "payload", "imports", "exports", "conn", "leaf",
        ]
        .iter()
        .chain(&["mem_storage", "disk_storage", "streams", "consumer"])
        .map(|name| ((*name).to_owned(), json!(-1)))
        .collect::<serde_json::Map<_, _>>()
        .into();
        let account = json!({ "type": "account", "version": 2, "limits": limits });
        let system = json!({ "type": "account", "version": 2 });
        let operator = json!({ "type": "operator", "version": 2 });
        let of = |account_key: &KeyPair, claims| token(&self.key, account_key, claims);
        format!(
            "operator: {}\nsystem_account: {}\nresolver: MEMORY\n\
             resolver_preload {{ {}: {}, {}: {} }}",
            token(&self.key, &self.key, operator),
            self.system.public_key(),
            self.account.public_key(),
            of(&self.account, account),
            self.system.public_key(),
            of(&self.system, system),
        )
    }

    /// Writes the credentials of a user whom `account` lets in.
    fn credentials(account: &KeyPair, file: &Path) {
        let user = KeyPair::new_user();
        let claims = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            token(account, &user, claims),
            user.seed().unwrap()
        );
        std::fs::write(file, text).unwrap();
    }
}

/// A JSON web token in which `issuer` says this of `subject`.
fn token(issuer: &KeyPair, subject: &KeyPair, claims: Value) -> String {
    let base64 = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let body = json!({
        "jti": subject.public_key(), "iat": 0, "iss": issuer.public_key(),
        "sub": subject.public_key(), "name": "calotype", "nats": claims,
    });
    let signed = [header, body].map(|part| base64.encode(part.to_string()));
    let signed = signed.join(".");
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", base64.encode(signature))
}

/// Draws one picture by a front end and a worker that are given `more`.
fn draws(url: &str, more: &[&str]) {
    let front = front(url, more);
    let _worker = Server::launch(&mut as_worker(calotype(), url, more));
    wait_until("the worker is there", || {
        figure(&front, "calotype_workers ") == 1.0
    });
    drawn(&front, &order(1, 1, 1), None);
}

/// What a worker says that cannot begin.
fn refused(url: &str, more: &[&str]) -> String {
    let output = as_worker(calotype(), url, more).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn credentials_of_an_operators_broker_are_honoured() {
    let operator = Operator::new();
    let Some(broker) = Broker::start_with(&operator.lines()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("user.creds");
    let args = ["--broker-credentials", file.to_str().unwrap()];
    Operator::credentials(&operator.account, &file);
    draws(&broker.url(), &args);

    let said = refused(&broker.url(), &[]);
    assert!(said.contains("--broker-credentials"), "{said}");
    // A user of an account that the operator does not know.
    Operator::credentials(&KeyPair::new_account(), &file);
    let said = refused(&broker.url(), &args);
    assert!(said.contains("authorization violation"), "{said}");
    std::fs::write(&file, "nothing of the kind").unwrap();
    let said = refused(&broker.url(), &args);
    assert!(
        said.contains("user.creds") && said.contains("nsc generate creds"),
        "{said}"
    );
}

#[test]
fn tls_to_the_broker_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let Some(()) = certificate(folder.path(), "broker") else {
        return;
    };
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    let lines = format!("tls {{ cert_file: {cert:?}, key_file: {key:?} }}");
    let Some(broker) = Broker::start_with(&lines) else {
        return;
    };
    let trusting = ["--broker-ca", cert.to_str().unwrap()];
    for url in [broker.tls_url(), broker.url()] {
        draws(&url, &trusting);
    }
    // Whom no known authority vouches for is not believed.
    for url in [broker.tls_url(), broker.url()] {
        let said = refused(&url, &[]);
        assert!(said.contains("--broker-ca"), "{said}");
    }
    // A broker without TLS gets nothing from who asks for it.
    let plain = Broker::start(false).unwrap();
    for (url, more) in [(plain.tls_url(), &[][..]), (plain.url(), &trusting[..])] {
        let said = refused(&url, more);
        assert!(said.contains("tls { cert_file, key_file }"), "{said}");
    }
}
