//! Custom objects, attachments and threads: what is read for them, and how often.

use super::*;
use crate::config::AttachmentsConfig;

/// What HubSpot holds beside records.
#[derive(Default)]
pub struct Held {
    schemas: BTreeMap<ObjectTypeId, ObjectSchema>,
    files: BTreeMap<String, Attachment>,
    threads: BTreeMap<String, Thread>,
    /// With the time from which they can be read.
    messages: BTreeMap<String, (ThreadMessage, Millis)>,
}

impl Held {
    /// The answer to a call that is about none of the records; `None` for others.
    pub fn answer(&self, call: &Call, now: Millis) -> Option<Answer> {
        Some(match call {
            Call::ListSchemas => Answer::Schemas(self.schemas.clone()),
            Call::ListProperties { object_type_id, .. } if object_type_id.name() == "note" => {
                Answer::Properties(vec![definition("hs_attachment_ids", "string", None)])
            }
            Call::ReadFile { id } => Answer::File(self.files.get(id).cloned().map(Box::new)),
            Call::SignFile { id } => Answer::SignedUrl(Some(SignedUrl {
                url: format!("https://signed.example/{id}"),
                expires_at: Some(now.after(Duration::from_secs(600))),
            })),
            Call::ReadThread { id } => Answer::Thread {
                thread: self.threads.get(id.as_str()).cloned().map(Box::new),
                completed_at: now,
            },
            Call::ReadMessage { id, .. } => {
                let found = self.messages.get(id);
                let found = found.filter(|(_, since)| *since <= now);
                Answer::Message(found.map(|(message, _)| Box::new(message.clone())))
            }
            Call::ReadActors { ids } => Answer::Actors(
                ids.iter()
                    .filter(|id| !id.starts_with("E-"))
                    .map(|id| actor(id))
                    .collect(),
            ),
            _ => return None,
        })
    }
}

fn actor(id: &str) -> Actor {
    Actor {
        id: id.to_owned(),
        r#type: None,
        name: Some("Jo".to_owned()),
        email: None,
    }
}

fn schema(name: &str) -> ObjectSchema {
    ObjectSchema {
        name: name.to_owned(),
        fully_qualified_name: Some(format!("p{PORTAL}_{name}")),
        labels: SchemaLabels::default(),
        primary_display_property: None,
    }
}

fn with_car(world: &mut World) {
    let car = ObjectTypeId::from_name("2-7");
    world.model.held.schemas.insert(car, schema("car"));
}

/// An event of `contact`s as one of another type.
fn of_type(name: &str, event: Event) -> Event {
    let EventBody::Object(object) = event.body else {
        panic!("an event of an object")
    };
    let mut hasher = IdentityHasher::new("test");
    hasher.field(&format!("{name}/{}", event.id));
    Event {
        id: hasher.finish(),
        body: EventBody::Object(ObjectEvent {
            object_type_id: ObjectTypeId::from_name(name),
            ..object
        }),
        ..event
    }
}

