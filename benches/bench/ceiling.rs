//! The raw ceiling: how many confirmed messages a second the broker takes when every event is one message.
//!
//! The bare client writes frames that were encoded before the clock started, on a plain socket, and reads nothing but
//! acknowledgements: nothing can be faster over one connection. lapin is used as its documentation shows.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, ProtocolVersion, gen_frame, parse_frame};
use amq_protocol::protocol::basic::AMQPProperties;
use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, connection};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};

use crate::broker::Broker;
use crate::process::{broker_process, cpu};
use crate::queues::Queues;
use crate::report::{Row, Table};
use crate::{Plan, per_notification_us};

/// What one event weighs: our notifications are about as long.
const BODY_BYTES: usize = 512;
const QUEUE: &str = "ceiling";
const CHANNEL: u16 = 1;
const PERSISTENT: u8 = 2;
const TIMEOUT: Duration = Duration::from_secs(30);
/// Messages not confirmed yet: as many as the broker can use, and as many as ten connections that wait have.
const WINDOWS: [(&str, usize); 2] = [("deep, 1,000 in flight", 1_000), ("10 in flight", 10)];
pub const TITLE: &str = "One confirmed message per event";
pub const RATE: &str = "messages/s";

pub async fn measure(plan: &Plan, broker: &Broker) -> Table {
    let queues = Queues::connect(&broker.url()).await;
    queues.declare(QUEUE).await;
    let mut rows: Vec<Row> = Vec::new();
    for round in 0..plan.rounds {
        for (index, (window_name, window)) in WINDOWS.into_iter().enumerate() {
            for (client_index, client) in [Client::Bare, Client::Lapin].into_iter().enumerate() {
                if round == 0 {
                    rows.push(Row::new(format!("{}, {window_name}", client.name())));
                }
                let figures = client.round(plan, broker, window).await;
                let held = queues.purge(QUEUE).await;
                assert_eq!(held, figures.messages, "the broker holds what it confirmed");
                rows[index * 2 + client_index].push(figures.columns());
            }
        }
    }
    Table {
        title: TITLE,
        note: format!(
            "Persistent, mandatory messages of {BODY_BYTES} bytes to one quorum queue, each confirmed by itself; one \
             connection, one channel. After each round the queue holds exactly what was confirmed."
        ),
        columns: vec![RATE, "client CPU µs", "broker CPU µs"],
        rows,
    }
}

#[derive(Clone, Copy)]
enum Client {
    Bare,
    Lapin,
}

/// What one round showed.
struct Figures {
    messages: u32,
    elapsed: Duration,
    client: Duration,
    broker: Duration,
}

impl Figures {
    fn columns(&self) -> [(&'static str, f64); 3] {
        let messages = self.messages as usize;
        [
            (RATE, f64::from(self.messages) / self.elapsed.as_secs_f64()),
            ("client CPU µs", per_notification_us(self.client, messages)),
            ("broker CPU µs", per_notification_us(self.broker, messages)),
        ]
    }
}

impl Client {
    fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare client",
            Self::Lapin => "lapin",
        }
    }

    async fn round(self, plan: &Plan, broker: &Broker, window: usize) -> Figures {
        let (own, node) = (std::process::id(), broker_process(broker.address()));
        let (client_cpu, broker_cpu) = (cpu(own), cpu(node));
        let begun = Instant::now();
        let messages = match self {
            Self::Bare => bare(broker, window, plan.round),
            Self::Lapin => lapin(broker, window, plan.round).await,
        };
        Figures {
            messages,
            elapsed: begun.elapsed(),
            client: cpu(own) - client_cpu,
            broker: cpu(node) - broker_cpu,
        }
    }
}

/// Publishes for `duration` with up to `window` messages not confirmed; how many were.
async fn lapin(broker: &Broker, window: usize, duration: Duration) -> u32 {
    let connection = Queues::connection(&broker.url()).await;
    let channel = connection.create_channel().await.expect("a channel");
    let select = channel.confirm_select(ConfirmSelectOptions::default());
    select.await.expect("confirms");
    let body = [b'x'; BODY_BYTES];
    let properties = lapin::BasicProperties::default().with_delivery_mode(PERSISTENT);
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let (mut in_flight, mut confirmed) = (VecDeque::new(), 0);
    let begun = Instant::now();
    loop {
        while in_flight.len() < window && begun.elapsed() < duration {
            let publish =
                channel.basic_publish("".into(), QUEUE.into(), options, &body, properties.clone());
            in_flight.push_back(publish.await.expect("a publish"));
        }
        let Some(oldest) = in_flight.pop_front() else {
            break;
        };
        let confirmation = oldest.await.expect("a confirmation");
        assert!(matches!(confirmation, lapin::Confirmation::Ack(None)));
        confirmed += 1;
    }
    connection.close(200, "".into()).await.expect("closed");
    confirmed
}

