//! TLS on every side, with certificates of an authority of one's own: the broker, which also demands one of us; HubSpot's
//! API behind such a proxy; and the receiver, whose certificate is renewed while it runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crm_relay::bus::rabbitmq::{RabbitMq, RabbitMqError, RabbitMqOptions};
use crm_relay::bus::{Bus as _, Queue, Target};
use crm_relay::config::ClientTlsConfig;
use crm_relay::event::{ObjectTypeId, PortalId};
use crm_relay::hubspot::call::{Call, CallError, Sensitivity};
use crm_relay::hubspot::client::{
    Credential, HubSpot, HubSpotOptions, PortalSettings, TokenSource, Tokens,
};
use crm_relay::metrics::Metrics;
use crm_relay::receiver::Receiver;
use crm_relay::simulator::{PortalOptions, Simulator, SimulatorOptions};
use crm_relay::tls::ServerCertificate;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::helpers::broker::{Broker, unique_prefix};
use crate::helpers::bus::{self, drain, to};
use crate::helpers::certificates::Authority;
use crate::helpers::eventually;
use crate::ingress::{MemoryBus, receiver_config};

/// Long enough for anything on loopback, and for the files to be looked at again.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often the broker may be misheard.
const TRIES_MAX: usize = 100;

fn options(broker: &Broker, login: &str, tls: ClientTlsConfig) -> RabbitMqOptions {
    RabbitMqOptions {
        url: broker.tls_url(login).into(),
        tls,
        ..bus::options(broker, &unique_prefix())
    }
}

async fn refused(options: RabbitMqOptions) -> String {
    let started = RabbitMq::start(options, Arc::new(Metrics::new())).await;
    let error = started.err().expect("it must not start");
    assert!(matches!(error, RabbitMqError::Tls(_)), "{error}");
    error.to_string()
}

/// The same for a broker that does not like what we show. By TLS 1.3 it says so after its handshake, when we write already, and
/// closes; so what it says may be lost, and the relay tries again.
async fn refused_at_last(options: RabbitMqOptions) -> String {
    for _ in 0..TRIES_MAX {
        match RabbitMq::start(options.clone(), Arc::new(Metrics::new())).await {
            Ok(bus) => {
                assert!(!*bus.connected().borrow());
                bus.close().await;
            }
            Err(error) => {
                assert!(matches!(error, RabbitMqError::Tls(_)), "{error}");
                return error.to_string();
            }
        }
    }
    panic!("it never says why");
}

