//! What every ledger must do, wherever it is stored.

use super::helpers::{Home, PURPOSE, balance, failure, has, ledger, paid};
use crate::server::ledger::{
    Charge, Job, Ledger, MOST_CREDITS, Purpose, Reservation, Settlement, State, Usage,
};
use std::sync::Barrier;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::Duration;

pub fn credits_move_between_the_columns(home: &dyn Home) {
    let (ledger, key) = ledger(home);
    let first = ledger.reserve(key.id, 4, &PURPOSE).unwrap().unwrap();
    assert_eq!(ledger.balance(key.id).unwrap(), balance(10, 6, 4, 0));
    assert_eq!(
        paid(ledger.settle(&first, 0, first.amount)),
        balance(10, 6, 0, 4)
    );
    let second = ledger.reserve(key.id, 6, &PURPOSE).unwrap().unwrap();
    assert_eq!(paid(ledger.refund(&second, 0)), balance(10, 6, 0, 4));
    assert_eq!(ledger.grant("ada", 5).unwrap(), balance(15, 11, 0, 4));
    assert_eq!(ledger.balance(key.id).unwrap(), balance(15, 11, 0, 4));
    ledger.check().unwrap();
}

pub fn nothing_changes_where_credits_are_missing(home: &dyn Home) {
    let (ledger, key) = ledger(home);
    for amount in [11, i64::MAX] {
        assert_eq!(ledger.reserve(key.id, amount, &PURPOSE).unwrap(), None);
    }
    has(&failure(ledger.reserve(key.id, -1, &PURPOSE)), &["-1"]);
    assert_eq!(ledger.balance(key.id).unwrap(), balance(10, 10, 0, 0));
    assert!(ledger.usage(None, 9).unwrap().is_empty());
    assert!(ledger.reserve(key.id, 10, &PURPOSE).unwrap().is_some());
}

pub fn a_charge_ends_once_as_it_was_reserved(home: &dyn Home) {
    let (ledger, key) = ledger(home);
    let charge = ledger.reserve(key.id, 4, &PURPOSE).unwrap().unwrap();
    let other = Reservation {
        amount: 3,
        ..charge
    };
    has(&failure(ledger.refund(&other, 0)), &["it is reserved"]);
    paid(ledger.settle(&charge, 0, charge.amount));
    let spent = Settlement::Refused {
        state: State::Spent,
        fence: 0,
    };
    assert_eq!(ledger.settle(&charge, 0, charge.amount).unwrap(), spent);
    assert_eq!(ledger.refund(&charge, 0).unwrap(), spent);
    let unknown = Reservation { id: 99, ..charge };
    has(
        &failure(ledger.settle(&unknown, 0, unknown.amount)),
        &["99", "it is unknown"],
    );
    assert_eq!(ledger.balance(key.id).unwrap(), balance(10, 6, 0, 4));
    ledger.check().unwrap();
}

pub fn two_threads_race_for_the_last_credits(home: &dyn Home) {
    let (ledger, key) = ledger(home);
    // A handle of its own races through the database, the other through the mutex.
    let beside = home.place().open().unwrap();
    for _ in 0..8 {
        let before = ledger.balance(key.id).unwrap();
        let start = Barrier::new(3);
        let reserve = |handle: &dyn Ledger| {
            start.wait();
            handle.reserve(key.id, before.remaining, &PURPOSE).unwrap()
        };
        let won: Vec<Reservation> = thread::scope(|scope| {
            let racers =
                [&ledger, &ledger, &beside].map(|handle| scope.spawn(|| reserve(&**handle)));
            let ended = racers.map(|racer| racer.join().unwrap());
            ended.into_iter().flatten().collect()
        });
        assert_eq!(won.len(), 1);
        assert_eq!(paid(ledger.refund(&won[0], 0)), before);
    }
    ledger.check().unwrap();
}

pub fn what_a_crash_left_reserved_is_refunded_by_the_next_service_only(home: &dyn Home) {
    let (ledger, key) = ledger(home);
    let charge = ledger.reserve(key.id, 3, &PURPOSE).unwrap().unwrap();
    ledger.reserve(key.id, 4, &PURPOSE).unwrap().unwrap();
    paid(ledger.settle(&charge, 0, charge.amount));
    drop(ledger);
    let beside = home.place().open().unwrap();
    assert_eq!(beside.balance(key.id).unwrap(), balance(10, 3, 4, 3));
    let ledger = home.place().serve().unwrap();
    assert_eq!(ledger.balance(key.id).unwrap(), balance(10, 7, 0, 3));
    let states: Vec<_> = ledger.usage(None, 9).unwrap();
    let states: Vec<_> = states.iter().map(|usage| usage.state.as_str()).collect();
    assert_eq!(states, ["refunded", "spent"]);
    ledger.check().unwrap();
}

