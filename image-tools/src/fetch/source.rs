//! Where the torrent comes from, and with it the tracker, the web seed and the secret.

use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use swarm::METAINFO_BYTES_MAX;
use swarm_net::{HttpError, Metainfo, Secret, http_get};

/// A secret file holds 64 digits.
const SECRET_FILE_BYTES_MAX: u64 = 1024;
/// Forbidden: what a seed answers to a wrong secret.
const FORBIDDEN: u16 = 403;

/// What the command line names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A torrent file.
    File(PathBuf),
    /// A URL, and what stands behind its `#`, which never travels.
    Url { url: String, fragment: Option<String> },
}

/// As what we take part.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) secret: Option<Secret>,
    pub(super) open: bool,
}

/// A torrent, and whom to ask.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) metainfo: Metainfo,
    /// The same as bytes.
    pub(super) torrent: Vec<u8>,
    pub(super) announce: Option<String>,
    pub(super) web_seed: Option<String>,
}

impl Origin {
    pub(super) fn parse(text: &str) -> Self {
        if !text.contains("://") {
            return Self::File(text.into());
        }
        match text.split_once('#') {
            Some((url, fragment)) => Self::Url { url: url.to_owned(), fragment: Some(fragment.to_owned()) },
            None => Self::Url { url: text.to_owned(), fragment: None },
        }
    }
}

impl Membership {
    pub(super) fn of(origin: &Origin, secret_file: Option<&Path>, open: bool) -> Result<Self> {
        let fragment = match origin {
            Origin::Url { fragment, .. } => fragment.as_deref(),
            Origin::File(_) => None,
        };
        let secret = match (secret_file, fragment) {
            (Some(path), _) => Some(read_secret(path)?),
            (None, Some(digits)) => match Secret::from_hex(digits) {
                Some(secret) => Some(secret),
                None => bail!("what stands behind the # is not a secret of 64 hexadecimal digits"),
            },
            (None, None) => None,
        };
        if secret.is_none() && !open {
            bail!(
                "no swarm secret is given: write the whole URL that the seed printed, in quotes, or --secret-file \
                 FILE, or --open for a swarm that asks for none"
            );
        }
        Ok(Self { secret, open })
    }

    /// With the key that a seed's HTTP side asks for.
    fn with_key(&self, url: &str) -> String {
        let Some(secret) = &self.secret else { return url.to_owned() };
        let separator = if url.contains('?') { '&' } else { '?' };
        format!("{url}{separator}key={}", secret.http_key())
    }
}

impl Source {
    /// Reads the torrent and what it says of tracker and web seed.
    pub(super) async fn read(origin: &Origin, member: &Membership) -> Result<Self> {
        let (bytes, name) = match origin {
            Origin::File(path) => (read_bounded(path, METAINFO_BYTES_MAX)?, path.display().to_string()),
            Origin::Url { url, .. } => (get(url, member, METAINFO_BYTES_MAX).await?, url.clone()),
        };
        let metainfo = Metainfo::parse(&bytes).with_context(|| format!("{name} is not a usable torrent"))?;
        metainfo.geometry().with_context(|| format!("{name} is not a usable torrent"))?;
        let announce = metainfo.announce.clone();
        let web_seed = metainfo.web_seeds.iter().find(|url| url.starts_with("http://"));
        let web_seed = web_seed.map(|url| web_seed_file(url, &metainfo.name));
        Ok(Self { metainfo, torrent: bytes, announce, web_seed })
    }

    /// Takes what the command line says instead of what the torrent says, and makes both usable: addresses for
    /// names, the key for strangers.
    pub(super) fn choose(
        &mut self,
        tracker: Option<&str>,
        web_seed: Option<&str>,
        has_peers: bool,
        member: &Membership,
    ) -> Result<()> {
        let instead = |given: Option<&str>, named: Option<String>| match given {
            Some("none") => None,
            Some(url) => Some(url.to_owned()),
            None => named,
        };
        let usable = |url: Option<String>| url.map(|url| resolve(&url)).transpose();
        self.web_seed = usable(instead(web_seed, self.web_seed.take()))?.map(|url| member.with_key(&url));
        let announce = instead(tracker, self.announce.take());
        self.announce = match usable(announce) {
            Ok(announce) => announce.map(|url| member.with_key(&url)),
            // A tracker of another kind is no loss where there is somebody else to ask.
            Err(_) if has_peers || self.web_seed.is_some() => None,
            Err(error) => return Err(error.context("asking the torrent's tracker")),
        };
        if self.announce.is_none() && self.web_seed.is_none() && !has_peers {
            bail!("the torrent names neither a tracker nor a web seed, so there is nobody to ask");
        }
        Ok(())
    }

