//! Certificates of servers on loopback, and of the authority that vouches for them.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::TestbedError;

/// What a server with TLS has and its clients need, as PEM.
#[derive(Clone, Debug)]
pub(crate) struct Certificates {
    pub(crate) authority: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Certificates {
    /// An authority of its own, and a certificate for `127.0.0.1` and `localhost`.
    pub(crate) fn make() -> Result<Self, TestbedError> {
        Self::generate().map_err(TestbedError::api("cannot make certificates"))
    }

    fn generate() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "wakala testbed");
        let pem = authority.self_signed(&key)?.pem();
        let issuer = Issuer::new(authority, key);
        let key = KeyPair::generate()?;
        let names = ["127.0.0.1", "localhost"].map(str::to_owned);
        let certificate = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        Ok(Self { authority: pem, certificate: certificate.pem(), key: key.serialize_pem() })
    }
}
