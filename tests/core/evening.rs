//! Checks what `examples/evening.rs` promises by the order of its events: the chat never delays the cards.

use std::sync::Arc;
use std::thread;

use smol::Executor;

#[allow(dead_code, reason = "its main")]
#[path = "../../examples/evening.rs"]
mod example;

use example::{Event, evening};

const PLAYERS: [&str; 8] = ["Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hans"];
/// The number of cards that each player plays.
const CARDS: u32 = 12;

/// Runs the example on an executor with the given number of threads.
fn events(threads: usize) -> Vec<Event> {
    let executor = Arc::new(Executor::new());
    let (stop, stopped) = async_channel::bounded::<()>(1);
    thread::scope(|scope| {
        for _ in 1..threads {
            let (executor, stopped) = (executor.clone(), stopped.clone());
            scope.spawn(move || smol::block_on(executor.run(async move { _ = stopped.recv().await })));
        }
        let events = smol::block_on(executor.run(evening(&executor, &PLAYERS, CARDS)));
        drop(stop);
        events.unwrap()
    })
}

fn place(events: &[Event], wanted: Event) -> usize {
    let mut places = (0..events.len()).filter(|&at| events[at] == wanted);
    let place = places.next().unwrap_or_else(|| panic!("{wanted:?} is missing in {events:#?}"));
    assert_eq!(places.next(), None, "{wanted:?} is there twice in {events:#?}");
    place
}

fn check(events: &[Event]) {
    let chat_wakes = place(events, Event::ChatWakes);
    for player in PLAYERS {
        // The chat owes each player two replies until all cards are on the table, and then sends both.
        let said: Vec<_> = (0..events.len()).filter(|&at| events[at] == Event::Said { player }).collect();
        let heard = Event::Heard { player, listeners: 2 * PLAYERS.len() };
        let heard: Vec<_> = (0..events.len()).filter(|&at| events[at] == heard).collect();
        assert_eq!((said.len(), heard.len()), (2, 2), "{player} in {events:#?}");
        assert!(heard.iter().all(|&at| at > chat_wakes), "{player} in {events:#?}");

        let mut before = said[0];
        let mut laid_before = 0;
        for card in 1..=CARDS {
            let played = place(events, Event::Played { player, card });
            let laid = place(events, Event::Laid { player, card });
            let seen = place(events, Event::Seen { player, card });
            // A pending call to the chat delays no card.
            assert!(said[0] < played && played < laid && laid < seen, "{player} {card} in {events:#?}");
            assert!(seen < chat_wakes, "{player} {card} in {events:#?}");
            // Cards are played, laid and seen in order.
            assert!(before < played && laid_before < laid, "{player} {card} in {events:#?}");
            before = played;
            laid_before = laid;
        }
        let seen = |card| place(events, Event::Seen { player, card });
        assert!((1..=CARDS).map(seen).is_sorted(), "{player} in {events:#?}");
        assert!(said[1] < place(events, Event::Played { player, card: CARDS }), "{player} in {events:#?}");
    }
    assert_eq!(events.len(), 1 + PLAYERS.len() * (4 + 3 * CARDS as usize), "{events:#?}");
}

#[test]
fn chat_without_replies_delays_no_card() {
    for threads in [1, 2, 4] {
        for _ in 0..20 {
            check(&events(threads));
        }
    }
}
