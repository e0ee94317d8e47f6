//! Files: what one is, and a URL to fetch it by.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{id, parse, text, time, unreadable};
use crate::event::{Attachment, Millis, SignedUrl};
use crate::hubspot::call::{Answer, CallError};

/// `File`.
#[derive(Deserialize)]
struct WireFile<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    extension: Option<&'a RawValue>,
    #[serde(borrow)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow)]
    size: Option<&'a RawValue>,
    #[serde(borrow)]
    access: Option<&'a RawValue>,
    #[serde(borrow)]
    url: Option<&'a RawValue>,
}

/// `SignedUrl`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireSignedUrl<'a> {
    #[serde(borrow)]
    url: Option<&'a RawValue>,
    #[serde(borrow)]
    expires_at: Option<&'a RawValue>,
}

/// A file. Its URL is passed on where it works: that of a file that is not public answers 404.
pub(super) fn file(body: &[u8]) -> Result<Answer, CallError> {
    let file: WireFile<'_> = parse(body)?;
    let mut read = Attachment {
        id: id(file.id, "a file's id")?,
        name: text(file.name),
        extension: text(file.extension),
        r#type: text(file.r#type),
        size: text(file.size).and_then(|size| size.parse().ok()),
        access: text(file.access),
        url: None,
        signed_url: None,
    };
    if read.is_public() {
        read.url = text(file.url);
    }
    Ok(Answer::File(Some(Box::new(read))))
}

/// A signed URL.
pub(super) fn signed_url(body: &[u8]) -> Result<Answer, CallError> {
    let signed: WireSignedUrl<'_> = parse(body)?;
    let url = text(signed.url).ok_or_else(|| unreadable("a signed URL has no url"))?;
    let expires_at = time_or_millis(signed.expires_at);
    Ok(Answer::SignedUrl(Some(SignedUrl { url, expires_at })))
}

/// ISO 8601 here, milliseconds in `File`: either is read.
fn time_or_millis(raw: Option<&RawValue>) -> Option<Millis> {
    time(raw).or_else(|| text(raw)?.parse().ok().and_then(Millis::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Attachment {
        match file(body.as_bytes()).unwrap() {
            Answer::File(Some(file)) => *file,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_private_files_url_is_left_out_since_it_does_not_work() {
        let private = read(
            r#"{"id":"7","name":"offer","extension":"pdf","type":"DOCUMENT","size":1024,"access":"PRIVATE","url":"https://x/offer.pdf","archived":false}"#,
        );
        let expected = Attachment {
            id: "7".into(),
            name: Some("offer".into()),
            extension: Some("pdf".into()),
            r#type: Some("DOCUMENT".into()),
            size: Some(1_024),
            access: Some("PRIVATE".into()),
            url: None,
            signed_url: None,
        };
        assert_eq!(private, expected);
        let public = read(r#"{"id":7,"access":"PUBLIC_NOT_INDEXABLE","url":"https://x/a.png"}"#);
        assert_eq!(public.url.as_deref(), Some("https://x/a.png"));
    }

    #[test]
    fn a_signed_url_tells_when_it_ends() {
        for expires_at in ["\"2026-11-23T10:00:00Z\"", "1795428000000"] {
            let body =
                format!(r#"{{"url":"https://x/s","expiresAt":{expires_at},"name":"offer"}}"#);
            let Answer::SignedUrl(Some(signed)) = signed_url(body.as_bytes()).unwrap() else {
                panic!("a signed URL was sent")
            };
            assert_eq!(signed.url, "https://x/s");
            assert_eq!(signed.expires_at, Millis::parse("2026-11-23T10:00:00Z"));
        }
        let error = signed_url(br#"{"expiresAt":"2026-11-23T10:00:00Z"}"#).unwrap_err();
        assert!(error.to_string().contains("no url"));
    }
}
