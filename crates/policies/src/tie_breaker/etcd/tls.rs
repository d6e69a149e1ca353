//! TLS to an etcd: by whom its members' certificates must be signed, and how a replica says who it is.
//!
//! The files are read again for each call: renewed ones count at once, and what is wrong with them is said like any other
//! reason why the tie-breaker cannot be asked.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::CertifiedKey;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

/// More than a chain of certificates has.
const MAX_FILE: u64 = 256 * 1024;

/// Which files there are; all are PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of which one must have signed a member's.
    pub ca: PathBuf,
    /// The replica's own certificate and its key, where the etcd wants to know who asks.
    pub identity: Option<Identity>,
}

/// How a replica says who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its certificate, and those that lead from there to one that the etcd knows.
    pub cert: PathBuf,
    /// The private key of the first one.
    pub key: PathBuf,
}

/// What the files say.
pub(super) fn load(tls: &Tls) -> Result<TlsConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = match &tls.identity {
        None => None,
        Some(Identity { cert, key }) => {
            let chain = certificates(cert)?;
            let none = || format!("{} holds no private key in PEM", key.display());
            let pem = read(key)?;
            let secret = PrivateKey::from_pem(&pem).map_err(|_| none())?;
            let same = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| none())?;
            fit(&chain, same, &provider)
                .map_err(|error| format!("{} is no key of {}: {error}", key.display(), cert.display()))?;
            Some(ClientCert::new_with_certs(&chain, secret))
        }
    };
    let roots = certificates(&tls.ca)?;
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .client_cert(client)
        .unversioned_rustls_crypto_provider(provider)
        .build())
}

/// Whether a key is the first certificate's. What makes the connection takes that for granted.
fn fit(
    chain: &[Certificate<'static>],
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<(), rustls::Error> {
    let chain = chain.iter().map(|certificate| certificate.der().to_vec().into()).collect();
    CertifiedKey::from_der(chain, key, provider).map(drop)
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let bytes = read(path)?;
    let mut found = Vec::new();
    for item in parse_pem(&bytes) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            // A key may be in the same file.
            Ok(_) => {}
            Err(_) => return Err(format!("{} is not PEM", path.display())),
        }
    }
    if found.is_empty() { Err(format!("{} holds no certificate in PEM", path.display())) } else { Ok(found) }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error| format!("reading {}: {error}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("{} has more than {MAX_FILE} bytes", path.display()));
    }
    Ok(bytes)
}
