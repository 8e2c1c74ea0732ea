//! What the hub says: <https://huggingface.co/docs/hub/api>.

use super::{File, Hash};
use crate::{Error, Result};
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

/// A secret that lets its owner's models be read.
#[derive(Clone)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// `HF_TOKEN`, or what `hf auth login` wrote: `HF_TOKEN_PATH`, or `token` in `HF_HOME`,
    /// by default `~/.cache/huggingface`.
    pub fn find() -> Option<Self> {
        let set = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let home = || match set("HF_HOME") {
            Some(home) => Some(PathBuf::from(home)),
            None => Some(
                directories::BaseDirs::new()?
                    .home_dir()
                    .join(".cache/huggingface"),
            ),
        };
        let file = || match set("HF_TOKEN_PATH") {
            Some(path) => Some(PathBuf::from(path)),
            None => Some(home()?.join("token")),
        };
        let token = set("HF_TOKEN").or_else(|| std::fs::read_to_string(file()?).ok());
        let token = token.map(|text| text.trim().to_owned());
        token.filter(|text| !text.is_empty()).map(Self)
    }
}

/// A hub, asked over HTTP.
#[derive(Debug, Clone)]
pub struct Hub {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
}

/// Why an answer did not come, or not whole.
pub(super) enum Trouble {
    /// It may come the next time.
    Passing(String),
    Lasting(Error),
}

#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Hub {
    /// The hub of `HF_ENDPOINT`, or else huggingface.co.
    pub fn new(token: Option<Token>) -> Self {
        let named = std::env::var("HF_ENDPOINT")
            .ok()
            .filter(|url| !url.is_empty());
        let endpoint = named.unwrap_or_else(|| "https://huggingface.co".into());
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            // What is cut off is gone on with.
            .timeout_recv_body(Some(Duration::from_secs(900)))
            .user_agent(concat!("calotype/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Self {
            agent,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
        }
    }

    /// The commit of a revision and its files.
    ///
    /// # Errors
    /// The hub cannot be reached, or has no such repository for whom the token names.
    pub fn files(&self, name: &str, revision: &str) -> Result<(String, Vec<File>)> {
        let known =
            |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':', '?']);
        if !revision.split('/').all(known) {
            let allowed = "give a branch, a tag or a commit";
            return Err(Error::invalid("revision", revision, allowed));
        }
        let revision = revision.replace('/', "%2F");
        let path = format!("api/models/{name}/revision/{revision}?blobs=true");
        let mut answer = self.ask(&path, 0).map_err(|trouble| match trouble {
            Trouble::Lasting(error) => error,
            Trouble::Passing(why) => self.away(name, &why),
        })?;
        let text = answer
            .body_mut()
            .with_config()
            .limit(64 << 20)
            .read_to_string();
        let text = text.map_err(|e| self.away(name, &e.to_string()))?;
        let listing: Listing = serde_json::from_str(&text).map_err(|e| {
            let problem = format!("what {} says of it cannot be read: {e}", self.endpoint);
            Error::file(name, problem, "look whether HF_ENDPOINT names a hub")
        })?;
        let safe = |path: &str| {
            let parts = path.split(['/', '\\']);
            !path.contains(':') && parts.clone().all(|p| !matches!(p, "" | "." | ".."))
        };
        let is_hash = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let file = |sibling: Sibling| {
            let (size, hash) = match (sibling.lfs, sibling.blob_id) {
                (Some(lfs), _) => (lfs.size, Hash::Sha256(lfs.sha256)),
                (None, Some(id)) => (sibling.size?, Hash::Git(id)),
                (None, None) => return None,
            };
            let path = sibling.rfilename;
            (safe(&path) && is_hash(hash.digits())).then_some(File { path, size, hash })
        };
        if !is_hash(&listing.sha) || listing.sha.is_empty() {
            let problem = format!("its commit is {:?}", listing.sha);
            return Err(Error::file(
                name,
                problem,
                "look whether HF_ENDPOINT names a hub",
            ));
        }
        let files = listing.siblings.into_iter().filter_map(file).collect();
        Ok((listing.sha, files))
    }

    fn away(&self, name: &str, why: &str) -> Error {
        let problem = format!("{} does not answer: {why}", self.endpoint);
        let remedy = "look at the connection (a proxy is read from HTTPS_PROXY), and try again";
        Error::file(name, problem, remedy)
    }

    /// Asks for a path, from a byte on.
    pub(super) fn ask(&self, path: &str, from: u64) -> Result<Response<Body>, Trouble> {
        let url = format!("{}/{path}", self.endpoint);
        let mut request = self.agent.get(&url);
        if let Some(Token(token)) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        let answer = request
            .call()
            .map_err(|e| Trouble::Passing(e.to_string()))?;
        let status = answer.status();
        let shown = path.split('?').next().unwrap_or_default();
        let refused = |problem: &str, remedy: &str| {
            let problem = format!("{} says {status}: {problem}", self.endpoint);
            Err(Trouble::Lasting(Error::file(shown, problem, remedy)))
        };
        match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(answer),
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => refused(
                match self.token {
                    Some(_) => "the token does not open it",
                    None => "there is no such repository, or it asks for a token",
                },
                "look at the name; where the model is there for members or by a licence, accept \
                 that on its page, and set HF_TOKEN",
            ),
            StatusCode::NOT_FOUND => refused(
                "there is no such repository, revision or file",
                "look at the names on the hub's page",
            ),
            _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(Trouble::Passing(format!("it says {status}")))
            }
            _ => refused(
                "that is not expected",
                "look whether HF_ENDPOINT names a hub",
            ),
        }
    }
}
