//! Whatever a reply holds, it is an answer or an error. `fuzz/` asks the same for longer.

use proptest::prelude::*;
use reqwest::header::{HeaderName, HeaderValue};

use super::*;

const OWNERS: &str = r#"{"results":[{"id":"7","email":"a@example.com","type":"PERSON","firstName":"A","lastName":"B","userId":9,"archived":false,"teams":[{"id":"1","name":"T","primary":true}]}],"paging":{"next":{"after":"8","link":"x"}}}"#;
const PROPERTIES: &str = r#"{"results":[{"name":"amount","label":"Amount","type":"number","fieldType":"number","options":[{"label":"A","value":"a"}],"hidden":false,"calculated":false}]}"#;

fn calls() -> Vec<Call> {
    let object_type_id = ObjectTypeId::from_name("0-1");
    vec![
        read_records(),
        read_record(),
        read_owner(),
        Call::ListOwners {
            archived: false,
            after: None,
        },
        Call::ListProperties {
            object_type_id: object_type_id.clone(),
            sensitivity: Default::default(),
        },
        Call::ListPipelines { object_type_id },
        Call::ListSchemas,
        Call::ReadFile { id: "7".into() },
        Call::SignFile { id: "7".into() },
        Call::ReadActors {
            ids: vec!["A-1".to_owned()],
        },
    ]
}

fn heard(status: u16, header: (&'static str, &[u8]), body: &[u8]) {
    let value = HeaderValue::from_bytes(header.1);
    let headers = value.map(|value| (HeaderName::from_static(header.0), value));
    let headers = HeaderMap::from_iter(headers);
    for call in calls() {
        let reply = Reply {
            status,
            headers: headers.clone(),
            body: Ok(body.to_vec()),
        };
        let _ = answered(&call, Ok(reply));
    }
}

proptest! {
    #[test]
    fn no_bytes_whatever_break_the_reading_of_replies(
        status in 100_u16..600,
        name in prop::sample::select(vec!["retry-after", "date", "x-hubspot-ratelimit-remaining", "x-hubspot-ratelimit-interval-milliseconds"]),
        value in prop::collection::vec(any::<u8>(), 0..40),
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        heard(status, (name, &value), &body);
    }

    #[test]
    fn nor_does_a_real_reply_with_a_part_replaced(
        reply in prop::sample::select(vec![RECORDS, OWNERS, PROPERTIES]),
        from in any::<prop::sample::Index>(),
        length in 0_usize..20,
        with in prop::sample::select(vec!["", "null", "{}", "[]", "-1", "1e999", "\"\"", "\"\\ud800\"", "[[[[", "true,", "18446744073709551616"]),
        status in prop::sample::select(vec![200_u16, 207, 400, 403, 404, 429, 500]),
    ) {
        let from = from.index(reply.len());
        let to = (from + length).min(reply.len());
        let body = [&reply[..from], with, &reply[to..]].concat();
        heard(status, ("retry-after", b"10"), body.as_bytes());
    }
}
