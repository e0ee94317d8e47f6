//! The spool after anything may have happened to its folder: it takes up what is intact, counts what is not, and goes on.
//!
//! The input is read five bytes at a time, as in `store`, over the three files that the spool has made; where the fourth
//! is 254 the file gets the name that the rest of the input is, and where it is 253 another file gets the rest as content.
#![no_main]

use std::sync::OnceLock;

use crm_relay::bus::{Message, Outgoing, Target};
use crm_relay::spool::recover;
use libfuzzer_sys::fuzz_target;

const BYTES_MAX: u64 = 64 << 20;

fn message(number: usize) -> Outgoing {
    let target = match number % 2 {
        0 => Target::Partition(7),
        _ => Target::DeadLetters("normalize.unreadable".to_owned()),
    };
    Outgoing {
        target,
        message: Message {
            id: format!("message {number}"),
            content_type: "application/json".to_owned(),
            kind: "crm.batch.v1".to_owned(),
            headers: Vec::new(),
            body: vec![b'x'; number * 31].into(),
        },
    }
}

type Files = Vec<(String, Vec<u8>)>;

/// Three files, as a spool leaves them that is stopped twice.
fn files() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| {
        let names = [
            "0000000003-40-1795428000123-016d61726b657273.v1.spool",
            "0000000004-44-1795428000124-026d61726b657273.v1.spool",
            "0000000005-48-1795428000125-036d61726b657273.v1.spool",
        ];
        let firsts = [(40, *b"\x01markers"), (44, *b"\x02markers"), (48, *b"\x03markers")];
        let file = |(first, mark): (u64, [u8; 8])| {
            let records = (0..4).map(|n| crm_relay::spool::record(mark, first + n as u64, &message(n)));
            records.flatten().collect()
        };
        names.iter().map(|name| (*name).to_owned()).zip(firsts.map(file)).collect()
    })
}

fn damage(files: &mut Files, input: &[u8]) {
    let mut rest = input;
    while let Some((change, behind)) = rest.split_first_chunk::<5>() {
        rest = behind;
        let at = usize::from(change[0]) % files.len();
        let (name, bytes) = &mut files[at];
        let place = usize::from(u16::from_be_bytes([change[1], change[2]]));
        let place = place % bytes.len().max(1);
        match change[3] {
            255 => bytes.truncate(place),
            254 => {
                let text: String = String::from_utf8_lossy(rest).chars().take(100).collect();
                *name = text.replace(['/', '\0'], "_");
                return;
            }
            253 => {
                *bytes = rest.to_vec();
                return;
            }
            _ => {
                if let Some(byte) = bytes.get_mut(place) {
                    *byte = change[4];
                }
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut files = files().clone();
    damage(&mut files, input);
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    for (name, bytes) in &files {
        // Some names are none.
        let _ = std::fs::write(folder.path().join(name), bytes);
    }
    let Ok((intact, _)) = recover(folder.path(), BYTES_MAX, &[message(5)]) else {
        return;
    };
    assert!(intact <= 13, "more than there ever were: {intact}");
    let again = recover(folder.path(), BYTES_MAX, &[message(5)]).expect("the second time");
    assert!(again.0 <= 1, "what left comes again: {again:?}");
});
