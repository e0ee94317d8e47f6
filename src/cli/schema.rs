//! `crm-relay schema`: the contract with consumers, as JSON Schema and AsyncAPI.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::contract::{DOCUMENTS, Document};

/// The arguments of `crm-relay schema`.
#[derive(Debug, Args)]
pub(super) struct SchemaArgs {
    /// Prints this document. Without a name: lists them.
    #[arg(value_parser = PossibleValuesParser::new(DOCUMENTS.map(|document| document.name)))]
    name: Option<String>,
    /// Writes every document into this folder.
    #[arg(long, value_name = "DIR", conflicts_with = "name")]
    out: Option<PathBuf>,
}

impl SchemaArgs {
    pub(super) fn execute(&self) -> anyhow::Result<()> {
        if let Some(folder) = &self.out {
            return DOCUMENTS
                .iter()
                .try_for_each(|document| write(document, folder));
        }
        let named = self.name.as_deref().and_then(Document::named);
        let text = named.map_or_else(list, Document::text);
        let mut stdout = std::io::stdout().lock();
        stdout
            .write_all(text.as_bytes())
            .context("the document cannot be printed")
    }
}

fn list() -> String {
    let lines = DOCUMENTS
        .iter()
        .map(|document| format!("{:<15} {}\n", document.name, document.about));
    lines.collect()
}

fn write(document: &Document, folder: &Path) -> anyhow::Result<()> {
    let path = folder.join(document.path);
    let parent = path.parent().unwrap_or(folder);
    fs::create_dir_all(parent).with_context(|| format!("cannot make the folder {parent:?}"))?;
    fs::write(&path, document.text()).with_context(|| format!("cannot write {path:?}"))
}
