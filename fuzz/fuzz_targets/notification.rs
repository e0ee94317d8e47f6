//! One element of HubSpot's array: whatever it is, it becomes an event that can be stored and routed, or an error.
#![no_main]

use crm_relay::event::{Batch, Millis};
use crm_relay::normalize::normalize;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let received_at = Millis::new(1_795_428_000_123).unwrap();
    let Ok(event) = normalize(text, received_at) else {
        return;
    };
    let again = normalize(text, Millis::new(1).unwrap()).expect("the same text");
    assert_eq!(event.id, again.id, "the id is of the content alone");
    let json = serde_json::to_string(&event).expect("an event is JSON");
    let read: crm_relay::event::Event = serde_json::from_str(&json).expect("what we wrote");
    assert_eq!(read, event);
    let batch = Batch::new(vec![event.clone()]).expect("one event is a batch");
    let read = Batch::decode(&batch.encode()).expect("what we wrote");
    assert_eq!(read.events(), [event]);
});
