//! Where a bucket is: the endpoint and the bucket's name.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use url::Url;

/// An endpoint as the user wrote it: an `http(s)` URL of an S3 service, or `file:///dir`, a folder that holds
/// buckets as folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// An S3 service, addressed path style (`http://host:port/bucket/key`).
    Http(Url),
    /// A folder on a disk or on a network file system.
    Folder(PathBuf),
}

/// Why a text is no endpoint.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the endpoint {text:?} {reason}; use an URL such as http://localhost:9000, https://s3.eu-west-1.amazonaws.com or file:///var/buckets"
)]
pub struct EndpointError {
    text: String,
    reason: String,
}

impl Endpoint {
    /// True for a service on this machine: there is no instance metadata to ask for credentials.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Folder(_) => true,
            Self::Http(url) => match url.host() {
                Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
                Some(url::Host::Ipv4(ip)) => ip.is_loopback() || ip.is_unspecified(),
                Some(url::Host::Ipv6(ip)) => ip.is_loopback() || ip.is_unspecified(),
                None => false,
            },
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |reason: &str| EndpointError { text: redacted(text), reason: reason.to_owned() };
        let url = Url::parse(text).map_err(|e| error(&format!("is not a URL ({e})")))?;
        match url.scheme() {
            "http" | "https" => {
                if !url.username().is_empty() || url.password().is_some() {
                    return Err(error("holds credentials, which never belong in a URL"));
                }
                if url.query().is_some() || url.fragment().is_some() {
                    return Err(error("has a query or a fragment"));
                }
                Ok(Self::Http(url))
            }
            "file" => {
                let path = url.to_file_path().map_err(|()| error("is not an absolute path on this machine"))?;
                Ok(Self::Folder(path))
            }
            scheme => Err(error(&format!("has the unknown scheme {scheme}:"))),
        }
    }
}

/// The text without a password, for a message.
fn redacted(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}://…{}", &text[..scheme], &text[at..]),
        _ => text.to_owned(),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => f.write_str(url.as_str().trim_end_matches('/')),
            Self::Folder(path) => write!(f, "file://{}", path.display()),
        }
    }
}

/// A bucket at an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The service or folder.
    pub endpoint: Endpoint,
    /// The bucket's name: one path segment.
    pub bucket: String,
}

impl Location {
    /// A bucket at an endpoint.
    ///
    /// # Errors
    /// When the name can't be a bucket's: empty, or with a character that would leave the bucket's place.
    pub fn new(endpoint: Endpoint, bucket: &str) -> Result<Self, EndpointError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if bucket.is_empty() || bucket.starts_with('.') || !bucket.chars().all(plain) {
            return Err(EndpointError {
                text: endpoint.to_string(),
                reason: format!(
                    "can't have a bucket named {bucket:?} (letters, digits, '-', '_' and '.' make a bucket's name)"
                ),
            });
        }
        Ok(Self { endpoint, bucket: bucket.to_owned() })
    }

    /// The folder of the bucket, where the endpoint is one.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        match &self.endpoint {
            Endpoint::Folder(path) => Some(Path::join(path, &self.bucket)),
            Endpoint::Http(_) => None,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.endpoint, self.bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_folders_are_told_apart() {
        let http: Endpoint = "http://localhost:9000/".parse().unwrap();
        assert_eq!(http.to_string(), "http://localhost:9000");
        assert!(http.is_local());
        assert!(!"https://s3.amazonaws.com".parse::<Endpoint>().unwrap().is_local());
        assert!("http://[::1]:9000".parse::<Endpoint>().unwrap().is_local());
        assert_eq!("file:///var/b".parse(), Ok(Endpoint::Folder("/var/b".into())));
    }

    #[test]
    fn what_is_no_endpoint_says_why_and_hides_the_password() {
        for text in ["localhost:9000", "", "s3://x", "http://h?x=1", "file://host/x"] {
            let message = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(message.contains("use an URL such as"), "{message}");
        }
        let message = "http://me:secret@host".parse::<Endpoint>().unwrap_err().to_string();
        assert!(message.contains("credentials") && !message.contains("secret"), "{message}");
    }

    #[test]
    fn a_bucket_is_one_plain_segment() {
        let endpoint: Endpoint = "file:///b".parse().unwrap();
        assert!(Location::new(endpoint.clone(), "libsql").is_ok());
        for name in ["", "..", "a/b", "a b", ".hidden", "a%2f"] {
            assert!(Location::new(endpoint.clone(), name).is_err(), "{name}");
        }
    }
}
