//! Logs: to stderr, for a person or as JSON.
//!
//! Bodies, tokens and property values are kept out where the lines are written. One library needs help:
//! lapin logs whole returned messages, and at `trace` every frame, which is people's data and the broker's password.
//! Both are off whatever the filter says.

use std::io::{self, IsTerminal as _};
use std::time::Instant;

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt as _, ParseError, dynamic_filter_fn, filter_fn};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry};

use crate::config::{LogConfig, LogFormat};
use crate::seldom::Seldom;

/// Libraries that talk a lot below these levels; lapin calls every closed channel an error, also those on which we
/// only ask whether a queue is there, and what matters of the rest we log ourselves. A directive of `log.filter` for the same target wins.
const CALMED: &str = "lapin=warn,lapin::channel=off,actix_server=warn,actix_http=warn,hyper_util=warn,h2=warn,rustls=warn,reqwest=warn";
/// Where lapin logs message bodies, at any level.
const BODIES: &str = "lapin::returned_messages";
/// Who logs an error for each connection of a stranger's that speaks no HTTP.
const STRANGERS: &str = "actix_http";
/// Whose modules log frames at `trace`: bodies byte by byte, and the login.
const FRAMES: &str = "lapin";
/// What may stand alone in a filter; any other word alone would be taken for a target and silence the rest.
const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `log.filter` is not understood.
    #[error("log.filter: {0}")]
    Filter(#[from] FilterError),
    /// Somebody installed a subscriber before.
    #[error("logs were already set up")]
    Installed,
}

/// Why `log.filter` is not understood.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// Nothing in it.
    #[error("it is empty; write a level such as info, or off")]
    Empty,
    /// A word that is no level.
    #[error(
        "`{0}` is no level; write error, warn, info, debug, trace or off, or `{0}=debug` if it names a module"
    )]
    NoLevel(String),
    /// Not the form of `tracing`'s directives.
    #[error("it is not understood ({0}); write directives such as info,crm_relay=debug")]
    Malformed(ParseError),
}

/// Sends what the program logs from now on to stderr.
///
/// # Errors
/// Every variant of [`TelemetryError`].
pub fn init(config: &LogConfig) -> Result<(), TelemetryError> {
    use tracing_subscriber::util::SubscriberInitExt as _;
    let colours = io::stderr().is_terminal();
    let subscriber = subscriber(config, io::stderr, colours)?;
    subscriber.try_init().map_err(|_| TelemetryError::Installed)
}

/// The filter of `config`, with noisy libraries calmed.
///
/// # Errors
/// Every variant of [`FilterError`].
pub fn filter(config: &LogConfig) -> Result<EnvFilter, FilterError> {
    let directives = config.filter.trim();
    if directives.is_empty() {
        return Err(FilterError::Empty);
    }
    if let Some(word) = directives
        .split(',')
        .map(str::trim)
        .find(|part| is_stray(part))
    {
        return Err(FilterError::NoLevel(word.to_owned()));
    }
    EnvFilter::builder()
        .parse(format!("{CALMED},{directives}"))
        .map_err(FilterError::Malformed)
}

fn is_stray(part: &str) -> bool {
    let is_word = !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_');
    is_word && !LEVELS.contains(&part.to_lowercase().as_str()) && part.parse::<u8>().is_err()
}

fn subscriber<W>(
    config: &LogConfig,
    writer: W,
    colours: bool,
) -> Result<Box<dyn Subscriber + Send + Sync>, FilterError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer).with_ansi(colours);
    let layer = match config.format {
        LogFormat::Human => layer.boxed(),
        LogFormat::Json => layer
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(true)
            .boxed(),
    };
    let seldom = Seldom::new();
    let tells = dynamic_filter_fn(move |metadata, _| {
        !is_about_strangers(metadata) || seldom.may_tell(STRANGERS, Instant::now()).is_some()
    });
    let layer = layer.with_filter(filter_fn(has_no_bodies).and(tells));
    Ok(Box::new(
        Registry::default().with(filter(config)?).with(layer),
    ))
}

fn has_no_bodies(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let is_frames = target.starts_with(FRAMES) && *metadata.level() == Level::TRACE;
    !is_frames && !target.starts_with(BODIES)
}

/// Whether somebody who sends what is no request can cause such a line.
fn is_about_strangers(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with(STRANGERS) && *metadata.level() <= Level::WARN
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let config = LogConfig {
            format,
            filter: filter.to_owned(),
        };
        let subscriber = subscriber(&config, move || writer.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn fault(filter: &str) -> String {
        let config = LogConfig {
            filter: filter.to_owned(),
            ..LogConfig::default()
        };
        super::filter(&config).unwrap_err().to_string()
    }

    #[test]
    fn returned_messages_stay_out_whatever_the_filter_says() {
        for filter in [
            "trace",
            "lapin::returned_messages=trace",
            "trace,lapin=trace,lapin::returned_messages=warn",
        ] {
            let text = logged(LogFormat::Human, filter, || {
                tracing::warn!(target: "lapin::returned_messages", "a body");
                tracing::warn!(target: "lapin::channel", "a channel");
            });
            assert!(!text.contains("a body"), "{filter}: {text}");
        }
    }

    #[test]
    fn frames_of_the_broker_stay_out_whatever_the_filter_says() {
        let text = logged(LogFormat::Human, "trace,lapin=trace", || {
            tracing::trace!(target: "lapin::io_loop", "a frame with a body");
            tracing::debug!(target: "lapin::io_loop", "a state");
        });
        assert!(!text.contains("a frame with a body"), "{text}");
        assert!(text.contains("a state"), "{text}");
    }

    #[test]
    fn strangers_cause_a_line_and_not_one_each() {
        let text = logged(LogFormat::Human, "info", || {
            for _ in 0..100 {
                tracing::error!(target: "actix_http::h1::dispatcher", "no HTTP");
                tracing::error!(target: "crm_relay", "ours");
            }
        });
        assert_eq!(text.matches("no HTTP").count(), 1);
        assert_eq!(text.matches("ours").count(), 100);
    }

    #[test]
    fn noisy_libraries_are_calm_until_they_are_named() {
        let log = || tracing::debug!(target: "lapin::channel", "a frame");
        assert_eq!(logged(LogFormat::Human, "debug", log), "");
        assert!(logged(LogFormat::Human, "debug,lapin::channel=debug", log).contains("a frame"));
    }

    #[test]
    fn a_json_line_has_message_fields_and_spans() {
        let text = logged(LogFormat::Json, "info", || {
            let span = tracing::info_span!("request", portal.id = "8241");
            span.in_scope(|| tracing::info!(duration_ms = 3, "answered"));
        });
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["message"], "answered");
        assert_eq!(line["duration_ms"], 3);
        assert_eq!(line["spans"][0]["portal.id"], "8241");
    }

    #[test]
    fn a_line_for_people_has_no_colours_off_a_terminal() {
        let text = logged(LogFormat::Human, "info", || {
            tracing::info!(port = 1, "listening")
        });
        assert!(
            text.contains("INFO") && text.contains("listening port=1"),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn a_filter_that_would_silence_everything_by_mistake_is_refused() {
        assert!(fault("inof").starts_with("`inof` is no level"));
        assert!(fault("info,crm_relay").starts_with("`crm_relay` is no level"));
        assert!(fault(" ").starts_with("it is empty"));
        assert!(fault("crm_relay=loud").starts_with("it is not understood"));
    }
}