pub fn only_what_dead_instances_reserved_is_refunded(home: &dyn Home) {
    let (living, key) = ledger(home);
    let dead = home.place().serve().unwrap();
    let charge = living.reserve(key.id, 3, &PURPOSE).unwrap().unwrap();
    dead.reserve(key.id, 4, &PURPOSE).unwrap().unwrap();
    assert_eq!(living.refund_dead().unwrap(), 0);
    assert_eq!(living.balance(key.id).unwrap(), balance(10, 3, 7, 0));
    drop(dead);
    // By another that starts.
    let third = home.place().serve().unwrap();
    assert_eq!(third.balance(key.id).unwrap(), balance(10, 7, 3, 0));
    third.reserve(key.id, 2, &PURPOSE).unwrap().unwrap();
    drop(third);
    // By one that runs on.
    assert_eq!(living.refund_dead().unwrap(), 1);
    assert_eq!(living.balance(key.id).unwrap(), balance(10, 7, 3, 0));
    assert_eq!(paid(living.settle(&charge, 0, 3)), balance(10, 7, 0, 3));
    living.check().unwrap();
}

pub fn old_charges_are_removed_and_their_sums_stay(home: &dyn Home) {
    let (ledger, key) = ledger(home);
    for amount in [1, 2, 3] {
        let charge = ledger.reserve(key.id, amount, &PURPOSE).unwrap().unwrap();
        paid(ledger.settle(&charge, 0, amount));
    }
    let charge = ledger.reserve(key.id, 1, &PURPOSE).unwrap().unwrap();
    paid(ledger.refund(&charge, 0));
    ledger.reserve(key.id, 2, &PURPOSE).unwrap().unwrap();
    let last = ledger.reserve(key.id, 1, &PURPOSE).unwrap().unwrap();
    paid(ledger.settle(&last, 0, 1));
    let age =
        "UPDATE charges SET ended = '2020-01-01T00:00:00Z' WHERE state <> 'reserved' AND id <> 3";
    home.execute(age);
    let before = ledger.balance(key.id).unwrap();
    assert_eq!(before, balance(10, 1, 2, 7));
    has(&failure(ledger.prune(0)), &["days is 0"]);
    assert_eq!(ledger.prune(30).unwrap(), 3);
    // The recent one, the open one, and the key's latest.
    let left: Vec<i64> = ledger
        .usage(None, 9)
        .unwrap()
        .iter()
        .map(|u| u.amount)
        .collect();
    assert_eq!(left, [1, 2, 3]);
    assert_eq!(ledger.prune(30).unwrap(), 0);
    assert_eq!(ledger.balance(key.id).unwrap(), before);
    ledger.check().unwrap();
}

pub fn the_check_finds_what_was_tampered_with(first: &dyn Home) {
    let tampered = [
        ("UPDATE keys SET remaining = 15", "remaining 15"),
        ("UPDATE keys SET granted = 15, remaining = 15", "granted 15"),
        (
            "UPDATE charges SET amount = 9 WHERE state = 'spent'",
            "spent 9",
        ),
        (
            "UPDATE charges SET amount = 9 WHERE state = 'reserved'",
            "reserved 9",
        ),
        ("DELETE FROM grants", "granted 0"),
    ];
    for (change, figure) in tampered {
        let home = &*first.another();
        let (ledger, key) = ledger(home);
        let charge = ledger.reserve(key.id, 2, &PURPOSE).unwrap().unwrap();
        paid(ledger.settle(&charge, 0, charge.amount));
        ledger.reserve(key.id, 3, &PURPOSE).unwrap().unwrap();
        ledger.check().unwrap();
        home.tamper(change);
        has(&failure(ledger.check()), &["\"ada\"", figure, "granted 10"]);
        drop(ledger);
        has(&failure(home.place().serve()), &["\"ada\"", figure]);
    }
}

