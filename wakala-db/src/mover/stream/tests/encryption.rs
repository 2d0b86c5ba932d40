//! With an embedder's connector, here one of rustls.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;

#[derive(Clone)]
struct Rustls(TlsConnector);

impl Rustls {
    fn trusting(certificate: CertificateDer<'static>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self(Arc::new(config).into())
    }
}

impl MakeTlsConnect<TcpStream> for Rustls {
    type Stream = Encrypted;
    type TlsConnect = Connect;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> io::Result<Connect> {
        let name = ServerName::try_from(domain.to_owned()).map_err(io::Error::other)?;
        Ok(Connect(self.0.clone(), name))
    }
}

struct Connect(TlsConnector, ServerName<'static>);

impl TlsConnect<TcpStream> for Connect {
    type Stream = Encrypted;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Encrypted>>;

    fn connect(self, stream: TcpStream) -> Self::Future {
        self.0.connect(self.1, stream).map(|stream| stream.map(Encrypted)).boxed()
    }
}

struct Encrypted(tokio_rustls::client::TlsStream<TcpStream>);

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl TlsStream for Encrypted {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

fn certificate() -> rcgen::CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap()
}

#[tokio::test]
async fn a_stream_is_encrypted_as_the_configuration_says() {
    let server = settings().start().await.unwrap();
    let place = Place::on(&server).await;
    place.run("CREATE TABLE t (tenant int PRIMARY KEY)").await;
    let tables = [place.table("public", "t").await];
    let from = place.published(&tables).await;
    let certified = certificate();
    let trusted = Rustls::trusting(certified.cert.der().clone());
    let other = Rustls::trusting(certificate().cert.der().clone());
    let password = place.config().get_password().unwrap().to_vec();
    let open = async |mode: SslMode, tls: Option<&dyn Secure>| {
        let mut config = Config::new();
        config
            .host("localhost")
            .hostaddr(IpAddr::V4(Ipv4Addr::LOCALHOST))
            .port(place.access.port())
            .dbname(&place.database)
            .user(ROLE)
            .password(&password)
            .ssl_mode(mode);
        ChangeStream::open(&config, tls, &place.slot(), "Wakala p", &tables, from, Options::default()).await
    };
    let is_encrypted = async || {
        let reader = place.facts().await.active_pid.unwrap();
        place.value(&format!("SELECT ssl FROM pg_stat_ssl WHERE pid = {reader}")).await
    };

    // The server has no encryption yet.
    let error = open(SslMode::Require, Some(&trusted)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, Retry::Never), "{error}");
    let stream = open(SslMode::Prefer, Some(&trusted)).await.unwrap();
    assert_eq!(is_encrypted().await, "f");
    stream.close().await;

    for (name, pem) in
        [("server.crt", certified.cert.pem()), ("server.key", certified.signing_key.serialize_pem())]
    {
        let content = format!("translate(encode('{pem}', 'base64'), E'\\n', '')");
        place.run(&format!("COPY (SELECT {content}) TO PROGRAM 'umask 077; base64 -d > {name}'")).await;
    }
    place.run("ALTER SYSTEM SET ssl = on").await;
    place.run("SELECT pg_reload_conf()").await;
    let mut stream = timeout(PATIENCE, async {
        loop {
            match open(SslMode::Require, Some(&trusted)).await {
                Ok(stream) => break stream,
                // It has not read it yet.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await
    .unwrap();
    assert_eq!(is_encrypted().await, "t");
    place.run("INSERT INTO t VALUES (1)").await;
    let one = transaction(&mut stream).await;
    stream.confirm(one.end);
    assert_eq!(one.ops(), [Op::Insert(vec![text("1")])]);
    stream.close().await;
    assert_eq!(place.facts().await.active_pid, None);

    for tls in [Some(&other as &dyn Secure), None] {
        let error = open(SslMode::Require, tls).await.unwrap_err();
        let kind = if tls.is_some() { ErrorKind::Unavailable } else { ErrorKind::InvalidConfig };
        assert_eq!(error.kind(), kind, "{error}");
    }
    let error = open(SslMode::Disable, Some(&trusted)).await.unwrap_err();
    assert!(error.to_string().contains("goes on at"), "{error}");
}
