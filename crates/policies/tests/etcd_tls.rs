//! An etcd that is asked over TLS: who is believed, who is not, and what is said then.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ft_e2e::{Etcd, ServerTls, Site, can_run_etcd};
use ft_policies::tie_breaker::etcd::{Identity, Tls};
use ft_policies::{Answer, Pair, Register, ReplicaId, TieBreakerKind, Who};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

const ME: Who = Who { replica: ReplicaId::A, incarnation: 1, config: 0 };

/// Somebody who signs certificates, and the folder where they are.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir(&folder).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A certificate for somebody at an address, or for a client, in one file and its key in another.
    fn sign(&self, name: &str, address: Option<&str>) -> (PathBuf, PathBuf) {
        let mut params =
            CertificateParams::new(address.into_iter().map(str::to_owned).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        // The gateway is a client of its own member, and shows the member's certificate.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let paths = (self.folder.join(format!("{name}.pem")), self.folder.join(format!("{name}-key.pem")));
        std::fs::write(&paths.0, cert.pem()).unwrap();
        std::fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }
}

fn register(endpoint: SocketAddr, tls: Option<Tls>) -> Box<dyn Register + Send + Sync> {
    let pair = Pair { id: 0x1234, name: "kv".to_owned() };
    TieBreakerKind::Etcd { endpoints: vec![endpoint], prefix: "/ft-vm/".to_owned(), tls }
        .build(&pair, ft_policies::ReplicaId::A)
}

fn refused(endpoint: SocketAddr, tls: Option<Tls>, words: &str) {
    let began = Instant::now();
    let said = register(endpoint, tls).read().unwrap_err().to_string();
    println!("{said}");
    assert!(
        said.contains("the tie-breaker cannot be reached: etcd: ") && said.contains(words),
        "{words}: {said}"
    );
    assert!(began.elapsed() < Duration::from_millis(2500), "{words}: {:?}", began.elapsed());
}

#[test]
fn who_is_believed() {
    if !can_run_etcd() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let theirs = Authority::new(folder.path(), "theirs");
    let (cert, key) = ours.sign("server", Some("127.0.0.1"));
    let server = ServerTls { cert, key, client_ca: Some(ours.ca()) };
    let etcd = Etcd::start_with(folder.path(), &[Site::here()], Some(&server));
    let endpoint = etcd.endpoints()[0];

    let identity = |(cert, key): (PathBuf, PathBuf)| Some(Identity { cert, key });
    let good = Tls { ca: ours.ca(), identity: identity(ours.sign("client", None)) };
    let asker = register(endpoint, Some(good.clone()));
    assert_eq!(asker.advance(0, &ME), Answer::Won);
    assert_eq!(asker.advance(0, &ME), Answer::Won);
    assert_eq!(asker.read().unwrap().generation, 1);

    refused(endpoint, None, "does it want TLS");
    refused(endpoint, Some(Tls { ca: theirs.ca(), ..good.clone() }), "UnknownIssuer");
    refused(endpoint, Some(Tls { identity: None, ..good.clone() }), "ertificate");
    let stranger = identity(theirs.sign("client", None));
    refused(endpoint, Some(Tls { identity: stranger, ..good.clone() }), "ertificate");
    // A key that is not the certificate's.
    let mixed = identity((ours.sign("one", None).0, ours.sign("other", None).1));
    refused(endpoint, Some(Tls { identity: mixed, ..good.clone() }), "other-key.pem is no key of ");

    let nowhere = folder.path().join("nowhere.pem");
    refused(endpoint, Some(Tls { ca: nowhere.clone(), identity: None }), "nowhere.pem: No such file");
    std::fs::write(&nowhere, "hello").unwrap();
    refused(endpoint, Some(Tls { ca: nowhere.clone(), identity: None }), "nowhere.pem holds no certificate");
    std::fs::write(&nowhere, "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n").unwrap();
    refused(endpoint, Some(Tls { ca: nowhere.clone(), identity: None }), "nowhere.pem");
    let no_key = identity((good.ca.clone(), good.ca.clone()));
    refused(endpoint, Some(Tls { identity: no_key, ..good.clone() }), "ca.pem holds no private key");
    let endless = Tls { ca: PathBuf::from("/dev/zero"), identity: None };
    refused(endpoint, Some(endless), "/dev/zero has more than");
    assert_eq!(asker.advance(0, &ME), Answer::Won, "nothing of this changed anything");
}

#[test]
fn a_member_at_another_address_is_not_believed() {
    if !can_run_etcd() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let (cert, key) = ours.sign("server", Some("127.0.0.2"));
    let server = ServerTls { cert, key, client_ca: None };
    let etcd = Etcd::start_with(folder.path(), &[Site::here()], Some(&server));
    refused(
        etcd.endpoints()[0],
        Some(Tls { ca: ours.ca(), identity: None }),
        "certificate not valid for name",
    );
}
