//! Who may ask, and what they may see: decided for each request, before anything else.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use axum::{
    extract::{Extension, Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE},
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::{
    Address, App,
    credentials::{Credentials, CredentialsError},
    peer::Peer,
    refused::Refused,
    tls::{self, TlsError},
};
use crate::cli::serve::Options;

/// So long a password that was right is known without being hashed again.
const REMEMBERED: Duration = Duration::from_secs(300);

/// The most of them that are remembered.
const MOST_REMEMBERED: usize = 1024;

/// How long a request waits for its password to be hashed while others are.
const HASHING: Duration = Duration::from_secs(10);

/// What is wrong with what says who may ask.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Other machines could ask, and nobody would know who.
    #[error(
        "{0} can be reached from other machines: say who may ask with --auth-file (or listen at \
         127.0.0.1, and forward the port with ssh -L)"
    )]
    NoCredentials(Address),
    /// Passwords would go through networks as they are.
    #[error(
        "{0} can be reached from other machines: passwords need HTTPS, --tls-cert and --tls-key \
         (or --insecure, where the network is yours)"
    )]
    NoTls(Address),
    /// A certificate is of no use without its key, nor a key without its certificate.
    #[error("HTTPS needs both a certificate and its key: give {0}, too")]
    HalfOfTls(&'static str),
    /// The file of credentials is wrong.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The certificate or the key is wrong.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    /// A user of this machine.
    Local(Peer),
    /// Somebody on another machine.
    Elsewhere,
}

/// Who may ask. It can be replaced while requests are answered.
pub struct Access {
    credentials: Option<Credentials>,
    acceptor: Option<TlsAcceptor>,
    /// Digests of passwords that were right, under `salt`, and when.
    remembered: std::sync::Mutex<HashMap<[u8; 32], Instant>>,
    salt: [u8; 32],
    hashing: Semaphore,
}

impl Access {
    /// As the options have it, for sockets at these addresses.
    ///
    /// # Errors
    ///
    /// [`AccessError`].
    pub fn of_options(options: &Options, listen: &[Address]) -> Result<Self, AccessError> {
        let files: (Option<&PathBuf>, Option<&PathBuf>) =
            (options.tls_cert.as_ref(), options.tls_key.as_ref());
        let acceptor = match files {
            (Some(cert), Some(key)) => Some(tls::acceptor(cert, key)?),
            (None, None) => None,
            (Some(_), None) => return Err(AccessError::HalfOfTls("--tls-key")),
            (None, Some(_)) => return Err(AccessError::HalfOfTls("--tls-cert")),
        };
        let credentials = options.auth_file.as_deref().map(Credentials::read).transpose()?;
        if let Some(open) = listen.iter().find(|address| address.is_open()) {
            if credentials.is_none() {
                return Err(AccessError::NoCredentials(open.clone()));
            }
            if acceptor.is_none() && !options.insecure {
                return Err(AccessError::NoTls(open.clone()));
            }
        }
        let mut salt = [0; 32];
        // Without it the digests are those of memory that only root can read.
        let _ = rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty());
        Ok(Self {
            credentials,
            acceptor,
            remembered: std::sync::Mutex::default(),
            salt,
            hashing: Semaphore::new(1),
        })
    }

    /// What TLS connections are accepted with; `None`: there is to be none.
    pub(super) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.acceptor.clone()
    }

    /// Whether the request has a password or token that is right; `None`: it has none, or none is
    /// asked for. An error: it cannot be told now.
    async fn is_right(&self, headers: &HeaderMap) -> Result<Option<bool>, Busy> {
        match &self.credentials {
            Some(credentials) => self.is_right_by(credentials, headers).await,
            None => Ok(None),
        }
    }

    async fn is_right_by(
        &self,
        credentials: &Credentials,
        headers: &HeaderMap,
    ) -> Result<Option<bool>, Busy> {
        let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
        let value = value.to_str().unwrap_or_default();
        let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            return Ok(Some(credentials.has_token(rest.trim())));
        }
        let decoded = BASE64_STANDARD.decode(rest.trim()).unwrap_or_default();
        let decoded = String::from_utf8(decoded).unwrap_or_default();
        let (user, password) = decoded.split_once(':').unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("basic") || user.is_empty() {
            return Ok(Some(false));
        }
        // Tools that know no bearer tokens send one as the password of a user called token.
        if user == "token" && credentials.has_token(password) {
            return Ok(Some(true));
        }
        self.is_password(credentials, user, password).await.map(Some)
    }

    async fn is_password(
        &self,
        credentials: &Credentials,
        user: &str,
        password: &str,
    ) -> Result<bool, Busy> {
        let digest: [u8; 32] = Sha256::new()
            .chain_update(self.salt)
            .chain_update(user)
            .chain_update([0])
            .chain_update(password)
            .finalize()
            .into();
        let remembered = || self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = || remembered().get(&digest).is_some_and(|at| at.elapsed() < REMEMBERED);
        if is_known() {
            return Ok(true);
        }
        // One at a time: guessing may take a CPU's time, and no more.
        let Ok(Ok(_permit)) = tokio::time::timeout(HASHING, self.hashing.acquire()).await else {
            return Err(Busy);
        };
        // Others have asked with the same password meanwhile.
        if is_known() {
            return Ok(true);
        }
        let (hash, password) = (credentials.hash_of(user), password.to_owned());
        let is_right = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash)).await;
        let is_right = matches!(is_right, Ok(Ok(true)));
        if is_right {
            let mut remembered = remembered();
            remembered.retain(|_, at| at.elapsed() < REMEMBERED);
            if remembered.len() < MOST_REMEMBERED {
                remembered.insert(digest, Instant::now());
            }
        }
        Ok(is_right)
    }
}

