//! Whatever happened to the files, the store opens or says why not, and its bus answers. `fuzz/` asks the same for longer.

use proptest::prelude::*;

use super::*;

/// Each case is an open, some transactions and a close.
const CASES: u32 = 24;
const FILES: [&str; 2] = ["bus.sqlite3", "bus.sqlite3-wal"];
/// How long a consumer waits for what a damaged index promises.
const WAIT: Duration = Duration::from_millis(20);

/// What becomes of one of the files, and where.
#[derive(Clone, Debug)]
enum Damage {
    Byte(usize, prop::sample::Index, u8),
    Cut(usize, prop::sample::Index),
    Noise(usize, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let (file, place) = (0..FILES.len(), any::<prop::sample::Index>());
    prop_oneof![
        4 => (file.clone(), place.clone(), any::<u8>()).prop_map(|(file, place, byte)| Damage::Byte(file, place, byte)),
        1 => (file.clone(), place).prop_map(|(file, place)| Damage::Cut(file, place)),
        1 => (file, prop::collection::vec(any::<u8>(), 0..2_000)).prop_map(|(file, noise)| Damage::Noise(file, noise)),
    ]
}

fn apply(damage: Damage, folder: &TempDir) {
    let path = |file: usize| folder.path().join(FILES[file]);
    let read = |file| std::fs::read(path(file)).unwrap();
    let (file, bytes) = match damage {
        Damage::Byte(file, place, byte) => {
            let mut bytes = read(file);
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            (file, bytes)
        }
        Damage::Cut(file, place) => {
            let mut bytes = read(file);
            bytes.truncate(place.index(bytes.len() + 1));
            (file, bytes)
        }
        Damage::Noise(file, noise) => (file, noise),
    };
    std::fs::write(path(file), bytes).unwrap();
}

async fn use_it(bus: Embedded) {
    for queue in [P0, Queue::DeadLetters, Queue::Erasures] {
        let mut consumer = bus.consume(queue, 8);
        while let Ok(Some(Consumed::Delivery(delivery))) = timeout(WAIT, consumer.next()).await {
            delivery.unsettled.ack();
        }
        consumer.close().await;
    }
    let (notes, _read) = mpsc::channel(64);
    let _ = timeout(WAIT, bus.read_changelog(0, None, notes)).await;
    let _ = bus
        .publish(vec![outgoing(Target::Partition(0), "after")])
        .await;
    bus.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn a_damaged_store_opens_or_says_why_not_and_never_hangs(damages in prop::collection::vec(damage(), 1..4)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let made = folder();
            let bus = open(&made);
            publish(&bus, &["a", "b", "c", "d"]).await;
            let letter = outgoing(Target::DeadLetters("normalize.unreadable".to_owned()), "e");
            bus.publish(vec![letter, outgoing(Target::Changelog(0), "f")]).await;
            let damaged = crashed_copy(&made);
            bus.close().await;
            for damage in damages {
                apply(damage, &damaged);
            }
            match try_open(damaged.path(), 2) {
                Ok(bus) => timeout(PATIENCE, use_it(bus)).await.expect("it hangs"),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        });
    }
}
