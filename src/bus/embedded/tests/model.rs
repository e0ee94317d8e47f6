//! The queue against a plain list, over random histories.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// What a consumer or publisher does next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Publish,
    Receive,
    Ack,
    HandBack,
    Fail,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Publish),
        6 => Just(Step::Receive),
        3 => Just(Step::Ack),
        2 => Just(Step::HandBack),
        2 => Just(Step::Fail),
        1 => Just(Step::Reopen),
    ]
}

/// A queue as a list: what waits, in order, with its delivery count.
#[derive(Default)]
struct Model {
    waiting: VecDeque<(usize, u32)>,
    published: usize,
}

impl Model {
    fn give_back(&mut self, id: usize, count: u32) {
        let place = self.waiting.partition_point(|(other, _)| *other < id);
        self.waiting.insert(place, (id, count));
    }
}

/// With a prefetch of 1 nothing is fetched ahead, so the model knows what comes next.
async fn run_model(steps: Vec<Step>) {
    let bus_folder = folder();
    let mut bus = open(&bus_folder);
    let mut consumer = bus.consume(P0, 1);
    let (mut model, mut in_hand) = (Model::default(), None::<Delivery>);
    for step in steps {
        match (step, in_hand.take()) {
            (Step::Publish, held) => {
                in_hand = held;
                publish(&bus, &[&model.published.to_string()]).await;
                model.waiting.push_back((model.published, 0));
                model.published += 1;
            }
            (Step::Receive, None) if !model.waiting.is_empty() => {
                let delivery = next(&mut consumer).await;
                let (id, count) = model.waiting.pop_front().unwrap();
                assert_eq!(
                    (delivery.message.id.clone(), delivery.delivery_count),
                    (id.to_string(), count)
                );
                in_hand = Some(delivery);
            }
            (Step::Ack, Some(delivery)) => delivery.unsettled.ack(),
            (Step::HandBack, Some(delivery)) => {
                model.give_back(
                    delivery.message.id.parse().unwrap(),
                    delivery.delivery_count,
                );
                delivery.unsettled.hand_back();
            }
            (Step::Fail, Some(delivery)) => {
                model.give_back(
                    delivery.message.id.parse().unwrap(),
                    delivery.delivery_count + 1,
                );
                delivery.unsettled.fail();
            }
            // What lies unread in the consumer may or may not have been counted: reopen only with all read.
            (Step::Reopen, Some(delivery)) => {
                model.give_back(
                    delivery.message.id.parse().unwrap(),
                    delivery.delivery_count + 1,
                );
                delivery.unsettled.abandon();
                bus.close().await;
                drop(consumer);
                bus = open(&bus_folder);
                consumer = bus.consume(P0, 1);
            }
            (_, held) => in_hand = held,
        }
    }
    if let Some(delivery) = in_hand {
        delivery.unsettled.ack();
    }
    let rest: Vec<_> = model
        .waiting
        .iter()
        .map(|(id, count)| (id.to_string(), *count))
        .collect();
    assert_eq!(drain(&mut consumer, rest.len()).await, rest);
    consumer.close().await;
    assert_eq!(bus.depth(P0).await, Ok(0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_queue_behaves_like_a_list(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run_model(steps));
    }

    #[test]
    fn with_any_prefetch_every_message_is_acked_once_and_first_deliveries_are_in_order(
        prefetch in 1_u16..9,
        choices in prop::collection::vec(0_u8..4, 40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run_interleaved(prefetch, &choices));
    }
}

/// Settles in a random order, with hand-backs and failures in between; what comes back is acked.
async fn run_interleaved(prefetch: u16, choices: &[u8]) {
    let bus_folder = folder();
    let bus = open(&bus_folder);
    let ids: Vec<String> = (0..choices.len()).map(|id| id.to_string()).collect();
    publish(&bus, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut consumer = bus.consume(P0, prefetch);
    let (mut first, mut acked, mut held) = (Vec::new(), Vec::new(), VecDeque::new());
    while acked.len() < ids.len() {
        if held.len() == usize::from(prefetch) || first.len() == ids.len() && !held.is_empty() {
            let delivery: Delivery = held.pop_front().unwrap();
            acked.push(delivery.message.id);
            delivery.unsettled.ack();
            continue;
        }
        let delivery = next(&mut consumer).await;
        let seen = first.contains(&delivery.message.id);
        if !seen {
            first.push(delivery.message.id.clone());
        }
        match choices[first.len() - 1] {
            0 if !seen => delivery.unsettled.hand_back(),
            1 if !seen => delivery.unsettled.fail(),
            2 => held.push_front(delivery),
            _ => held.push_back(delivery),
        }
    }
    assert_eq!(first, ids);
    acked.sort_by_key(|id| id.parse::<usize>().unwrap());
    assert_eq!(acked, ids);
    consumer.close().await;
    assert_eq!(bus.depth(P0).await, Ok(0));
}