fn associating(names: &[&str]) -> EnrichConfig {
    EnrichConfig {
        associations: Some(names.iter().map(|&name| name.to_owned()).collect()),
        ..EnrichConfig::default()
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn keys(message: &EnrichedEvent) -> Vec<String> {
    let keys = message.routing_keys();
    keys.iter().flatten().map(ToString::to_string).collect()
}

#[test]
fn schemas_are_read_once_and_name_the_type() {
    let mut world = World::new();
    with_car(&mut world);
    for id in ["1", "2", "3"] {
        world.record(id, 5, &[]);
        world.deliver(vec![of_type("2-7", created(id, 5))]);
        world.settle();
    }
    assert_eq!(world.calls_to("schemas"), 1);
    let message = &world.messages[2];
    assert_eq!(message.subject, "2-7/3");
    assert_eq!(message.r#type, "crm.2-7.enriched.v1");
    assert_eq!(message.data.object_schema, Some(schema("car")));
    assert_eq!(message.data.enrichment.status, EnrichmentStatus::Complete);
    assert_eq!(
        keys(message),
        [
            "8241.2-7.created",
            "8241.p8241_car.created",
            "8241.p_car.created"
        ]
    );
}

#[test]
fn types_of_hubspots_own_need_no_schemas() {
    let mut world = World::new();
    world.record("1", 5, &[]);
    world.deliver(vec![created("1", 5), of_type("deal", created("1", 5))]);
    world.settle();
    assert_eq!((world.messages.len(), world.calls_to("schemas")), (2, 0));
}

#[test]
fn an_unknown_id_reads_the_schemas_again_once() {
    let mut world = World::new();
    with_car(&mut world);
    world.record("1", 5, &[]);
    world.deliver(vec![of_type("2-7", created("1", 5))]);
    world.run_for(seconds(120));
    let boat = ObjectTypeId::from_name("2-8");
    world.model.held.schemas.insert(boat, schema("boat"));
    let ids: Vec<String> = (10..40).map(|id| id.to_string()).collect();
    for id in &ids {
        world.record(id, 5, &[]);
    }
    let events = ids.iter().map(|id| of_type("2-8", created(id, 5)));
    world.deliver(events.collect());
    world.run_for(seconds(30));
    assert_eq!(world.calls_to("schemas"), 2);
    let boats = world
        .messages
        .iter()
        .filter(|m| m.subject.starts_with("2-8/"));
    assert!(
        boats
            .clone()
            .all(|m| m.data.object_schema == Some(schema("boat")))
    );
    assert_eq!(boats.count(), 30);

    // One that HubSpot does not list flows too, and asks no more than once a minute.
    for second in 0..140 {
        let id = format!("9{second}");
        world.record(&id, 5, &[]);
        world.deliver(vec![of_type("2-9", created(&id, 5))]);
        world.run_for(seconds(1));
    }
    world.settle();
    assert_eq!(world.calls_to("schemas"), 4);
    let last = world.messages.last().unwrap();
    assert_eq!(last.data.object_schema, None);
    assert_eq!(last.data.enrichment.status, EnrichmentStatus::Complete);
}

#[test]
fn a_plan_goes_by_id_then_full_name_then_short_name() {
    for (name, other) in [
        ("2-7", "p8241_car"),
        ("p8241_car", "p_car"),
        ("p_car", "p1_car"),
    ] {
        let config = [
            (name, associating(&["contact"])),
            (other, associating(&["company"])),
        ];
        let mut world = World::with_config(&config);
        with_car(&mut world);
        world.record("1", 5, &[]);
        world.deliver(vec![of_type("2-7", created("1", 5))]);
        world.settle();
        let read: Vec<_> = world.only_message().data.associations.keys().collect();
        assert_eq!(read, ["contact"], "{name}");
    }
}

#[test]
fn associations_to_a_custom_object_go_by_its_name_where_the_portal_has_it() {
    let names = ["p_car", "p8241_car", "p1_car", "p_boat"];
    let mut world = World::with_config(&[("contact", associating(&names))]);
    with_car(&mut world);
    world.record("1", 5, &[]);
    world.deliver(vec![created("1", 5)]);
    world.settle();
    assert_eq!(world.calls_to("schemas"), 1);
    assert_eq!(world.calls_to("associations_batch_read"), 2);
    let data = &world.only_message().data;
    let read: Vec<_> = data.associations.keys().collect();
    assert_eq!(read, ["p8241_car", "p_car"]);
    let problem = EnrichmentProblem {
        part: EnrichmentPart::Associations,
        reason: ProblemReason::NotFound,
        object_type: Some("p_boat".into()),
        missing_scopes: vec![],
    };
    assert_eq!(data.enrichment.problems, [problem]);
}

#[test]
fn without_the_scope_custom_objects_flow_and_the_scope_is_named() {
    let mut world = World::new();
    let forbidden = CallError::Forbidden {
        missing_scopes: vec![],
    };
    world.model.faults.push_back(("schemas", forbidden));
    world.record("1", 5, &[]);
    world.deliver(vec![of_type("2-7", created("1", 5))]);
    world.settle();
    let enrichment = &world.only_message().data.enrichment;
    assert_eq!(enrichment.status, EnrichmentStatus::Partial);
    let problem = &enrichment.problems[0];
    assert_eq!(
        (problem.part, problem.missing_scopes.as_slice()),
        (
            EnrichmentPart::Schema,
            ["crm.schemas.custom.read".to_owned()].as_slice()
        )
    );
}

#[test]
fn a_403_that_names_no_scope_names_that_of_the_table() {
    let mut world = World::new();
    let forbidden = CallError::Forbidden {
        missing_scopes: vec![],
    };
    world
        .model
        .faults
        .push_back(("objects_batch_read", forbidden));
    world.record("1", 5, &[]);
    world.deliver(vec![of_type("ticket", created("1", 5))]);
    world.settle();
    let enrichment = &world.only_message().data.enrichment;
    assert_eq!(enrichment.status, EnrichmentStatus::Forbidden);
    assert_eq!(enrichment.problems[0].missing_scopes, ["tickets"]);
}

#[test]
fn a_tombstone_of_a_custom_object_waits_for_its_name() {
    let mut world = World::new();
    with_car(&mut world);
    let deleted = |id, at| of_type("2-7", event(PORTAL, id, at, ObjectChange::Deleted));
    let erased = of_type("2-7", event(PORTAL, "1", 9, ObjectChange::PrivacyDeleted));
    world.deliver(vec![deleted("1", 5), deleted("2", 6), erased]);
    assert!(world.messages.is_empty());
    world.settle();
    assert_eq!(world.calls.len(), 1, "the schemas and nothing else");
    assert_eq!(world.messages.len(), 3);
    for message in &world.messages {
        assert!(
            keys(message)
                .iter()
                .any(|key| key.starts_with("8241.p_car."))
        );
    }
    assert_eq!(world.acked, [1]);

    world.deliver(vec![deleted("3", 7)]);
    assert_eq!(world.messages.len(), 4, "the name is known now");
}

#[test]
fn a_held_tombstone_survives_a_lost_session() {
    let mut world = World::new();
    with_car(&mut world);
    let deleted = of_type("2-7", event(PORTAL, "1", 5, ObjectChange::Deleted));
    world.deliver(vec![deleted.clone()]);
    world.tell(Input::Lost);
    world.settle();
    assert!(world.messages.is_empty(), "it comes again");
    world.deliver(vec![deleted]);
    world.settle();
    assert_eq!((world.messages.len(), world.ending("delivered")), (1, 1));
    assert!(world.engine.is_idle());
}

#[test]
fn engagements_are_read_with_what_they_are_attached_to_unless_told_otherwise() {
    let mut world = World::with_config(&[("call", associating(&[]))]);
    world.record("1", 5, &[]);
    let events = ["note", "call", "deal"].map(|name| of_type(name, created("1", 5)));
    world.deliver(events.to_vec());
    world.settle();
    let read = |subject: &str| {
        let message = world.messages.iter().find(|m| m.subject == subject);
        let read = message.unwrap().data.associations.keys();
        read.cloned().collect::<Vec<_>>()
    };
    assert_eq!(read("note/1"), ["company", "contact", "deal", "ticket"]);
    assert!(read("call/1").is_empty() && read("deal/1").is_empty());
}

fn attaching(attachments: AttachmentsConfig) -> EnrichConfig {
    EnrichConfig {
        attachments: Some(attachments),
        ..associating(&[])
    }
}

fn file(id: &str, access: &str) -> Attachment {
    Attachment {
        id: id.to_owned(),
        name: Some("offer".to_owned()),
        extension: Some("pdf".to_owned()),
        r#type: Some("DOCUMENT".to_owned()),
        size: Some(10),
        access: Some(access.to_owned()),
        url: None,
        signed_url: None,
    }
}

fn with_notes(attachments: AttachmentsConfig) -> World {
    let mut world = World::with_config(&[("note", attaching(attachments))]);
    for (id, access) in [("7", "PRIVATE"), ("8", "PUBLIC_INDEXABLE")] {
        world
            .model
            .held
            .files
            .insert(id.to_owned(), file(id, access));
    }
    world.record("1", 5, &[("hs_attachment_ids", "8;7")]);
    world.record("2", 5, &[("hs_attachment_ids", "7;404")]);
    world.record("3", 5, &[]);
    world
}

#[test]
fn attachments_are_told_and_each_file_is_read_once() {
    let mut world = with_notes(AttachmentsConfig::Metadata);
    for id in ["1", "2", "3"] {
        world.deliver(vec![of_type("note", created(id, 5))]);
    }
    world.settle();
    assert_eq!(world.calls_to("file"), 3);
    assert_eq!(world.calls_to("file_signed_url"), 0);
    let about = |subject: &str| {
        let message = world.messages.iter().find(|m| m.subject == subject);
        &message.unwrap().data
    };
    let attached = |subject: &str| {
        let attached = about(subject).attachments.as_ref().unwrap().iter();
        attached.map(|one| one.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(attached("note/1"), ["8", "7"]);
    assert_eq!(attached("note/2"), ["7", "404"]);
    assert!(attached("note/3").is_empty());
    let enrichment = &about("note/2").enrichment;
    assert_eq!(enrichment.status, EnrichmentStatus::Partial);
    let problem = &enrichment.problems[0];
    assert_eq!(
        (problem.part, problem.reason),
        (EnrichmentPart::Attachments, ProblemReason::NotFound)
    );
}

#[test]
fn signed_urls_are_asked_for_where_they_are_wanted_and_needed() {
    let mut world = with_notes(AttachmentsConfig::SignedUrls);
    world.deliver(vec![of_type("note", created("1", 5))]);
    world.settle();
    assert_eq!(world.calls_to("file_signed_url"), 1);
    let attached = world.only_message().data.attachments.clone().unwrap();
    let url = |at: usize| {
        attached[at]
            .signed_url
            .as_ref()
            .map(|signed| signed.url.as_str())
    };
    assert_eq!((url(0), url(1)), (None, Some("https://signed.example/7")));

    // While the URL has half of its life before it, it is used again.
    world.deliver(vec![of_type("note", created("1", 6))]);
    world.settle();
    assert_eq!(world.calls_to("file_signed_url"), 1);
    world.run_for(seconds(300));
    world.deliver(vec![of_type("note", created("1", 7))]);
    world.settle();
    assert_eq!(world.calls_to("file_signed_url"), 2);
    assert_eq!(world.calls_to("file"), 2);
}

#[test]
fn files_that_may_not_be_read_are_a_problem_of_the_message() {
    let mut world = with_notes(AttachmentsConfig::Metadata);
    let forbidden = CallError::Forbidden {
        missing_scopes: vec![],
    };
    world.model.faults.push_back(("file", forbidden));
    world.deliver(vec![of_type("note", created("1", 5))]);
    world.settle();
    let data = &world.only_message().data;
    assert!(data.record.is_some());
    assert_eq!(data.attachments.as_ref().unwrap().len(), 2);
    assert_eq!(data.enrichment.problems[0].missing_scopes, ["files"]);
}

fn told(id: &str, occurred_ms: i64, change: ConversationChange) -> Event {
    let mut event = changed(id, occurred_ms, &format!("{change:?}"));
    event.body = EventBody::Conversation(ConversationEvent {
        thread_id: id.into(),
        change,
    });
    event
}

fn said(thread: &str, message: &str, occurred_ms: i64) -> Event {
    let change = ConversationChange::NewMessage {
        message_id: Some(message.to_owned()),
        message_type: Some("MESSAGE".to_owned()),
    };
    told(thread, occurred_ms, change)
}

fn message(id: &str, by: &str) -> ThreadMessage {
    ThreadMessage {
        id: id.to_owned(),
        r#type: None,
        direction: None,
        created_at: None,
        created_by: Some(by.to_owned()),
        senders: vec![],
        recipients: vec![],
        subject: None,
        text: Some("Hello".to_owned()),
        rich_text: None,
        truncation_status: None,
        status: None,
        in_reply_to_id: None,
        channel_id: None,
        channel_account_id: None,
        file_ids: vec![],
    }
}

fn thread(id: &str) -> Thread {
    Thread {
        id: id.into(),
        status: Some("OPEN".to_owned()),
        inbox_id: None,
        assigned_to: Some("A-1".to_owned()),
        associated_contact_id: None,
        associated_ticket_id: None,
        channel_id: None,
        channel_account_id: None,
        created_at: None,
        closed_at: None,
        latest_message_at: None,
        spam: false,
        archived: false,
    }
}

/// A world that reads threads: 77, with messages by a visitor, and one by somebody HubSpot does not know.
fn with_threads() -> World {
    let config = EnrichConfig {
        thread: true,
        ..EnrichConfig::default()
    };
    let mut world = World::with_config(&[("conversation", config)]);
    let held = &mut world.model.held;
    held.threads.insert("77".to_owned(), thread("77"));
    for n in 0..20 {
        let id = format!("m{n}");
        held.messages
            .insert(id.clone(), (message(&id, "V-2"), at(0)));
    }
    held.messages
        .insert("odd".to_owned(), (message("odd", "E-x"), at(0)));
    world
}

fn conversation(message: &EnrichedEvent) -> &Conversation {
    message.data.conversation.as_ref().unwrap()
}

#[test]
fn a_new_message_is_read_with_its_thread_and_those_who_act() {
    let mut world = with_threads();
    world.deliver(vec![said("77", "m1", 5)]);
    world.settle();
    assert_eq!(world.calls.len(), 3, "thread, message, actors");
    let sent = world.only_message();
    assert_eq!(sent.r#type, "crm.conversation.enriched.v1");
    assert_eq!(sent.data.enrichment.status, EnrichmentStatus::Complete);
    let read = conversation(sent);
    assert_eq!(read.thread.status.as_deref(), Some("OPEN"));
    assert_eq!(read.messages[0].text.as_deref(), Some("Hello"));
    let actors: Vec<_> = read.actors.keys().collect();
    assert_eq!(actors, ["A-1", "V-2"]);

    // Who they are is known now; somebody unknown is asked for once.
    world.deliver(vec![said("77", "odd", 6)]);
    world.settle();
    world.deliver(vec![said("77", "m2", 7)]);
    world.settle();
    assert_eq!(world.calls_to("conversation_actors"), 2);
    assert_eq!(conversation(&world.messages[1]).actors.len(), 1);
    assert_eq!(world.acked, [1, 2, 3]);
}

#[test]
fn messages_that_wait_together_share_the_read_of_their_thread_up_to_a_bound() {
    let mut world = with_threads();
    let first = told("77", 1, ConversationChange::Created);
    world.deliver(vec![first]);
    let events = (0..15).map(|n| said("77", &format!("m{n}"), 2 + n));
    world.deliver(events.collect());
    world.settle();
    assert_eq!(world.calls_to("conversation_thread"), 2);
    assert_eq!(
        world.calls_to("conversation_message"),
        Conversation::MESSAGES_MAX
    );
    let last = world.messages.last().unwrap();
    assert_eq!(last.data.events.len(), 15);
    let ids: Vec<_> = conversation(last)
        .messages
        .iter()
        .map(|m| m.id.as_str())
        .collect();
    assert_eq!((ids.first(), ids.last()), (Some(&"m5"), Some(&"m14")));
    let problem = &last.data.enrichment.problems[0];
    assert_eq!(
        (problem.part, problem.reason),
        (EnrichmentPart::Messages, ProblemReason::Truncated)
    );
}

#[test]
fn a_message_that_is_not_there_yet_is_waited_for_and_one_that_never_comes_is_told() {
    let mut world = with_threads();
    let late = (message("late", "V-2"), at(1_000));
    world.model.held.messages.insert("late".to_owned(), late);
    world.deliver(vec![said("77", "late", 5)]);
    world.settle();
    assert_eq!(conversation(world.only_message()).messages.len(), 1);
    assert_eq!(
        world.only_message().data.enrichment.status,
        EnrichmentStatus::Complete
    );

    world.deliver(vec![said("77", "never", 6), said("77", "m1", 7)]);
    world.settle();
    let last = &world.messages[1];
    assert_eq!(conversation(last).messages.len(), 1);
    let problem = &last.data.enrichment.problems[0];
    assert_eq!(
        (problem.part, problem.reason),
        (EnrichmentPart::Messages, ProblemReason::NotFound)
    );
    assert!(world.engine.is_idle());
}

#[test]
fn a_thread_that_is_gone_or_forbidden_is_told_so() {
    let mut world = with_threads();
    world.deliver(vec![said("404", "m1", 5)]);
    world.settle();
    assert_eq!(
        world.only_message().data.enrichment.status,
        EnrichmentStatus::Missing
    );
    let forbidden = CallError::Forbidden {
        missing_scopes: vec![],
    };
    world
        .model
        .faults
        .push_back(("conversation_thread", forbidden));
    world.deliver(vec![said("77", "m1", 6)]);
    world.settle();
    let enrichment = &world.messages[1].data.enrichment;
    assert_eq!(enrichment.status, EnrichmentStatus::Forbidden);
    assert_eq!(
        enrichment.problems[0].missing_scopes,
        ["conversations.read"]
    );
}

#[test]
fn a_deleted_thread_is_a_tombstone_and_an_erased_one_is_not_read_again() {
    for mut world in [with_threads(), World::new()] {
        world.deliver(vec![told("77", 5, ConversationChange::Deleted)]);
        assert_eq!(world.messages[0].r#type, "crm.conversation.deleted.v1");
        world.deliver(vec![told("77", 9, ConversationChange::PrivacyDeleted)]);
        world.deliver(vec![said("77", "m1", 10)]);
        world.settle();
        assert!(world.calls.is_empty());
        assert_eq!(
            world.messages[1].r#type,
            "crm.conversation.privacy_deleted.v1"
        );
        assert_eq!((world.messages.len(), world.ending("purged")), (2, 1));
    }
}

#[test]
fn a_deletion_from_before_what_was_told_is_no_tombstone() {
    let mut world = World::new();
    world.deliver(vec![told("77", 9, ConversationChange::Created)]);
    world.deliver(vec![told("77", 5, ConversationChange::Deleted)]);
    world.settle();
    assert!(world.calls.is_empty(), "threads are not read here");
    assert!(world.messages.iter().all(|m| m.data.tombstone.is_none()));
    assert!(world.messages[0].data.version < world.messages[1].data.version);
}
