//! An event that kills its worker every time ends as a dead letter, and nothing else suffers for long.
//!
//! A proxy stands between relay and HubSpot. Whoever asks for the poisoned record is killed before an answer.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crm_relay::event::{DeadLetter, Millis};
use crm_relay::simulator::{PortalOptions, Simulator, SimulatorOptions};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::erasure::{letters, on_rabbitmq, open};
use crate::helpers::eventually;
use crate::helpers::relay::{Bus, RelayProcess};

const PORTALS: [u64; 2] = [8241, 62515];
/// Deaths until the poison is found: two that nobody expected, two with other suspects, and three tries.
const DEATHS: usize = 7;
/// How long a worker may take to start and to ask.
const DEATH_MAX: Duration = Duration::from_secs(60);
const ARRIVAL_MAX: Duration = Duration::from_secs(60);

/// Passes on what is asked of `hubspot`, except for what names `poison`: that is told, and never answered.
async fn proxy(hubspot: SocketAddr, poison: String) -> (SocketAddr, mpsc::UnboundedReceiver<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, asks) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (asked, poison) = (asked.clone(), poison.clone());
            tokio::spawn(pass_on(client, hubspot, poison, asked));
        }
    });
    (address, asks)
}

async fn pass_on(
    client: TcpStream,
    hubspot: SocketAddr,
    poison: String,
    asked: mpsc::UnboundedSender<()>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_hubspot, mut to_hubspot) =
        TcpStream::connect(hubspot).await.unwrap().into_split();
    let answers = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_hubspot, &mut to_client).await;
    });
    let (mut said, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
    while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
        said.extend_from_slice(&buffer[..count]);
        if String::from_utf8_lossy(&said).contains(&poison) {
            // The connection stays open, without an answer, until the worker is dead.
            let _ = asked.send(());
            while let Ok(1..) = from_client.read(&mut buffer).await {}
            break;
        }
        let kept = said.len().saturating_sub(poison.len());
        said.drain(..kept);
        if to_hubspot.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    answers.abort();
}

fn created(portal: u64, id: u64) -> Value {
    json!({
        "eventId": id, "subscriptionId": 77, "portalId": portal, "appId": 5, "attemptNumber": 0,
        "occurredAt": Millis::now().as_i64() - 60_000, "subscriptionType": "contact.creation", "objectId": id,
        "changeSource": "CRM_UI",
    })
}

async fn an_event_that_kills_its_worker_becomes_a_dead_letter_and_its_neighbours_go_on(bus: Bus) {
    let portals = PORTALS.map(PortalOptions::new).to_vec();
    let options = SimulatorOptions {
        portals: portals.clone(),
        ..SimulatorOptions::default()
    };
    let simulator = Simulator::start(options).await.unwrap();
    let hubspot = simulator.control();
    let ids = |portal| hubspot.ids(portal, "contacts").unwrap();
    let (ours, mut theirs) = (ids(PORTALS[0]), ids(PORTALS[1]));
    let poison = ours[1];
    // Portals have records of the same ids.
    theirs.retain(|id| *id != poison);
    let base_url = simulator.base_url();
    let address = base_url.strip_prefix("http://").unwrap().parse().unwrap();
    let (proxy, mut asks) = proxy(address, format!("\"{poison}\"")).await;
    let mut relay = RelayProcess::start(&simulator, &portals, &bus, "").await;
    relay.set_env("CRM_RELAY__HUBSPOT__BASE_URL", &format!("http://{proxy}"));
    relay.kill();
    relay.resume().await;

    let batch = [ours[0], poison, ours[2]].map(|id| created(PORTALS[0], id));
    relay.post(&batch).await;
    relay.post(&[created(PORTALS[1], theirs[0])]).await;
    for death in 1..=DEATHS {
        let asked = tokio::time::timeout(DEATH_MAX, asks.recv()).await;
        asked.unwrap_or_else(|_| panic!("death {death} did not come"));
        relay.kill();
        // What it had sent before is no death of the next.
        tokio::time::sleep(Duration::from_millis(300)).await;
        while asks.try_recv().is_ok() {}
        relay.resume().await;
    }
    // Others' events go on, and nobody asks for the poison any more.
    relay.post(&[created(PORTALS[1], theirs[1])]).await;
    let report = eventually("everything ended", ARRIVAL_MAX, async || {
        let (adds_up, report) = relay.audit(&[]).await;
        assert!(adds_up, "{report:?}");
        let sum = |of: fn(&crm_relay::audit::Account) -> u64| -> u64 {
            report.portals.values().map(of).sum()
        };
        (sum(|account| account.ended) == 5 && sum(|account| account.open) == 0).then_some(report)
    })
    .await;
    assert!(asks.try_recv().is_err(), "the poison is asked for no more");
    let out = |portal: &str| report.portals[&portal.into()].destinations["out"];
    let has = |portal| out(portal).delivered + out(portal).merged;
    assert_eq!((has("8241"), out("8241").dead, has("62515")), (2, 1, 2));

    assert!(relay.terminate().await.success());
    let store = open(&bus, &relay).await;
    let letters = letters(&*store).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    let (key, _, body) = &letters[0];
    assert_eq!(key, "enrich.killed_worker");
    let letter: DeadLetter = serde_json::from_str(body).unwrap();
    let events: Vec<_> = letter.events.iter().map(|event| event.subject()).collect();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].object_id.as_str(), poison.to_string());
    assert_eq!(letter.events[0].kind(), "created");
    store.close().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_kills_its_worker_becomes_a_dead_letter_on_rabbitmq() {
    an_event_that_kills_its_worker_becomes_a_dead_letter_and_its_neighbours_go_on(on_rabbitmq())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_kills_its_worker_becomes_a_dead_letter_on_the_embedded_bus() {
    an_event_that_kills_its_worker_becomes_a_dead_letter_and_its_neighbours_go_on(Bus::Embedded)
        .await;
}
