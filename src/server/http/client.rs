//! Who asks and by which address, through the proxies that the operator trusts.

use super::connection::Peer;
use crate::server::config::{Network, PublicUrl, name_of};
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, Version, header};
use std::convert::Infallible;
use std::net::IpAddr;

/// Who asks, and the address at which the service was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client {
    pub address: Option<IpAddr>,
    /// Host and port, as the client has them.
    pub host: Option<String>,
    pub https: bool,
    /// The path below which the service is, such as `/draw`; empty for none.
    pub prefix: String,
}

impl Client {
    /// By the connection, its headers, and where it comes from one of `proxies` or a Unix
    /// socket, by what the proxy says.
    pub fn of(request: &Request, proxies: &[Network]) -> Self {
        let peer = request.extensions().get::<Peer>().copied();
        let peer = peer.unwrap_or(Peer {
            address: None,
            tls: false,
        });
        let headers = request.headers();
        let host = authority(request.uri(), headers);
        let mut client = Client {
            address: peer.address,
            host,
            https: peer.tls,
            prefix: String::new(),
        };
        let trusted = |address: IpAddr| proxies.iter().any(|network| network.has(address));
        if peer.address.is_none_or(trusted) {
            client.believe(headers, trusted);
        }
        client
    }

    fn believe(&mut self, headers: &HeaderMap, trusted: impl Fn(IpAddr) -> bool) {
        // What the last proxy added stands last; what comes before the first address that
        // is no proxy may be anybody's invention.
        let chain = headers.get_all("x-forwarded-for").iter();
        let chain: Vec<&str> = chain
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect();
        for hop in chain.iter().rev() {
            let Some(address) = hop_address(hop.trim()) else {
                break;
            };
            self.address = Some(address);
            if !trusted(address) {
                break;
            }
        }
        let last = |name: &str| {
            let value = headers.get_all(name).iter().next_back()?.to_str().ok()?;
            value.rsplit(',').next().map(str::trim)
        };
        if let Some(scheme) = last("x-forwarded-proto") {
            self.https = scheme.eq_ignore_ascii_case("https");
        }
        if let Some(host) = last("x-forwarded-host").filter(|host| is_authority(host)) {
            self.host = Some(host.to_owned());
        }
        if let Some(prefix) = last("x-forwarded-prefix").filter(|prefix| is_path(prefix)) {
            self.prefix = prefix.trim_end_matches('/').to_owned();
        }
    }

    /// Where the service is for this client, without a slash at the end; `None` where the
    /// client has not said by which name it asks.
    pub fn base(&self, public_url: Option<&PublicUrl>) -> Option<String> {
        if let Some(url) = public_url {
            return Some(url.to_string());
        }
        let scheme = if self.https { "https" } else { "http" };
        let host = self.host.as_ref()?;
        Some(format!("{scheme}://{host}{}", self.prefix))
    }

    /// The path of that, for links on the same host; empty for none.
    pub fn path(&self, public_url: Option<&PublicUrl>) -> String {
        public_url
            .map_or(&self.prefix[..], PublicUrl::path)
            .to_owned()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts
            .extensions
            .get::<Client>()
            .cloned()
            .unwrap_or_default())
    }
}

/// `:authority` in HTTP/2, the host of an address in full (RFC 9112, 3.2.2), or else `Host`.
fn authority(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let host = headers.get(header::HOST).and_then(|v| v.to_str().ok());
    let authority = uri.authority().map(|authority| authority.as_str());
    let host = authority.or(host)?.trim();
    is_authority(host).then(|| host.to_owned())
}

/// Whether a request of HTTP/1.1 says by which host it asks, once, as it must (RFC 9112,
/// 3.2).
pub fn names_its_host(request: &Request) -> bool {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    match request.version() {
        Version::HTTP_11 => hosts == 1,
        _ => hosts <= 1,
    }
}

fn is_authority(text: &str) -> bool {
    let sound = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    (1..=255).contains(&text.len()) && text.bytes().all(sound)
}

fn is_path(text: &str) -> bool {
    let sound = |b: u8| b.is_ascii_alphanumeric() || b"-._~/%".contains(&b);
    text.starts_with('/') && !text.starts_with("//") && text.bytes().all(sound)
}

/// `192.0.2.1`, `192.0.2.1:80`, `[2001:db8::1]:80`.
fn hop_address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').split(']').next()?;
    let address = bare.parse().or_else(|_| {
        text.parse::<std::net::SocketAddr>()
            .map(|address| address.ip())
    });
    address.ok().map(|address: IpAddr| address.to_canonical())
}

/// Whether a page whose name an attacker leads to this machine (DNS rebinding) could ask by
/// this host: names of the Internet can be led here, but addresses, names without a dot and
/// local ones cannot.
pub fn can_be_rebound(host: &str) -> bool {
    let name = name_of(host);
    let local = |end: &str| name.ends_with(end);
    let address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    !(address || !name.contains('.') || local(".localhost") || local(".local"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn client(peer: Option<[u8; 4]>, headers: &[(&str, &str)], proxies: &[&str]) -> Client {
        let mut request = Request::builder().uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(Peer {
            address: peer.map(IpAddr::from),
            tls: false,
        });
        let proxies: Vec<Network> = proxies.iter().map(|p| p.parse().unwrap()).collect();
        Client::of(&request, &proxies)
    }

    const FORWARDED: [(&str, &str); 5] = [
        ("host", "127.0.0.1:7860"),
        ("x-forwarded-for", "6.6.6.6, 198.51.100.7, 10.1.2.3"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "pictures.example"),
        ("x-forwarded-prefix", "/draw/"),
    ];

    #[test]
    fn a_trusted_proxy_is_believed_and_nobody_else() {
        let stranger = client(Some([192, 0, 2, 9]), &FORWARDED, &["10.0.0.0/8"]);
        assert_eq!(stranger.address, Some(IpAddr::from([192, 0, 2, 9])));
        assert_eq!(stranger.base(None).unwrap(), "http://127.0.0.1:7860");
        for peer in [Some([10, 0, 0, 1]), None] {
            let known = client(peer, &FORWARDED, &["10.0.0.0/8"]);
            assert_eq!(known.address, Some(IpAddr::from([198, 51, 100, 7])));
            assert_eq!(known.base(None).unwrap(), "https://pictures.example/draw");
            assert_eq!(known.path(None), "/draw");
        }
        let url: PublicUrl = "https://a.example/b/".parse().unwrap();
        let url = Some(&url);
        assert_eq!(stranger.base(url).unwrap(), "https://a.example/b");
        assert_eq!(stranger.path(url), "/b");
    }

    #[test]
    fn odd_values_of_proxies_change_nothing() {
        let odd = [
            ("host", "here:1"),
            ("x-forwarded-for", "unknown"),
            ("x-forwarded-host", "a b"),
            ("x-forwarded-prefix", "//evil.example"),
        ];
        let known = client(Some([10, 0, 0, 1]), &odd, &["10.0.0.1"]);
        assert_eq!(known.base(None).unwrap(), "http://here:1");
        assert_eq!(known.address, Some(IpAddr::from([10, 0, 0, 1])));
    }

    #[test]
    fn names_of_the_internet_can_be_rebound() {
        for (host, can) in [
            ("127.0.0.1:7860", false),
            ("[::1]:7860", false),
            ("localhost", false),
            ("calotype:7860", false),
            ("box.local", false),
            ("evil.example:7860", true),
            ("evil.example.", true),
            ("127.0.0.1.nip.io", true),
        ] {
            assert_eq!(can_be_rebound(host), can, "{host}");
        }
    }
}
