//! One destination: what it asks for, and how it is delivered to.

use crate::config::{DestinationConfig, DestinationFormat, DestinationKind};
use crate::demand::Wish;

use super::FanOutError;
use super::ndjson::Ndjson;

#[derive(Debug)]
pub(super) struct Destination {
    pub(super) name: String,
    pub(super) wish: Wish,
    pub(super) format: DestinationFormat,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Queue,
    Ndjson(Ndjson),
}

impl Destination {
    pub(super) fn open((name, config): (&String, &DestinationConfig)) -> Result<Self, FanOutError> {
        let kind = match config.kind {
            DestinationKind::Queue => Kind::Queue,
            DestinationKind::Ndjson => {
                let name = name.clone();
                let Some(path) = config.path.clone() else {
                    return Err(FanOutError::NoPath { name });
                };
                let opened = Ndjson::open(&path);
                Kind::Ndjson(opened.map_err(|source| FanOutError::File { name, path, source })?)
            }
        };
        Ok(Self {
            name: name.clone(),
            wish: Wish::of_destination(config),
            format: config.format,
            kind,
        })
    }
}