pub fn only_the_right_secret_opens(home: &dyn Home) {
    let (ledger, key) = ledger(home);
    let secret = ledger.add(" bob's key ", 0).unwrap();
    let bob = ledger.authenticate(Some(&secret)).unwrap().unwrap();
    assert_eq!((bob.name.as_str(), bob.id != key.id), ("bob's key", true));
    let longer = format!("{secret}{}", " ".repeat(300));
    let swapped = secret.to_uppercase();
    for wrong in ["", "calo_", &secret[1..], &swapped, &longer, "\0"] {
        assert_eq!(ledger.authenticate(Some(wrong)).unwrap(), None, "{wrong}");
    }
    assert_eq!(ledger.authenticate(None).unwrap(), None);
}

pub fn a_revoked_key_opens_nothing_but_ends_its_jobs(home: &dyn Home) {
    let (ledger, key) = ledger(home);
    let secret = ledger.add("bob", 5).unwrap();
    let bob = ledger.authenticate(Some(&secret)).unwrap().unwrap();
    let charge = ledger.reserve(bob.id, 2, &PURPOSE).unwrap().unwrap();
    ledger.revoke("bob").unwrap();
    let revoked = ledger.list().unwrap()[1].revoked.clone();
    assert!(revoked.is_some());
    ledger.revoke("bob").unwrap();
    assert_eq!(ledger.list().unwrap()[1].revoked, revoked);
    assert_eq!(ledger.authenticate(Some(&secret)).unwrap(), None);
    assert_eq!(ledger.reserve(bob.id, 1, &PURPOSE).unwrap(), None);
    assert_eq!(
        paid(ledger.settle(&charge, 0, charge.amount)),
        balance(5, 3, 0, 2)
    );
    has(&failure(ledger.grant("bob", 1)), &["\"bob\"", "revoked"]);
    has(&failure(ledger.add("bob", 1)), &["\"bob\"", "already"]);
    assert!(ledger.reserve(key.id, 1, &PURPOSE).unwrap().is_some());
    ledger.check().unwrap();
}

pub fn names_and_amounts_have_limits(home: &dyn Home) {
    let (ledger, _) = ledger(home);
    let long = "x".repeat(65);
    for name in ["", " ", "a\nb", "\u{202e}b", "a\u{1b}[2J", &long] {
        has(&failure(ledger.add(name, 1)), &["name is", "1 to 64"]);
    }
    for name in [&long[1..], "o'hara \"\\\"", "अनुपम", "雪"] {
        ledger.add(name, 1).unwrap();
    }
    has(&failure(ledger.add(" ada ", 1)), &["\"ada\"", "already"]);
    for credits in [-1, MOST_CREDITS + 1, i64::MAX, i64::MIN] {
        has(
            &failure(ledger.add("bob", credits)),
            &["credits is", "from 0"],
        );
    }
    for credits in [0, -1, MOST_CREDITS + 1] {
        has(&failure(ledger.grant("ada", credits)), &["from 1 to"]);
    }
    has(
        &failure(ledger.grant("ada", MOST_CREDITS - 9)),
        &["granted 10 already"],
    );
    let all = balance(MOST_CREDITS, MOST_CREDITS, 0, 0);
    assert_eq!(ledger.grant("ada", MOST_CREDITS - 10).unwrap(), all);
    has(&failure(ledger.grant("adda", 1)), &["\"adda\"", "ada"]);
    has(&failure(ledger.revoke("nobody")), &["\"nobody\""]);
    ledger.check().unwrap();
}

pub fn usage_is_the_latest_first(home: &dyn Home) {
    let (ledger, key) = ledger(home);
    ledger.add("bob", 5).unwrap();
    for request_id in ["one", "two", "three"] {
        let purpose = Purpose {
            request_id,
            ..PURPOSE
        };
        ledger.reserve(key.id, 1, &purpose).unwrap().unwrap();
    }
    let latest = ledger.usage(Some("ada"), 2).unwrap();
    let ids: Vec<_> = latest
        .iter()
        .map(|usage| usage.request_id.as_str())
        .collect();
    assert_eq!(ids, ["three", "two"]);
    let expected = Usage {
        created: latest[0].created.clone(),
        key: "ada".into(),
        route: "/v1/sdxl-torch".into(),
        request_id: "three".into(),
        samples: 2,
        steps: 25,
        width: 1024,
        height: 768,
        refiner: true,
        amount: 1,
        state: "reserved".into(),
    };
    assert_eq!(latest[0], expected);
    assert_eq!(ledger.usage(None, usize::MAX).unwrap().len(), 3);
    assert!(ledger.usage(Some("bob"), 9).unwrap().is_empty());
    has(&failure(ledger.usage(Some("eve"), 9)), &["\"eve\""]);
    let keys = ledger.list().unwrap();
    assert_eq!(keys[0].last_used.as_ref(), Some(&latest[0].created));
    assert_eq!(keys[1].last_used, None);
}

