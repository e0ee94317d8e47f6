//! Files of a portal: what each one is. Nobody stores anything in them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::event::Millis;

/// Ids begin here, in the width of real ones.
const FIRST_ID: u64 = 24_332_474_034;
/// How long a signed URL works.
pub(crate) const SIGNED_URL_LIFE: Duration = Duration::from_secs(3_600);

/// A portal's files.
#[derive(Debug, Default)]
pub(crate) struct Files(BTreeMap<u64, File>);

/// One file.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) extension: String,
    /// `PRIVATE`, `PUBLIC_INDEXABLE`, `HIDDEN_PRIVATE`, …
    pub(crate) access: String,
    pub(crate) size: u64,
    pub(crate) created_at: Millis,
}

impl Files {
    /// Adds a file; its id.
    pub(crate) fn add(&mut self, file: File) -> u64 {
        let id = FIRST_ID + u64::try_from(self.0.len()).expect("files are few") * 10;
        self.0.insert(id, file);
        id
    }

    /// The file of an id as a path has it.
    pub(crate) fn get(&self, id: &str) -> Option<(u64, &File)> {
        let id = id.parse().ok()?;
        Some((id, self.0.get(&id)?))
    }
}

impl File {
    fn kind(&self) -> &'static str {
        match self.extension.as_str() {
            "png" | "jpg" | "gif" => "IMG",
            "pdf" | "docx" => "DOCUMENT",
            "mp3" => "AUDIO",
            "mp4" => "MOVIE",
            _ => "OTHER",
        }
    }

    /// `File`, as the API shows it. `expiresAt` would be a number here.
    pub(crate) fn render(&self, id: u64, portal_id: u64) -> Value {
        let hosted = format!(
            "https://{portal_id}.fs1.hubspotusercontent.example/hubfs/{portal_id}/{}.{}",
            self.name, self.extension
        );
        json!({
            "id": id.to_string(), "createdAt": self.created_at, "updatedAt": self.created_at, "archived": false,
            "parentFolderId": null, "name": self.name, "path": format!("/{}.{}", self.name, self.extension), "size": self.size,
            "height": null, "width": null, "encoding": null, "type": self.kind(), "extension": self.extension,
            "defaultHostingUrl": hosted, "url": hosted, "isUsableInContent": true, "access": self.access,
        })
    }

    /// `SignedUrl`.
    pub(crate) fn sign(&self, id: u64, life: Duration, now: Millis) -> Value {
        let expires_at = now.after(life);
        let url = format!(
            "https://api-na1.hubspot.example/filemanager/signed/{id}?signature={:016x}",
            id.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::try_from(now.as_i64()).unwrap_or(0)
        );
        json!({"expiresAt": expires_at, "url": url, "name": self.name, "extension": self.extension,
            "type": self.kind(), "size": self.size})
    }
}