    /// The server's address, as far as tracker or web seed give it away.
    pub(super) fn server(&self) -> Option<IpAddr> {
        let url = self.announce.as_ref().or(self.web_seed.as_ref())?;
        let authority = url.strip_prefix("http://")?.split(['/', '?']).next()?;
        authority.parse::<SocketAddr>().map(|address| address.ip()).ok()
    }
}

fn read_secret(path: &Path) -> Result<Secret> {
    let mut text = String::new();
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let read = file.take(SECRET_FILE_BYTES_MAX).read_to_string(&mut text);
    let secret = read.ok().and_then(|_| Secret::from_hex(text.trim()));
    secret.with_context(|| format!("{} does not hold a secret of 64 hexadecimal digits", path.display()))
}

/// `X.torrent` and `manifest` -> the bytes of `X.manifest`, from the same place.
pub(super) async fn beside(
    origin: &Origin,
    member: &Membership,
    suffix: &str,
    bytes_max: usize,
) -> Result<Vec<u8>> {
    match origin {
        Origin::File(path) => {
            let bytes = read_bounded(&path.with_extension(suffix), bytes_max)?;
            ensure!(bytes.len() <= bytes_max, "{} is too long", path.with_extension(suffix).display());
            Ok(bytes)
        }
        Origin::Url { url, .. } => {
            let (place, query) = url.split_at(url.find('?').unwrap_or(url.len()));
            let image = place.strip_suffix(".torrent").unwrap_or(place);
            get(&format!("{image}.{suffix}{query}"), member, bytes_max).await
        }
    }
}

fn read_bounded(path: &Path, bytes_max: usize) -> Result<Vec<u8>> {
    let reading = || format!("reading {}", path.display());
    let file = File::open(path).with_context(reading)?;
    let mut bytes = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).with_context(reading)?;
    Ok(bytes)
}

async fn get(url: &str, member: &Membership, bytes_max: usize) -> Result<Vec<u8>> {
    let asked = member.with_key(&resolve(url)?);
    match http_get(&asked, bytes_max).await {
        Err(HttpError::Status(FORBIDDEN)) => {
            bail!("{url}: the seed refuses us; use the whole line that it printed, secret included")
        }
        answer => answer.with_context(|| format!("getting {url}")),
    }
}

/// The same URL with an address for the name of its host.
fn resolve(url: &str) -> Result<String> {
    let Some(rest) = url.strip_prefix("http://") else { bail!("{url} is not a plain http:// URL") };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if let Ok(address) = authority.parse::<SocketAddr>() {
        return Ok(format!("http://{address}{path}"));
    }
    let with_port = |text: &str| match text.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => text.to_owned(),
        _ => format!("{text}:80"),
    };
    ensure!(!authority.is_empty(), "{url} names no host");
    let mut addresses =
        with_port(authority).to_socket_addrs().with_context(|| format!("looking up the host of {url}"))?;
    let address = addresses.next().with_context(|| format!("the host of {url} has no address"))?;
    Ok(format!("http://{address}{path}"))
}

/// BEP 19: a URL that ends in a slash is that of the directory.
fn web_seed_file(url: &str, name: &str) -> String {
    if !url.ends_with('/') {
        return url.to_owned();
    }
    let escaped = name.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    format!("{url}{}", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fragment_is_the_secret_and_stays_here() {
        let secret = Secret([5; 32]);
        let origin = Origin::parse(&format!("http://10.0.0.1:6969/a.esir.torrent#{}", secret.to_hex()));
        let member = Membership::of(&origin, None, false).unwrap();
        assert_eq!(member.secret, Some(secret));
        let Origin::Url { url, .. } = origin else { panic!() };
        assert_eq!(url, "http://10.0.0.1:6969/a.esir.torrent");
        assert!(!member.with_key(&url).contains("0505"));
        assert!(Membership::of(&Origin::parse("http://a/b#12"), None, true).is_err());
        assert!(Membership::of(&Origin::parse("a.torrent"), None, false).is_err());
        assert_eq!(Origin::parse("a#b.torrent"), Origin::File("a#b.torrent".into()));
    }

    #[test]
    fn hosts_become_addresses() {
        let check = |url: &str, expected: &str| assert_eq!(resolve(url).unwrap(), expected);
        check("http://10.0.0.1:81/a?b", "http://10.0.0.1:81/a?b");
        check("http://10.0.0.1/a", "http://10.0.0.1:80/a");
        check("http://[::1]/a", "http://[::1]:80/a");
        check("http://[::1]:5?a", "http://[::1]:5?a");
        for bad in ["https://10.0.0.1/", "udp://10.0.0.1:5", "http:///a", "http://no.such.host.invalid/"] {
            assert!(resolve(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_web_seed_is_a_file_or_a_directory() {
        assert_eq!(web_seed_file("http://a/x.iso", "b"), "http://a/x.iso");
        assert_eq!(web_seed_file("http://a/", "b c.esir"), "http://a/b%20c.esir");
    }
}