/// A purpose that has a job.
fn job(id: &str, deadline: Duration) -> Purpose<'_> {
    Purpose {
        job: Some(Job { id, deadline }),
        ..PURPOSE
    }
}

const HOUR: Duration = Duration::from_secs(3600);

pub fn eight_threads_on_one_key_add_up(home: &dyn Home) {
    let (ledger, key) = ledger(home);
    ledger.grant("ada", 990).unwrap();
    let (ledger, spent) = (&*ledger, AtomicI64::new(0));
    let draw = |thread: i64| {
        for round in 0..10 {
            let amount = 1 + (thread + round) % 5;
            let Some(charge) = ledger.reserve(key.id, amount, &PURPOSE).unwrap() else {
                continue;
            };
            if (thread + round) % 3 == 0 {
                paid(ledger.refund(&charge, 0));
            } else {
                paid(ledger.settle(&charge, 0, amount - 1));
                spent.fetch_add(amount - 1, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for thread in 0..8 {
            let draw = &draw;
            scope.spawn(move || draw(thread));
        }
    });
    let spent = spent.into_inner();
    assert!(spent > 0);
    let expected = balance(1000, 1000 - spent, 0, spent);
    assert_eq!(ledger.balance(key.id).unwrap(), expected);
    ledger.check().unwrap();
}

pub fn an_attempt_that_settles_twice_is_told_so(home: &dyn Home) {
    let (ledger, key) = ledger(home);
    let charge = ledger.reserve(key.id, 4, &job("a", HOUR)).unwrap().unwrap();
    assert!(ledger.claim(&charge, 1).unwrap());
    assert_eq!(paid(ledger.settle(&charge, 1, 3)), balance(10, 7, 0, 3));
    let before = Settlement::Before {
        fence: 1,
        spent: 3,
        balance: balance(10, 7, 0, 3),
    };
    // What was settled stays, whatever is asked for now.
    for spent in [3, 4] {
        assert_eq!(ledger.settle(&charge, 1, spent).unwrap(), before);
    }
    let refused = Settlement::Refused {
        state: State::Spent,
        fence: 1,
    };
    for fence in [0, 2] {
        assert_eq!(ledger.settle(&charge, fence, 3).unwrap(), refused);
    }
    assert_eq!(ledger.refund(&charge, 1).unwrap(), refused);
    assert!(!ledger.claim(&charge, 2).unwrap());
    let other = ledger.reserve(key.id, 2, &job("b", HOUR)).unwrap().unwrap();
    assert_eq!(paid(ledger.refund(&other, 5)), balance(10, 7, 0, 3));
    let before = Settlement::Before {
        fence: 5,
        spent: 0,
        balance: balance(10, 7, 0, 3),
    };
    assert_eq!(ledger.refund(&other, 5).unwrap(), before);
    let refused = Settlement::Refused {
        state: State::Refunded,
        fence: 5,
    };
    assert_eq!(ledger.settle(&other, 5, 1).unwrap(), refused);
    ledger.check().unwrap();
}

pub fn a_late_attempt_is_refused(home: &dyn Home) {
    let (ledger, key) = ledger(home);
    let charge = ledger.reserve(key.id, 4, &job("a", HOUR)).unwrap().unwrap();
    for (fence, taken) in [
        (0, false),
        (-1, false),
        (1, true),
        (1, false),
        (3, true),
        (2, false),
    ] {
        assert_eq!(ledger.claim(&charge, fence).unwrap(), taken, "{fence}");
    }
    let refused = Settlement::Refused {
        state: State::Reserved,
        fence: 3,
    };
    for fence in [0, 1, 2] {
        assert_eq!(ledger.settle(&charge, fence, 4).unwrap(), refused);
        assert_eq!(ledger.refund(&charge, fence).unwrap(), refused);
    }
    has(&failure(ledger.settle(&charge, -1, 4)), &["fence is -1"]);
    assert_eq!(ledger.balance(key.id).unwrap(), balance(10, 6, 4, 0));
    assert_eq!(paid(ledger.settle(&charge, 3, 4)), balance(10, 6, 0, 4));
    // An attempt need not be noted before it ends.
    let charge = ledger.reserve(key.id, 2, &job("b", HOUR)).unwrap().unwrap();
    assert_eq!(paid(ledger.settle(&charge, 7, 2)), balance(10, 4, 0, 6));
    assert_eq!(ledger.charge_of("b").unwrap().unwrap().fence, 7);
    ledger.check().unwrap();
}

pub fn of_two_attempts_at_once_one_is_paid(home: &dyn Home) {
    let (ledger, key) = ledger(home);
    let beside = home.place().open().unwrap();
    for (round, id) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let charge = ledger.reserve(key.id, 2, &job(id, HOUR)).unwrap().unwrap();
        let start = Barrier::new(2);
        let settle = |ledger: &dyn Ledger, fence| {
            start.wait();
            matches!(
                ledger.settle(&charge, fence, 2).unwrap(),
                Settlement::Paid(_)
            )
        };
        let paid = thread::scope(|scope| {
            let one = scope.spawn(|| settle(&*ledger, 1));
            let two = scope.spawn(|| settle(&*beside, 2));
            [one, two].map(|thread| thread.join().unwrap())
        });
        assert_eq!(paid.iter().filter(|paid| **paid).count(), 1, "{paid:?}");
        let spent = 2 * (round as i64 + 1);
        assert_eq!(
            ledger.balance(key.id).unwrap(),
            balance(10, 10 - spent, 0, spent)
        );
    }
    ledger.check().unwrap();
}

pub fn a_charge_is_found_by_its_job(home: &dyn Home) {
    let (ledger, key) = ledger(home);
    assert_eq!(ledger.charge_of("a").unwrap(), None);
    let reservation = ledger.reserve(key.id, 4, &job("a", HOUR)).unwrap().unwrap();
    let mut charge = Charge {
        reservation,
        state: State::Reserved,
        fence: 0,
    };
    assert_eq!(ledger.charge_of("a").unwrap(), Some(charge));
    for amount in [1, 100] {
        let again = ledger.reserve(key.id, amount, &job("a", HOUR));
        has(&failure(again), &["job is \"a\"", "already"]);
    }
    assert_eq!(ledger.balance(key.id).unwrap(), balance(10, 6, 4, 0));
    paid(ledger.settle(&reservation, 2, 3));
    charge.reservation.amount = 3;
    (charge.state, charge.fence) = (State::Spent, 2);
    assert_eq!(ledger.charge_of("a").unwrap(), Some(charge));
    // Those of no job are not in each other's way.
    for _ in 0..2 {
        ledger.reserve(key.id, 1, &PURPOSE).unwrap().unwrap();
    }
    let long = "x".repeat(129);
    for id in ["", "a b", "\0", "é", &long] {
        has(
            &failure(ledger.reserve(key.id, 1, &job(id, HOUR))),
            &["job is", "1 to 128"],
        );
    }
    let late = ledger.reserve(key.id, 1, &job("b", Duration::MAX));
    has(&failure(late), &["deadline is", "2592000 s"]);
}

pub fn what_is_overdue_is_refunded_whoever_lives(home: &dyn Home) {
    let (ledger, key) = ledger(home);
    let charge = ledger
        .reserve(key.id, 1, &job("late", Duration::ZERO))
        .unwrap()
        .unwrap();
    ledger
        .reserve(key.id, 2, &job("long", HOUR))
        .unwrap()
        .unwrap();
    ledger.reserve(key.id, 3, &PURPOSE).unwrap().unwrap();
    drop(ledger);
    // A job outlives the service that took it, an ordinary reservation does not.
    let ledger = home.place().serve().unwrap();
    assert_eq!(ledger.balance(key.id).unwrap(), balance(10, 7, 3, 0));
    assert_eq!(ledger.refund_dead().unwrap(), 0);
    thread::sleep(Duration::from_millis(2));
    assert_eq!(ledger.refund_overdue().unwrap(), 1);
    assert_eq!(ledger.refund_overdue().unwrap(), 0);
    assert_eq!(ledger.balance(key.id).unwrap(), balance(10, 8, 2, 0));
    let refused = Settlement::Refused {
        state: State::Refunded,
        fence: 0,
    };
    assert_eq!(ledger.settle(&charge, 1, 1).unwrap(), refused);
    assert!(!ledger.claim(&charge, 1).unwrap());
    ledger.check().unwrap();
}
