//! One suite for every kind of ledger; what only one kind does is tested beside it.

pub mod helpers;
mod suite;

/// A test for each kind of each function of the suite.
macro_rules! suite {
    ($($name:ident,)*) => {
        mod sqlite {
            $(#[test]
            fn $name() {
                super::suite::$name(&super::helpers::Folder::new());
            })*
        }

        #[cfg(unix)]
        mod postgres {
            $(#[test]
            fn $name() {
                use crate::server::ledger::postgres::tests::Database;
                if let Some(database) = Database::new() {
                    super::suite::$name(&database);
                }
            })*
        }
    };
}

suite! {
    credits_move_between_the_columns,
    nothing_changes_where_credits_are_missing,
    a_charge_ends_once_as_it_was_reserved,
    two_threads_race_for_the_last_credits,
    what_a_crash_left_reserved_is_refunded_by_the_next_service_only,
    only_what_dead_instances_reserved_is_refunded,
    old_charges_are_removed_and_their_sums_stay,
    the_check_finds_what_was_tampered_with,
    only_the_right_secret_opens,
    a_revoked_key_opens_nothing_but_ends_its_jobs,
    names_and_amounts_have_limits,
    usage_is_the_latest_first,
    eight_threads_on_one_key_add_up,
    an_attempt_that_settles_twice_is_told_so,
    a_late_attempt_is_refused,
    of_two_attempts_at_once_one_is_paid,
    a_charge_is_found_by_its_job,
    what_is_overdue_is_refunded_whoever_lives,
}