/// Publishes over a bus of `options`, and reads it back.
async fn carries_messages(options: RabbitMqOptions) {
    let bus = bus::start(options).await;
    let published = bus.publish(vec![to(Target::Partition(0), "one")]).await;
    assert_eq!(published, [Ok(())]);
    assert_eq!(drain(&*bus, Queue::Partition(0)).await, ["one"]);
    let targets = [Target::Backlog(0), Target::Changelog(0)];
    for target in targets.into_iter().chain([Target::Erasures]) {
        assert_eq!(bus.publish(vec![to(target, "two")]).await, [Ok(())]);
    }
    assert_eq!(drain(&*bus, Queue::Backlog(0)).await, ["two"]);
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_is_talked_to_by_tls_with_certificates_on_both_sides_or_not_at_all() {
    let authority = Authority::new();
    for name in ["server", "relay"] {
        authority.sign(name);
    }
    authority.sign_ended("ended");
    let broker = Broker::start_with_tls(authority.folder());

    let guest = |tls| options(&broker, "guest:guest@", tls);
    carries_messages(guest(authority.client(Some("relay")))).await;

    // Who shows a certificate may be known by it alone.
    broker.ctl(&["add_user", "relay", "unused"]);
    let mut by_certificate = options(&broker, "", authority.client(Some("relay")));
    // No more than SECURITY.md says.
    let ours = format!("^{}[.]", by_certificate.prefix);
    let written = format!("^({}[.]|amq[.]default$)", by_certificate.prefix);
    broker.ctl(&["set_permissions", "relay", &ours, &written, &ours]);
    by_certificate.url = format!("{}?auth_mechanism=external", broker.tls_url("")).into();
    carries_messages(by_certificate).await;

    let other = Authority::new();
    other.sign("relay");
    let system = ClientTlsConfig {
        ca: None,
        ..authority.client(Some("relay"))
    };
    let foreign = ClientTlsConfig {
        ca: Some(authority.ca()),
        ..other.client(Some("relay"))
    };
    for (tls, says) in [
        (other.client(Some("relay")), "set bus.tls.ca"),
        (system, "set bus.tls.ca"),
        (authority.client(None), "set bus.tls.cert"),
        (authority.client(Some("ended")), "set bus.tls.cert"),
        (foreign, "set bus.tls.cert"),
    ] {
        let error = refused_at_last(guest(tls)).await;
        assert!(error.contains(says), "{error}");
    }

    // A name that is not in the certificate, and a port that speaks no TLS.
    let mut elsewhere = guest(authority.client(Some("relay")));
    elsewhere.url = broker
        .tls_url("guest:guest@")
        .replace("localhost", "127.0.0.1")
        .into();
    let error = refused(elsewhere).await;
    assert!(error.contains("is not for the host"), "{error}");
    let mut plain = guest(authority.client(Some("relay")));
    plain.url = broker.url().replace("amqp:", "amqps:").into();
    let error = refused(plain).await;
    assert!(error.contains("check the port"), "{error}");

    // A broker whose own certificate has ended.
    authority.sign_ended("server");
    broker.restart();
    let error = refused(guest(authority.client(Some("relay")))).await;
    assert!(error.contains("has ended"), "{error}");

    // And when it is renewed, a relay that could not connect does so by itself.
    authority.sign("server");
    broker.restart();
    carries_messages(guest(authority.client(Some("relay")))).await;
}

/// A proxy that ends TLS with the certificate `name`, in front of `upstream`.
async fn tls_proxy(authority: &Authority, name: &str, upstream: SocketAddr) -> SocketAddr {
    let certificate = ServerCertificate::load(&authority.server(name)).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(certificate.server_config()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut tls = acceptor.accept(stream).await?;
                let mut plain = TcpStream::connect(upstream).await?;
                tokio::io::copy_bidirectional(&mut tls, &mut plain).await
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hubspot_is_called_through_who_shows_a_certificate_of_the_configured_authority() {
    let portal = PortalOptions::new(8241);
    let simulator = Simulator::start(SimulatorOptions {
        portals: vec![portal.clone()],
        ..SimulatorOptions::default()
    })
    .await
    .unwrap();
    let upstream = simulator.base_url().parse::<reqwest::Url>().unwrap();
    let upstream = upstream.socket_addrs(|| None).unwrap()[0];
    let authority = Authority::new();
    authority.sign("proxy");
    authority.sign_ended("ended");
    let good = tls_proxy(&authority, "proxy", upstream).await;
    let ended = tls_proxy(&authority, "ended", upstream).await;

    let call = async |at: SocketAddr, tls: ClientTlsConfig| {
        let options = HubSpotOptions {
            base_url: format!("https://localhost:{}", at.port()),
            api_version: "2026-09".parse().unwrap(),
            timeout: PATIENCE,
            tls,
        };
        let tokens = Tokens::new(&options, Arc::new(Metrics::new())).unwrap();
        let settings = PortalSettings {
            credential: Credential::AccessToken(TokenSource::Given(
                portal.access_token.clone().into(),
            )),
            paused: false,
        };
        let id = PortalId::from("8241");
        tokens.set(&id, settings).unwrap();
        let client = HubSpot::new(&options, Arc::new(tokens), Arc::new(Metrics::new())).unwrap();
        let read = Call::ListProperties {
            object_type_id: ObjectTypeId::from_name("0-1"),
            sensitivity: Sensitivity::NonSensitive,
        };
        client.call(&id, &read).await.result
    };
    assert!(call(good, authority.client(None)).await.is_ok());
    for (at, tls) in [
        (good, ClientTlsConfig::default()),
        (good, Authority::new().client(None)),
        (ended, authority.client(None)),
    ] {
        assert_eq!(call(at, tls).await, Err(CallError::Disconnected));
    }
    simulator.stop().await;
}

/// A request without a signature, by TLS to `localhost`: its status, or none when there is no connection.
async fn unsigned(ca: &reqwest::Certificate, at: SocketAddr) -> Option<u16> {
    let client = reqwest::Client::builder()
        .tls_certs_only([ca.clone()])
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .unwrap();
    let url = format!("https://localhost:{}/hubspot/webhook", at.port());
    let answer = client.post(url).body("[]").send().await.ok()?;
    Some(answer.status().as_u16())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_receiver_speaks_tls_and_shows_a_renewed_certificate_without_a_restart() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (first, second) = (Authority::new(), Authority::new());
    first.sign("receiver");
    second.sign("receiver");
    let mut config = receiver_config(256);
    config.receiver.tls = Some(first.server("receiver"));
    let metrics = Arc::new(Metrics::new());
    let receiver = Receiver::start(&config, MemoryBus::new(), metrics).unwrap();
    let at = receiver.addr();
    let certificate = |authority: &Authority| {
        let pem = std::fs::read(authority.ca()).unwrap();
        reqwest::Certificate::from_pem(&pem).unwrap()
    };
    let (trusts_first, trusts_second) = (certificate(&first), certificate(&second));
    assert_eq!(unsigned(&trusts_first, at).await, Some(401));
    assert_eq!(unsigned(&trusts_second, at).await, None);

    // As whoever renews it does: one file after the other.
    for file in ["receiver.key", "receiver.crt"] {
        std::fs::copy(second.path(file), first.path(file)).unwrap();
    }
    eventually("the new certificate is shown", PATIENCE, async || {
        (unsigned(&trusts_second, at).await == Some(401)).then_some(())
    })
    .await;
    assert_eq!(unsigned(&trusts_first, at).await, None);

    // What cannot be used is not shown.
    std::fs::write(first.path("receiver.crt"), "torn").unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(unsigned(&trusts_second, at).await, Some(401));

    // Who speaks plain HTTP is let go, and others are still answered.
    let plain = reqwest::Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .unwrap();
    let answer = plain
        .post(format!("http://localhost:{}/", at.port()))
        .send()
        .await;
    assert!(answer.is_err());
    assert_eq!(unsigned(&trusts_second, at).await, Some(401));
    receiver.stop(Duration::from_secs(5)).await;
}