/// Too many passwords are being looked at.
struct Busy;

/// The access in force.
#[derive(Clone)]
pub(super) struct InForce(Arc<RwLock<Arc<Access>>>);

impl InForce {
    pub(super) fn new(access: Access) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(access))))
    }

    pub(super) fn get(&self) -> Arc<Access> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn replace(&self, access: Access) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(access);
    }
}

/// Lets a request through as somebody, or refuses it.
pub(super) async fn admit(
    State(app): State<App>,
    Extension(origin): Extension<Origin>,
    mut request: Request,
    next: Next,
) -> Response {
    let Ok(is_right) = app.access.get().is_right(request.headers()).await else {
        let text = "too many passwords are being looked at; try again later";
        return Refused::unavailable(text).into_response();
    };
    let peer = match (is_right, origin) {
        (Some(true), _) => Peer::authenticated(),
        (None, Origin::Local(peer)) => peer,
        (Some(false), _) | (None, Origin::Elsewhere) => {
            let text = "a password or a token is needed, and right";
            let mut answer = Refused::new(StatusCode::UNAUTHORIZED, text).into_response();
            let challenge = HeaderValue::from_static("Basic realm=\"rprofd\"");
            answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            return answer;
        }
    };
    if !is_same_site(&request, is_right.is_some()) {
        let text = "ask for localhost, 127.0.0.1 or [::1]";
        return Refused::new(StatusCode::FORBIDDEN, text).into_response();
    }
    request.extensions_mut().insert(peer);
    next.run(request).await
}

/// Whether it is not a page of somebody else's that asks: one whose name leads here (DNS rebinding)
/// has another `Host`, and one that sends requests here another `Origin`. A browser sends a password
/// only where it was typed: then the name does not matter.
fn is_same_site(request: &Request, has_password: bool) -> bool {
    let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = request.uri().authority().map(Authority::as_str).or(header(HOST));
    let origin_is_host =
        |origin: &str| origin.split_once("://").is_some_and(|(_, origin)| Some(origin) == host);
    (has_password || host.is_none_or(is_own_name)) && header(ORIGIN).is_none_or(origin_is_host)
}

/// Whether a `Host` names this machine by itself, and no name server.
fn is_own_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.is_empty()
        || name.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_no_name_server_has() {
        for own in ["localhost:6065", "LOCALHOST", "127.0.0.1:1", "127.9.9.9", "[::1]:6065", ""] {
            assert!(is_own_name(own), "{own}");
        }
        for other in ["evil.example", "evil.example:6065", "10.0.0.1:6065", "localhost.evil:1"] {
            assert!(!is_own_name(other), "{other}");
        }
    }

    #[test]
    fn other_machines_need_a_password_and_https() {
        let options = |words: &[&str]| {
            let words = ["rprofd serve"].iter().chain(words);
            <Options as clap::Parser>::try_parse_from(words).unwrap()
        };
        let dir = tempfile::tempdir().unwrap();
        let auth = dir.path().join("auth");
        std::fs::write(&auth, "").unwrap();
        let auth = auth.to_str().unwrap();
        let open = ["--listen", "0.0.0.0:0", "--auth-file", auth];
        let access = |words: &[&str]| {
            let options = options(words);
            Access::of_options(&options, &options.listen)
        };
        assert!(access(&[]).is_ok());
        let refused = |words: &[&str]| access(words).err();
        assert!(matches!(refused(&open[..2]), Some(AccessError::NoCredentials(_))));
        assert!(matches!(refused(&open), Some(AccessError::NoTls(_))));
        assert!(refused(&[&open[..], &["--insecure"]].concat()).is_none());
        let no_file = ["--tls-cert", "/no/such", "--tls-key", "/no/such"];
        assert!(matches!(refused(&no_file), Some(AccessError::Tls(_))));
    }
}
