//! The URLs that HubSpot calls, as its settings have them: what v2 and v3 sign.
//!
//! Behind a proxy a service sees neither the scheme nor, perhaps, the host that HubSpot called, and headers
//! that tell them can be forged. So scheme, host and path come from the configuration. Only the query is
//! taken from the request line, byte for byte, and only where the configured URL has none.

/// The configured URLs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrls(Vec<PublicUrl>);

/// One URL, in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PublicUrl {
    /// Scheme, host, port and path as written: `https://relay.example.com/hubspot/webhook`.
    base: String,
    /// The path a request line has: `/` where the URL has none.
    path: String,
    /// What follows the `?`.
    query: Option<String>,
}

/// Why a URL cannot be the public one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublicUrlError {
    /// None configured.
    #[error(
        "receiver.public_url is missing; set it to the target URL of the app's webhook settings"
    )]
    None,
    /// No `https://` or `http://`.
    #[error("receiver.public_url `{0}` must begin with https:// (or http:// for tests)")]
    Scheme(String),
    /// No host, or a user name before it.
    #[error("receiver.public_url `{0}` must have a host, and no user name")]
    Host(String),
    /// White space, control characters, other than ASCII, or a fragment.
    #[error("receiver.public_url `{0}` must be ASCII, escaped, and have no fragment")]
    Characters(String),
}

impl PublicUrls {
    /// Reads the URLs of `receiver.public_url`.
    ///
    /// # Errors
    /// Every variant of [`PublicUrlError`].
    pub fn new(urls: &[String]) -> Result<Self, PublicUrlError> {
        if urls.is_empty() {
            return Err(PublicUrlError::None);
        }
        let urls = urls.iter().map(|url| PublicUrl::parse(url));
        urls.collect::<Result<_, _>>().map(Self)
    }

    /// Whether requests are answered on `path`, as it stands in the request line.
    #[must_use]
    pub fn answers(&self, path: &str) -> bool {
        self.0.iter().any(|url| url.path == path)
    }

    /// The URIs that HubSpot may have signed for a request to `path` with `query`, both as they stand in
    /// the request line. Empty when no configured URL fits.
    ///
    /// A configured URL with a query fits that very query only; one without takes the request's.
    #[must_use]
    pub fn signed_uris(&self, path: &str, query: Option<&str>) -> Vec<String> {
        let urls = self.0.iter().filter(|url| url.path == path);
        urls.filter(|url| url.query.is_none() || url.query.as_deref() == query)
            .flat_map(|url| url.signed_uris(query))
            .collect()
    }
}

impl PublicUrl {
    fn parse(url: &str) -> Result<Self, PublicUrlError> {
        if !url
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'#')
        {
            return Err(PublicUrlError::Characters(url.to_owned()));
        }
        let scheme_end = ["https://", "http://"]
            .iter()
            .find_map(|scheme| url.starts_with(scheme).then_some(scheme.len()))
            .ok_or_else(|| PublicUrlError::Scheme(url.to_owned()))?;
        let (base, query) = match url.split_once('?') {
            Some((base, query)) => (base, Some(query.to_owned())),
            None => (url, None),
        };
        // A `?` within the scheme cannot be: `url` begins with one of the two above.
        let (host, path) = match base[scheme_end..].split_once('/') {
            Some((host, path)) => (host, format!("/{path}")),
            None => (&base[scheme_end..], "/".to_owned()),
        };
        if host.is_empty() || host.contains('@') {
            return Err(PublicUrlError::Host(url.to_owned()));
        }
        Ok(Self {
            base: base.to_owned(),
            path,
            query,
        })
    }

    /// As written; and for a URL without a path also with the `/` that the request line has, since HubSpot does
    /// not say which of the two it signs.
    fn signed_uris(&self, query: Option<&str>) -> Vec<String> {
        let query = query.map_or(String::new(), |query| format!("?{query}"));
        let mut uris = vec![format!("{}{query}", self.base)];
        if self.path == "/" && !self.base.ends_with('/') {
            uris.push(format!("{}/{query}", self.base));
        }
        uris
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(urls: &[&str]) -> PublicUrls {
        let urls: Vec<String> = urls.iter().map(|&url| url.to_owned()).collect();
        PublicUrls::new(&urls).unwrap()
    }

    #[test]
    fn scheme_host_port_and_path_are_the_configured_ones() {
        let urls = urls(&["https://Relay.example.com:8443/a/b"]);
        assert_eq!(
            urls.signed_uris("/a/b", None),
            ["https://Relay.example.com:8443/a/b"]
        );
        assert!(urls.answers("/a/b"));
        for path in ["/a/b/", "/a", "/", "/A/b", "/a%2Fb"] {
            assert!(!urls.answers(path), "{path}");
            assert!(urls.signed_uris(path, None).is_empty(), "{path}");
        }
    }

    #[test]
    fn the_query_is_the_requests_unless_one_is_configured() {
        let free = urls(&["https://a.example/p"]);
        assert_eq!(
            free.signed_uris("/p", Some("x=%28a")),
            ["https://a.example/p?x=%28a"]
        );
        assert_eq!(free.signed_uris("/p", Some("")), ["https://a.example/p?"]);
        let fixed = urls(&["https://a.example/p?k=1"]);
        assert_eq!(
            fixed.signed_uris("/p", Some("k=1")),
            ["https://a.example/p?k=1"]
        );
        for query in [None, Some(""), Some("k=2"), Some("k=1&l=2")] {
            assert!(fixed.signed_uris("/p", query).is_empty(), "{query:?}");
        }
    }

    #[test]
    fn several_urls_with_one_path_are_all_candidates() {
        let urls = urls(&[
            "https://a.example/p",
            "https://b.example/p",
            "https://c.example/q",
        ]);
        assert_eq!(
            urls.signed_uris("/p", None),
            ["https://a.example/p", "https://b.example/p"]
        );
    }

    #[test]
    fn a_url_without_a_path_is_signed_with_or_without_the_slash() {
        assert_eq!(
            urls(&["https://a.example"]).signed_uris("/", None),
            ["https://a.example", "https://a.example/"]
        );
        assert_eq!(
            urls(&["https://a.example/"]).signed_uris("/", None),
            ["https://a.example/"]
        );
    }

    #[test]
    fn what_hubspot_cannot_call_is_refused() {
        for url in [
            "",
            "relay.example.com/p",
            "ftp://a.example/p",
            "https://",
            "https:///p",
            "https://?x",
            "https://user@a.example/p",
            "https://a.example/p#f",
            "https://a.example/p q",
            "https://a.example/é",
        ] {
            assert!(PublicUrls::new(&[url.to_owned()]).is_err(), "{url}");
        }
        assert_eq!(PublicUrls::new(&[]), Err(PublicUrlError::None));
    }
}
