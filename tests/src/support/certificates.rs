//! Certificates that are made for a test and trusted by nobody else.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// Who signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, PEM.
    pub pem: String,
}

/// A certificate and its key.
pub struct Certificate {
    /// The certificate, PEM.
    pub pem: String,
    /// The certificate, DER.
    pub der: Vec<u8>,
    /// The private key, PEM.
    pub key: String,
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// A certificate for this machine's loopback, as a server or a client.
    pub fn issue(&self, name: &str) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let params = params(name, &["localhost", "127.0.0.1"]);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Certificate {
            pem: certificate.pem(),
            der: certificate.der().to_vec(),
            key: key.serialize_pem(),
        }
    }
}

fn params(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// The files that a client is given: what it trusts, who it is, and its API key.
pub struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    /// With an authority to trust; the others do not exist yet.
    pub fn new(trusted: &Authority) -> Self {
        let files = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        files.trust(trusted);
        files
    }

    /// The authority that the server's certificate must come from.
    pub fn trust(&self, authority: &Authority) {
        replace(&self.ca(), &authority.pem);
    }

    /// The client's own certificate and key. They are replaced one after the other, as
    /// whoever renews them does.
    pub fn identify(&self, certificate: &Certificate) {
        replace(&self.cert(), &certificate.pem);
        replace(&self.key(), &certificate.key);
    }

    /// The API key.
    pub fn authorize(&self, api_key: &str) {
        replace(&self.api_key(), api_key);
    }

    /// The authority's file.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The certificate's file.
    pub fn cert(&self) -> PathBuf {
        self.folder.path().join("client.pem")
    }

    /// The private key's file.
    pub fn key(&self) -> PathBuf {
        self.folder.path().join("client.key")
    }

    /// The API key's file.
    pub fn api_key(&self) -> PathBuf {
        self.folder.path().join("api-key")
    }
}

/// Replaces a file as a whole.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path).unwrap();
}