/// The same, with frames written and read on a plain socket.
fn bare(broker: &Broker, window: usize, duration: Duration) -> u32 {
    let mut wire = Wire::open(broker);
    let message = message();
    let many = message.repeat(window);
    let (mut sent, mut confirmed) = (0_u64, 0_u64);
    let begun = Instant::now();
    loop {
        let room = window - (sent - confirmed) as usize;
        if begun.elapsed() < duration {
            wire.write(&many[..room * message.len()]);
            sent += room as u64;
        } else if sent == confirmed {
            break;
        }
        confirmed = wire.acknowledged(confirmed);
    }
    u32::try_from(confirmed).expect("a count")
}

/// The three frames of one message.
fn message() -> Vec<u8> {
    let publish = basic::Publish {
        exchange: "".into(),
        routing_key: QUEUE.into(),
        mandatory: true,
        immediate: false,
    };
    let method = AMQPClass::Basic(basic::AMQPMethod::Publish(publish));
    let header = AMQPContentHeader {
        class_id: 60,
        body_size: BODY_BYTES as u64,
        properties: AMQPProperties::default().with_delivery_mode(PERSISTENT),
    };
    [
        AMQPFrame::Method(CHANNEL, method),
        AMQPFrame::Header(CHANNEL, header),
        AMQPFrame::Body(CHANNEL, vec![b'x'; BODY_BYTES]),
    ]
    .iter()
    .flat_map(encode)
    .collect()
}

fn encode(frame: &AMQPFrame) -> Vec<u8> {
    let written = gen_frame(frame)(Vec::new().into()).expect("a frame");
    written.into_inner().0
}

/// A channel in confirm mode on a plain socket.
struct Wire {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Wire {
    fn open(broker: &Broker) -> Self {
        let stream = TcpStream::connect(broker.address()).expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a socket");
        let mut wire = Self {
            stream,
            received: Vec::new(),
        };
        wire.write(&encode(&AMQPFrame::ProtocolHeader(
            ProtocolVersion::amqp_0_9_1(),
        )));
        wire.read_frame();
        let login = connection::StartOk {
            client_properties: Default::default(),
            mechanism: "PLAIN".into(),
            response: "\0guest\0guest".into(),
            locale: "en_US".into(),
        };
        wire.call(
            0,
            AMQPClass::Connection(connection::AMQPMethod::StartOk(login)),
        );
        let tune = connection::TuneOk {
            channel_max: 1,
            frame_max: 131_072,
            heartbeat: 0,
        };
        let tune = AMQPClass::Connection(connection::AMQPMethod::TuneOk(tune));
        wire.write(&encode(&AMQPFrame::Method(0, tune)));
        let open = connection::Open {
            virtual_host: "/".into(),
        };
        wire.call(0, AMQPClass::Connection(connection::AMQPMethod::Open(open)));
        wire.call(
            CHANNEL,
            AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})),
        );
        let select = confirm::Select { nowait: false };
        wire.call(
            CHANNEL,
            AMQPClass::Confirm(confirm::AMQPMethod::Select(select)),
        );
        wire
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("an open connection");
    }

    /// Sends a method and reads its answer.
    fn call(&mut self, channel: u16, method: AMQPClass) {
        self.write(&encode(&AMQPFrame::Method(channel, method)));
        let answer = self.read_frame();
        let closed = matches!(
            answer,
            AMQPFrame::Method(_, AMQPClass::Connection(connection::AMQPMethod::Close(_)))
        );
        assert!(!closed, "the broker refuses: {answer:?}");
    }

    fn read_frame(&mut self) -> AMQPFrame {
        loop {
            if let Some(frame) = self.parsed() {
                return frame;
            }
            self.receive();
        }
    }

    fn receive(&mut self) {
        let mut part = [0; 65_536];
        let read = self.stream.read(&mut part).expect("an answer");
        assert!(read > 0, "the broker hung up");
        self.received.extend_from_slice(&part[..read]);
    }

    fn parsed(&mut self) -> Option<AMQPFrame> {
        let (rest, frame) = parse_frame(self.received.as_slice()).ok()?;
        let used = self.received.len() - rest.len();
        self.received.drain(..used);
        Some(frame)
    }

    /// Waits for an acknowledgement and takes all that are there; how many messages are confirmed then.
    fn acknowledged(&mut self, mut confirmed: u64) -> u64 {
        let mut frame = Some(self.read_frame());
        while let Some(AMQPFrame::Method(_, AMQPClass::Basic(basic::AMQPMethod::Ack(ack)))) = frame
        {
            confirmed = if ack.multiple {
                ack.delivery_tag
            } else {
                confirmed + 1
            };
            frame = self.parsed();
        }
        assert!(frame.is_none(), "not an acknowledgement: {frame:?}");
        confirmed
    }
}
